//! The report and the look-ups in it.

use super::{Fault, FaultId, MAX_FAULTS, Waiting};
use crate::{
    event::{Event, Lookup, Report},
    model::{
        Evidence, Model,
        calls::{About, Call},
        effects::Effects,
        latency::Measure,
        mirror::{Life, SlotKey},
        rules::{self, LookedUp},
        since,
        span::Stage,
    },
};

impl Model {
    pub(in crate::model) fn report_entered(&mut self, event: &Event, report: &Report, effects: &mut Effects) {
        self.mirror.learn(&report.device);
        while self.faults.len() >= MAX_FAULTS {
            let Some(oldest) = self.faults.oldest() else { break };
            self.forget(event.ts);
            self.end_fault(oldest, false, effects);
        }
        let group_id = self.mirror.group_id(&report.device);
        let pasid = report.pasid().unwrap_or(0);
        let slots = self.latencies.slots(group_id, report.device.name, pasid);
        let interrupt = self.interrupts.of(event.task.tid);
        if let Some(began) = interrupt {
            self.latencies.record(slots, Measure::Interrupt, since(event.ts, began));
        }
        let id = self.faults.insert(Fault::new(event, report, group_id, slots, interrupt));
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
        self.stage(id, Stage::Report, Evidence::of(event, "report"), effects);
    }

    pub(in crate::model) fn looked_up(&mut self, event: &Event, lookup: &Lookup, effects: &mut Effects) {
        // A fault's look-up is made by the report itself; attaches, detaches and binds look up, too.
        let caller = self.calls.top(event.task.tid);
        let fault = caller.and_then(|call| if let About::Report(id) = call.about { Some(id) } else { None });
        // The look-up itself happened some time after its caller was entered, or made its last one.
        let last = fault.and_then(|id| self.faults.get(id)?.stage(Stage::Lookup)).unwrap_or(0);
        let from = caller.filter(|call| !matches!(call.about, About::Change(_))).map(|call| call.ts.max(last));
        let key = SlotKey { group: lookup.group, pasid: lookup.pasid };
        let mirrored = if fault.is_some() { self.timed_device_id(key) } else { None };
        let seen = LookedUp { event, lookup, from, fault, slot: self.mirror.view(key) };
        for check in rules::ON_LOOKED_UP {
            let breach = check(self, &seen);
            self.judge(breach, event, effects);
        }
        if lookup.ret == 0
            && let Some(handle) = self.mirror.handles.get_mut(&lookup.handle.ptr)
            && handle.life == Life::Attaching
            && handle.key == key
        {
            handle.marks_mut().early.get_or_insert(Evidence::of(event, "look-up"));
        }
        if let Some(id) = fault {
            self.fault_looked_up(id, event, lookup, mirrored, effects);
        }
    }

    fn fault_looked_up(
        &mut self,
        id: FaultId,
        event: &Event,
        lookup: &Lookup,
        mirrored: Option<u32>,
        effects: &mut Effects,
    ) {
        let found = lookup.ret == 0;
        let handle = lookup.handle.ptr.some().filter(|_| found);
        let number = handle.and_then(|handle| self.mirror.handles.get(&handle)).map(|handle| handle.number);
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        let before = fault.handle.zip(fault.handle_number);
        fault.lookups = fault.lookups.saturating_add(1);
        fault.handle = handle;
        fault.handle_number = number;
        fault.device_id = if found { lookup.handle.device_id.or(mirrored) } else { None };
        fault.id_ts = None;
        let (slots, reported) = (fault.latencies, fault.ts);
        let seen = Evidence::of(event, "look-up");
        if let Some((handle, number)) = before {
            self.reference_put(handle, number, seen, effects);
        }
        if let Some((handle, number)) = handle.zip(number) {
            self.reference_taken(handle, number);
        }
        if found {
            self.latencies.record(slots, Measure::Lookup, since(event.ts, reported));
        }
        self.stage(id, Stage::Lookup, seen, effects);
        if found && lookup.handle.device_id.is_some() {
            self.latencies.record(slots, Measure::DeviceId, since(lookup.id_ts, reported));
            if let Some(fault) = self.faults.slab.get_mut(id) {
                fault.id_ts = Some(lookup.id_ts);
            }
            self.tell_stage(id, Stage::DeviceId, Evidence { ts: lookup.id_ts, ..seen }, effects);
        }
    }

    /// The mirror's own answer to the question that the kernel has just answered.
    fn timed_device_id(&mut self, key: SlotKey) -> Option<u32> {
        let Some(clock) = &mut self.options.clock else { return self.mirror.device_id(key.group, key.pasid) };
        let begin = clock();
        let id = std::hint::black_box(self.mirror.device_id(key.group, key.pasid));
        let took = since(clock(), begin);
        self.latencies.record_overall(Measure::Mirror, took);
        id
    }

    pub(in crate::model) fn report_returned(&mut self, id: FaultId, event: &Event, ret: i64, effects: &mut Effects) {
        let Some(fault) = self.faults.slab.get_mut(id) else { return };
        fault.ret = Some(ret);
        fault.returned = Some(event.ts);
        let ends = match (fault.report.is_last(), fault.group) {
            (true, None) => ret != 0 || fault.answered_inside(),
            (false, None) => ret != 0 || fault.swept,
            (_, Some(_)) => false,
        };
        if self.judge.wants(rules::RuleId::FaultDropped) {
            let breach = self.faults.get(id).and_then(|fault| rules::reported(self, event, fault, ret));
            self.judge(breach, event, effects);
        }
        self.no_longer_reporting(id, effects);
        if ends {
            self.end_fault(id, true, effects);
        }
    }
}
