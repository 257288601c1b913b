//! Fault groups: from the handler on, their address is the key of their faults.

use super::{FaultGroup, FaultId, Waiting};
use crate::{
    event::{self, Event, ProbeId, Ptr, ResponseCode},
    model::{Model, effects::Effects, latency::Measure, since, span::Stage},
};

impl Model {
    /// A group passes a handler, a dequeue, a response or its free.
    pub(in crate::model) fn group_seen(&mut self, event: &Event, seen: &event::FaultGroup, effects: &mut Effects) {
        let handler = matches!(event.probe, ProbeId::IommufdIopfHandler | ProbeId::SvaIopfHandler);
        let is_new = handler || self.faults.live_group(seen.group).is_none();
        if is_new && !self.begin_group(event, seen, handler, effects) {
            self.counts.unmatched_faults += 1;
            return;
        }
        let last = self.faults.live_group(seen.group).and_then(|group| group.last);
        match event.probe {
            ProbeId::IommufdIopfHandler | ProbeId::SvaIopfHandler => {
                let Some(last) = last else { return };
                if let Some(fault) = self.faults.get(last) {
                    self.latencies.record(fault.latencies, Measure::Handler, since(event.ts, fault.ts));
                }
                self.stage(last, Stage::Handler, event.ts, event, effects);
            }
            ProbeId::GroupResponse => {
                let by = self.answerer(event.task.tid);
                let Some(fault) = last.and_then(|last| self.faults.slab.get_mut(last)) else { return };
                fault.witness.get_or_insert((event.ts, ResponseCode::from_raw(seen.code), by));
            }
            ProbeId::GroupFree => self.group_freed(event, seen.group, effects),
            _ => {}
        }
    }

    /// A group is seen for the first time: it belongs to the report that this thread is in, or to the oldest request
    /// of its name that has no group yet. False when there is neither.
    pub(super) fn begin_group(
        &mut self,
        event: &Event,
        seen: &event::FaultGroup,
        handler: bool,
        effects: &mut Effects,
    ) -> bool {
        let reported = self.calls.report(event.task.tid).filter(|&id| {
            self.faults.get(id).is_some_and(|fault| {
                fault.group.is_none() && fault.report.is_last() && fault.is(seen.pasid, seen.grpid)
            })
        });
        let waiting = || self.faults.first_waiting(Waiting::Ungrouped(seen.device, seen.pasid, seen.grpid));
        let found = reported.or_else(waiting);
        if found.is_none() && !handler {
            return false;
        }
        // What was at this address was freed without our seeing it.
        if let Some(old) = self.faults.live_group(seen.group).copied() {
            for id in self.faults.part(old.members) {
                self.end_fault(id, false, effects);
            }
        }
        let Some(last) = found else {
            self.faults.groups.remove(&seen.group);
            return false;
        };
        let group = FaultGroup {
            last: Some(last),
            domain: seen.domain,
            queue: self.faults.queues.get(&seen.domain).copied().unwrap_or_default(),
            ..FaultGroup::default()
        };
        self.faults.groups.insert(seen.group, group);
        let (requests, grpid, device) = match self.faults.slab.get_mut(last) {
            Some(fault) => {
                fault.handle = seen.handle.some().or(fault.handle);
                (seen.count, fault.report.grpid, fault.report.device.ptr)
            }
            None => return false,
        };
        let mut members = self.partial_requests(device, grpid, requests);
        members.push(last);
        let told = event.probe != ProbeId::SvaIopfHandler;
        for id in members {
            self.faults.stop_waiting(id);
            self.faults.join(seen.group, id);
            let Some(fault) = self.faults.slab.get_mut(id) else { continue };
            fault.requests = (requests != 0).then_some(requests);
            let report = fault.report;
            if told {
                self.faults.wait(id, Waiting::Undelivered(report.pasid, report.grpid, report.addr));
            }
        }
        true
    }

    /// The partial requests that a group of `requests` takes with it, in the kernel's order: the oldest first.
    fn partial_requests(&self, device: Ptr, grpid: u32, requests: u32) -> Vec<FaultId> {
        let most = if requests == 0 { usize::MAX } else { requests as usize - 1 };
        self.faults
            .waiting
            .list(&Waiting::Partial(device, grpid))
            .iter(&self.faults.slab, super::CHAIN)
            .filter(|&id| self.faults.get(id).is_some_and(|fault| !fault.reporting || fault.lookups > 0))
            .take(most)
            .collect()
    }

    fn group_freed(&mut self, event: &Event, ptr: Ptr, effects: &mut Effects) {
        let Some(group) = self.faults.free_group(ptr, event.ts) else { return };
        for id in self.faults.part(group.members) {
            self.stage(id, Stage::Free, event.ts, event, effects);
            self.fault_over(id, event.ts, effects);
        }
    }

    /// The partial requests of a device were dropped: `None` is every device.
    pub(in crate::model) fn partial_dropped(&mut self, device: Option<Ptr>, effects: &mut Effects) {
        let dropped: Vec<_> = self
            .faults
            .slab
            .iter()
            .filter(|(_, fault)| {
                matches!(fault.waiting, Some(Waiting::Partial(of, _)) if device.is_none_or(|device| device == of))
                    && !fault.reporting
            })
            .map(|(id, _)| id)
            .collect();
        for id in dropped {
            self.end_fault(id, true, effects);
        }
    }
}
