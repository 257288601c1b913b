//! The report and the look-ups in it.

use super::{Age, Fault, FaultId, LIMBO_NS, MAX_FAULTS, MAX_LIMBO, Waiting};
use crate::{
    event::{Event, Lookup, Report},
    model::{
        Model,
        calls::{About, Call},
        effects::Effects,
        latency::Measure,
        since,
        span::{Answerer, Span, SpanKind, Stage},
    },
};

impl Model {
    pub(in crate::model) fn report_entered(&mut self, event: &Event, report: &Report, effects: &mut Effects) {
        self.mirror.learn(&report.device);
        while self.faults.len() >= MAX_FAULTS {
            let Some(oldest) = self.faults.oldest() else { break };
            self.counts.forgotten += 1;
            self.end_fault(oldest, false, effects);
        }
        let group_id = self.mirror.group_id(&report.device);
        let pasid = report.pasid().unwrap_or(0);
        let slots = self.latencies.slots(group_id, report.device.name, pasid);
        let id = self.faults.insert(Fault::new(event, report, group_id, slots));
        self.enter(Call::new(event, About::Report(id)), effects);
        let device = report.device.ptr;
        self.faults.wait(
            id,
            if report.is_last() {
                Waiting::Ungrouped(device, report.pasid, report.grpid)
            } else {
                Waiting::Partial(device, report.grpid)
            },
        );
        self.stage(id, Stage::Report, event.ts, event, effects);
    }

    pub(in crate::model) fn looked_up(&mut self, event: &Event, lookup: &Lookup, effects: &mut Effects) {
        // Attaches, detaches and binds look up, too; a fault's look-up is made by the report itself.
        let Some(Call { about: About::Report(id), .. }) = self.calls.top(event.task.tid) else { return };
        let id = *id;
        let mirrored = self.timed_device_id(lookup);
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.lookups = fault.lookups.saturating_add(1);
        fault.stages[Stage::Lookup as usize] = None;
        fault.handle = if lookup.ret == 0 { lookup.handle.ptr.some() } else { None };
        fault.device_id = if lookup.ret == 0 { lookup.handle.device_id.or(mirrored) } else { None };
        let known = lookup.ret == 0 && lookup.handle.device_id.is_some();
        let slots = fault.latencies;
        let reported = fault.ts;
        if lookup.ret == 0 {
            self.latencies.record(slots, Measure::Lookup, since(event.ts, reported));
        }
        self.stage(id, Stage::Lookup, event.ts, event, effects);
        if known {
            self.latencies.record(slots, Measure::DeviceId, since(lookup.id_ts, reported));
            self.stage(id, Stage::DeviceId, lookup.id_ts, event, effects);
        }
    }

    /// The mirror's own answer to the question that the kernel has just answered.
    fn timed_device_id(&mut self, lookup: &Lookup) -> Option<u32> {
        let Some(clock) = &mut self.options.clock else { return self.mirror.device_id(lookup.group, lookup.pasid) };
        let begin = clock();
        let id = std::hint::black_box(self.mirror.device_id(lookup.group, lookup.pasid));
        let took = since(clock(), begin);
        self.latencies.record_overall(Measure::Mirror, took);
        id
    }

    pub(in crate::model) fn report_returned(&mut self, id: FaultId, ret: i64, effects: &mut Effects) {
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.ret = Some(ret);
        let over = match (fault.report.is_last(), fault.group) {
            // On the heap there is always a free; without memory the core answers with a group on its stack.
            (true, Some(_)) => self.features.sees_group_frees && answered_inside(fault),
            (true, None) => ret != 0 || answered_inside(fault),
            (false, Some(_)) => false,
            (false, None) => ret != 0,
        };
        self.no_longer_reporting(id, effects);
        if over {
            if let Some(group) = self.faults.get(id).and_then(|fault| fault.group)
                && let Some(group) = self.faults.groups.remove(&group)
            {
                for member in self.faults.part(group.members) {
                    self.end_fault(member, true, effects);
                }
            }
            self.end_fault(id, true, effects);
        }
    }

    /// The report has returned, or its return was lost.
    pub(in crate::model) fn no_longer_reporting(&mut self, id: FaultId, effects: &mut Effects) {
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.reporting = false;
        if fault.age == Age::Limbo && !self.may_be_delivered(id) {
            self.end_fault(id, true, effects);
        }
    }

    /// A fault is over. It is told now, unless its report's return or its delivery may still come.
    pub(super) fn fault_over(&mut self, id: FaultId, ts: u64, effects: &mut Effects) {
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.age_since = ts;
        if fault.reporting || self.may_be_delivered(id) {
            self.faults.set_age(id, Age::Limbo);
            if self.faults.limbo > MAX_LIMBO {
                self.end_oldest_limbo(effects);
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

    fn end_oldest_limbo(&mut self, effects: &mut Effects) {
        if let Some(id) = self.faults.ages[Age::Limbo as usize].first() {
            self.end_fault(id, true, effects);
        }
    }

    /// Tells the faults that have waited in limbo long enough.
    pub(in crate::model) fn clear_limbo(&mut self, now: u64, effects: &mut Effects) {
        while let Some(id) = self.faults.ages[Age::Limbo as usize].first() {
            let Some(fault) = self.faults.get(id) else { return };
            if (fault.reporting || self.may_be_delivered(id)) && since(now, fault.age_since) < LIMBO_NS {
                return;
            }
            self.end_fault(id, true, effects);
        }
    }

    /// Tells a fault and forgets it.
    pub(in crate::model) fn end_fault(&mut self, id: FaultId, complete: bool, effects: &mut Effects) {
        let Some(mut fault) = self.faults.remove(id) else { return };
        if fault.response.is_none()
            && let Some((ts, code, by)) = fault.witness
        {
            fault.response = Some((code, by));
            fault.stages[Stage::Response as usize] = Some(ts);
            self.latencies.record(fault.latencies, Measure::Response, since(ts, fault.ts));
        }
        let span = fault.span(complete);
        if fault.report.is_last() {
            self.counts.responses.count(span.response);
        }
        let (kind, task) = (SpanKind::Fault(span), fault.task);
        self.tell(Span::new(fault.ts, kind, &task, fault.stack), effects);
    }

    /// A fault has reached a stage.
    pub(super) fn stage(&mut self, id: FaultId, stage: Stage, ts: u64, event: &Event, effects: &mut Effects) {
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        if stage != Stage::Report {
            fault.stages[stage as usize] = Some(ts);
        }
        if self.options.stages {
            let kind = SpanKind::FaultStage(fault.stage_span(stage, ts));
            self.tell(Span::new(ts, kind, &event.task, event.stack), effects);
        }
    }
}

/// Whether the core itself answered, on the reporter's thread.
fn answered_inside(fault: &Fault) -> bool {
    fault.response.is_some_and(|(_, by)| by == Answerer::Report)
        || fault.witness.is_some_and(|(_, _, by)| by == Answerer::Report)
}
