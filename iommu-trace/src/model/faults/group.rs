//! Fault groups: from the handler on, their address is the key of their faults.

use super::{CHAIN, FaultGroup, FaultId, Grave, MAX_GROUPS, Waiting, Witness};
use crate::{
    event::{self, Event, ProbeId, Ptr, ResponseCode},
    model::{
        Doubt, Evidence, Model,
        effects::Effects,
        latency::Measure,
        rules::{self, Because, Touch, Touched},
        since,
        span::{Answerer, Owner, Stage},
    },
};

/// Outstanding faults that are searched for one that may have taken a partial request.
const MAX_SEARCH: usize = 1 << 10;
/// Requests of one name that are looked at for one whose handler was not seen.
const MAX_CANDIDATES: usize = 64;

impl Model {
    /// A group passes a handler, a dequeue, a response or its free.
    pub(in crate::model) fn group_seen(&mut self, event: &Event, seen: &event::FaultGroup, effects: &mut Effects) {
        let handler = matches!(event.probe, ProbeId::IommufdIopfHandler | ProbeId::SvaIopfHandler);
        let (is_known, mut last) = self.known_group(seen.group, (seen.pasid, seen.grpid), effects);
        if handler || !is_known {
            last = self.begin_group(event, seen, handler, effects);
            if last.is_none() {
                self.counts.unmatched_faults += 1;
                self.seen_after_free(event, seen.group, effects);
                return;
            }
        }
        match (last, event.probe) {
            (Some(last), ProbeId::GroupResponse) => self.answered_with(event, last, seen.cookie, effects),
            (Some(last), ProbeId::GroupFree) => self.delivered_with(event, last, seen.cookie, effects),
            _ => {}
        }
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
                let by = last.and_then(|last| self.answerer(event.task.tid, last));
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
            ProbeId::GroupFree => self.group_freed(event, seen, effects),
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
        let Some(id) = self.faults.groups.get(&ptr).and_then(|group| group.grave) else { return };
        let Some(grave) = self.faults.graves.get_mut(id).filter(|grave| !grave.told) else { return };
        grave.told = true;
        let breach = rules::seen_again(grave, event, ptr);
        self.judge(breach, event, effects);
    }

    /// A group is seen for the first time: it belongs to the report that this thread is in, or to the oldest request
    /// of its name that has no group yet. That request; `None` where there is neither.
    pub(super) fn begin_group(
        &mut self,
        event: &Event,
        seen: &event::FaultGroup,
        handler: bool,
        effects: &mut Effects,
    ) -> Option<FaultId> {
        let reported = self.calls.report(event.task.tid).filter(|&id| {
            self.faults.get(id).is_some_and(|fault| {
                fault.group.is_none() && fault.report.is_last() && fault.is(seen.pasid, seen.grpid)
            })
        });
        let found = reported.or_else(|| self.find_ungrouped(seen.device, seen.pasid, seen.grpid));
        if found.is_none() && !handler {
            return None;
        }
        self.freed_unseen(seen.group, effects);
        if let Some(last) = found
            && let Some(fault) = self.faults.slab.get_mut(last)
            && let Some(handle) = seen.handle.some()
            && fault.handle != Some(handle)
        {
            fault.handle = Some(handle);
            fault.handle_number = self.mirror.handles.get(&handle).map(|handle| handle.number);
        }
        let fault = found.and_then(|last| self.faults.get(last));
        let handle = match fault {
            Some(fault) => fault.handle.zip(fault.handle_number),
            None => seen.handle.some().zip(self.mirror.handles.get(&seen.handle).map(|handle| handle.number)),
        };
        let attached = handle.and_then(|(handle, number)| {
            self.mirror.handles.get(&handle).filter(|handle| handle.number == number)?.device_id
        });
        let device_id = fault.and_then(|fault| fault.device_id).or(attached);
        let entered = fault.map_or(event.ts, |fault| fault.ts);
        if let Some((handle, number)) = handle {
            self.mirror.handle_referred(handle, number, true);
        }
        let group = FaultGroup {
            name: (seen.pasid, seen.grpid),
            last: found,
            handle,
            queue: seen.queue,
            ..FaultGroup::default()
        };
        if self.faults.groups.len() >= MAX_GROUPS {
            self.forget_groups(effects);
        }
        self.faults.groups.insert(seen.group, group);
        // Also a group whose own report was not seen takes its partial requests with it.
        let mut members = self.partial_requests(seen.device, seen.grpid, seen.count, entered);
        members.extend(found);
        let told = event.probe != ProbeId::SvaIopfHandler;
        for id in members {
            self.faults.stop_waiting(id);
            self.faults.join(seen.group, id);
            let Some(fault) = self.faults.slab.get_mut(id) else { continue };
            fault.requests = (seen.count != 0).then_some(seen.count);
            fault.told_id = device_id;
            let message = fault.message();
            if told {
                self.faults.wait(id, Waiting::Undelivered(message));
            }
        }
        let last = found?;
        if seen.count != 0 {
            self.judge_left_behind(event, seen.device, seen.grpid, last, effects);
        }
        Some(last)
    }

