//! Attach, replace and detach: the outermost function of the core's API makes the span, and what it does to its slot.

use super::{
    Evidence, Model, Subject,
    calls::{About, Call, Inner, OpenChange},
    effects::Effects,
    mirror::{Attachment, Bond, Content, Handle, Life, SlotKey},
    rules::{self, Changed},
    since,
    span::{ChangeSpan, Owner, SpanKind},
};
use crate::event::{Change, DomainType, Event, OwnerHint, ProbeId, Ptr};

/// What a function does to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Attach,
    Replace,
    Detach,
}

impl Deed {
    pub(super) fn of(probe: ProbeId) -> Option<Deed> {
        Some(match probe {
            ProbeId::AttachDevice | ProbeId::AttachGroup | ProbeId::AttachGroupHandle | ProbeId::AttachDevicePasid => {
                Deed::Attach
            }
            ProbeId::ReplaceGroupHandle | ProbeId::ReplaceDevicePasid | ProbeId::SetDomain => Deed::Replace,
            ProbeId::DetachDevice | ProbeId::DetachGroup | ProbeId::DetachGroupHandle | ProbeId::DetachDevicePasid => {
                Deed::Detach
            }
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Deed::Attach => "attach",
            Deed::Replace => "replace",
            Deed::Detach => "detach",
        }
    }
}

/// Whether a function is about a PASID; the others are about the RID.
pub(super) fn is_pasid(probe: ProbeId) -> bool {
    matches!(probe, ProbeId::AttachDevicePasid | ProbeId::ReplaceDevicePasid | ProbeId::DetachDevicePasid)
}

/// The slot that a change is about.
fn key_of(probe: ProbeId, change: &Change) -> SlotKey {
    SlotKey { group: change.device.group, pasid: if is_pasid(probe) { change.pasid } else { 0 } }
}

impl Model {
    pub(super) fn change_entered(&mut self, event: &Event, change: &Change, effects: &mut Effects) {
        let Some(deed) = Deed::of(event.probe) else { return };
        self.mirror.learn(&change.device);
        let tid = event.task.tid;
        let nested = self.calls.of(tid).iter().any(|call| matches!(call.about, About::Change(_)));
        let open = OpenChange { change: *change, nested, inner: None, number: None };
        let mut call = Call::new(event, About::Change(Box::new(open)));
        if !nested {
            let key = key_of(event.probe, change);
            self.mirror.open(key);
            if deed != Deed::Detach
                && let Some(handle) = change.handle.ptr.some()
            {
                let made = self.attachment(tid, &call, change);
                let attach = Evidence { what: deed.name(), ..call.evidence() };
                let mut life = Handle::new(Life::Attaching, key, &made, Some(attach), event.ts);
                life.by_replace = deed == Deed::Replace;
                let number = self.mirror.begin_life(handle, life);
                if let About::Change(open) = &mut call.about {
                    open.number = number;
                }
            }
        }
        self.enter(call, effects);
    }

    /// A change's return was lost: its slot may hold anything.
    pub(super) fn change_lost(&mut self, call: &Call, open: &OpenChange) {
        if open.nested {
            return;
        }
        let key = key_of(call.probe, &open.change);
        self.mirror.close(key, self.now, Some((self.now, Content::Unknown)));
        if let Some(handle) = open.change.handle.ptr.some()
            && self
                .mirror
                .handles
                .get(&handle)
                .is_some_and(|known| Some(known.number) == open.number && known.life == Life::Attaching)
        {
            self.mirror.handles.remove(&handle);
        }
    }

