//! `fault-dropped`.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::{Event, FAULT_PAGE_REQ, ProbeId, ResponseCode},
    model::{
        Doubt, Evidence, Model, Subject,
        faults::Fault,
        judge::Breach,
        span::{Answerer, Stage},
    },
};

/// Why a response that does not pass the core cannot be missed: the driver's op is not probed.
pub fn driver_unseen(model: &Model, fault: &Fault) -> Option<Doubt> {
    let mock = fault.report.device.name.as_bytes().starts_with(b"iommufd_mock");
    let (seen, probe) = if mock {
        (model.features.sees_mock_responses, ProbeId::MockPageResponse)
    } else {
        (model.features.sees_driver_responses, ProbeId::IntelPageResponse)
    };
    (!seen).then_some(Doubt::Unseen(probe))
}

/// A report has returned. One that fails has answered by itself, through the driver and not through a group, and so that
/// the device does not try again.
pub fn reported(model: &Model, event: &Event, fault: &Fault, ret: i64) -> Option<Breach> {
    if ret == 0 || !fault.report.is_last() || fault.report.kind != FAULT_PAGE_REQ {
        return None;
    }
    let wrongly = match fault.response {
        Some((code, Some(Answerer::Report))) if code != ResponseCode::Invalid => Some(code),
        _ if fault.is_answered() => return None,
        _ => None,
    };
    let pasid = fault.report.pasid().unwrap_or(0);
    let subject = Subject {
        group: fault.group_id,
        device: named(fault.report.device.name),
        pasid: Some(pasid),
        handle: fault.handle,
        device_id: fault.device_id,
        grpid: Some(fault.report.grpid),
        ..Subject::default()
    };
    let message = format!(
        "the report of a page request of {} (group index {}, address {:#x}) failed with {ret}, and {}",
        place(fault.group_id, pasid),
        fault.report.grpid,
        fault.report.addr,
        wrongly.map_or("nobody answered it".to_owned(), |code| format!("was answered with {code}")),
    );
    let unseen = driver_unseen(model, fault).filter(|_| wrongly.is_none());
    let breach = Breach::new(RuleId::FaultDropped, fault.ts, message, subject);
    Some(
        breach
            .proven_by([
                fault.stages[Stage::Report as usize],
                fault.stages[Stage::Lookup as usize],
                fault.stages[Stage::Response as usize],
                Some(Evidence::of(event, "return of the report")),
            ])
            .unless(unseen),
    )
}
