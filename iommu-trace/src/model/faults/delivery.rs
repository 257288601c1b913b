//! Deliveries: user space was told of a fault.

use super::{CHAIN, FaultId, Message, Stray, Waiting};
use crate::{
    event::{Delivered, Event, FLAG_LAST_PAGE, ProbeId, Ptr},
    model::{
        Evidence, Model,
        effects::Effects,
        latency::Measure,
        rules::{self, Touch},
        since,
        span::Stage,
    },
};

/// Requests of the same name that are looked at for the one delivered.
const MAX_CANDIDATES: usize = 64;

impl Model {
    pub(in crate::model) fn delivered(&mut self, event: &Event, message: &Delivered, effects: &mut Effects) {
        // The kernel took it from the queue some time after the read was entered.
        let read = self.calls.of(event.task.tid).iter().find(|call| call.probe == ProbeId::FaultRead);
        let began = read.map_or(0, |call| call.ts);
        let name: Message = (message.pasid, message.grpid, message.addr, message.flags);
        let Some(id) = self.find_delivered(name, message) else {
            self.counts.unmatched_faults += 1;
            self.delivered_nothing(event, name, message, began, effects);
            return;
        };
        self.faults.stop_waiting(id);
        self.touched(id, Touch::Delivered, event, began, Ptr::NULL, effects);
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.delivered = Some((message.device_id, message.cookie));
        let (slots, reported, group) = (fault.latencies, fault.ts, fault.group);
        if let Some(told) = fault.told() {
            self.faults.told.insert(told, id);
        }
        if let Some(group) = group.and_then(|group| self.faults.groups.get_mut(&group))
            && group.queue.is_null()
        {
            group.queue = message.fault;
        }
        self.latencies.record(slots, Measure::Delivered, since(event.ts, reported));
        self.stage(id, Stage::Delivered, Evidence::of(event, "delivery"), effects);
    }

    /// The oldest request of this name that user space was not told of, with this id (those of one iommufd context).
    /// One that has come back with its cookie already is told by that.
    fn find_delivered(&self, name: Message, message: &Delivered) -> Option<FaultId> {
        let list = self.faults.waiting.list(&Waiting::Undelivered(name));
        let (mut of_device, mut of_handle) = (None, None);
        for id in list.iter(&self.faults.slab, CHAIN).take(MAX_CANDIDATES) {
            let Some(fault) = self.faults.get(id) else { continue };
            let group = fault.group.and_then(|group| self.faults.groups.get(&group));
            let queue = group.map(|group| group.queue).unwrap_or_default();
            if !queue.is_null() && queue != message.fault {
                continue;
            }
            // The id is the device's own, as it ought to be, or that of the handle's device, as the kernel has it.
            let own = || self.mirror.idev_of(fault.report.device.ptr).and_then(|idev| idev.id);
            let first = if fault.told_id.is_none_or(|id| id == message.device_id) {
                &mut of_handle
            } else if own() == Some(message.device_id) {
                &mut of_device
            } else {
                continue;
            };
            match fault.cookie {
                Some(cookie) if cookie == message.cookie => return Some(id),
                None => *first = first.or(Some(id)),
                Some(_) => {}
            }
        }
        of_handle.or(of_device)
    }

    /// A group is answered by the cookie that user space was told: what it was told with that is certain.
    pub(super) fn answered_with(&mut self, event: &Event, id: FaultId, cookie: u32, effects: &mut Effects) {
        self.delivered_with(event, id, cookie, effects);
        if let Some(fault) = self.faults.get(id) {
            let breach = rules::delivered_for_another(self, fault, cookie);
            self.judge(breach, event, effects);
        }
    }

    /// A group comes back with the cookie that user space was told. Of two requests that say the same, the messages may
    /// have been taken for each other's: the queue's order is not quite that of the handlers' entries.
    pub(super) fn delivered_with(&mut self, event: &Event, id: FaultId, cookie: u32, effects: &mut Effects) {
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        let mine = fault.delivered;
        if cookie == 0 || mine.is_some_and(|(_, told)| told == cookie) {
            return;
        }
        fault.cookie = Some(cookie);
        let message = fault.message();
        let delivered = Stage::Delivered as usize;
        if let Some(stray) = self.faults.stray.remove(&(message, cookie)) {
            // It was told with an id that was not its own.
            fault.delivered = Some((stray.device_id, cookie));
            fault.stages[delivered] = Some(stray.seen);
            self.faults.stop_waiting(id);
            let breach = self.faults.get(id).and_then(|fault| rules::delivered_elsewhere(self, fault, &stray));
            self.judge(breach, event, effects);
            return;
        }
        let Some(&other) = self.faults.told.get(&(message, cookie)) else { return };
        let Some(theirs) = self.faults.slab.get_mut(other) else { return };
        let taken = (theirs.delivered.take(), theirs.stages[delivered].take());
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        let given = (fault.delivered.take(), fault.stages[delivered].take());
        (fault.delivered, fault.stages[delivered]) = taken;
        if let Some(theirs) = self.faults.slab.get_mut(other) {
            (theirs.delivered, theirs.stages[delivered]) = given;
        }
        self.faults.told.insert((message, cookie), id);
        if let Some((_, cookie)) = mine {
            self.faults.told.insert((message, cookie), other);
        } else {
            self.faults.stop_waiting(id);
            self.faults.wait(other, Waiting::Undelivered(message));
        }
    }

    /// A message of no request that waits to be told: it may be of a group that was freed.
    fn delivered_nothing(
        &mut self,
        event: &Event,
        name: Message,
        message: &Delivered,
        began: u64,
        effects: &mut Effects,
    ) {
        // Of a group only the last request is remembered.
        if message.flags & FLAG_LAST_PAGE == 0 {
            return;
        }
        // One that was told before may look like another request that is told a wrong id.
        let waits = !self.faults.waiting.list(&Waiting::Undelivered(name)).is_empty();
        let grave = self.faults.untold.get(&name).and_then(|&id| self.faults.graves.get(id));
        let Some(grave) = grave.filter(|grave| !grave.delivered || !waits) else {
            // It may be of a request that has another id; that one comes back with this cookie.
            let seen = Evidence::of(event, "delivery");
            self.faults.keep_stray(name, Stray { device_id: message.device_id, cookie: message.cookie, seen });
            return;
        };
        if grave.device_id.is_some_and(|id| id != message.device_id) {
            return;
        }
        let breach = rules::delivered_again(grave, event, began);
        if self.judge(breach, event, effects) {
            self.faults.untold.remove(&name);
        }
    }
}
