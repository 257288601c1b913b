//! All metrics at one moment: what the watcher counted, and what the model holds.

use std::{collections::BTreeMap, time::SystemTime};

use super::{
    Histogram, Id, METRICS, Metric, Watcher,
    histogram::Bounds,
    labels::DeviceKey,
    text::Exemplars,
    watcher::{ACCESSES, RESPONSES, STAGES},
};
use crate::{
    event::{DomainType, ProbeId},
    model::{Content, Measure, Model, span::Owner},
    probes::Verdict,
    source::{Cost, SourceInfo},
};

/// What the watcher does not see, at the moment of a look.
#[derive(Debug)]
pub struct Look<'a> {
    /// The source.
    pub info: &'a SourceInfo,
    /// The model that was given everything the watcher saw.
    pub model: &'a Model,
    /// What the source has cost.
    pub cost: &'a Cost,
    /// What this process has cost.
    pub usage: Usage,
    /// Whether events are still read.
    pub up: bool,
    /// The time of day.
    pub now: SystemTime,
}

/// What a process has cost so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Resident bytes.
    pub resident: u64,
    /// When it was started.
    pub started: SystemTime,
}

/// A number.
#[derive(Clone, Debug)]
pub enum Value {
    /// A whole one.
    Count(u64),
    /// Another.
    Amount(f64),
    /// Observations, with examples of them where they help.
    Observed(Histogram, Option<Exemplars>),
    /// The labels are what is told.
    Labels,
}

/// One series.
#[derive(Clone, Debug)]
pub struct Point {
    /// The values of the metric's labels, in their order.
    pub labels: Vec<String>,
    /// The number.
    pub value: Value,
}

/// A metric with its series.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its entry in the table.
    pub metric: &'static Metric,
    /// At least one.
    pub points: Vec<Point>,
}

/// All metrics at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// In the table's order. What is not watched is not there.
    pub families: Vec<Family>,
    /// Since when counters count.
    pub since: SystemTime,
    /// The moment.
    pub at: SystemTime,
}

impl Snapshot {
    /// A metric, `None` when it is not watched.
    #[must_use]
    pub fn family(&self, id: Id) -> Option<&Family> {
        self.families.iter().find(|family| family.metric.id == id)
    }

    /// The sum over all series of a counter or gauge; of a histogram, its number of observations.
    #[must_use]
    pub fn sum(&self, id: Id) -> f64 {
        let value = |point: &Point| match &point.value {
            Value::Count(count) => *count as f64,
            Value::Amount(amount) => *amount,
            Value::Observed(histogram, _) => histogram.count() as f64,
            Value::Labels => 1.0,
        };
        self.family(id).map_or(0.0, |family| family.points.iter().map(value).sum())
    }
}

/// Series by metric, until they are put in order.
#[derive(Default)]
struct Points(BTreeMap<Id, Vec<Point>>);

impl Points {
    fn add<const N: usize>(&mut self, id: Id, labels: [&str; N], value: Value) {
        debug_assert_eq!(N, id.metric().labels.len(), "{id:?}");
        let labels = labels.map(str::to_owned).to_vec();
        self.0.entry(id).or_default().push(Point { labels, value });
    }

    fn count<const N: usize>(&mut self, id: Id, labels: [&str; N], count: u64) {
        self.add(id, labels, Value::Count(count));
    }

    fn observed<const N: usize>(&mut self, id: Id, labels: [&str; N], histogram: &Histogram) {
        self.add(id, labels, Value::Observed(histogram.clone(), None));
    }
}

impl Watcher {
    /// All metrics, now. It may take note of devices that it had not heard of.
    pub fn look(&mut self, look: &Look<'_>) -> Snapshot {
        let mut points = Points::default();
        self.about_the_source(look, &mut points);
        self.about_faults(look, &mut points);
        self.about_handles(look, &mut points);
        self.about_calls(&mut points);
        self.about_rules(look, &mut points);
        about_cost(look, &mut points);
        let mut by_id = points.0;
        let families = METRICS
            .iter()
            .filter(|metric| metric.topic.is_none_or(|topic| self.topics.contains(&topic)))
            .filter_map(|metric| Some(Family { metric, points: by_id.remove(&metric.id)? }))
            .collect();
        Snapshot { families, since: self.since, at: look.now }
    }

