//! Deliveries: user space was told of a fault.

use super::{CHAIN, FaultId, Waiting};
use crate::{
    event::{Delivered, Event},
    model::{Model, effects::Effects, latency::Measure, since, span::Stage},
};

/// Requests of the same name that are looked at for the one delivered.
const MAX_CANDIDATES: usize = 64;

impl Model {
    pub(in crate::model) fn delivered(&mut self, event: &Event, message: &Delivered, effects: &mut Effects) {
        let Some(id) = self.find_delivered(message) else {
            self.counts.unmatched_faults += 1;
            return;
        };
        self.faults.stop_waiting(id);
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
        self.stage(id, Stage::Delivered, event.ts, event, effects);
    }

    /// The oldest request of this name that user space was not told of, in this fault queue.
    fn find_delivered(&self, message: &Delivered) -> Option<FaultId> {
        let waiting = Waiting::Undelivered(message.pasid, message.grpid, message.addr);
        self.faults.waiting.list(&waiting).iter(&self.faults.slab, CHAIN).take(MAX_CANDIDATES).find(|&id| {
            let Some(fault) = self.faults.get(id) else { return false };
            let queue = fault.group.and_then(|group| self.faults.groups.get(&group)).map(|group| group.queue);
            fault.device_id.is_none_or(|id| id == message.device_id)
                && queue.is_none_or(|queue| queue.is_null() || queue == message.fault)
        })
    }
}
