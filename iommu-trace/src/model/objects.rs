//! Bonds, iommufd's devices and fault queues, devices in fault queues: calls that are one span each.

use super::{
    Evidence, Model,
    calls::{About, Call},
    effects::Effects,
    mirror::{Life, Membership},
    rules::{self, Called},
    since,
    span::{IommufdSpan, ObjectSpan, QueueSpan, SpanKind, SvaSpan},
};
use crate::event::{Event, IommufdOp, ObjectOp, ProbeId, Ptr, QueueOp, SvaOp};

impl Model {
    pub(super) fn sva_entered(&mut self, event: &Event, op: &SvaOp, effects: &mut Effects) {
        self.mirror.learn(&op.device);
        let alone = self.open_sva == 0;
        let settled = self.judge.settled;
        self.open_sva += 1;
        if event.probe == ProbeId::SvaUnbind
            && let Some(bond) = self.mirror.bond_mut(op.handle.ptr)
        {
            // A call that was entered before the trace may be about to change it.
            if bond.known_since == 0 && alone && event.ts >= settled {
                (bond.users, bond.known_since) = (op.users, event.ts);
            }
            bond.leaving = bond.leaving.saturating_add(1);
            let known = *bond;
            let breach = if alone { rules::unbinding(self, event, op, &known) } else { None };
            self.judge_bond(breach, event, op.handle.ptr, effects);
        }
        self.enter(Call::new(event, About::Sva(Box::new(*op))), effects);
    }

    fn judge_bond(&mut self, breach: Option<super::judge::Breach>, event: &Event, bond: Ptr, effects: &mut Effects) {
        if breach.is_some()
            && let Some(bond) = self.mirror.bonds.get_mut(&bond)
        {
            bond.told = true;
        }
        self.judge(breach, event, effects);
    }

