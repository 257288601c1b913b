//! What the dashboard knows: fed with events, pure and bounded.
//!
//! [`World`] is what happened; [`Ui`] is what a person looks at. [`rows`] says what a view lists, [`update`] what an
//! action changes. None of it reads a clock: time is what the source says it is.

pub mod bins;
pub mod dma;
pub mod filter;
pub mod items;
pub mod lives;
pub mod logs;
pub mod rows;
pub mod save;
pub mod series;
pub mod ui;
pub mod update;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    event::{Body, Event, Name, ProbeId, SlotWhat},
    model::{
        Effects, Model, ModelOptions,
        span::{Owner, Span, SpanKind, Topic},
    },
    source::{Cost, Frame, SourceInfo, Stacks},
};

use self::{
    bins::StageBins,
    dma::Dma,
    lives::Lives,
    logs::{Breaches, Logs},
    series::{BUCKETS, Series, StageSeries, Tick, Window, bucket},
};

pub use ui::Ui;

/// Devices that have latencies over time of their own.
const MAX_DEVICES: usize = 16;
/// Buckets of each of theirs: five minutes.
const DEVICE_BUCKETS: usize = 1200;
/// Kernel stacks that are kept with their names.
const MAX_STACKS: usize = 1 << 12;

/// What the tool itself takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// Processor time, as a share of one CPU, lately.
    pub cpu: f64,
    /// Memory that is resident, bytes.
    pub memory: u64,
}

/// A running or played source, as the header shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Played {
    /// Times real time.
    pub speed: f64,
    /// It stands still.
    pub paused: bool,
    /// When the recording begins, on the events' clock.
    pub from: u64,
    /// When it ends, where that is known.
    pub to: Option<u64>,
}

/// Chooses among what the model tells.
pub type Wanted = Box<dyn FnMut(&Span) -> bool + Send>;

/// Everything that happened, as far as it is remembered.
pub struct World {
    /// The source.
    pub info: Arc<SourceInfo>,
    /// The topics that are traced.
    pub topics: Vec<Topic>,
    /// The mirror.
    pub model: Model,
    effects: Effects,
    wanted: Option<Wanted>,
    /// The newest time that is known.
    pub now: u64,
    /// The oldest.
    pub began: u64,
    /// Numbers over time.
    pub ticks: Series<Tick>,
    /// Latencies over time, of every fault.
    pub stages: StageSeries,
    /// Latencies over time, by device.
    pub devices: Vec<(Name, StageSeries)>,
    /// Attachments.
    pub lives: Lives,
    /// What happened last.
    pub logs: Logs,
    /// Rules that were broken.
    pub breaches: Breaches,
    /// When the first of them was.
    pub first_breach: Option<u64>,
    /// Mappings and invalidations.
    pub dma: Dma,
    /// Events of each probe.
    pub events: BTreeMap<ProbeId, u64>,
    /// What the BPF programs cost, and how long that took them; `None` until it is known.
    pub cost: Option<Cost>,
    /// Share of one CPU that the BPF programs took lately.
    pub bpf_cpu: Option<f64>,
    /// What the tool itself takes; `None` until it is known.
    pub own: Option<Own>,
    /// How a recording is played.
    pub played: Option<Played>,
    /// Why there is no more to come.
    pub ended: Option<String>,
    /// How the command after `--` is.
    pub command: Option<String>,
    stacks: HashMap<u32, Arc<[Frame]>>,
    stacks_wanted: HashSet<u32>,
}

impl World {
    /// Nothing has happened.
    #[must_use]
    pub fn new(info: Arc<SourceInfo>, topics: Vec<Topic>, options: ModelOptions) -> Self {
        World {
            model: Model::new(info.features.clone(), options),
            effects: Effects::default(),
            wanted: None,
            now: info.started_ns,
            began: info.started_ns,
            ticks: Series::new(BUCKETS),
            stages: Series::new(BUCKETS),
            devices: Vec::new(),
            lives: Lives::default(),
            logs: Logs::default(),
            breaches: Breaches::default(),
            first_breach: None,
            dma: Dma::default(),
            events: BTreeMap::new(),
            cost: None,
            bpf_cpu: None,
            own: None,
            played: None,
            ended: None,
            command: None,
            stacks: HashMap::new(),
            stacks_wanted: HashSet::new(),
            topics,
            info,
        }
    }

    /// Shows only what this takes.
    #[must_use]
    pub fn showing(self, wanted: Wanted) -> Self {
        World { wanted: Some(wanted), ..self }
    }

    /// Takes what happened.
    pub fn apply(&mut self, events: &[Event]) {
        for event in events {
            if self.began == 0 || event.ts < self.began {
                self.began = event.ts;
            }
            self.now = self.now.max(event.ts);
            *self.events.entry(event.probe).or_default() += 1;
            self.model.apply(event, &mut self.effects);
            self.found(event);
            if let Some(tick) = self.ticks.at(self.now) {
                tick.events = tick.events.saturating_add(1);
                if let Body::Lost { count } = event.body {
                    tick.lost = tick.lost.saturating_add(count);
                }
            }
            self.told();
        }
    }

    /// Time has passed.
    pub fn advance(&mut self, upto: u64) {
        self.now = self.now.max(upto);
        self.model.advance(upto, &mut self.effects);
        self.told();
    }

    /// There will be no more, for this reason.
    pub fn end(&mut self, why: String) {
        // Faults that are outstanding stay so: the model is not told that it is over.
        self.ended = Some(why);
    }

