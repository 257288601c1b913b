//! `fault-unanswered`.

use super::{
    RuleId,
    facts::{of_fault, place},
    fault_dropped::driver_unseen,
};
use crate::{
    event::FAULT_PAGE_REQ,
    event::ProbeId,
    model::{Doubt, Evidence, Model, faults::Fault, judge::Breach, span::Stage},
};

/// Why a missing response is noticed.
#[derive(Clone, Copy, Debug)]
pub enum Because {
    /// The time is up.
    Late(u64),
    /// The device leaves.
    Removed(Evidence),
    /// The fault queue is destroyed.
    Destroyed(Evidence),
    /// Its group is freed.
    Freed(Evidence),
}

pub fn unanswered(model: &Model, fault: &Fault, because: Because) -> Option<Breach> {
    if !fault.report.is_last() || fault.report.kind != FAULT_PAGE_REQ || fault.is_answered() {
        return None;
    }
    let pasid = fault.report.pasid().unwrap_or(0);
    let (why, end) = match because {
        Because::Late(ns) => (format!("for {} ms", ns / 1_000_000), None),
        Because::Removed(event) => ("and its device is gone".to_owned(), Some(event)),
        Because::Destroyed(event) => ("and its fault queue is gone".to_owned(), Some(event)),
        Because::Freed(event) => ("and its group was freed".to_owned(), Some(event)),
    };
    let message = format!(
        "a page request of {} (group index {}, address {:#x}) has no response {why}",
        place(fault.group_id, pasid),
        fault.report.grpid,
        fault.report.addr,
    );
    let mut unseen = (!model.features.sees_responses).then_some(Doubt::Unseen(ProbeId::GroupResponse));
    if matches!(because, Because::Freed(_)) {
        // The core answers what is left in a queue through the driver alone.
        unseen = unseen.or(driver_unseen(model, fault));
    }
    let breach = Breach::new(RuleId::FaultUnanswered, fault.ts, message, of_fault(fault));
    let stages = [Stage::Report, Stage::Lookup, Stage::Handler, Stage::Delivered];
    Some(breach.proven_by(stages.map(|stage| fault.stages[stage as usize])).proven_by([end]).unless(unseen))
}
