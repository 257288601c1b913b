//! The lives of attachments: from the attach or replace that brought one to the detach or replace that ended it.

use serde::Serialize;

use crate::{
    event::{Body, DomainType, Event, Name, OwnerHint, Ptr, SlotWhat},
    model::{
        Map,
        span::{ChangeSpan, Owner, Span, SpanKind},
    },
};

/// Lives that are kept; what comes after them is counted only.
const MAX_LIVES: usize = 1 << 20;

/// One attachment, while it was in its slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Life {
    /// The group's number.
    pub group: Option<u32>,
    /// The device, where it is known.
    pub device: Option<Name>,
    /// 0 is the RID.
    pub pasid: u32,
    /// The handle; `None` for a domain that was attached without one.
    pub handle: Option<Ptr>,
    /// The domain.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
    /// Who attached it.
    pub owner: Owner,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// When its attach was entered; `None` when it was there before the trace.
    pub begin: Option<u64>,
    /// When the call that ended it returned; `None` when it was there at the end.
    pub end: Option<u64>,
}

/// Puts lives together from changes.
#[derive(Debug, Default)]
pub struct Lives {
    open: Map<(u32, u32), Life>,
    over: Vec<Life>,
    /// Lives for which there was no room.
    pub left_out: u64,
}

impl Lives {
    /// Takes note of what was attached before the trace.
    pub fn event(&mut self, event: &Event) {
        let Body::Slot(state) = &event.body else { return };
        let (SlotWhat::Entry, Some(group)) = (state.what, state.device.group_id) else { return };
        let owner = match (state.handle.owner, state.domain_owner) {
            (OwnerHint::Iommufd, _) | (_, OwnerHint::Iommufd) => Owner::Iommufd,
            (OwnerHint::Sva, _) | (_, OwnerHint::Sva) => Owner::Sva,
            _ => Owner::Kernel,
        };
        let life = Life {
            group: Some(group),
            device: Some(state.device.name).filter(|name| !name.is_empty()),
            pasid: state.pasid,
            handle: state.handle.ptr.some(),
            domain: state.domain,
            domain_type: state.domain_type,
            owner,
            device_id: state.handle.device_id,
            begin: None,
            end: None,
        };
        if self.has_room() {
            // What its own attach tells is known better.
            self.open.entry((group, state.pasid)).or_insert(life);
        }
    }

    /// Takes note of a change.
    pub fn span(&mut self, span: &Span) {
        match &span.kind {
            SpanKind::Attach(change) | SpanKind::Replace(change) if change.ret == 0 => self.attached(span.ts, change),
            SpanKind::Detach(change) => self.ended(span.ts, change),
            _ => {}
        }
    }

    fn has_room(&mut self) -> bool {
        let room = self.open.len() + self.over.len() < MAX_LIVES;
        self.left_out += u64::from(!room);
        room
    }

    fn attached(&mut self, ts: u64, change: &ChangeSpan) {
        self.ended(ts, change);
        // The core puts a group into its own domains as it likes: nobody's attachment.
        if change.handle.is_none() && change.owner == Owner::Kernel {
            return;
        }
        let Some(group) = change.group else { return };
        if !self.has_room() {
            return;
        }
        let life = Life {
            group: change.group,
            device: change.device,
            pasid: change.pasid,
            handle: change.handle,
            domain: change.domain,
            domain_type: change.domain_type,
            owner: change.owner,
            device_id: change.device_id,
            begin: Some(ts),
            end: None,
        };
        self.open.insert((group, change.pasid), life);
    }

    fn ended(&mut self, ts: u64, change: &ChangeSpan) {
        let Some(group) = change.group else { return };
        if let Some(mut life) = self.open.remove(&(group, change.pasid)) {
            life.end = Some(ts.saturating_add(change.duration_ns));
            life.device = life.device.or(change.device);
            self.over.push(life);
        }
    }

    /// Every life, oldest first.
    #[must_use]
    pub fn finish(mut self) -> Vec<Life> {
        self.over.extend(self.open.into_values());
        self.over.sort_by_key(|life| (life.begin, life.group, life.pasid, life.end));
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{Script, dev, hnd};

    fn lives(script: &Script) -> Vec<Life> {
        let mut lives = Lives::default();
        script.events.iter().for_each(|event| lives.event(event));
        script.run().spans.iter().for_each(|span| lives.span(span));
        lives.finish()
    }

    #[test]
    fn a_life_lasts_from_attach_to_detach_and_a_replace_ends_one_and_begins_another() {
        let (device, mut script) = (dev(1), Script::new());
        let (a, b) = (hnd(1, &device), hnd(2, &device));
        script.by(10).bind(&device).attach(&device, 5, &a).replace(&device, 5, &a, &b).detach(&device, 5, &b);
        script.by(10).attach(&device, 6, &a);
        let lives = lives(&script);
        let told: Vec<_> = lives.iter().map(|l| (l.pasid, l.handle, l.begin.is_some(), l.end.is_some())).collect();
        let (a, b) = (Some(a.handle.ptr), Some(b.handle.ptr));
        assert_eq!(told, [(5, a, true, true), (5, b, true, true), (6, a, true, false)]);
        assert!(lives[0].end > lives[1].begin, "the old one leaves when the replace is done");
        assert_eq!((lives[0].owner, lives[0].device_id), (Owner::Iommufd, Some(device.id)));
    }

    #[test]
    fn what_was_there_before_has_no_beginning() {
        let (device, mut script) = (dev(1), Script::new());
        let a = hnd(1, &device);
        script.by(10).snapshot_begin(&device, a.handle.domain).snapshot_entry(&device, 0, &a).snapshot_end(&device);
        script.by(10).detach(&device, 0, &a);
        let lives = lives(&script);
        assert_eq!(lives.len(), 1, "{lives:?}");
        assert_eq!((lives[0].begin, lives[0].end.is_some(), lives[0].handle), (None, true, Some(a.handle.ptr)));
    }
}
