//! How faults end, and what happens when they do not.

use super::{Age, FaultGroup, FaultId, LIMBO_NS, MAX_LIMBO, Waiting};
use crate::{
    event::{Event, FAULT_PAGE_REQ, Ptr},
    model::{
        Evidence, Model,
        effects::Effects,
        latency::Measure,
        rules::{self, Because},
        since,
        span::{Span, SpanKind, Stage},
    },
};

/// An answered group that is not freed this long after, when the trace ends, is told as leaked.
const GRACE_NS: u64 = 1_000_000_000;

impl Model {
    /// The report has returned, or its return was lost.
    pub(in crate::model) fn no_longer_reporting(&mut self, id: FaultId, effects: &mut Effects) {
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.reporting = false;
        // On the heap there is always a free; without memory the core answers with a group on its stack, which ends
        // with the report.
        if fault.report.is_last()
            && fault.age != Age::Limbo
            && fault.answered_inside()
            && self.features.sees_group_frees
            && let Some(group) = fault.group.and_then(|group| self.faults.groups.remove(&group))
        {
            for member in self.group_gone(&group) {
                self.end_fault(member, true, effects);
            }
            return;
        }
        if fault.age == Age::Limbo && !self.may_be_delivered(id) {
            self.end_fault(id, true, effects);
        }
    }

    /// A fault is over. It is told now, unless its report's return or its delivery may still come.
    pub(super) fn fault_over(&mut self, id: FaultId, ts: u64, effects: &mut Effects) {
        let Some(fault) = self.faults.get(id) else { return };
        if fault.reporting || self.may_be_delivered(id) {
            self.faults.set_age(id, Age::Limbo, ts);
            if self.faults.limbo > MAX_LIMBO
                && let Some(oldest) = self.faults.first(Age::Limbo)
            {
                self.end_fault(oldest, true, effects);
            }
        } else {
            self.end_fault(id, true, effects);
        }
    }

    /// Whether a `read` that is running may have taken it from the queue: its messages are told when it returns.
    fn may_be_delivered(&self, id: FaultId) -> bool {
        self.calls.reading()
            && self.faults.get(id).is_some_and(|fault| matches!(fault.waiting, Some(Waiting::Undelivered(..))))
    }

    /// Tells the faults that have waited in limbo long enough.
    pub(in crate::model) fn clear_limbo(&mut self, now: u64, effects: &mut Effects) {
        while let Some(id) = self.faults.first(Age::Limbo) {
            let Some(fault) = self.faults.get(id) else { return };
            if (fault.reporting || self.may_be_delivered(id)) && since(now, fault.age_since) < LIMBO_NS {
                return;
            }
            self.end_fault(id, true, effects);
        }
    }

    /// Looks for faults that have waited too long for an answer, or for their free.
    pub(in crate::model) fn clear_overdue(&mut self, now: u64, effects: &mut Effects) {
        let timeout = u64::try_from(self.options.answer_timeout.as_nanos()).unwrap_or(u64::MAX);
        while let Some(id) = self.faults.first(Age::Waiting) {
            let Some(fault) = self.faults.get(id).filter(|fault| since(now, fault.age_since) >= timeout) else { break };
            let breach = rules::unanswered(self, fault, Because::Late(since(now, fault.ts)));
            self.judge_late(breach, now, effects);
            self.faults.set_age(id, Age::Overdue, now);
        }
        self.judge_leaks(now, timeout, effects);
    }

