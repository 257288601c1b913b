//! `domain-freed-attached`.

use super::{
    RuleId,
    facts::{content, named, place},
};
use crate::{
    event::{Event, Ptr},
    model::{Doubt, Evidence, Model, Subject, judge::Breach},
};

pub fn domain_freed(model: &Model, event: &Event, domain: Ptr) -> Option<Breach> {
    let (slot, uses) = model.mirror.user_of(domain)?;
    let held = slot.attachment()?;
    let group = model.mirror.group(slot.key.group).and_then(|group| group.id);
    let subject = Subject {
        group,
        device: named(model.mirror.name(held.device)),
        pasid: Some(slot.key.pasid),
        handle: held.handle,
        domain: Some(domain),
        device_id: held.device_id,
        ..Subject::default()
    };
    let more = if uses > 1 { format!(" (and {} more)", uses - 1) } else { String::new() };
    let message =
        format!("domain {domain} was freed while {} at {}{more} uses it", content(held), place(group, slot.key.pasid));
    let attach = held.handle.and_then(|handle| model.mirror.handles.get(&handle)?.attach);
    let breach = Breach::new(RuleId::DomainFreedAttached, slot.known_since, message, subject);
    let overlap = (slot.open > 0).then_some(Doubt::Overlap);
    Some(breach.proven_by([attach, Some(Evidence::of(event, "free of the domain"))]).unless(overlap))
}
