//! Groups' members, resets, domains, and the snapshot.

use super::{
    Model,
    calls::{About, Call},
    effects::Effects,
    mirror::{Attachment, SlotKey},
    span::{DeviceSpan, DomainSpan, Owner, SpanKind},
};
use crate::event::{DeviceRef, DomainType, Event, OwnerHint, ProbeId, Ptr, SlotState, SlotWhat};

impl Model {
    pub(super) fn device_seen(&mut self, event: &Event, device: &DeviceRef, effects: &mut Effects) {
        self.mirror.learn(device);
        let span = DeviceSpan { group: self.mirror.group_id(device), device: device.name, ret: None };
        match event.probe {
            ProbeId::DeviceAdd => self.tell_event(event, SpanKind::DeviceAdd(span), effects),
            ProbeId::DeviceRemove => {
                self.tell_event(event, SpanKind::DeviceRemove(span), effects);
                self.mirror.remove_device(device);
            }
            ProbeId::ResetPrepare => self.enter(Call::new(event, About::Device(*device)), effects),
            ProbeId::ResetDone => self.tell_event(event, SpanKind::ResetDone(span), effects),
            _ => {}
        }
    }

    pub(super) fn reset_prepared(&mut self, call: &Call, ret: i64, effects: &mut Effects) {
        let About::Device(device) = &call.about else { return };
        let span = DeviceSpan { group: self.mirror.group_id(device), device: device.name, ret: Some(ret) };
        self.tell_call(call, SpanKind::ResetPrepare(span), effects);
    }

    pub(super) fn domain_freed(&mut self, event: &Event, domain: Ptr, domain_type: DomainType, effects: &mut Effects) {
        self.faults.forget_domain(domain);
        self.tell_event(event, SpanKind::DomainFree(DomainSpan { domain, domain_type }), effects);
    }

    /// What was there before the trace began.
    pub(super) fn snapshot(&mut self, state: &SlotState) {
        self.mirror.learn(&state.device);
        let group = state.device.group;
        match state.what {
            SlotWhat::Group => {
                if let Some(group) = self.mirror.group_mut(group) {
                    group.domain = state.domain;
                }
            }
            SlotWhat::DefaultDomain => {
                if let Some(group) = self.mirror.group_mut(group) {
                    group.default_domain = state.domain;
                }
            }
            SlotWhat::Entry => {
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
                self.mirror.set(SlotKey { group, pasid: state.pasid }, Some(attachment));
            }
            SlotWhat::Member | SlotWhat::End => {}
        }
    }
}
