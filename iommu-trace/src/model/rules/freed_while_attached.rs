//! `freed-while-attached`.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::{Event, Ptr},
    model::{Doubt, Evidence, Model, Subject, judge::Breach, mirror::Life},
};

pub fn freed(model: &Model, event: &Event, ptr: Ptr) -> Option<Breach> {
    let handle = model.mirror.handles.get(&ptr)?;
    let slot = model.mirror.view(handle.key);
    let attached = handle.life == Life::Live && slot.holds(ptr);
    if (!attached && handle.groups == 0) || handle.marks().freed.is_some() {
        return None;
    }
    let group = model.mirror.group(handle.key.group).and_then(|group| group.id);
    let subject = Subject {
        group,
        device: named(model.mirror.name(handle.device)),
        pasid: Some(handle.key.pasid),
        handle: Some(ptr),
        domain: handle.domain.some(),
        device_id: handle.device_id,
        ..Subject::default()
    };
    let at = place(group, handle.key.pasid);
    let message = if attached {
        format!("handle {ptr} was freed while it is attached at {at}")
    } else {
        format!("handle {ptr} of {at} was freed while {} fault group(s) refer to it", handle.groups)
    };
    let overlap = (attached && slot.open > 0).then_some(Doubt::Overlap);
    let breach = Breach::new(RuleId::FreedWhileAttached, handle.known_since, message, subject);
    Some(breach.proven_by([handle.attach, handle.marks().left, Some(Evidence::of(event, "free"))]).unless(overlap))
}
