//! `group-leak`.

use super::{
    RuleId,
    facts::{of_fault, place},
};
use crate::{
    event::ProbeId,
    model::{Doubt, Evidence, Model, faults::Fault, judge::Breach, span::Stage},
};

fn breach(fault: &Fault, message: String, more: [Option<Evidence>; 2]) -> Breach {
    let stages = [Stage::Report, Stage::Handler, Stage::Delivered, Stage::Response];
    Breach::new(RuleId::GroupLeak, fault.ts, message, of_fault(fault))
        .proven_by(stages.map(|stage| fault.stages[stage as usize]))
        .proven_by(more)
}

/// A group was answered some time ago and is not freed: nothing lies between the two in the kernel.
pub fn not_freed(model: &Model, fault: &Fault, now: u64) -> Option<Breach> {
    let group = fault.group?;
    if !fault.is_answered() {
        return None;
    }
    let ms = now.saturating_sub(fault.age_since()) / 1_000_000;
    let message = format!(
        "fault group {group} of {} was answered {ms} ms ago and is not freed",
        place(fault.group_id, fault.report.pasid().unwrap_or(0)),
    );
    let unseen = (!model.features.sees_group_frees).then_some(Doubt::Unseen(ProbeId::GroupFree));
    Some(breach(fault, message, [fault.witness.map(|witness| witness.seen), None]).unless(unseen))
}

/// The queue that user space reads a group from is gone, and the group is not freed.
pub fn destroyed_around(model: &Model, fault: &Fault, destroyed: Evidence) -> Option<Breach> {
    let group = fault.group?;
    let message = format!(
        "the fault queue was destroyed around fault group {group} of {}, which is {} and not freed",
        place(fault.group_id, fault.report.pasid().unwrap_or(0)),
        if fault.is_answered() { "answered" } else { "not answered" },
    );
    let unseen = (!model.features.sees_group_frees).then_some(Doubt::Unseen(ProbeId::GroupFree));
    Some(breach(fault, message, [Some(destroyed), None]).unless(unseen))
}
