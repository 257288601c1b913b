//! `stale-lookup`.

use super::{
    RuleId,
    facts::{LookedUp, content, place},
};
use crate::{
    event::Ptr,
    model::{
        Doubt, Evidence, Model,
        judge::Breach,
        mirror::{Content, Life},
    },
};

/// `-ENOENT`: nothing, or no handle, was found.
const ENOENT: i64 = -2;

pub fn looked_up(model: &Model, seen: &LookedUp<'_>) -> Option<Breach> {
    let from = seen.from?;
    if seen.lookup.ret == 0 {
        found(model, seen, from, seen.lookup.handle.ptr)
    } else if seen.lookup.ret == ENOENT {
        missed(model, seen, from)
    } else {
        None
    }
}

/// Another handle was found than the one in the slot. It may have left since: the probe tells of a look-up only when
/// it is over, so a handle that left after the look-up's caller was entered was lawfully found.
fn found(model: &Model, seen: &LookedUp<'_>, from: u64, ptr: Ptr) -> Option<Breach> {
    let slot = &seen.slot;
    if slot.holds(ptr) {
        return None;
    }
    let subject = seen.subject(model);
    let at = place(subject.group, slot.key.pasid);
    let now = match &slot.content {
        Content::Held(held) => format!("{} is attached there", content(held)),
        Content::Empty => "nothing is attached there".to_owned(),
        Content::Unknown => "it is not known to be attached there".to_owned(),
    };
    let unknown = (slot.content == Content::Unknown).then_some(Doubt::Beginning);
    let handle = model.mirror.handles.get(&ptr);
    let (message, proof, known_since) = match handle {
        Some(handle) if handle.key == slot.key => {
            if handle.life == Life::Attaching || handle.cleaning {
                return None;
            }
            let left = handle.marks().left?;
            if left.ts >= from {
                return None;
            }
            let message = format!("a look-up at {at} found handle {ptr}, which had left before; {now}");
            (message, [handle.attach, Some(left)], handle.known_since)
        }
        Some(handle) => {
            let group = model.mirror.group(handle.key.group).and_then(|group| group.id);
            let message = format!("a look-up at {at} found handle {ptr} of {}; {now}", place(group, handle.key.pasid));
            (message, [handle.attach, handle.marks().left], handle.known_since)
        }
        None if slot.changed >= from || slot.open > 0 => {
            // The slot changed meanwhile, and what it held before is not known any more.
            return None;
        }
        None => {
            let message = format!("a look-up at {at} found handle {ptr}, which was never attached; {now}");
            (message, [None, None], slot.known_since)
        }
    };
    let held = slot.attachment().and_then(|held| model.mirror.handles.get(&held.handle?)?.attach);
    let breach = Breach::new(RuleId::StaleLookup, known_since.min(slot.known_since), message, subject);
    let overlap = (slot.overlap || (slot.open > 0 && handle.is_none_or(|handle| handle.key != slot.key)))
        .then_some(Doubt::Overlap);
    Some(
        breach
            .proven_by(proof)
            .proven_by([held, Some(Evidence::of(seen.event, "look-up"))])
            .unless(unknown)
            .unless(overlap),
    )
}

/// Nothing was found, though a handle was in the slot all the time.
fn missed(model: &Model, seen: &LookedUp<'_>, from: u64) -> Option<Breach> {
    let slot = &seen.slot;
    let held = slot.attachment()?.handle?;
    if slot.open > 0 || slot.changed >= from {
        return None;
    }
    let subject = seen.subject(model);
    let message =
        format!("a look-up at {} found nothing, where handle {held} is attached", place(subject.group, slot.key.pasid));
    let attach = model.mirror.handles.get(&held).and_then(|handle| handle.attach);
    let breach = Breach::new(RuleId::StaleLookup, slot.known_since, message, subject);
    Some(breach.proven_by([attach, Some(Evidence::of(seen.event, "look-up"))]))
}