    pub(super) fn sva_bound(&mut self, call: &Call, event: &Event, op: &SvaOp, effects: &mut Effects) {
        self.open_sva = self.open_sva.saturating_sub(1);
        if op.ret == 0 && !op.handle.ptr.is_null() {
            self.bond_used(event, op, effects);
            let breach = rules::bound_incomplete(self, event, call, op);
            self.judge(breach, event, effects);
        }
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

    /// A bind has made a bond (its attach has told so), or joined one.
    fn bond_used(&mut self, event: &Event, op: &SvaOp, effects: &mut Effects) {
        let alone = self.open_sva == 0;
        let settled = self.judge.settled;
        let Some(bond) = self.mirror.bond_mut(op.handle.ptr) else { return };
        let seen = Evidence::of(event, "bind");
        bond.bound.get_or_insert(seen);
        if bond.known_since != 0 {
            bond.users = bond.users.saturating_add(1);
        } else if alone && event.ts >= settled {
            (bond.users, bond.known_since) = (op.users, event.ts);
        }
        let known = *bond;
        let breach = if alone { rules::bound(self, event, op, &known) } else { None };
        self.judge_bond(breach, event, op.handle.ptr, effects);
    }

    pub(super) fn sva_unbound(&mut self, call: &Call, event: &Event, effects: &mut Effects) {
        self.open_sva = self.open_sva.saturating_sub(1);
        // The bond may be gone at the return: its entry tells everything.
        let About::Sva(op) = &call.about else { return };
        if let Some(bond) = self.mirror.bonds.get_mut(&op.handle.ptr) {
            bond.leaving = bond.leaving.saturating_sub(1);
            bond.users = bond.users.saturating_sub(1);
            bond.unbound = Some(Evidence::of(event, "unbind"));
            let known = *bond;
            if known.users == 0 {
                self.mirror.bond_gone(op.handle.ptr);
            }
            let breach = if self.open_sva == 0 { rules::unbound_and_attached(self, event, op, &known) } else { None };
            self.judge_bond(breach, event, op.handle.ptr, effects);
        }
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

    pub(super) fn iommufd_entered(&mut self, event: &Event, op: &IommufdOp, effects: &mut Effects) {
        self.mirror.learn(&op.device);
        if event.probe == ProbeId::IommufdDeviceDestroy {
            self.idev_gone(event, op, effects);
        }
        self.enter(Call::new(event, About::Iommufd(Box::new(*op), None)), effects);
    }

    pub(super) fn iommufd_returned(&mut self, call: &Call, event: &Event, op: &IommufdOp, effects: &mut Effects) {
        let About::Iommufd(entered, taken) = &call.about else { return };
        if let Some(handle) = *taken {
            // Whatever iommufd had to do for the handle is done.
            self.handle_ended(handle, Evidence::of(event, "end of iommufd's call"), effects);
        }
        for check in rules::ON_CALLED {
            let breach = check(self, &Called { event, call, op: entered, ret: op.ret });
            self.judge(breach, event, effects);
        }
        let seen = Evidence::of(event, "return");
        match call.probe {
            ProbeId::IommufdAttach if op.ret == 0 => self.mirror.idev_attached(entered, Some(seen)),
            ProbeId::IommufdDetach => self.mirror.idev_attached(entered, None),
            ProbeId::IommufdBind => self.idev_bound(call, event, op, effects),
            ProbeId::IommufdUnbind => {
                // The object is freed within the call: by its return another may have been bound at the same address.
                let known = self.mirror.idevs.get(&entered.idev);
                let bound = known.and_then(|idev| idev.bound.as_ref());
                if bound.is_none_or(|bound| bound.ts < call.ts) {
                    self.idev_gone(event, entered, effects);
                    self.mirror.idevs.remove(&entered.idev);
                }
                self.tell_iommufd(call, event, entered, op.ret, effects);
            }
            _ => {}
        }
    }

    fn idev_bound(&mut self, call: &Call, event: &Event, op: &IommufdOp, effects: &mut Effects) {
        let About::Iommufd(entered, _) = &call.about else { return };
        let device = if op.ret == 0 && !op.device.name.is_empty() { op.device } else { entered.device };
        let op = IommufdOp { device, ..*op };
        if op.ret == 0 {
            self.mirror.learn(&device);
            self.mirror.idev_bound(&op, Evidence::of(event, "bind"));
        }
        self.tell_iommufd(call, event, &op, op.ret, effects);
    }

    fn idev_gone(&mut self, event: &Event, op: &IommufdOp, effects: &mut Effects) {
        let breach = rules::unbound(self, event, op);
        if breach.is_some()
            && let Some(idev) = self.mirror.idevs.get_mut(&op.idev)
        {
            idev.told = true;
        }
        self.judge(breach, event, effects);
    }

    fn tell_iommufd(&mut self, call: &Call, event: &Event, op: &IommufdOp, ret: i64, effects: &mut Effects) {
        let span = IommufdSpan {
            group: self.mirror.group_id(&op.device),
            device: op.device.name,
            device_id: op.id,
            ret,
            duration_ns: since(event.ts, call.ts),
        };
        let bind = call.probe == ProbeId::IommufdBind;
        let kind = if bind { SpanKind::IommufdBind(span) } else { SpanKind::IommufdUnbind(span) };
        self.tell_call(call, kind, effects);
    }

    pub(super) fn object_entered(&mut self, event: &Event, op: &ObjectOp, effects: &mut Effects) {
        if event.probe == ProbeId::AutoResponse
            && let Some(handle) = self.mirror.handles.get_mut(&op.other)
        {
            handle.cleaning = handle.life == Life::Draining;
        }
        self.enter(Call::new(event, About::Object(*op)), effects);
    }

    pub(super) fn object_returned(&mut self, call: &Call, event: &Event, effects: &mut Effects) {
        let About::Object(op) = &call.about else { return };
        match call.probe {
            ProbeId::AutoResponse => {
                self.handle_ended(op.other, Evidence::of(event, "end of the clean-up"), effects);
            }
            ProbeId::FaultDestroy => {
                let span = ObjectSpan { object_id: op.id, object: op.object, duration_ns: since(event.ts, call.ts) };
                self.tell_call(call, SpanKind::FaultQueueDestroy(span), effects);
                self.queue_faults_gone(event, op.object, effects);
            }
            _ => {}
        }
    }

    /// A handle that has left its slot has been cleaned up, too: its caller frees it now.
    fn handle_ended(&mut self, ptr: Ptr, end: Evidence, effects: &mut Effects) {
        let Some(handle) = self.mirror.handles.get(&ptr).filter(|handle| handle.life == Life::Draining) else {
            return;
        };
        let number = handle.number;
        self.mirror.handle_gone(ptr, end);
        self.reference_freed(ptr, number, end, effects);
    }

    pub(super) fn queue(&mut self, event: &Event, op: &QueueOp, effects: &mut Effects) {
        use crate::event::Phase;
        self.mirror.learn(&op.device);
        let device = op.device.ptr;
        match (event.probe, event.phase) {
            (ProbeId::QueueRemoveDevice, Phase::Enter) => {
                if let Some(device) = self.mirror.device_mut(device) {
                    device.leaving = device.leaving.saturating_add(1);
                }
                self.enter(Call::new(event, About::Queue(device)), effects);
            }
            (ProbeId::QueueRemoveDevice, Phase::Exit) => {
                self.leave(event, effects);
                let breach = rules::left(self, event, op);
                self.judge(breach, event, effects);
                if let Some(device) = self.mirror.device_mut(device) {
                    device.leaving = device.leaving.saturating_sub(1);
                    device.queue = match device.leaving {
                        0 => Membership::Out(Evidence::of(event, "leave")),
                        _ => Membership::Unknown,
                    };
                }
                self.tell_queue(event, op, SpanKind::IopfDisable, effects);
                self.partial_dropped(device.some(), effects);
            }
            (ProbeId::QueueAddDevice, Phase::Exit) => {
                if op.ret == 0 {
                    let breach = rules::joined(self, event, op);
                    self.judge(breach, event, effects);
                    if let Some(device) = self.mirror.device_mut(device) {
                        device.queue = match device.leaving {
                            0 => Membership::In(Evidence::of(event, "join")),
                            _ => Membership::Unknown,
                        };
                    }
                }
                self.tell_queue(event, op, SpanKind::IopfEnable, effects);
            }
            (ProbeId::QueueDiscardPartial, Phase::Exit) => self.partial_dropped(None, effects),
            _ => {}
        }
    }

    fn tell_queue(&mut self, event: &Event, op: &QueueOp, kind: fn(QueueSpan) -> SpanKind, effects: &mut Effects) {
        let span =
            QueueSpan { group: self.mirror.group_id(&op.device), device: op.device.name, queue: op.queue, ret: op.ret };
        self.tell_event(event, kind(span), effects);
    }
}
