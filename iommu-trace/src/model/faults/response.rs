//! Responses: seen at the driver, which every path to the device passes.

use super::{Age, FaultId};
use crate::{
    event::{self, Event, PageResponse, ProbeId, Ptr, ResponseCode},
    model::{
        Evidence, Model,
        calls::About,
        effects::Effects,
        latency::Measure,
        rules::{self, Touch},
        since,
        span::{Answerer, Stage},
    },
};

impl Model {
    pub(in crate::model) fn answered(&mut self, event: &Event, response: &PageResponse, effects: &mut Effects) {
        if self.answers_another(event, response, effects) {
            return;
        }
        let Some(id) = self.find_answered(event, response, effects) else {
            self.counts.unmatched_faults += 1;
            self.answered_nothing(event, response, effects);
            return;
        };
        let by = self.answerer(event.task.tid, id);
        let Some(fault) = self.faults.get(id) else { return };
        if fault.response.is_some() {
            let breach = rules::answered_again(fault, event);
            self.judge(breach, event, effects);
            return;
        }
        self.touched(id, Touch::Answered, event, event.ts, Ptr::NULL, effects);
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.response = Some((ResponseCode::from_raw(response.code), by));
        let (slots, reported, age) = (fault.latencies, fault.ts, fault.age);
        if age != Age::Limbo {
            self.faults.set_age(id, Age::Answered, event.ts);
        }
        self.latencies.record(slots, Measure::Response, since(event.ts, reported));
        self.stage(id, Stage::Response, Evidence::of(event, "response"), effects);
        if !self.features.sees_group_frees {
            self.forget_group_of(id, effects);
        }
    }

    /// Whether a response is given for one request and names another, and that is certain.
    fn answers_another(&mut self, event: &Event, response: &PageResponse, effects: &mut Effects) -> bool {
        let reported = self
            .calls
            .report(event.task.tid)
            .filter(|&id| self.faults.get(id).is_some_and(|fault| fault.report.evt == response.evt));
        let last = || self.faults.live_group(response.evt)?.last;
        let breach = reported.or_else(last).and_then(|id| self.faults.get(id)).and_then(|fault| {
            let named = fault.is(response.pasid, response.grpid) && fault.report.device.ptr == response.device;
            (!named).then(|| rules::answered_for_another(fault, event, response))
        });
        self.judge(breach, event, effects)
    }

    /// A response to nothing that is known: to a group that was freed, or to a request that nobody made.
    fn answered_nothing(&mut self, event: &Event, response: &PageResponse, effects: &mut Effects) {
        if self.faults.groups.get(&response.evt).is_some_and(|group| group.grave.is_some()) {
            self.seen_after_free(event, response.evt, effects);
            return;
        }
        // Its report may have been lost: of a group that is there, and in a report, something is known to be missing.
        if self.calls.report(event.task.tid).is_none() && self.faults.live_group(response.evt).is_none() {
            let breach = rules::never_made(self, event, response);
            self.judge(breach, event, effects);
        }
    }

    /// The request that a response is for: the last of the group at `evt`, the one that this thread reports, or the
    /// oldest of its name.
    fn find_answered(&mut self, event: &Event, response: &PageResponse, effects: &mut Effects) -> Option<FaultId> {
        let reported = self.calls.report(event.task.tid);
        let reporting = reported.and_then(|id| self.faults.get(id));
        // The very request that is being reported: it is on the reporter's stack, and no group's.
        if reporting.is_some_and(|fault| fault.report.evt == response.evt) {
            return reported;
        }
        let ungrouped =
            reporting.is_some_and(|fault| fault.group.is_none() && fault.is(response.pasid, response.grpid));
        let (is_known, last) = self.known_group(response.evt, (response.pasid, response.grpid), effects);
        if is_known {
            return last;
        }
        if ungrouped {
            return reported;
        }
        self.find_ungrouped(response.device, response.pasid, response.grpid)?;
        let seen = event::FaultGroup {
            group: response.evt,
            device: response.device,
            pasid: response.pasid,
            grpid: response.grpid,
            ..event::FaultGroup::default()
        };
        self.begin_group(event, &seen, false, effects)
    }

    /// Where frees are not seen, a response is the end of its group.
    fn forget_group_of(&mut self, id: FaultId, effects: &mut Effects) {
        let Some(fault) = self.faults.get(id) else { return };
        let ts = fault.age_since;
        let members = match fault.group.and_then(|group| self.faults.groups.remove(&group)) {
            Some(group) => self.group_gone(&group),
            None => vec![id],
        };
        for member in members {
            self.fault_over(member, ts, effects);
        }
    }

    /// Who answers a fault, by what this thread is in. iommufd answers in calls that are all probed: outside of them it is
    /// not known.
    pub(super) fn answerer(&self, tid: u32, id: FaultId) -> Option<Answerer> {
        let called = self.calls.find(tid, |call| {
            Some(match (call.probe, &call.about) {
                (ProbeId::FaultWrite, _) => Answerer::User,
                (ProbeId::AutoResponse, _) => Answerer::Automatic,
                (ProbeId::FaultDestroy, _) => Answerer::QueueDestroy,
                (ProbeId::QueueRemoveDevice, _) => Answerer::QueueRemove,
                (_, About::Report(_)) => Answerer::Report,
                _ => return None,
            })
        });
        let by_iommufd = || self.faults.get(id).is_some_and(|fault| fault.device_id.is_some());
        called.or_else(|| (!by_iommufd()).then_some(Answerer::Handler))
    }
}
