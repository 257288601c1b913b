//! Groups' members, resets, domains, frees, and the snapshot.

use super::{
    Evidence, Model,
    calls::{About, Call},
    effects::Effects,
    mirror::{Attachment, Bond, Content, Handle, Life, Membership, SlotKey},
    rules,
    span::{DeviceSpan, DomainSpan, Owner, SpanKind},
};
use crate::event::{DeviceRef, DomainType, Event, OwnerHint, ProbeId, Ptr, SlotState, SlotWhat};

impl Model {
    pub(super) fn device_seen(&mut self, event: &Event, device: &DeviceRef, effects: &mut Effects) {
        self.mirror.learn(device);
        let span = DeviceSpan { group: self.mirror.group_id(device), device: device.name, ret: None };
        match event.probe {
            ProbeId::DeviceAdd => {
                if let Some(device) = self.mirror.device_mut(device.ptr) {
                    device.added = Some(Evidence::of(event, "the device's beginning"));
                    device.queue = Membership::Out(Evidence::of(event, "the device's beginning"));
                    device.reset.known_since = Some(event.ts);
                }
                self.tell_event(event, SpanKind::DeviceAdd(span), effects);
            }
            ProbeId::DeviceRemove => {
                self.device_faults_gone(event, device.ptr, effects);
                for key in self.mirror.slots_of(device.group) {
                    let breach = rules::device_left(self, event, key, device);
                    self.judge(breach, event, effects);
                }
                let breach = rules::left_in_reset(self, event, device);
                self.judge(breach, event, effects);
                self.tell_event(event, SpanKind::DeviceRemove(span), effects);
                self.mirror.remove_device(device);
            }
            ProbeId::ResetPrepare => self.enter(Call::new(event, About::Device(Box::new(*device))), effects),
            ProbeId::ResetDone => {
                self.reset_done(event, device, effects);
                self.tell_event(event, SpanKind::ResetDone(span), effects);
            }
            _ => {}
        }
    }

    pub(super) fn reset_prepared(
        &mut self,
        call: &Call,
        event: &Event,
        ret: i64,
        recovering: Option<u32>,
        effects: &mut Effects,
    ) {
        let About::Device(device) = &call.about else { return };
        let span = DeviceSpan { group: self.mirror.group_id(device), device: device.name, ret: Some(ret) };
        if ret == 0 {
            let outermost = self.mirror.device_mut(device.ptr).filter(|known| known.reset.depth == 0);
            let outermost = outermost.map(|known| known.reset.blocks = recovering.map(|devices| devices > 0)).is_some();
            self.learn_reset(device);
            if let Some(known) = self.mirror.device_mut(device.ptr) {
                known.reset.depth = known.reset.depth.saturating_add(1);
                if outermost {
                    known.reset.prepared = Some(Evidence::of(event, "reset prepare"));
                }
            }
            if let Some(group) = self.mirror.group_mut(device.group) {
                group.blocked = Some(device.ptr);
            }
        }
        self.tell_call(call, SpanKind::ResetPrepare(span), effects);
    }

    fn reset_done(&mut self, event: &Event, device: &DeviceRef, effects: &mut Effects) {
        self.learn_reset(device);
        let breach = rules::reset_done(self, event, device);
        self.judge(breach, event, effects);
        let Some(known) = self.mirror.device_mut(device.ptr) else { return };
        known.reset.depth = known.reset.depth.saturating_sub(1);
        known.reset.done = Some(Evidence::of(event, "reset done"));
        let over = known.reset.depth == 0;
        let Some(group) = self.mirror.group_mut(device.group).filter(|_| over) else { return };
        if group.blocked == Some(device.ptr) {
            group.blocked = None;
        } else if let Some(other) = group.blocked.and_then(|other| self.mirror.device_mut(other)) {
            // The kernel tells of the group as a whole: it may have been this device that blocked it.
            other.reset.blocks = None;
        }
    }

    /// An attach succeeds only when no device of its group is blocked by its reset: from then on the depth is known of those
    /// that a reset blocks. One without ATS is left alone, and may be in the midst of its own.
    fn learn_reset(&mut self, device: &DeviceRef) {
        let unblocked = self.mirror.group(device.group).and_then(|group| group.unblocked);
        let Some(known) = self.mirror.device_mut(device.ptr) else { return };
        let last = known.reset.done.max_ts(known.reset.prepared);
        if known.reset.known_since.is_none()
            && known.reset.depth == 0
            && known.reset.blocks == Some(true)
            && let Some(unblocked) = unblocked.filter(|&unblocked| unblocked > last)
        {
            known.reset.known_since = Some(unblocked);
        }
    }

    pub(super) fn domain_freed(&mut self, event: &Event, domain: Ptr, domain_type: DomainType, effects: &mut Effects) {
        let breach = rules::domain_freed(self, event, domain);
        self.judge(breach, event, effects);
        self.mirror.forget_domain(domain);
        self.tell_event(event, SpanKind::DomainFree(DomainSpan { domain, domain_type }), effects);
    }

