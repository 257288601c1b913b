//! `double-response`.

use super::{
    RuleId,
    facts::{named, of_fault, place},
};
use crate::{
    event::{Event, PageResponse},
    model::{Doubt, Evidence, Model, Subject, faults::Fault, judge::Breach, span::Stage},
};

/// A request is answered that was answered before.
pub fn answered_again(fault: &Fault, event: &Event) -> Option<Breach> {
    let first = fault.stages[Stage::Response as usize]?;
    let pasid = fault.report.pasid().unwrap_or(0);
    let message = format!(
        "a page request of {} (group index {}) was answered a second time",
        place(fault.group_id, pasid),
        fault.report.grpid,
    );
    let breach = Breach::new(RuleId::DoubleResponse, fault.ts, message, of_fault(fault));
    Some(breach.proven_by([
        fault.stages[Stage::Report as usize],
        Some(first),
        Some(Evidence::of(event, "second response")),
    ]))
}

/// An answer is given for one request, and names another: that one was not made, and the first gets none.
pub fn answered_for_another(fault: &Fault, event: &Event, response: &PageResponse) -> Breach {
    let pasid = fault.report.pasid().unwrap_or(0);
    let whom = if fault.report.device.ptr == response.device { "" } else { " of another device" };
    let message = format!(
        "the answer to a page request of {} (group index {}) names PASID {}, group index {}{whom}",
        place(fault.group_id, pasid),
        fault.report.grpid,
        response.pasid,
        response.grpid,
    );
    Breach::new(RuleId::DoubleResponse, fault.ts, message, of_fault(fault))
        .proven_by([fault.stages[Stage::Report as usize], Some(Evidence::of(event, "response"))])
}

/// A request is answered that nobody reported. It may have been reported before the trace, unless the device's
/// faults are known since.
pub fn never_made(model: &Model, event: &Event, response: &PageResponse) -> Breach {
    let device = model.mirror.device(response.device);
    let added = device.and_then(|device| device.added);
    let known_since = model.mirror.faults_known_since(response.device);
    let group = device.and_then(|device| device.group_id);
    let subject = Subject {
        group,
        device: device.and_then(|device| named(device.name)),
        pasid: Some(response.pasid),
        fault_group: response.evt.some(),
        grpid: Some(response.grpid),
        ..Subject::default()
    };
    let message = format!(
        "a page request of {} (group index {}) was answered that is not outstanding",
        place(group, response.pasid),
        response.grpid,
    );
    let breach = Breach::new(RuleId::DoubleResponse, known_since.unwrap_or(0), message, subject);
    // A report that was entered before the trace may answer by itself.
    let unsettled = event.ts < model.judge.settled;
    let beginning = (known_since.is_none() || unsettled).then_some(Doubt::Beginning);
    breach.proven_by([added, Some(Evidence::of(event, "response"))]).unless(beginning)
}