    pub(super) fn change_returned(&mut self, event: &Event, call: &Call, ret: i64, effects: &mut Effects) {
        let About::Change(open) = &call.about else { return };
        let tid = event.task.tid;
        if open.nested {
            let Some(Call { about: About::Change(outer), .. }) = self.calls.top_mut(tid) else { return };
            outer.inner = Some(Inner { domain: open.change.domain, domain_type: open.change.domain_type });
            let (handle, number) = (outer.change.handle.ptr, outer.number);
            if ret == 0
                && let Some(handle) = self.mirror.handles.get_mut(&handle).filter(|h| Some(h.number) == number)
            {
                handle.op_done = true;
            }
            return;
        }
        let Some(deed) = Deed::of(call.probe) else { return };
        let change = &open.change;
        let key = key_of(call.probe, change);
        let slot = self.mirror.view(key);
        let before = slot.attachment().copied();
        let mut made = self.attachment(tid, call, change);
        if deed == Deed::Detach
            && let Some(before) = before
        {
            // A detach is given neither handle nor owner: what was in the slot tells.
            made.owner = before.owner;
            made.device_id = before.device_id.or(made.device_id);
            made.handle = before.handle;
            if made.device.is_null() {
                made.device = before.device;
            }
        }
        let done = Changed { event, call, open, deed, key, slot, made, ret };
        // The core moves a group between its own domains as it likes: `pasid_array` does not change.
        if call.probe != ProbeId::SetDomain {
            for check in rules::ON_CHANGED {
                let breach = check(self, &done);
                self.judge(breach, event, effects);
            }
            if deed == Deed::Detach && made.owner == Owner::Sva {
                self.bond_detached(event, &done, effects);
            }
        }
        self.apply_change(&done, effects);
        let rid_before = (!is_pasid(call.probe)).then_some(change.old_domain).and_then(Ptr::some);
        let old_domain = match deed {
            Deed::Detach => open.inner.map(|inner| inner.domain),
            Deed::Attach | Deed::Replace => rid_before.or(before.map(|before| before.domain)),
        };
        let name = if change.device.name.is_empty() { self.mirror.name(made.device) } else { change.device.name };
        let span = ChangeSpan {
            group: self.mirror.group_id(&change.device),
            device: (!name.is_empty()).then_some(name),
            pasid: key.pasid,
            domain: change.domain,
            domain_type: change.domain_type,
            old_domain,
            handle: made.handle,
            old_handle: if deed == Deed::Replace { before.and_then(|before| before.handle) } else { None },
            ret,
            duration_ns: since(event.ts, call.ts),
            owner: made.owner,
            device_id: made.device_id,
            function: call.probe.function(),
        };
        let kind = match deed {
            Deed::Attach => SpanKind::Attach(span),
            Deed::Replace => SpanKind::Replace(span),
            Deed::Detach => SpanKind::Detach(span),
        };
        self.tell_call(call, kind, effects);
    }

    /// What a change puts into its slot when it succeeds, and who asks for it.
    fn attachment(&self, tid: u32, call: &Call, change: &Change) -> Attachment {
        let iommufd = self.calls.iommufd(tid);
        let handle = &change.handle;
        let owner = if call.probe == ProbeId::SetDomain {
            Owner::Kernel
        } else {
            let hint = [handle.owner, change.domain_owner].into_iter().find(|&hint| hint != OwnerHint::Unknown);
            let sva = change.domain_type == DomainType::SVA || self.calls.in_sva(tid);
            match hint {
                Some(OwnerHint::Iommufd) => Owner::Iommufd,
                Some(OwnerHint::Sva) => Owner::Sva,
                _ if sva => Owner::Sva,
                _ if iommufd.is_some() => Owner::Iommufd,
                // VFIO's containers claim the group, and attach without a handle.
                _ if matches!(call.probe, ProbeId::AttachGroup | ProbeId::DetachGroup)
                    && !change.dma_owner.is_null() =>
                {
                    Owner::Vfio
                }
                _ => Owner::Kernel,
            }
        };
        let by_iommufd = iommufd.filter(|_| owner == Owner::Iommufd);
        let device = [handle.device, change.device.ptr, by_iommufd.map(|op| op.device.ptr).unwrap_or_default()];
        Attachment {
            handle: handle.ptr.some(),
            domain: change.domain,
            domain_type: change.domain_type,
            owner,
            device_id: handle.device_id.or_else(|| by_iommufd?.id),
            idev: handle.idev.some().or_else(|| by_iommufd?.idev.some()).unwrap_or_default(),
            device: device.into_iter().find_map(Ptr::some).unwrap_or_default(),
            since: call.ts,
        }
    }

    fn apply_change(&mut self, done: &Changed<'_>, effects: &mut Effects) {
        let (call, key, change) = (done.call, done.key, done.change());
        if done.ret == 0
            && !is_pasid(call.probe)
            && let Some(group) = self.mirror.group_mut(key.group)
        {
            if let Some(default) = change.default_domain.some().filter(|&default| default != group.default_domain) {
                group.default_domain = default;
                // It is told with its type only where the group is in it.
                let known = [(change.domain, change.domain_type), (change.old_domain, change.old_domain_type)];
                let found = known.into_iter().find(|(domain, _)| *domain == default);
                group.default_domain_type = found.map(|(_, domain_type)| domain_type).unwrap_or_default();
            }
            (group.domain, group.domain_type) = match (done.deed, done.open.inner) {
                (Deed::Attach | Deed::Replace, _) => (change.domain, change.domain_type),
                (Deed::Detach, Some(inner)) => (inner.domain, inner.domain_type),
                (Deed::Detach, None) => Default::default(),
            };
        }
        if call.probe == ProbeId::SetDomain {
            self.core_domain_set(done);
            return;
        }
        let before = done.slot.attachment().and_then(|before| before.handle);
        let after = match done.deed {
            _ if done.ret != 0 => None,
            Deed::Detach => Some(Content::Empty),
            Deed::Attach | Deed::Replace => Some(Content::Held(done.made)),
        };
        // Opened when its entry was seen; the knowledge of the slot begins there.
        self.mirror.close(key, done.event.ts, after.map(|content| (call.ts, content)));
        if done.ret == 0 {
            if let Some(before) = before.filter(|&before| done.deed == Deed::Detach || Some(before) != done.made.handle)
            {
                self.handle_taken(done, before, effects);
            }
            if done.deed != Deed::Detach {
                self.handle_placed(done);
                if let Some(group) = self.mirror.group_mut(key.group) {
                    group.unblocked = Some(call.ts);
                }
            }
        } else {
            self.handle_refused(done);
        }
    }

