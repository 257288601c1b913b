//! Attach, replace and detach: the outermost function of the core's API makes the span.

use super::{
    Model,
    calls::{About, Call, OpenChange},
    effects::Effects,
    mirror::{Attachment, SlotKey},
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
}

/// Whether a function is about a PASID; the others are about the RID.
pub(super) fn is_pasid(probe: ProbeId) -> bool {
    matches!(probe, ProbeId::AttachDevicePasid | ProbeId::ReplaceDevicePasid | ProbeId::DetachDevicePasid)
}

impl Model {
    pub(super) fn change_entered(&mut self, event: &Event, change: &Change, effects: &mut Effects) {
        if Deed::of(event.probe).is_none() {
            return;
        }
        self.mirror.learn(&change.device);
        let nested = self.calls.of(event.task.tid).iter().any(|call| matches!(call.about, About::Change(_)));
        let open = OpenChange { change: *change, nested, inner: None };
        self.enter(Call::new(event, About::Change(open)), effects);
    }

    pub(super) fn change_returned(&mut self, event: &Event, call: &Call, ret: i64, effects: &mut Effects) {
        let About::Change(open) = &call.about else { return };
        if open.nested {
            if let Some(Call { about: About::Change(outer), .. }) = self.calls.top_mut(event.task.tid) {
                outer.inner = Some((open.change.domain, ret));
            }
            return;
        }
        let Some(deed) = Deed::of(call.probe) else { return };
        let change = &open.change;
        let key = SlotKey { group: change.device.group, pasid: if is_pasid(call.probe) { change.pasid } else { 0 } };
        let before = self.mirror.slot(key.group, key.pasid).and_then(|slot| slot.attachment);
        let mut made = self.attachment(event.task.tid, call, change);
        if deed == Deed::Detach {
            // A detach is given neither handle nor owner: what was in the slot tells.
            if let Some(before) = before {
                made.owner = before.owner;
                made.device_id = before.device_id.or(made.device_id);
                made.handle = before.handle;
                if made.device.is_null() {
                    made.device = before.device;
                }
            }
        }
        if ret == 0 {
            self.apply_change(call, open, deed, key, made);
        }
        let rid_before = (!is_pasid(call.probe)).then_some(change.old_domain).and_then(Ptr::some);
        let old_domain = match deed {
            Deed::Detach => open.inner.map(|(domain, _)| domain),
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

    fn apply_change(&mut self, call: &Call, open: &OpenChange, deed: Deed, key: SlotKey, made: Attachment) {
        if key.group.is_null() {
            return;
        }
        if !is_pasid(call.probe)
            && let Some(group) = self.mirror.group_mut(key.group)
        {
            group.default_domain = open.change.default_domain.some().unwrap_or(group.default_domain);
            group.domain = match deed {
                Deed::Attach | Deed::Replace => open.change.domain,
                Deed::Detach => open.inner.map(|(domain, _)| domain).unwrap_or_default(),
            };
        }
        if call.probe == ProbeId::SetDomain {
            // The core moves the group between domains of its own; `pasid_array` does not change.
            return;
        }
        self.mirror.set(key, (deed != Deed::Detach).then_some(made));
    }
}
