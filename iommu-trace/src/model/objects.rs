//! Bonds, iommufd's devices and fault queues, devices in fault queues: calls that are one span each.

use super::{
    Model,
    calls::{About, Call},
    effects::Effects,
    since,
    span::{IommufdSpan, ObjectSpan, QueueSpan, SpanKind, SvaSpan},
};
use crate::event::{Event, IommufdOp, ProbeId, QueueOp, SvaOp};

impl Model {
    pub(super) fn sva_bound(&mut self, call: &Call, event: &Event, op: &SvaOp, effects: &mut Effects) {
        let span = SvaSpan {
            group: self.mirror.group_id(&op.device),
            device: op.device.name,
            pasid: op.pasid,
            handle: op.handle.ptr.some(),
            users: op.users,
            mm: op.mm,
            ret: op.ret,
            duration_ns: since(event.ts, call.ts),
        };
        self.tell_call(call, SpanKind::SvaBind(span), effects);
    }

    pub(super) fn sva_unbound(&mut self, call: &Call, event: &Event, effects: &mut Effects) {
        // The bond may be gone at the return: its entry tells everything.
        let About::Sva(op) = &call.about else { return };
        let span = SvaSpan {
            group: self.mirror.group_id(&op.device),
            device: op.device.name,
            pasid: op.pasid,
            handle: op.handle.ptr.some(),
            users: op.users.saturating_sub(1),
            mm: op.mm,
            ret: 0,
            duration_ns: since(event.ts, call.ts),
        };
        self.tell_call(call, SpanKind::SvaUnbind(span), effects);
    }

    pub(super) fn iommufd_returned(&mut self, call: &Call, event: &Event, op: &IommufdOp, effects: &mut Effects) {
        let About::Iommufd(entered) = &call.about else { return };
        let bind = call.probe == ProbeId::IommufdBind;
        if !bind && call.probe != ProbeId::IommufdUnbind {
            return;
        }
        let device = if bind && op.ret == 0 && !op.device.name.is_empty() { op.device } else { entered.device };
        self.mirror.learn(&device);
        let span = IommufdSpan {
            group: self.mirror.group_id(&device),
            device: device.name,
            device_id: if bind { op.id } else { entered.id },
            ret: op.ret,
            duration_ns: since(event.ts, call.ts),
        };
        let kind = if bind { SpanKind::IommufdBind(span) } else { SpanKind::IommufdUnbind(span) };
        self.tell_call(call, kind, effects);
    }

    pub(super) fn object_returned(&mut self, call: &Call, event: &Event, effects: &mut Effects) {
        let About::Object(op) = &call.about else { return };
        if call.probe == ProbeId::FaultDestroy {
            let span = ObjectSpan { object_id: op.id, object: op.object, duration_ns: since(event.ts, call.ts) };
            self.tell_call(call, SpanKind::FaultQueueDestroy(span), effects);
        }
    }

    /// Return of a call on a fault queue (or its only event).
    pub(super) fn queue_done(&mut self, event: &Event, op: &QueueOp, effects: &mut Effects) {
        self.mirror.learn(&op.device);
        let span =
            QueueSpan { group: self.mirror.group_id(&op.device), device: op.device.name, queue: op.queue, ret: op.ret };
        match event.probe {
            ProbeId::QueueAddDevice => self.tell_event(event, SpanKind::IopfEnable(span), effects),
            ProbeId::QueueRemoveDevice => {
                self.tell_event(event, SpanKind::IopfDisable(span), effects);
                self.partial_dropped(op.device.ptr.some(), effects);
            }
            ProbeId::QueueDiscardPartial => self.partial_dropped(None, effects),
            _ => {}
        }
    }
}
