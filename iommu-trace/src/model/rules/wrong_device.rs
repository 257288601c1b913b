//! `wrong-device`.

use super::{
    RuleId,
    facts::{of_fault, place},
};
use crate::model::{Model, Subject, faults::Fault, judge::Breach, span::Stage};

/// User space was told of a fault with the id of a device that did not raise it. A group's handle has the device that was
/// attached first; its siblings fault through the same. It is certain which message was the fault's when its group is
/// answered by the `cookie` in it.
pub fn delivered(model: &Model, fault: &Fault, cookie: u32) -> Option<Breach> {
    let (told, _) = fault.delivered.filter(|(_, told)| *told == cookie)?;
    if fault.told_id.is_some_and(|handles| handles != told) {
        // Not the handle's either: that is `device-mismatch`.
        return None;
    }
    let device = &fault.report.device;
    let idev = model.mirror.idev_of(device.ptr)?;
    let bound = idev.bound.filter(|bound| bound.ts < fault.ts)?;
    let own = idev.id.filter(|own| *own != told)?;
    let text = format!(
        "a fault of {} (device id {own}) at {} was delivered with device id {told}",
        device.name,
        place(fault.group_id, fault.report.pasid().unwrap_or(0)),
    );
    let subject = Subject { device_id: Some(told), ..of_fault(fault) };
    let attach = fault.handle.and_then(|handle| model.mirror.handles.get(&handle)?.attach);
    let breach = Breach::new(RuleId::WrongDevice, bound.ts, text, subject);
    Some(breach.proven_by([
        Some(bound),
        attach,
        fault.stages[Stage::Report as usize],
        fault.stages[Stage::Delivered as usize],
    ]))
}
