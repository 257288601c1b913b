//! `wrong-domain`.

use super::{
    RuleId,
    facts::{LookedUp, Touch, Touched, named, place},
};
use crate::{
    event::ProbeId,
    model::{Evidence, Model, Subject, calls::About, judge::Breach, mirror::Life, span::Stage},
};

/// The handle in the slot has another domain than it was attached with.
pub fn looked_up(model: &Model, seen: &LookedUp<'_>) -> Option<Breach> {
    if seen.lookup.ret != 0 {
        return None;
    }
    let found = &seen.lookup.handle;
    let held = seen.slot.attachment().filter(|held| held.handle == Some(found.ptr))?;
    if found.domain.is_null() || held.domain.is_null() || found.domain == held.domain {
        return None;
    }
    let subject = seen.subject(model);
    let message = format!(
        "handle {} at {} was attached with domain {}, and its domain is {} now",
        found.ptr,
        place(subject.group, seen.lookup.pasid),
        held.domain,
        found.domain,
    );
    let attach = model.mirror.handles.get(&found.ptr).and_then(|handle| handle.attach);
    let breach = Breach::new(RuleId::WrongDomain, seen.slot.known_since, message, subject);
    Some(breach.proven_by([attach, Some(Evidence::of(seen.event, "look-up"))]))
}

/// The automatic answers for one handle, whose page table goes, reach a fault of another handle, whose page table stays.
pub fn cleaned_up(model: &Model, seen: &Touched<'_>) -> Option<Breach> {
    if seen.touch != Touch::Answered {
        return None;
    }
    let fault = seen.fault;
    let group = fault.group?;
    let (cleanup, cleaned) = model.calls.find(seen.event.task.tid, |call| match &call.about {
        About::Object(op) if call.probe == ProbeId::AutoResponse => Some((call.evidence(), op.other)),
        _ => None,
    })?;
    let ptr = fault.handle.filter(|&handle| handle != cleaned && !cleaned.is_null())?;
    let handle = model.mirror.handles.get(&ptr).filter(|handle| Some(handle.number) == fault.handle_number)?;
    let pasid = fault.report.pasid().unwrap_or(0);
    let subject = Subject {
        group: fault.group_id,
        device: named(fault.report.device.name),
        pasid: Some(pasid),
        handle: Some(ptr),
        domain: handle.domain.some(),
        device_id: fault.device_id,
        fault_group: Some(group),
        grpid: Some(fault.report.grpid),
    };
    let message = format!(
        "a fault of {} with handle {ptr} was answered by the clean-up of handle {cleaned}",
        place(fault.group_id, pasid),
    );
    let known_since = handle.known_since.min(fault.ts).min(cleanup.ts);
    let breach = Breach::new(RuleId::WrongDomain, known_since, message, subject);
    Some(breach.proven_by([
        handle.attach,
        fault.stages[Stage::Report as usize],
        fault.stages[Stage::Lookup as usize],
        Some(Evidence { what: "clean-up of the other", ..cleanup }),
        Some(Evidence::of(seen.event, "answered")),
    ]))
}

/// The handler is another domain's than the handle was attached with.
pub fn touched(model: &Model, seen: &Touched<'_>) -> Option<Breach> {
    if seen.touch != Touch::Handled || seen.domain.is_null() {
        return None;
    }
    let fault = seen.fault;
    let ptr = fault.handle?;
    let handle = model.mirror.handles.get(&ptr).filter(|handle| Some(handle.number) == fault.handle_number)?;
    if handle.life == Life::Gone || handle.domain.is_null() || handle.domain == seen.domain {
        return None;
    }
    let pasid = fault.report.pasid().unwrap_or(0);
    let subject = Subject {
        group: fault.group_id,
        device: named(fault.report.device.name),
        pasid: Some(pasid),
        handle: Some(ptr),
        domain: Some(seen.domain),
        fault_group: fault.group,
        grpid: Some(fault.report.grpid),
        ..Subject::default()
    };
    let message = format!(
        "a fault of {} was handled by domain {}, and handle {ptr} was attached with domain {}",
        place(fault.group_id, pasid),
        seen.domain,
        handle.domain,
    );
    let breach = Breach::new(RuleId::WrongDomain, handle.known_since.min(fault.ts), message, subject);
    Some(breach.proven_by([
        handle.attach,
        fault.stages[Stage::Report as usize],
        fault.stages[Stage::Lookup as usize],
        Some(Evidence::of(seen.event, "handled")),
    ]))
}