    /// Whether a group of this name is known at an address, and its last request, if that was seen. One that goes by another name is not
    /// the group that was there: that one was freed.
    pub(super) fn known_group(&mut self, ptr: Ptr, name: (u32, u32), effects: &mut Effects) -> (bool, Option<FaultId>) {
        match self.faults.live_group(ptr) {
            Some(group) if group.name == name => return (true, group.last),
            Some(_) => self.freed_unseen(ptr, effects),
            None => {}
        }
        (false, None)
    }

    /// There is no room: the groups go whose faults were not seen or are forgotten, as nothing more can be said of them.
    fn forget_groups(&mut self, effects: &mut Effects) {
        self.forget(self.now);
        let bare = |group: &FaultGroup| group.last.is_none() && group.grave.is_none();
        let gone: Vec<FaultGroup> =
            self.faults.groups.extract_if(|_, group| bare(group)).map(|(_, group)| group).collect();
        for group in gone {
            for id in self.group_gone(&group) {
                self.end_fault(id, false, effects);
            }
        }
    }

    /// What was at this address was freed without our seeing it.
    fn freed_unseen(&mut self, ptr: Ptr, effects: &mut Effects) {
        let Some(old) = self.faults.live_group(ptr).cloned() else { return };
        self.judge.losses.lost(ProbeId::GroupFree, self.now);
        self.faults.groups.remove(&ptr);
        for id in self.group_gone(&old) {
            self.end_fault(id, false, effects);
        }
    }

    /// The oldest request of this name whose handler was not seen. A report that is still running may have to enter its
    /// handler yet; only one that is not probed can have been passed already.
    pub(super) fn find_ungrouped(&self, device: Ptr, pasid: u32, grpid: u32) -> Option<FaultId> {
        let list = self.faults.waiting.list(&Waiting::Ungrouped(device, pasid, grpid));
        list.iter(&self.faults.slab, CHAIN).take(MAX_CANDIDATES).find(|&id| {
            let Some(fault) = self.faults.get(id) else { return false };
            let owner = fault.handle.and_then(|handle| self.mirror.handles.get(&handle)).map(|handle| handle.owner);
            let handler = match owner {
                Some(Owner::Iommufd) => ProbeId::IommufdIopfHandler,
                Some(Owner::Sva) => ProbeId::SvaIopfHandler,
                Some(Owner::Vfio | Owner::Kernel) => return true,
                None => return !fault.reporting,
            };
            !fault.reporting || self.options.unseen.contains(handler)
        })
    }

    /// The partial requests that a group of `requests` takes with it, in the kernel's order: the oldest first. Those
    /// whose reports had returned when the last was entered, at `since`, were waiting for certain; of the others, some
    /// may have been.
    fn partial_requests(&mut self, device: Ptr, grpid: u32, requests: u32, since: u64) -> Vec<FaultId> {
        let list = self.faults.waiting.list(&Waiting::Partial(device, grpid));
        if list.is_empty() {
            return Vec::new();
        }
        let most = if requests == 0 { usize::MAX } else { requests as usize - 1 };
        let (waiting, reported): (Vec<_>, Vec<_>) = list
            .iter(&self.faults.slab, CHAIN)
            .take(MAX_SEARCH)
            .filter(|&id| self.faults.get(id).is_some_and(|fault| !fault.reporting || fault.handle.is_some()))
            .partition(|&id| self.faults.get(id).is_some_and(|fault| !fault.doubtful && fault.returned_before(since)));
        let mut taken = waiting;
        taken.truncate(most);
        let more = reported.len().min(most - taken.len());
        taken.extend(&reported[..more]);
        if more > 0 {
            // Which of them it took is a guess.
            for &id in &reported[more..] {
                if let Some(fault) = self.faults.slab.get_mut(id) {
                    fault.doubtful = true;
                }
            }
        }
        taken.sort_by_key(|&id| self.faults.get(id).map(|fault| fault.ts));
        taken
    }

