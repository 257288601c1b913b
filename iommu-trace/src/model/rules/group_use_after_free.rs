//! `group-use-after-free`.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::{Event, ProbeId, Ptr},
    model::{Doubt, Evidence, Subject, faults::Grave, judge::Breach},
};

fn breach(grave: &Grave, message: String, last: Evidence) -> Breach {
    let subject = Subject {
        group: grave.group_id,
        device: named(grave.device),
        pasid: Some(grave.pasid),
        handle: grave.handle,
        fault_group: Some(grave.ptr),
        grpid: Some(grave.grpid),
        ..Subject::default()
    };
    Breach::new(RuleId::GroupUseAfterFree, grave.report.ts, message, subject).proven_by([
        Some(grave.report),
        grave.response,
        Some(grave.freed).filter(|freed| freed.ts < last.ts),
        Some(last),
    ])
}

/// A group is seen after its free, and no new one of its name can be at its address.
pub fn seen_again(grave: &Grave, event: &Event, group: Ptr) -> Breach {
    let what = match event.probe {
        ProbeId::GroupFree => "freed",
        ProbeId::GroupDequeue => "dequeued",
        _ => "answered",
    };
    let message =
        format!("fault group {group} of {} was {what} after it was freed", place(grave.group_id, grave.pasid));
    breach(grave, message, Evidence::of(event, what))
}

/// The removal of a device from its queue frees a group that its report, on another thread, has handed to the handler and is not
/// through with. What is on the device's list of pending groups then is what no handler has taken off it.
pub fn freed_around(grave: &Grave, event: &Event) -> Breach {
    let message = format!(
        "fault group {} of {} was freed by the removal of its device from the queue while its report goes on with it",
        grave.ptr,
        place(grave.group_id, grave.pasid)
    );
    breach(grave, message, Evidence::of(event, "free"))
}

/// A group is delivered by a read that began after its free.
pub fn delivered_again(grave: &Grave, event: &Event, began: u64) -> Option<Breach> {
    if grave.freed.ts >= began {
        return None;
    }
    let message =
        format!("fault group {} of {} was delivered after it was freed", grave.ptr, place(grave.group_id, grave.pasid));
    // A fault of the same name may have been reported before the trace.
    let mut breach = breach(grave, message, Evidence::of(event, "delivery"));
    breach.known_since = breach.known_since.min(grave.known_since.unwrap_or(0));
    Some(breach.unless(grave.known_since.is_none().then_some(Doubt::Beginning)))
}
