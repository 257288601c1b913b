//! Deliveries: user space was told of a fault.

use super::{CHAIN, FaultId, Message, Waiting};
use crate::{
    event::{Delivered, Event, ProbeId, Ptr},
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
        let name: Message = (message.pasid, message.grpid, message.addr);
        let Some(id) = self.find_delivered(name, message) else {
            self.counts.unmatched_faults += 1;
            self.delivered_nothing(event, name, message, began, effects);
            return;
        };
        self.faults.stop_waiting(id);
        if let Some(fault) = self.faults.get(id) {
            let breach = rules::delivered_elsewhere(self, event, fault, message);
            self.judge(breach, event, effects);
        }
        self.touched(id, Touch::Delivered, event, began, Ptr::NULL, effects);
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.delivered = Some((message.device_id, message.cookie));
        let (slots, reported, group) = (fault.latencies, fault.ts, fault.group);
        if let Some(group) = group.and_then(|group| self.faults.groups.get_mut(&group)) {
            group.queue = message.fault;
            if !group.domain.is_null() && self.faults.queues.len() < super::MAX_FAULTS {
                self.faults.queues.insert(group.domain, message.fault);
            }
        }
        self.latencies.record(slots, Measure::Delivered, since(event.ts, reported));
        self.stage(id, Stage::Delivered, Evidence::of(event, "delivery"), effects);
    }

    /// The oldest request of this name that user space was not told of, in this fault queue. Ids are those of one
    /// iommufd context; another id is the request's own only when its queue is known.
    fn find_delivered(&self, name: Message, message: &Delivered) -> Option<FaultId> {
        let candidates = || {
            let list = self.faults.waiting.list(&Waiting::Undelivered(name));
            list.iter(&self.faults.slab, CHAIN).take(MAX_CANDIDATES).filter_map(|id| {
                let fault = self.faults.get(id)?;
                let group = fault.group.and_then(|group| self.faults.groups.get(&group));
                Some((id, fault.device_id, group.map(|group| group.queue).unwrap_or_default()))
            })
        };
        let exact = candidates().find(|&(_, device_id, queue)| {
            device_id.is_none_or(|id| id == message.device_id) && (queue.is_null() || queue == message.fault)
        });
        exact.or_else(|| candidates().find(|&(_, _, queue)| queue == message.fault)).map(|(id, _, _)| id)
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
        let Some(grave) = self.faults.untold.get(&name) else { return };
        if grave.device_id.is_some_and(|id| id != message.device_id) {
            return;
        }
        let breach = rules::delivered_again(grave, event, began);
        if self.judge(breach, event, effects) {
            self.faults.untold.remove(&name);
        }
    }
}
