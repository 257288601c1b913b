//! What only grows, counted as events and spans pass by.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    DeviceLimit, Histogram, Id, Kind,
    histogram::Bounds,
    labels::ByDevice,
    text::{self, Exemplars},
};
use crate::{
    event::{Body, Event, Lookup, ProbeId, ResponseCode},
    model::{
        Effects, Measure, Model, RuleId, RuleSet, Severity,
        span::{ChangeSpan, DmaFaultSpan, DmaSpan, FaultSpan, Owner, Span, SpanKind, SumSpan, Summed, Topic},
    },
    source::SourceInfo,
};

/// What a DMA fault says of its access, as a label.
pub(super) const ACCESSES: [&str; 3] = ["read", "write", "unknown"];
/// What becomes of a fault, as a label.
pub(super) const RESPONSES: [&str; 6] = ["success", "invalid", "failure", "other", "none", "partial"];

/// The stages of a fault that are timed.
pub(super) const STAGES: [(Id, Measure); Measure::OF_FAULTS.len()] = [
    (Id::FaultInterrupt, Measure::Interrupt),
    (Id::FaultLookup, Measure::Lookup),
    (Id::FaultDeviceId, Measure::DeviceId),
    (Id::FaultHandler, Measure::Handler),
    (Id::FaultDelivered, Measure::Delivered),
    (Id::FaultResponse, Measure::Response),
];

/// Of these an example is worth its room: which fault it was that took so long to be found, or answered.
const EXEMPLARY: [Id; 2] = [Id::FaultLookup, Id::FaultResponse];

/// The stages of one device's faults.
#[derive(Clone, Debug)]
pub(super) struct Stages {
    pub observed: [Histogram; STAGES.len()],
    pub exemplars: [Option<Exemplars>; STAGES.len()],
}

impl Default for Stages {
    fn default() -> Self {
        let bounds = STAGES.map(|(id, _)| match id.metric().kind {
            Kind::Histogram(bounds) => bounds,
            Kind::Counter | Kind::Gauge | Kind::Info => Bounds::User,
        });
        Stages {
            observed: bounds.map(Histogram::new),
            exemplars: std::array::from_fn(|at| EXEMPLARY.contains(&STAGES[at].0).then(|| text::exemplars(bounds[at]))),
        }
    }
}

/// What is counted of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceCounts {
    pub responses: [u64; RESPONSES.len()],
    /// By [`ACCESSES`].
    pub dma_faults: [u64; ACCESSES.len()],
    /// Once the device can make page requests, as far as was seen.
    pub stages: Option<Box<Stages>>,
    /// At the last look.
    pub handles: u64,
}

/// Look-ups of handles.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lookups {
    pub found: u64,
    pub none: u64,
    pub same: u64,
    pub different: u64,
}

/// Calls that change an attachment.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    pub took: Histogram,
    /// Those that went well, then those that failed; in the order of [`Owner::ALL`].
    pub by_owner: [[u64; 2]; Owner::ALL.len()],
}

/// Map or unmap calls.
#[derive(Clone, Debug)]
pub(super) struct Mappings {
    pub ok: u64,
    pub failed: u64,
    pub bytes: u64,
    pub took: Histogram,
}

/// Counts what passes by.
#[derive(Debug)]
pub struct Watcher {
    pub(super) topics: Vec<Topic>,
    pub(super) rules: RuleSet,
    pub(super) since: SystemTime,
    epoch_offset_ns: i64,
    pub(super) records: [u64; ProbeId::ALL.len()],
    pub(super) devices: ByDevice<DeviceCounts>,
    /// Faults that were outstanding when the source ended.
    pub(super) unfinished: u64,
    pub(super) lookups: Lookups,
    pub(super) changes: BTreeMap<&'static str, Changes>,
    pub(super) mappings: BTreeMap<&'static str, Mappings>,
    pub(super) invalidations: BTreeMap<&'static str, Histogram>,
    pub(super) flushes: Histogram,
    pub(super) violations: BTreeMap<(RuleId, Severity), u64>,
}

impl Watcher {
    /// Nothing has passed yet. `topics` are those that the source was asked for, `since` is now.
    #[must_use]
    pub fn new(info: &SourceInfo, topics: &[Topic], rules: RuleSet, limit: DeviceLimit, since: SystemTime) -> Self {
        let changes = || Changes { took: Histogram::new(Bounds::User), by_owner: Default::default() };
        let mappings = || Mappings { ok: 0, failed: 0, bytes: 0, took: Histogram::new(Bounds::Kernel) };
        Watcher {
            topics: topics.to_vec(),
            rules,
            since,
            epoch_offset_ns: info.epoch_offset_ns,
            records: [0; ProbeId::ALL.len()],
            devices: ByDevice::new(limit),
            unfinished: 0,
            lookups: Lookups::default(),
            // From zero on, not from the first call on: a rate needs two numbers.
            changes: ["attach", "replace", "detach"].map(|change| (change, changes())).into(),
            mappings: ["map", "unmap"].map(|operation| (operation, mappings())).into(),
            invalidations: BTreeMap::new(),
            flushes: Histogram::new(Bounds::Kernel),
            violations: rules.iter().map(|rule| ((rule, rule.rule().severity), 0)).collect(),
        }
    }

    /// Takes note of an event. `model` has not seen it yet.
    pub fn before(&mut self, event: &Event, model: &Model) {
        match event.body {
            Body::Lost { .. } => {}
            Body::Lookup(lookup) => {
                self.records[event.probe as usize] += 1;
                self.looked_up(&lookup, model);
            }
            _ => self.records[event.probe as usize] += 1,
        }
    }

