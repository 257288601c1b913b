//! Fault groups: from the handler on, their address is the key of their faults.

use super::{CHAIN, FaultGroup, FaultId, Grave, Waiting, Witness};
use crate::{
    event::{self, Event, ProbeId, Ptr, ResponseCode},
    model::{
        Evidence, Model,
        effects::Effects,
        latency::Measure,
        rules::{self, Because, Touch, Touched},
        since,
        span::Stage,
    },
};

impl Model {
    /// A group passes a handler, a dequeue, a response or its free.
    pub(in crate::model) fn group_seen(&mut self, event: &Event, seen: &event::FaultGroup, effects: &mut Effects) {
        let handler = matches!(event.probe, ProbeId::IommufdIopfHandler | ProbeId::SvaIopfHandler);
        let is_new = handler || self.faults.live_group(seen.group).is_none();
        if is_new && !self.begin_group(event, seen, handler, effects) {
            self.counts.unmatched_faults += 1;
            self.seen_after_free(event, seen.group, effects);
            return;
        }
        let last = self.faults.live_group(seen.group).and_then(|group| group.last);
        match event.probe {
            ProbeId::IommufdIopfHandler | ProbeId::SvaIopfHandler => {
                let Some(last) = last else { return };
                if let Some(fault) = self.faults.get(last) {
                    self.latencies.record(fault.latencies, Measure::Handler, since(event.ts, fault.ts));
                }
                self.touched(last, Touch::Handled, event, event.ts, seen.domain, effects);
                self.stage(last, Stage::Handler, Evidence::of(event, "handler"), effects);
            }
            ProbeId::GroupResponse => {
                let by = self.answerer(event.task.tid);
                let Some(fault) = last.and_then(|last| self.faults.slab.get_mut(last)) else { return };
                let code = ResponseCode::from_raw(seen.code);
                fault.witness.get_or_insert(Witness { seen: Evidence::of(event, "response"), code, by });
                if let (Some(last), false) =
                    (last, self.features.sees_driver_responses || self.features.sees_mock_responses)
                {
                    self.touched(last, Touch::Answered, event, event.ts, Ptr::NULL, effects);
                    self.faults.set_age(last, super::Age::Answered, event.ts);
                }
            }
            ProbeId::GroupFree => self.group_freed(event, seen.group, effects),
            _ => {}
        }
    }

    /// Rules that look at what happens to a fault.
    pub(super) fn touched(
        &mut self,
        id: FaultId,
        touch: Touch,
        event: &Event,
        began: u64,
        domain: Ptr,
        effects: &mut Effects,
    ) {
        for check in rules::ON_TOUCHED {
            let Some(fault) = self.faults.get(id) else { return };
            let breach = check(self, &Touched { event, fault, touch, began, domain });
            self.judge(breach, event, effects);
        }
    }

    /// A group without a request of its name: it may have been freed before.
    pub(super) fn seen_after_free(&mut self, event: &Event, ptr: Ptr, effects: &mut Effects) {
        let group = self.faults.groups.get_mut(&ptr).and_then(|group| group.grave.as_deref_mut());
        let Some(grave) = group.filter(|grave| !grave.told) else { return };
        grave.told = true;
        let breach = rules::seen_again(grave, event, ptr);
        self.judge(breach, event, effects);
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
        if let Some(old) = self.faults.live_group(seen.group).cloned() {
            for id in self.group_gone(&old) {
                self.end_fault(id, false, effects);
            }
        }
        let Some(last) = found else {
            self.faults.groups.remove(&seen.group);
            return false;
        };
        let Some(fault) = self.faults.slab.get_mut(last) else { return false };
        if let Some(handle) = seen.handle.some()
            && fault.handle != Some(handle)
        {
            fault.handle = Some(handle);
            fault.handle_number = self.mirror.handles.get(&handle).map(|handle| handle.number);
        }
        let handle = fault.handle.zip(fault.handle_number);
        if let Some((handle, number)) = handle {
            self.mirror.handle_referred(handle, number, true);
        }
        let group = FaultGroup {
            last: Some(last),
            handle,
            domain: seen.domain,
            queue: self.faults.queues.get(&seen.domain).copied().unwrap_or_default(),
            ..FaultGroup::default()
        };
        self.faults.groups.insert(seen.group, group);
        let (grpid, device) = match self.faults.get(last) {
            Some(fault) => (fault.report.grpid, fault.report.device.ptr),
            None => return false,
        };
        let mut members = self.partial_requests(device, grpid, seen.count);
        members.push(last);
        let told = event.probe != ProbeId::SvaIopfHandler;
        for id in members {
            self.faults.stop_waiting(id);
            self.faults.join(seen.group, id);
            let Some(fault) = self.faults.slab.get_mut(id) else { continue };
            fault.requests = (seen.count != 0).then_some(seen.count);
            let report = fault.report;
            if told {
                self.faults.wait(id, Waiting::Undelivered((report.pasid, report.grpid, report.addr)));
            }
        }
        if seen.count != 0 {
            self.judge_left_behind(event, device, grpid, last, effects);
        }
        true
    }

