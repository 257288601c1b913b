//! What happened, in one screen: counts, rates, latencies by stage, device and PASID, the slowest faults.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use super::{Observer, pasid};
use crate::{
    event::Name,
    model::{
        Map, Violation,
        span::{FaultSpan, Span, SpanKind},
    },
    output::{Clock, Exit, FaultCounts, Lost, Measured, Stages, Tally, TimeForm},
    probes::stretch::Stretched,
    source::SourceInfo,
};

/// Version of the JSON document: grows when a field changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;
/// Devices, and devices with PASIDs, that have rows of their own; the rest share one.
const MAX_ROWS: usize = 256;
/// The slowest faults that are told.
const SLOWEST: usize = 10;

/// Whose faults a row is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    group: Option<u32>,
    device: Name,
    pasid: Option<u32>,
}

#[derive(Clone, Debug, Default)]
struct Row {
    faults: u64,
    events: u64,
    stages: Stages,
}

/// Counts what happens.
#[derive(Debug, Default)]
pub struct Stats {
    tally: Tally,
    stages: Stages,
    rows: Map<Key, Row>,
    other: Row,
    slowest: Vec<(u64, u64, FaultSpan)>,
    records: u64,
}

/// Events of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EventCount {
    /// How many.
    pub count: u64,
    /// In a second.
    pub rate: f64,
}

/// A device, or one of its PASIDs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceStats {
    /// The group's number.
    pub group: Option<u32>,
    /// The device; empty for all that found no row of their own.
    pub device: Name,
    /// 0 for requests by RID; absent where the row is about the device as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pasid: Option<u32>,
    /// Everything that happened to it.
    pub events: u64,
    /// Its page faults.
    pub faults: EventCount,
    /// Their latencies by stage.
    pub latencies: Measured,
}

/// One of the slowest faults.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlowFault {
    /// When it was reported.
    pub ts: u64,
    /// What it was.
    #[serde(flatten)]
    pub fault: FaultSpan,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatsDocument {
    /// Version of this document's form.
    pub schema: u32,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// The machine's name.
    pub host: String,
    /// Where the kernel was made to wait meanwhile; empty for what was left alone.
    pub stretched: Vec<Stretched>,
    /// When it began, UTC.
    pub started: String,
    /// How long it took.
    pub duration_ns: u64,
    /// Records of the probes.
    pub records: u64,
    /// Events by name; those that never came are not listed.
    pub events: BTreeMap<&'static str, EventCount>,
    /// Events that the filters left out.
    pub filtered: u64,
    /// Page faults by what became of them.
    pub faults: FaultCounts,
    /// Latencies of all faults by stage.
    pub latencies: Measured,
    /// By device, busiest first.
    pub devices: Vec<DeviceStats>,
    /// By device and PASID, busiest first.
    pub pasids: Vec<DeviceStats>,
    /// The slowest faults to be answered, slowest first.
    pub slowest: Vec<SlowFault>,
    /// Broken rules, by rule.
    pub violations: BTreeMap<&'static str, u64>,
    /// Losses by probe.
    pub lost: Vec<Lost>,
}

impl Stats {
    /// Counts a span that the filters leave out.
    pub fn leave_out(&mut self) {
        self.tally.leave_out();
    }

    fn row(&mut self, key: Key) -> &mut Row {
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
            return &mut self.other;
        }
        self.rows.entry(key).or_default()
    }

    fn fault(&mut self, ts: u64, fault: &FaultSpan) {
        self.stages.record(fault);
        let device = Key { group: fault.group, device: fault.device, pasid: None };
        for key in [device, Key { pasid: Some(pasid(fault)), ..device }] {
            let row = self.row(key);
            row.faults += 1;
            row.stages.record(fault);
        }
        if let Some(took) = fault.response_ns
            && (self.slowest.len() < SLOWEST || self.slowest.last().is_some_and(|last| took > last.0))
        {
            let at = self.slowest.partition_point(|slow| slow.0 >= took);
            self.slowest.insert(at, (took, ts, fault.clone()));
            self.slowest.truncate(SLOWEST);
        }
    }

    /// What it came to, `upto` being the last time known.
    #[must_use]
    pub fn document(&self, info: &SourceInfo, upto: u64, exit: Exit) -> StatsDocument {
        let summary = self.tally.summary(info.started_ns, upto, exit);
        let seconds = summary.duration_ns as f64 / 1e9;
        let counted = |count: u64| EventCount { count, rate: if seconds > 0.0 { count as f64 / seconds } else { 0.0 } };
        let told = |key: &Key, row: &Row| DeviceStats {
            group: key.group,
            device: key.device,
            pasid: key.pasid,
            events: row.events,
            faults: counted(row.faults),
            latencies: row.stages.percentiles(),
        };
        let mut rows: Vec<(&Key, &Row)> = self.rows.iter().collect();
        rows.sort_by_key(|(key, row)| (Reverse((row.faults, row.events)), **key));
        let (pasids, devices): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(key, _)| key.pasid.is_some());
        let mut devices: Vec<DeviceStats> = devices.into_iter().map(|(key, row)| told(key, row)).collect();
        if self.other.faults + self.other.events > 0 {
            devices.push(told(&Key::default(), &self.other));
        }
        StatsDocument {
            schema: SCHEMA,
            kernel: info.kernel.clone(),
            stretched: info.stretched.clone(),
            machine: info.machine.clone(),
            host: info.host.clone(),
            started: Clock::new(TimeForm::Utc, info).rfc3339(info.started_ns).unwrap_or_default(),
            duration_ns: summary.duration_ns,
            records: self.records,
            events: summary.events.iter().map(|(name, count)| (*name, counted(*count))).collect(),
            filtered: summary.filtered,
            faults: summary.faults,
            latencies: self.stages.percentiles(),
            devices,
            pasids: pasids.into_iter().map(|(key, row)| told(key, row)).collect(),
            slowest: self.slowest.iter().map(|(_, ts, fault)| SlowFault { ts: *ts, fault: fault.clone() }).collect(),
            violations: summary.violations,
            lost: summary.lost,
        }
    }
}

impl Observer for Stats {
    fn event(&mut self, _: &crate::event::Event) {
        self.records += 1;
    }

    fn span(&mut self, span: &Span) {
        self.tally.count(span);
        if let Some((group, device)) = device_of(&span.kind) {
            self.row(Key { group, device, pasid: None }).events += 1;
        }
        if let SpanKind::Fault(fault) = &span.kind {
            self.fault(span.ts, fault);
        }
    }

    fn violation(&mut self, violation: &Violation) {
        self.tally.violation(violation);
    }
}

/// The device that something happened to, where it is about one.
fn device_of(kind: &SpanKind) -> Option<(Option<u32>, Name)> {
    let (group, device) = match kind {
        SpanKind::Attach(s) | SpanKind::Replace(s) | SpanKind::Detach(s) => (s.group, s.device?),
        SpanKind::Fault(s) => (s.group, s.device),
        SpanKind::SvaBind(s) | SpanKind::SvaUnbind(s) => (s.group, s.device),
        SpanKind::IopfEnable(s) | SpanKind::IopfDisable(s) => (s.group, s.device),
        SpanKind::IommufdBind(s) | SpanKind::IommufdUnbind(s) => (s.group, s.device),
        SpanKind::DeviceAdd(s) | SpanKind::DeviceRemove(s) | SpanKind::ResetPrepare(s) | SpanKind::ResetDone(s) => {
            (s.group, s.device)
        }
        SpanKind::DmaFault(s) => (s.group, s.device?),
        _ => return None,
    };
    (!device.is_empty()).then_some((group, device))
}