    fn about_the_source(&self, look: &Look<'_>, points: &mut Points) {
        let info = look.info;
        points.add(Id::Build, [crate::version::VERSION], Value::Labels);
        points.add(Id::Kernel, [&info.kernel, &info.machine, &info.host], Value::Labels);
        points.count(Id::SourceUp, [], u64::from(look.up));
        for (verdict, name) in [
            (Verdict::Ok, "ok"),
            (Verdict::Missing, "missing"),
            (Verdict::Broken, "broken"),
            (Verdict::Waiting, "waiting"),
            (Verdict::NotApplicable, "not_applicable"),
        ] {
            let count = info.probes.iter().filter(|probe| probe.verdict == verdict).count();
            points.count(Id::Probes, [name], count as u64);
        }
        let counts = look.model.counts();
        for &probe in ProbeId::ALL {
            let function = probe.function();
            let records = self.records[probe as usize];
            let lost = counts.lost.get(&probe).copied().unwrap_or(0);
            let attached = info.probes.iter().any(|p| p.function == function && p.verdict == Verdict::Ok);
            if attached || records > 0 || lost > 0 {
                points.count(Id::Records, [function], records);
                points.count(Id::Lost, [function], lost);
            }
        }
        for (event, count) in counts.spans.iter() {
            points.count(Id::Events, [event], count);
        }
    }

    fn about_faults(&mut self, look: &Look<'_>, points: &mut Points) {
        let mirror = look.model.mirror();
        // In an order of their own, so that the same ones find room after a restart.
        let mut known: Vec<DeviceKey> = mirror.devices().map(|(_, device)| (device.group_id, device.name)).collect();
        known.sort_unstable();
        for (group, device) in known {
            self.devices.get(group, device);
        }
        for (group, device, counted) in self.devices.iter() {
            for (response, count) in RESPONSES.iter().zip(counted.responses) {
                points.count(Id::Faults, [&group, &device, response], count);
            }
            for (access, count) in ACCESSES.iter().zip(counted.dma_faults) {
                points.count(Id::DmaFaults, [&group, &device, access], count);
            }
            // Few devices make page requests, and a histogram has many series.
            let Some(stages) = &counted.stages else { continue };
            for (at, &(id, _)) in STAGES.iter().enumerate() {
                let value = Value::Observed(stages.observed[at].clone(), stages.exemplars[at].clone());
                points.add(id, [&group, &device], value);
            }
        }
        points.count(Id::FaultsOutstanding, [], look.model.outstanding() as u64 + self.unfinished);
        points.count(Id::Lookups, ["found"], self.lookups.found);
        points.count(Id::Lookups, ["none"], self.lookups.none);
        points.count(Id::MirrorLookups, ["same"], self.lookups.same);
        points.count(Id::MirrorLookups, ["different"], self.lookups.different);
        let mut mirrored = Histogram::new(Bounds::Kernel);
        if let Some(histogram) = look.model.latencies().overall().get(Measure::Mirror) {
            for value in histogram.iter_recorded() {
                mirrored.observe_many(value.value_iterated_to(), value.count_at_value());
            }
        }
        points.observed(Id::MirrorLookup, [], &mirrored);
    }