    /// Watched memory is freed.
    pub(super) fn memory_freed(&mut self, event: &Event, ptr: Ptr, effects: &mut Effects) {
        let breach = rules::freed(self, event, ptr);
        self.judge(breach, event, effects);
        let seen = Evidence::of(event, "free");
        if let Some(handle) = self.mirror.handles.get_mut(&ptr) {
            handle.marks_mut().freed.get_or_insert(seen);
            let number = handle.number;
            self.reference_freed(ptr, number, seen, effects);
        }
    }

    /// What was there before the trace began. The pieces of a group are read without its lock: what changed since the
    /// first of them, or is changing, is known better by its own events.
    pub(super) fn snapshot(&mut self, event: &Event, state: &SlotState) {
        self.judge.snapshot = self.judge.snapshot.max(event.ts);
        self.mirror.learn(&state.device);
        let ptr = state.device.group;
        let begun = self.mirror.group(ptr).and_then(|group| group.snapshot).unwrap_or(event.ts);
        match state.what {
            SlotWhat::Group => {
                if let Some(group) = self.mirror.group_mut(ptr) {
                    (group.domain, group.domain_type) = (state.domain, state.domain_type);
                    group.snapshot = Some(event.ts);
                }
            }
            SlotWhat::DefaultDomain => {
                if let Some(group) = self.mirror.group_mut(ptr) {
                    (group.default_domain, group.default_domain_type) = (state.domain, state.domain_type);
                }
            }
            SlotWhat::Entry => self.snapshot_entry(event, state, begun),
            SlotWhat::End if state.pasid == 0 && begun < event.ts => self.snapshot_end(event, ptr, begun),
            SlotWhat::Member | SlotWhat::End => {}
        }
    }

    fn snapshot_entry(&mut self, event: &Event, state: &SlotState, begun: u64) {
        let key = SlotKey { group: state.device.group, pasid: state.pasid };
        let slot = self.mirror.view(key);
        if slot.open > 0 || slot.changed >= begun {
            return;
        }
        let handle = &state.handle;
        let owner = match [handle.owner, state.domain_owner].into_iter().find(|&o| o != OwnerHint::Unknown) {
            Some(OwnerHint::Iommufd) => Owner::Iommufd,
            Some(OwnerHint::Sva) => Owner::Sva,
            _ if state.domain_type == DomainType::SVA => Owner::Sva,
            _ if handle.device_id.is_some() => Owner::Iommufd,
            _ => Owner::Kernel,
        };
        let attachment = Attachment {
            handle: handle.ptr.some(),
            domain: state.domain.some().unwrap_or(handle.domain),
            domain_type: state.domain_type,
            owner,
            device_id: handle.device_id,
            idev: handle.idev,
            device: handle.device.some().unwrap_or(state.device.ptr),
            since: 0,
        };
        // A slot's content changes at the event, so that a look-up that runs meanwhile is not judged by it.
        self.mirror.set(key, Content::Held(attachment), begun, event.ts);
        if handle.ptr.is_null() {
            return;
        }
        let life = Handle::new(Life::Live, key, &attachment, None, begun);
        self.mirror.begin_life(handle.ptr, life);
        if owner == Owner::Sva
            && self.open_sva == 0
            && state.users > 0
            && let Some(bond) = self.mirror.bond_mut(handle.ptr)
            && bond.known_since == 0
        {
            *bond = Bond { users: state.users, known_since: event.ts, ..Bond::default() };
        }
    }

    /// Everything of a group was read: what was not told of is empty.
    fn snapshot_end(&mut self, event: &Event, ptr: Ptr, begun: u64) {
        let rid = SlotKey { group: ptr, pasid: 0 };
        let Some(group) = self.mirror.group_mut(ptr) else { return };
        // A domain attached without a handle is in no array. Whether the group's is such a one, or blocks everything,
        // its type does not tell for certain.
        let own = group.domain == group.default_domain || group.domain.is_null();
        group.known_since = Some(begun);
        group.snapshot = None;
        for key in self.mirror.slots_of(ptr) {
            let slot = self.mirror.view(key);
            // What an earlier event left there is gone if the snapshot does not tell of it.
            if slot.open == 0 && slot.known_since < begun && slot.changed < begun {
                self.mirror.set(key, Content::Empty, begun, event.ts);
            }
        }
        let slot = self.mirror.view(rid);
        if !own && slot.open == 0 && slot.attachment().is_none() && slot.changed <= begun {
            self.mirror.set(rid, Content::Unknown, begun, event.ts);
        }
    }
}

/// The later of two marks.
trait MaxTs {
    fn max_ts(self, other: Option<Evidence>) -> u64;
}

impl MaxTs for Option<Evidence> {
    fn max_ts(self, other: Option<Evidence>) -> u64 {
        self.map_or(0, |mark| mark.ts).max(other.map_or(0, |mark| mark.ts))
    }
}
