//! `partial-leak`.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::Event,
    model::{Doubt, Evidence, Subject, faults::Fault, judge::Breach, span::Stage},
};

fn breach(partial: &Fault, why: &str) -> Breach {
    let pasid = partial.report.pasid().unwrap_or(0);
    let subject = Subject {
        group: partial.group_id,
        device: named(partial.report.device.name),
        pasid: Some(pasid),
        grpid: Some(partial.report.grpid),
        ..Subject::default()
    };
    let message = format!(
        "a partial request of {} (group index {}, address {:#x}) {why}",
        place(partial.group_id, pasid),
        partial.report.grpid,
        partial.report.addr,
    );
    Breach::new(RuleId::PartialLeak, partial.ts, message, subject)
        .proven_by([partial.stages[Stage::Report as usize], partial.stages[Stage::Lookup as usize]])
}

/// The last of its group has come, and the group was made without it: it had waited since before the last's report.
pub fn left_behind(partial: &Fault, last: &Fault, event: &Event, leaving: bool) -> Option<Breach> {
    if partial.doubtful || !partial.returned_before(last.ts) {
        return None;
    }
    let breach = breach(partial, "was left out of its group, which is complete")
        .proven_by([last.stages[Stage::Report as usize], Some(Evidence::of(event, "group"))]);
    Some(breach.unless(leaving.then_some(Doubt::Overlap)))
}

/// Its device has left the group it was in, without leaving the fault queue first.
pub fn abandoned(partial: &Fault, event: &Event) -> Option<Breach> {
    (!partial.reporting && !partial.doubtful).then(|| {
        breach(partial, "is still waiting, and its device is gone")
            .proven_by([Some(Evidence::of(event, "removal of the device"))])
    })
}
