//! `device-mismatch`.

use super::{
    RuleId,
    facts::{LookedUp, of_fault, place},
};
use crate::model::{
    Doubt, Evidence, Model, Subject,
    faults::{Fault, Stray},
    judge::Breach,
    span::Stage,
};

pub fn looked_up(model: &Model, seen: &LookedUp<'_>) -> Option<Breach> {
    let fault = model.faults.get(seen.fault?)?;
    let (lookup, device) = (seen.lookup, &fault.report.device);
    let subject = || seen.subject(model);
    let at = || place(lookup.group_id, lookup.pasid);
    let proof = [fault.stages[Stage::Report as usize], Some(Evidence::of(seen.event, "look-up"))];
    if !device.group.is_null() && device.group != lookup.group {
        let own = model.mirror.group_id(device).map_or_else(|| "another".to_owned(), |id| id.to_string());
        let message = format!("a fault of {} (group {own}) was looked up at {}", device.name, at());
        return Some(Breach::new(RuleId::DeviceMismatch, fault.ts, message, subject()).proven_by(proof));
    }
    if lookup.ret != 0 {
        return None;
    }
    let handle = &lookup.handle;
    let attach = || model.mirror.handles.get(&handle.ptr).and_then(|handle| handle.attach);
    let others =
        model.mirror.device(handle.device).filter(|known| !known.group.is_null() && known.group != lookup.group);
    if let Some(other) = others {
        let message = format!(
            "handle {} at {} is for {}, which is in group {}",
            handle.ptr,
            at(),
            other.name,
            other.group_id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
        );
        let breach = Breach::new(RuleId::DeviceMismatch, fault.ts, message, subject());
        return Some(breach.proven_by([attach()]).proven_by(proof));
    }
    let held = seen.slot.attachment().filter(|held| held.handle == Some(handle.ptr))?;
    let (then, now) = (held.device_id?, handle.device_id?);
    if then == now {
        return None;
    }
    let message = format!(
        "handle {} at {} was attached for device id {then}, and its device id reads {now} now",
        handle.ptr,
        at(),
    );
    let breach = Breach::new(RuleId::DeviceMismatch, seen.slot.known_since, message, subject());
    Some(breach.proven_by([attach()]).proven_by(proof))
}

/// User space was told another id than the handle's.
pub fn delivered(model: &Model, fault: &Fault, message: &Stray) -> Option<Breach> {
    let expected = fault.told_id?;
    if expected == message.device_id {
        return None;
    }
    let pasid = fault.report.pasid().unwrap_or(0);
    let subject = Subject { device_id: Some(message.device_id), ..of_fault(fault) };
    let text = format!(
        "a fault of {} was delivered with device id {}, and its handle is for device id {expected}",
        place(fault.group_id, pasid),
        message.device_id,
    );
    let handle = fault.handle.and_then(|handle| model.mirror.handles.get(&handle));
    // A sibling in the handle's group has an id of its own, which is as good.
    let device = fault.report.device.ptr;
    let own = model.mirror.idev_of(device).and_then(|idev| idev.bound).filter(|bound| bound.ts < fault.ts);
    let unknown = handle.is_none_or(|handle| handle.device != device) && own.is_none();
    let breach = Breach::new(RuleId::DeviceMismatch, fault.ts, text, subject);
    let breach = breach.unless(unknown.then_some(Doubt::Beginning));
    Some(breach.proven_by([
        handle.and_then(|handle| handle.attach),
        fault.stages[Stage::Report as usize],
        fault.stages[Stage::Lookup as usize],
        Some(message.seen),
    ]))
}