    /// At the end of the trace.
    pub(in crate::model) fn finish_faults(&mut self, now: u64, effects: &mut Effects) {
        let timeout = u64::try_from(self.options.answer_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.judge_leaks(now, timeout.min(GRACE_NS), effects);
        for id in self.faults.all() {
            self.end_fault(id, false, effects);
        }
    }

    fn judge_leaks(&mut self, now: u64, after: u64, effects: &mut Effects) {
        while let Some(id) = self.faults.first(Age::Answered) {
            let Some(fault) = self.faults.get(id).filter(|fault| since(now, fault.age_since) >= after) else { break };
            let breach = rules::not_freed(self, fault, now);
            self.judge_late(breach, now, effects);
            self.faults.set_age(id, Age::Overdue, now);
        }
    }

    /// The faults of a device that is gone.
    pub(in crate::model) fn device_faults_gone(&mut self, event: &Event, device: Ptr, effects: &mut Effects) {
        if self.faults.len() == 0 {
            return;
        }
        let gone = Evidence::of(event, "removal of the device");
        for id in self.faults.all() {
            let Some(fault) = self.faults.get(id).filter(|fault| fault.report.device.ptr == device) else { continue };
            let breach = match fault.waiting {
                Some(Waiting::Partial(..)) => rules::abandoned(fault, event),
                _ if fault.age == Age::Waiting && !fault.reporting && fault.report.kind == FAULT_PAGE_REQ => {
                    rules::unanswered(self, fault, Because::Removed(gone))
                }
                _ => None,
            };
            self.judge(breach, event, effects);
        }
    }

    /// The faults that user space was told of by a fault queue that is gone.
    pub(in crate::model) fn queue_faults_gone(&mut self, event: &Event, queue: Ptr, effects: &mut Effects) {
        let left: Vec<FaultId> = self
            .faults
            .groups
            .values()
            .filter(|group| group.grave.is_none() && group.queue == queue)
            .filter_map(|group| group.last)
            .collect();
        let destroyed = Evidence::of(event, "destruction of the fault queue");
        for id in left {
            let Some(fault) = self.faults.get(id) else { continue };
            let unanswered = rules::unanswered(self, fault, Because::Destroyed(destroyed));
            let leaked = rules::destroyed_around(self, fault, destroyed);
            self.judge(unanswered, event, effects);
            self.judge(leaked, event, effects);
            self.faults.set_age(id, Age::Overdue, event.ts);
        }
    }

    /// A group is no more, however that came about: its members.
    pub(super) fn group_gone(&mut self, group: &FaultGroup) -> Vec<FaultId> {
        if let Some((handle, number)) = group.handle {
            self.mirror.handle_referred(handle, number, false);
        }
        self.faults.part(group.members)
    }

    /// Tells a fault and forgets it.
    pub(in crate::model) fn end_fault(&mut self, id: FaultId, complete: bool, effects: &mut Effects) {
        let Some(mut fault) = self.faults.remove(id) else { return };
        if fault.response.is_none()
            && let Some(witness) = fault.witness
        {
            fault.response = Some((witness.code, witness.by));
            fault.stages[Stage::Response as usize] = Some(witness.seen);
            self.latencies.record(fault.latencies, Measure::Response, since(witness.seen.ts, fault.ts));
        }
        let span = fault.span(complete);
        if fault.report.is_last() {
            self.counts.responses.count(span.response);
        }
        let (kind, task) = (SpanKind::Fault(span), fault.task);
        self.tell(Span::new(fault.ts, kind, &task, fault.stack), effects);
        if let Some((handle, number)) = fault.handle.zip(fault.handle_number) {
            let report = fault.stages[Stage::Report as usize];
            if let Some(last) = fault.stages[Stage::Free as usize].or(fault.stages[Stage::Response as usize]).or(report)
            {
                self.reference_put(handle, number, last, effects);
            }
        }
    }

    /// A fault has reached a stage.
    pub(super) fn stage(&mut self, id: FaultId, stage: Stage, seen: Evidence, effects: &mut Effects) {
        if let Some(fault) = self.faults.slab.get_mut(id) {
            fault.stages[stage as usize] = Some(seen);
        }
        self.tell_stage(id, stage, seen, effects);
    }

    /// Tells a stage, where that is wanted.
    pub(super) fn tell_stage(&mut self, id: FaultId, stage: Stage, seen: Evidence, effects: &mut Effects) {
        if self.options.stages
            && let Some(fault) = self.faults.get(id)
        {
            let kind = SpanKind::FaultStage(fault.stage_span(stage, seen.ts));
            self.tell(Span::new(seen.ts, kind, &seen.task, seen.stack), effects);
        }
    }
}