    /// The partial requests that a group of `requests` takes with it, in the kernel's order: the oldest first.
    fn partial_requests(&self, device: Ptr, grpid: u32, requests: u32) -> Vec<FaultId> {
        let most = if requests == 0 { usize::MAX } else { requests as usize - 1 };
        self.faults
            .waiting
            .list(&Waiting::Partial(device, grpid))
            .iter(&self.faults.slab, CHAIN)
            .filter(|&id| self.faults.get(id).is_some_and(|fault| !fault.reporting || fault.lookups > 0))
            .take(most)
            .collect()
    }

    /// Partial requests that the kernel should have taken into the group, too.
    fn judge_left_behind(&mut self, event: &Event, device: Ptr, grpid: u32, last: FaultId, effects: &mut Effects) {
        let Some(id) = self.faults.first_waiting(Waiting::Partial(device, grpid)) else { return };
        let leaving = self.mirror.device(device).is_some_and(|device| device.leaving > 0);
        let breach = match (self.faults.get(id), self.faults.get(last)) {
            (Some(partial), Some(last)) => rules::left_behind(partial, last, event, leaving),
            _ => None,
        };
        if breach.is_some() {
            self.judge(breach, event, effects);
            // Told once, and nothing will complete it any more.
            self.end_fault(id, false, effects);
        }
    }

    fn group_freed(&mut self, event: &Event, ptr: Ptr, effects: &mut Effects) {
        let Some(group) = self.faults.live_group(ptr).cloned() else { return };
        let freed = Evidence::of(event, "free");
        let grave = group.last.and_then(|last| self.faults.get(last)).and_then(|fault| {
            let untold = matches!(fault.waiting, Some(Waiting::Undelivered(_)));
            let report = &fault.report;
            let grave = Grave {
                ptr,
                device: report.device.name,
                group_id: fault.group_id,
                pasid: report.pasid().unwrap_or(0),
                grpid: report.grpid,
                handle: fault.handle,
                device_id: fault.device_id,
                report: fault.stages[Stage::Report as usize]?,
                response: fault.stages[Stage::Response as usize].or(fault.witness.map(|witness| witness.seen)),
                freed,
                told: false,
            };
            Some((grave, untold.then_some((report.pasid, report.grpid, report.addr))))
        });
        let unanswered = group.last.and_then(|last| self.faults.get(last)).and_then(|fault| {
            let freed = Because::Freed(freed);
            if fault.age_is_waiting() { rules::unanswered(self, fault, freed) } else { None }
        });
        self.judge(unanswered, event, effects);
        let members = self.group_gone(&group);
        match grave {
            Some((grave, untold)) => self.faults.bury(&grave, untold),
            None => {
                self.faults.groups.remove(&ptr);
            }
        }
        for id in members {
            self.stage(id, Stage::Free, freed, effects);
            self.fault_over(id, event.ts, effects);
        }
    }

    /// The partial requests of a device were dropped: `None` is every device.
    pub(in crate::model) fn partial_dropped(&mut self, device: Option<Ptr>, effects: &mut Effects) {
        if self.faults.len() == 0 {
            return;
        }
        for id in self.faults.all() {
            let Some(fault) = self.faults.get(id) else { continue };
            let Some(Waiting::Partial(of, _)) = fault.waiting else { continue };
            if !fault.reporting && device.is_none_or(|device| device == of) {
                self.end_fault(id, true, effects);
            }
        }
    }
}
