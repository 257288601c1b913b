//! `use-after-detach` and `use-after-free`.

use super::{
    RuleId,
    facts::{Touched, named, place},
};
use crate::model::{Evidence, Model, Subject, judge::Breach, span::Stage};

/// A handle's life is over when iommufd has answered what was left of its faults, or, where nothing answers for it,
/// when its detach has returned. Between the detach and that end a fault may still be told, answered by whoever is
/// first, and even handled.
pub fn touched(model: &Model, seen: &Touched<'_>) -> Option<Breach> {
    let fault = seen.fault;
    // An answer without a group is the report's own: it has no use for the handle.
    if !fault.report.is_last() || fault.group.is_none() {
        return None;
    }
    let ptr = fault.handle?;
    let handle = model.mirror.handles.get(&ptr)?;
    let (attach, left, end, freed) = if Some(handle.number) == fault.handle_number {
        let marks = handle.marks();
        (handle.attach, marks.left, marks.end, marks.freed)
    } else {
        // The memory has begun another life: the one that the fault refers to is over.
        let again = handle.attach.map(|attach| Evidence { what: "attach of the same memory", ..attach });
        (None, None, again, None)
    };
    let before = |mark: Option<Evidence>| mark.filter(|mark| mark.ts < seen.began);
    let (rule, end) = match (before(freed), before(end)) {
        (Some(freed), _) => (RuleId::UseAfterFree, freed),
        (None, Some(end)) => (RuleId::UseAfterDetach, end),
        (None, None) => return None,
    };
    let group = fault.group_id;
    let pasid = fault.report.pasid().unwrap_or(0);
    let subject = Subject {
        group,
        device: named(fault.report.device.name),
        pasid: Some(pasid),
        handle: Some(ptr),
        device_id: fault.device_id,
        fault_group: fault.group,
        grpid: Some(fault.report.grpid),
        ..Subject::default()
    };
    let how = if rule == RuleId::UseAfterFree { "was freed" } else { "was detached, and its faults answered," };
    let message =
        format!("a fault of {} was {} with handle {ptr}, which {how} before", place(group, pasid), seen.touch.name());
    let breach = Breach::new(rule, handle.known_since.min(fault.ts), message, subject);
    Some(breach.proven_by([
        attach,
        fault.stages[Stage::Report as usize],
        fault.stages[Stage::Lookup as usize],
        left,
        Some(end),
        Some(Evidence::of(seen.event, seen.touch.name())),
    ]))
}