    /// The core moved a group between its own domains.
    fn core_domain_set(&mut self, done: &Changed<'_>) {
        let (call, key, change) = (done.call, done.key, done.change());
        let held = done.slot.attachment().copied();
        // A domain attached without a handle is in no array; it is left when the group gets another.
        let left = held.is_some_and(|held| held.handle.is_none() && held.domain != change.domain);
        let after = (done.ret == 0 && left).then_some((call.ts, Content::Empty));
        self.mirror.close(key, done.event.ts, after);
        // Who takes DMA ownership finds `pasid_array` empty, and so does who makes the group.
        let in_bind = self.calls.of(done.event.task.tid).iter().any(|call| call.probe == ProbeId::IommufdBind);
        let taken = change.dma_owner.is_null() && (in_bind || change.domain_type == DomainType::BLOCKED);
        if done.ret == 0 && (taken || change.old_domain.is_null()) {
            self.mirror.group_is_empty(key.group, call.ts);
        }
    }

    /// A handle was taken out of its slot.
    fn handle_taken(&mut self, done: &Changed<'_>, handle: Ptr, effects: &mut Effects) {
        let left = Evidence { what: done.deed.name(), ..Evidence::of(done.event, "") };
        // What the mirror had there may be wrong; then the handle has gone elsewhere, or is no more.
        let Some(known) = self.mirror.handles.get(&handle).filter(|known| known.key == done.key) else { return };
        let (number, owner) = (known.number, known.owner);
        // iommufd goes on to answer the handle's faults, and frees it then.
        let cleans = owner == Owner::Iommufd;
        let inside = self.calls.iommufd_takes(done.event.task.tid, handle);
        let life = if cleans || inside { Life::Draining } else { Life::Gone };
        self.reference_detached(handle, number, left);
        self.mirror.handle_left(handle, life, left);
        if life == Life::Gone {
            self.reference_freed(handle, number, left, effects);
        }
    }

    /// A handle is in its slot now.
    fn handle_placed(&mut self, done: &Changed<'_>) {
        let Some(ptr) = done.made.handle else { return };
        let known = self.mirror.handles.get(&ptr).is_some_and(|known| {
            Some(known.number) == done.open.number && !matches!(known.life, Life::Draining | Life::Gone)
        });
        if !known {
            let attach = Evidence { what: done.deed.name(), ..done.call.evidence() };
            let life = Handle::new(Life::Live, done.key, &done.made, Some(attach), done.call.ts);
            self.mirror.begin_life(ptr, life);
        }
        if let Some(handle) = self.mirror.handles.get_mut(&ptr) {
            handle.life = Life::Live;
            handle.key = done.key;
            handle.domain = done.made.domain;
            handle.device_id = done.made.device_id;
            handle.device = done.made.device;
        }
        if done.made.owner == Owner::Sva
            && let Some(bond) = self.mirror.bond_mut(ptr)
        {
            // No bind of it has returned, and none but the one that is running here has taken a reference.
            *bond = Bond { known_since: done.call.ts, ..Bond::default() };
        }
    }

    /// An attach failed. Where the handle is stored before the op, look-ups may have found it until now.
    fn handle_refused(&mut self, done: &Changed<'_>) {
        let Some(ptr) = done.made.handle else { return };
        let Some(handle) = self.mirror.handles.get_mut(&ptr) else { return };
        if Some(handle.number) != done.open.number || handle.life != Life::Attaching || handle.key != done.key {
            return;
        }
        handle.failed = true;
        let left = Evidence::of(done.event, "failure");
        self.mirror.handle_left(ptr, Life::Gone, left);
    }

    /// A bond was detached, in its unbind or out of turn.
    fn bond_detached(&mut self, event: &Event, done: &Changed<'_>, effects: &mut Effects) {
        let Some(bond) = done.made.handle.and_then(|handle| self.mirror.bonds.get(&handle)).copied() else { return };
        let subject: Subject = done.subject(self);
        let breach = rules::detached_with_users(event, subject, &bond);
        if breach.is_some()
            && let Some(bond) = done.made.handle.and_then(|handle| self.mirror.bonds.get_mut(&handle))
        {
            bond.told = true;
        }
        self.judge(breach, event, effects);
    }
}