    fn about_handles(&mut self, look: &Look<'_>, points: &mut Points) {
        let mirror = look.model.mirror();
        let mut handles: BTreeMap<(Owner, &str), u64> = BTreeMap::new();
        for owner in Owner::ALL {
            for domain_type in DomainType::NAMED {
                handles.insert((owner, domain_type.name().unwrap_or(super::labels::OTHER)), 0);
            }
        }
        self.devices.each(|counted| counted.handles = 0);
        let (mut held, mut bare, mut empty, mut unknown) = (0, 0, 0, 0);
        for slot in mirror.slots() {
            match &slot.content {
                Content::Held(attachment) if attachment.handle.is_some() => {
                    held += 1;
                    let domain_type = attachment.domain_type.name().unwrap_or(super::labels::OTHER);
                    *handles.entry((attachment.owner, domain_type)).or_default() += 1;
                    let device = mirror.device(attachment.device);
                    let group = device.and_then(|device| device.group_id);
                    let group = group.or_else(|| mirror.group(slot.key.group)?.id);
                    let name = device.map(|device| device.name).unwrap_or_default();
                    self.devices.get(group, name).handles += 1;
                }
                Content::Held(_) => bare += 1,
                Content::Empty => empty += 1,
                Content::Unknown => unknown += 1,
            }
        }
        for ((owner, domain_type), count) in handles {
            points.count(Id::Handles, [owner.name(), domain_type], count);
        }
        for (content, count) in [("handle", held), ("bare", bare), ("empty", empty), ("unknown", unknown)] {
            points.count(Id::Slots, [content], count);
        }
        for (group, device, counted) in self.devices.iter() {
            points.count(Id::DeviceHandles, [&group, &device], counted.handles);
        }
        points.count(Id::Groups, [], mirror.groups().count() as u64);
        points.count(Id::Devices, [], mirror.devices().count() as u64);
    }

    fn about_calls(&self, points: &mut Points) {
        for (change, calls) in &self.changes {
            points.observed(Id::Change, [change], &calls.took);
            for (owner, [ok, failed]) in Owner::ALL.iter().zip(&calls.by_owner) {
                points.count(Id::Changes, [change, owner.name(), "ok"], *ok);
                points.count(Id::Changes, [change, owner.name(), "error"], *failed);
            }
        }
        for (operation, calls) in &self.mappings {
            points.count(Id::Mappings, [operation, "ok"], calls.ok);
            points.count(Id::Mappings, [operation, "error"], calls.failed);
            points.count(Id::Mapped, [operation], calls.bytes);
            // Of calls that were summed up no times are known: that is not the same as none.
            if calls.took.count() == calls.ok + calls.failed {
                points.observed(Id::Mapping, [operation], &calls.took);
            }
        }
        for (kind, took) in &self.invalidations {
            points.observed(Id::Invalidation, [kind], took);
        }
        points.observed(Id::Flush, [], &self.flushes);
    }

    fn about_rules(&self, look: &Look<'_>, points: &mut Points) {
        for (&(rule, severity), &count) in &self.violations {
            points.count(Id::Violations, [rule.slug(), severity.name()], count);
        }
        let unjudged = &look.model.judgements().unjudged;
        for rule in self.rules.iter() {
            let count = unjudged.iter().filter(|((of, _), _)| *of == rule).map(|(_, count)| count).sum();
            points.count(Id::Unjudged, [rule.slug()], count);
        }
        let counts = look.model.counts();
        points.count(Id::Unmatched, ["returns"], counts.unmatched_returns);
        points.count(Id::Unmatched, ["faults"], counts.unmatched_faults);
        points.count(Id::Forgotten, [], counts.forgotten);
    }
}

fn about_cost(look: &Look<'_>, points: &mut Points) {
    // Without the kernel's statistics every program seems never to run.
    if look.cost.programs.iter().any(|program| program.runs > 0) {
        for program in &look.cost.programs {
            points.add(Id::BpfRun, [&program.program], Value::Amount(super::histogram::seconds(program.run_ns)));
            points.count(Id::BpfRuns, [&program.program], program.runs);
        }
    }
    let usage = &look.usage;
    let started = usage.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    points.add(Id::ProcessCpu, [], Value::Amount(super::histogram::seconds(usage.cpu_ns)));
    points.count(Id::ProcessMemory, [], usage.resident);
    points.add(Id::ProcessStart, [], Value::Amount(started.as_secs_f64()));
}