    /// Partial requests that the kernel should have taken into the group, too. Reports of one group index that run at
    /// once may store and take in another order than they are seen; then nothing can be said of what is left.
    fn judge_left_behind(&mut self, event: &Event, device: Ptr, grpid: u32, last: FaultId, effects: &mut Effects) {
        let partials = self.faults.waiting.list(&Waiting::Partial(device, grpid));
        let Some(oldest) = partials.first() else { return };
        let left: Vec<FaultId> = partials.iter(&self.faults.slab, CHAIN).collect();
        let Some(entered) = self.faults.get(last).map(|last| last.ts) else { return };
        let certain =
            |&id: &FaultId| self.faults.get(id).is_some_and(|fault| !fault.doubtful && fault.returned_before(entered));
        let contended = !left.iter().all(certain) || self.may_be_taken(device, grpid, last);
        if contended {
            for id in left {
                if let Some(fault) = self.faults.slab.get_mut(id) {
                    fault.doubtful = true;
                }
            }
            return;
        }
        let leaving = self.mirror.device(device).is_some_and(|device| device.leaving > 0);
        let settled = self.judge.settled;
        let breach = match (self.faults.get(oldest), self.faults.get(last)) {
            (Some(partial), Some(last)) => {
                // A report that was entered before the trace may have taken it.
                let beginning = (last.ts < settled).then_some(Doubt::Beginning);
                rules::left_behind(partial, last, event, leaving).map(|breach| breach.unless(beginning))
            }
            _ => None,
        };
        if breach.is_some() {
            self.judge(breach, event, effects);
            // Told once, and nothing will complete it any more.
            self.end_fault(oldest, false, effects);
        }
    }

    /// Whether another request of that group index is being reported: a last one may have taken the partial ones before
    /// its handler is seen.
    fn may_be_taken(&self, device: Ptr, grpid: u32, last: FaultId) -> bool {
        self.faults.len() > MAX_SEARCH
            || self.faults.slab.iter().any(|(id, fault)| {
                id != last
                    && (fault.reporting || fault.group.is_none())
                    && fault.report.is_last()
                    && fault.report.device.ptr == device
                    && fault.report.grpid == grpid
            })
    }

    fn group_freed(&mut self, event: &Event, seen: &event::FaultGroup, effects: &mut Effects) {
        let ptr = seen.group;
        let Some(group) = self.faults.live_group(ptr).cloned() else { return };
        let freed = Evidence::of(event, "free");
        let grave = group.last.and_then(|last| self.faults.get(last)).and_then(|fault| {
            let waits = matches!(fault.waiting, Some(Waiting::Undelivered(_)));
            let delivered = seen.cookie != 0 || !waits;
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
                known_since: self.mirror.faults_known_since(report.device.ptr),
                delivered,
                told: false,
            };
            Some((grave, (waits || fault.delivered.is_some()).then_some(fault.message())))
        });
        let unanswered = group.last.and_then(|last| self.faults.get(last)).and_then(|fault| {
            let freed = Because::Freed(freed);
            if fault.age_is_waiting() { rules::unanswered(self, fault, freed) } else { None }
        });
        self.judge(unanswered, event, effects);
        if let Some((grave, _)) = &grave
            && group.last.is_some_and(|last| self.is_freed_around(event, last))
        {
            self.judge(Some(rules::freed_around(grave, event)), event, effects);
        }
        let members = self.group_gone(&group);
        match grave {
            Some((grave, untold)) => self.faults.bury(grave, untold),
            None => {
                self.faults.groups.remove(&ptr);
            }
        }
        for id in members {
            self.stage(id, Stage::Free, freed, effects);
            self.fault_over(id, event.ts, effects);
        }
    }

    /// Whether a device leaves its queue on this thread while the report of this fault, on another, is in the handler.
    fn is_freed_around(&self, event: &Event, last: FaultId) -> bool {
        let by_removal = self.answerer(event.task.tid, last) == Some(Answerer::QueueRemove);
        self.faults.get(last).is_some_and(|fault| {
            let handler = fault.stages[Stage::Handler as usize];
            by_removal && fault.reporting && handler.is_some_and(|handler| handler.task.tid != event.task.tid)
        })
    }

    /// The partial requests of a device were dropped: `None` is every device.
    pub(in crate::model) fn partial_dropped(&mut self, device: Option<Ptr>, effects: &mut Effects) {
        if self.faults.len() == 0 {
            return;
        }
        for id in self.faults.all() {
            let Some(fault) = self.faults.get(id) else { continue };
            let Some(Waiting::Partial(of, _)) = fault.waiting else { continue };
            if device.is_some_and(|device| device != of) {
                continue;
            }
            if !fault.reporting {
                self.end_fault(id, true, effects);
            } else if let Some(fault) = self.faults.slab.get_mut(id) {
                fault.swept = true;
            }
        }
    }
}