    /// What was attached before the trace.
    fn found(&mut self, event: &Event) {
        let Body::Slot(state) = &event.body else { return };
        if state.what != SlotWhat::Entry {
            return;
        }
        let Some(held) = self.model.lookup(state.device.group, state.pasid).copied() else { return };
        let device = [held.device, state.device.ptr]
            .into_iter()
            .find_map(|ptr| self.model.mirror().device(ptr))
            .map(|device| device.name)
            .filter(|name| !name.is_empty());
        let users = (held.owner == Owner::Sva).then_some(state.users);
        self.lives.found((state.device.group_id, state.pasid), &held, device, users);
    }

    fn told(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        for span in &effects.spans {
            // Who sits where is true whatever is asked for.
            self.lives.take(span);
            let wanted = span.kind.topic().is_none() || self.wanted.as_mut().is_none_or(|wanted| wanted(span));
            if wanted {
                self.show(span);
            }
        }
        for violation in &effects.violations {
            if let Some(tick) = self.ticks.at(self.now) {
                tick.violations += 1;
            }
            self.first_breach.get_or_insert(violation.ts);
            if self.breaches.take(violation) {
                self.stacks_wanted.extend(violation.evidence.iter().filter_map(|piece| piece.stack));
            }
        }
        effects.clear();
        self.effects = effects;
    }

    fn show(&mut self, span: &Span) {
        if let Some(tick) = self.ticks.at(self.now) {
            tick.kinds.count_calls(&span.kind);
        }
        self.logs.take(self.now, span);
        match &span.kind {
            SpanKind::Map(_) | SpanKind::Unmap(_) | SpanKind::Invalidate(_) | SpanKind::Sum(_) => {
                self.dma.take(self.now, span);
            }
            SpanKind::Fault(fault) => {
                if let Some(bins) = self.stages.at(self.now) {
                    bins.record(fault);
                }
                let now = self.now;
                if let Some(bins) = self.device(fault.device).and_then(|series| series.at(now)) {
                    bins.record(fault);
                }
            }
            _ => {}
        }
    }

    fn device(&mut self, name: Name) -> Option<&mut StageSeries> {
        let at = match self.devices.iter().position(|(known, _)| *known == name) {
            Some(at) => at,
            None if self.devices.len() < MAX_DEVICES => {
                self.devices.push((name, Series::new(DEVICE_BUCKETS)));
                self.devices.len() - 1
            }
            None => return None,
        };
        self.devices.get_mut(at).map(|(_, series)| series)
    }

    /// The time that is looked at.
    #[must_use]
    pub fn at(&self, ui: &Ui) -> u64 {
        ui.time.at(self.now)
    }

    /// The stretch of time that is looked at.
    #[must_use]
    pub fn window(&self, ui: &Ui) -> Window {
        let to = bucket(self.at(ui)).saturating_add(1);
        let from = to.saturating_sub(ui.span().buckets());
        Window { from, to, began: bucket(self.began), known: bucket(self.now) }
    }

    /// The sum of what happened in a window.
    #[must_use]
    pub fn sum(&self, window: Window) -> Tick {
        let mut sum = Tick::default();
        self.ticks.range(window.from, window.to).for_each(|tick| sum.add(tick));
        sum
    }

    /// The last two seconds of a window that are whole.
    #[must_use]
    pub fn lately(&self, window: Window) -> Window {
        let to = window.to.saturating_sub(1).max(window.began);
        Window { from: to.saturating_sub(8).max(window.from), to, ..window }
    }

    /// Latencies of a window, of one device or of all.
    #[must_use]
    pub fn latencies(&self, window: Window, device: Option<Name>) -> StageBins {
        let mut sum = StageBins::default();
        if let Some(series) = self.stage_series(device) {
            series.range(window.from, window.to).for_each(|bins| sum.add(bins));
        }
        sum
    }

    /// The history of the latencies of one device, or of all.
    #[must_use]
    pub fn stage_series(&self, device: Option<Name>) -> Option<&StageSeries> {
        match device {
            None => Some(&self.stages),
            Some(name) => self.devices.iter().find(|(known, _)| *known == name).map(|(_, series)| series),
        }
    }

    /// Records lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.model.counts().lost.values().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Whether a topic is traced.
    #[must_use]
    pub fn traces(&self, topic: Topic) -> bool {
        self.topics.contains(&topic)
    }

    /// Asks for the names of a stack.
    pub fn want_stack(&mut self, id: u32) {
        if !self.stacks.contains_key(&id) {
            self.stacks_wanted.insert(id);
        }
    }

    /// Learns the names of the stacks that were asked for. The frames of our own program are left out.
    pub fn learn_stacks(&mut self, stacks: &dyn Stacks) {
        for id in self.stacks_wanted.drain() {
            if self.stacks.len() < MAX_STACKS {
                let frames = stacks.frames(id);
                let frames = frames.into_iter().skip_while(|frame| frame.symbol.ends_with("[bpf]")).collect();
                self.stacks.insert(id, frames);
            }
        }
    }

    /// Whether [`World::learn_stacks`] has something to do.
    #[must_use]
    pub fn wants_stacks(&self) -> bool {
        !self.stacks_wanted.is_empty()
    }

    /// A stack, innermost frame first; `None` when it is not known.
    #[must_use]
    pub fn stack(&self, id: Option<u32>) -> Option<&[Frame]> {
        self.stacks.get(&id?).map(AsRef::as_ref).filter(|frames| !frames.is_empty())
    }
}
