//! `priv-unfreeable` and `freed-while-referenced`: the events, judged by the first proposal.
//!
//! That handle held a reference count and a caller's private pointer. Attach takes the first reference and detach
//! puts it; each look-up takes one that is put when its fault is over. Nobody is told when the last one is put, so
//! nobody can free the private pointer then; and a caller that frees it by itself, as callers do, may be too early.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::Ptr,
    model::{Evidence, Model, Subject, effects::Effects, judge::Breach, mirror::Handle, table::Map},
};

/// Handles with references, at most.
const MAX_REFERENCED: usize = 1 << 16;

/// The references that look-ups hold, by handle and its life.
#[derive(Debug, Default)]
pub struct References {
    held: Map<(Ptr, u32), Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    lookups: u32,
    detached: Option<Evidence>,
    told: bool,
}

impl Model {
    /// Whether the first proposal's rules are asked for.
    fn counts_references(&self) -> bool {
        self.judge.wants(RuleId::PrivUnfreeable) || self.judge.wants(RuleId::FreedWhileReferenced)
    }

    /// A fault's look-up takes a reference.
    pub(in crate::model) fn reference_taken(&mut self, ptr: Ptr, number: u32) {
        if self.counts_references() && self.references.held.len() < MAX_REFERENCED {
            self.references.held.entry((ptr, number)).or_default().lookups += 1;
        }
    }

    /// A fault is over and puts its reference.
    pub(in crate::model) fn reference_put(&mut self, ptr: Ptr, number: u32, by: Evidence, effects: &mut Effects) {
        let Some(held) = self.references.held.get_mut(&(ptr, number)) else { return };
        held.lookups = held.lookups.saturating_sub(1);
        if held.lookups > 0 {
            return;
        }
        let held = self.references.held.remove(&(ptr, number)).unwrap_or_default();
        let Some(detached) = held.detached else { return };
        let Some(handle) = self.mirror.handles.get(&ptr).filter(|handle| handle.number == number) else { return };
        let breach = breach(self, RuleId::PrivUnfreeable, ptr, handle, |at| {
            format!(
                "the last reference to handle {ptr} of {at} was put by the end of a fault, after its detach: \
                 nobody could have freed priv"
            )
        });
        let breach = breach.proven_by([Some(detached), Some(Evidence { what: "last put", ..by })]);
        self.judge_late(breach, by.ts, effects);
    }

    /// A handle was detached: the first reference is put.
    pub(in crate::model) fn reference_detached(&mut self, ptr: Ptr, number: u32, by: Evidence) {
        if let Some(held) = self.references.held.get_mut(&(ptr, number)) {
            held.detached = Some(by);
        }
    }

    /// The caller frees a handle, or is free to.
    pub(in crate::model) fn reference_freed(&mut self, ptr: Ptr, number: u32, by: Evidence, effects: &mut Effects) {
        let Some(held) = self.references.held.get_mut(&(ptr, number)).filter(|held| !held.told) else { return };
        held.told = true;
        let lookups = held.lookups;
        let Some(handle) = self.mirror.handles.get(&ptr).filter(|handle| handle.number == number) else { return };
        let breach = breach(self, RuleId::FreedWhileReferenced, ptr, handle, |at| {
            format!("the caller freed handle {ptr} of {at} while {lookups} look-up(s) refer to it")
        });
        self.judge_late(breach.proven_by([Some(by)]), by.ts, effects);
    }
}

fn breach(model: &Model, rule: RuleId, ptr: Ptr, handle: &Handle, message: impl Fn(String) -> String) -> Breach {
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
    let message = message(place(group, handle.key.pasid));
    Breach::new(rule, handle.known_since, message, subject).proven_by([handle.attach])
}