    fn looked_up(&mut self, lookup: &Lookup, model: &Model) {
        if lookup.ret != 0 {
            self.lookups.none += 1;
            return;
        }
        self.lookups.found += 1;
        let ours = model.mirror().device_id(lookup.group, lookup.pasid);
        match (ours, lookup.handle.device_id) {
            (Some(ours), Some(theirs)) if ours == theirs => self.lookups.same += 1,
            (Some(_), Some(_)) => self.lookups.different += 1,
            // A handle without a device id, as SVA's, or one that was attached before the trace and is not known.
            _ => {}
        }
    }

    /// Takes note of what the model made of events.
    pub fn after(&mut self, effects: &Effects) {
        for span in &effects.spans {
            self.span(span);
        }
        for violation in &effects.violations {
            *self.violations.entry((violation.rule, violation.severity)).or_default() += 1;
        }
    }

    fn span(&mut self, span: &Span) {
        match &span.kind {
            SpanKind::Attach(change) => self.changed("attach", change),
            SpanKind::Replace(change) => self.changed("replace", change),
            SpanKind::Detach(change) => self.changed("detach", change),
            SpanKind::Fault(fault) => self.fault(span.ts, fault),
            SpanKind::IopfEnable(queue) if queue.ret == 0 => {
                self.devices.get(queue.group, queue.device).stages.get_or_insert_default();
            }
            SpanKind::DmaFault(fault) => self.dma_fault(fault),
            SpanKind::Map(call) => self.mapped("map", call),
            SpanKind::Unmap(call) => self.mapped("unmap", call),
            SpanKind::Invalidate(call) => {
                let took = self.invalidations.entry(call.kind).or_insert_with(|| Histogram::new(Bounds::Kernel));
                took.observe(call.duration_ns);
            }
            SpanKind::Flush(call) => self.flushes.observe(call.duration_ns),
            SpanKind::Sum(sum) => self.summed(sum),
            SpanKind::FaultStage(_)
            | SpanKind::SvaBind(_)
            | SpanKind::SvaUnbind(_)
            | SpanKind::IopfEnable(_)
            | SpanKind::IopfDisable(_)
            | SpanKind::IommufdBind(_)
            | SpanKind::IommufdUnbind(_)
            | SpanKind::FaultQueueDestroy(_)
            | SpanKind::DeviceAdd(_)
            | SpanKind::DeviceRemove(_)
            | SpanKind::DomainFree(_)
            | SpanKind::ResetPrepare(_)
            | SpanKind::ResetDone(_)
            | SpanKind::Lost(_) => {}
        }
    }

    fn changed(&mut self, what: &'static str, change: &ChangeSpan) {
        let Some(calls) = self.changes.get_mut(what) else { return };
        calls.took.observe(change.duration_ns);
        calls.by_owner[change.owner as usize][usize::from(change.ret < 0)] += 1;
    }

    fn fault(&mut self, ts: u64, fault: &FaultSpan) {
        let counted = self.devices.get(fault.group, fault.device);
        let response = match fault.response.0 {
            _ if !fault.last => 5,
            Some(ResponseCode::Success) => 0,
            Some(ResponseCode::Invalid) => 1,
            Some(ResponseCode::Failure) => 2,
            Some(ResponseCode::Other(_)) => 3,
            None => 4,
        };
        if fault.complete {
            counted.responses[response] += 1;
        } else {
            self.unfinished += 1;
        }
        let stages = counted.stages.get_or_insert_default();
        for (at, (_, measure)) in STAGES.iter().enumerate() {
            let Some(ns) = measure.of(fault) else { continue };
            stages.observed[at].observe(ns);
            if let Some(exemplars) = &stages.exemplars[at] {
                let when = ts.saturating_add(ns).saturating_add_signed(self.epoch_offset_ns);
                text::example(exemplars, ns, fault, UNIX_EPOCH + Duration::from_nanos(when));
            }
        }
    }

    fn dma_fault(&mut self, fault: &DmaFaultSpan) {
        let counted = self.devices.get(fault.group, fault.device.unwrap_or_default());
        if let Some(at) = ACCESSES.iter().position(|access| *access == fault.access) {
            counted.dma_faults[at] += 1;
        }
    }

    fn summed(&mut self, sum: &SumSpan) {
        if let Some(calls) = self.mappings.get_mut(sum.of.name()) {
            calls.failed += sum.failed;
            calls.ok += sum.calls.saturating_sub(sum.failed);
            calls.bytes = calls.bytes.saturating_add(sum.bytes.unwrap_or(0));
        }
        if let (Some(kind), Some(within)) = (sum.kind, &sum.within) {
            let took = self.invalidations.entry(kind).or_insert_with(|| Histogram::new(Bounds::Kernel));
            took.observe_sorted(&within[..], sum.duration_ns.unwrap_or(0));
        }
        if let (Summed::Flush, Some(within)) = (sum.of, &sum.within) {
            self.flushes.observe_sorted(&within[..], sum.duration_ns.unwrap_or(0));
        }
    }

    fn mapped(&mut self, what: &'static str, call: &DmaSpan) {
        let Some(calls) = self.mappings.get_mut(what) else { return };
        if call.ret < 0 {
            calls.failed += 1;
        } else {
            calls.ok += 1;
        }
        calls.bytes = calls.bytes.saturating_add(call.size);
        calls.took.observe(call.duration_ns);
    }
}
