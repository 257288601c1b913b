//! `empty-slot`.

use super::{
    RuleId,
    facts::{Called, Changed, named, place},
};
use crate::{
    event::ProbeId,
    model::{Doubt, Evidence, Model, Subject, changes::Deed, judge::Breach, mirror::Content},
};

/// Of the core's replaces only the one of a PASID demands an attachment: that of a group acts like an attach then.
pub fn changed(model: &Model, done: &Changed<'_>) -> Option<Breach> {
    let demands = match done.deed {
        Deed::Detach => true,
        Deed::Replace => done.call.probe == ProbeId::ReplaceDevicePasid && done.ret == 0,
        Deed::Attach => false,
    };
    if !demands || matches!(done.slot.content, Content::Held(_)) {
        return None;
    }
    let subject = done.subject(model);
    let message = format!(
        "{} on {}, where nothing is attached",
        done.call.probe.function(),
        place(subject.group, done.key.pasid)
    );
    let unknown = (done.slot.content == Content::Unknown).then_some(Doubt::Beginning);
    let breach = Breach::new(RuleId::EmptySlot, done.slot.known_since, message, subject);
    Some(breach.proven_by(done.evidence()).unless(done.overlap()).unless(unknown))
}

/// iommufd replaces only what was attached for this very device.
pub fn called(model: &Model, done: &Called<'_>) -> Option<Breach> {
    if done.call.probe != ProbeId::IommufdReplace || done.ret != 0 {
        return None;
    }
    if model.mirror.attached(done.op.idev, done.op.pasid).is_some() {
        return None;
    }
    let bound = model.mirror.idevs.get(&done.op.idev).and_then(|idev| idev.bound);
    let group = model.mirror.group_id(&done.op.device);
    let subject = Subject {
        group,
        device: named(done.op.device.name),
        pasid: Some(done.op.pasid),
        device_id: done.op.id,
        ..Subject::default()
    };
    let message = format!(
        "iommufd replaced the page table of device id {} at {}, where that device was never attached",
        done.op.id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
        place(group, done.op.pasid),
    );
    let known_since = bound.map_or(0, |bound| bound.ts);
    let breach = Breach::new(RuleId::EmptySlot, known_since, message, subject).proven_by([
        bound,
        Some(done.call.evidence()),
        Some(Evidence::of(done.event, "return")),
    ]);
    Some(breach.unless(bound.is_none().then_some(Doubt::Beginning)))
}
