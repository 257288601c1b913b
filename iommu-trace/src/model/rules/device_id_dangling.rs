//! `device-id-dangling`.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::{DeviceRef, Event, IommufdOp},
    model::{Doubt, Evidence, Model, Subject, judge::Breach, mirror::SlotKey},
};

/// A device leaves its group, and the handle in one of the group's slots is for it. Of iommufd's device the unbind has told.
pub fn device_left(model: &Model, event: &Event, key: SlotKey, device: &DeviceRef) -> Option<Breach> {
    let slot = model.mirror.view(key);
    let held = slot.attachment().filter(|held| held.device == device.ptr)?;
    let handle = held.handle?;
    if !held.idev.is_null() && model.mirror.idevs.get(&held.idev).is_none_or(|idev| idev.told) {
        return None;
    }
    let group = model.mirror.group(key.group).and_then(|group| group.id);
    let subject = Subject {
        group,
        device: named(device.name),
        pasid: Some(key.pasid),
        handle: Some(handle),
        domain: held.domain.some(),
        device_id: held.device_id,
        ..Subject::default()
    };
    let message =
        format!("{} left its group while handle {handle} at {} is for it", device.name, place(group, key.pasid));
    let attach = model.mirror.handles.get(&handle).and_then(|handle| handle.attach);
    let breach = Breach::new(RuleId::DeviceIdDangling, slot.known_since, message, subject);
    let overlap = (slot.open > 0).then_some(Doubt::Overlap);
    Some(breach.proven_by([attach, Some(Evidence::of(event, "removal of the device"))]).unless(overlap))
}

/// An iommufd device goes. A group's handle has the device that was attached first; its siblings keep using it.
pub fn unbound(model: &Model, event: &Event, op: &IommufdOp) -> Option<Breach> {
    let idev = model.mirror.idevs.get(&op.idev)?;
    if idev.handles == 0 || idev.told {
        return None;
    }
    let slot = model.mirror.view(idev.slot);
    let held = slot.attachment().filter(|held| held.idev == op.idev)?;
    let handle = held.handle?;
    let group = model.mirror.group(slot.key.group).and_then(|group| group.id);
    let subject = Subject {
        group,
        device: named(model.mirror.name(idev.device)),
        pasid: Some(slot.key.pasid),
        handle: Some(handle),
        domain: held.domain.some(),
        device_id: op.id.or(idev.id),
        ..Subject::default()
    };
    let message = format!(
        "device id {} was given up while handle {handle} at {} still refers to it",
        subject.device_id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
        place(group, slot.key.pasid),
    );
    let attach = model.mirror.handles.get(&handle).and_then(|handle| handle.attach);
    let breach = Breach::new(RuleId::DeviceIdDangling, slot.known_since, message, subject);
    let overlap = (slot.open > 0).then_some(Doubt::Overlap);
    Some(breach.proven_by([idev.bound, attach, Some(Evidence::of(event, "unbind"))]).unless(overlap))
}
