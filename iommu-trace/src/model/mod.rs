//! The mirror of the kernel's attach handles: events joined into spans, and judged. Pure: no I/O, no clock of its own.
//!
//! ```
//! use iommu_trace::model::{Effects, Features, Model, ModelOptions};
//!
//! # fn events() -> Vec<iommu_trace::event::Event> { Vec::new() }
//! let mut model = Model::new(Features::default(), ModelOptions::default());
//! let mut effects = Effects::default();
//! for event in events() {
//!     model.apply(&event, &mut effects);
//!     for span in effects.spans.drain(..) { /* print it */ }
//!     for violation in effects.violations.drain(..) { /* print and flush it at once */ }
//! }
//! model.finish(0, &mut effects);
//! ```
//!
//! | call | when |
//! |---|---|
//! | [`Model::apply`] | for each event, in the order of their times (across CPUs) |
//! | [`Model::advance`] | with a batch's `upto`, so that time passes when nothing happens |
//! | [`Model::finish`] | once, at the end: tells what is outstanding |
//! | [`Model::latencies`], [`Model::counts`], [`Model::mirror`], [`Model::lookup`] | at any time, between the others |
//!
//! A [`Body::Lost`] must come **before** the first event that could have followed the loss, with the time at which the
//! loss counter was read as its `ts`: everything begun until then is uncertain. (Read the counters after draining the
//! ring, and put the losses first into the batch.)
//!
//! # How events become spans
//!
//! Calls are tracked by thread: an entry pushes, a return pops. Changes of attachments nest, and the outermost one is
//! the span. Faults are joined by the reporter's thread until a handler is given a fault group, by the group's address
//! after that; see `faults`. Everything is bounded: past its limit a table forgets the oldest, and
//! [`Counts::forgotten`] says so.

mod calls;
mod changes;
mod counts;
mod devices;
mod effects;
mod faults;
mod features;
mod hardware;
mod interrupts;
mod judge;
mod latency;
mod mirror;
mod objects;
mod options;
mod rules;
pub mod span;
mod table;
pub mod testing;
mod underway;
mod violation;

#[cfg(test)]
mod tests;

pub use counts::{Counts, ResponseCounts, SpanCounts};
pub use effects::Effects;
pub use features::Features;
pub use judge::{Doubt, Judgements};
pub use latency::{Latencies, LatencyKey, LatencySet, Measure};
pub use mirror::{Attachment, Content, Device, Group, Mirror, Slot, SlotKey, snapshot_events};
pub use options::{Clock, ModelOptions, ProbeSet};
pub use rules::{RULES, Rule, RuleId, RuleSet, UnknownRule};
pub(crate) use table::Map;
pub use underway::Changing;
pub use violation::{Evidence, Severity, Subject, Violation};

use self::{
    calls::{About, Call, Calls},
    faults::Faults,
    judge::Judge,
    rules::References,
    span::{LostSpan, Span, SpanKind},
};
use crate::event::{Body, Event, IommufdOp, Phase, Ptr, SvaOp};

/// How long after a loss, or after the beginning of a trace, a call that was entered before is taken to be running.
pub const IN_FLIGHT_NS: u64 = 100_000_000;

/// From `begin` to `now`; an untrusted recording may run backwards.
fn since(now: u64, begin: u64) -> u64 {
    now.saturating_sub(begin)
}

/// The mirror and what it makes of events.
#[derive(Debug)]
pub struct Model {
    features: Features,
    options: ModelOptions,
    calls: Calls,
    interrupts: interrupts::Interrupts,
    mirror: Mirror,
    faults: Faults,
    latencies: Latencies,
    counts: Counts,
    judge: Judge,
    references: References,
    /// Binds and unbinds that have not returned.
    open_sva: u32,
    /// The newest time seen.
    now: u64,
    /// When to look again for what takes too long.
    next_check: u64,
}

impl Model {
    /// A mirror in which nothing is known yet.
    #[must_use]
    pub fn new(features: Features, options: ModelOptions) -> Self {
        Model {
            judge: Judge::new(&options),
            latencies: Latencies::new(options.latencies),
            features,
            options,
            calls: Calls::default(),
            interrupts: interrupts::Interrupts::default(),
            mirror: Mirror::default(),
            faults: Faults::default(),
            counts: Counts::default(),
            references: References::default(),
            open_sva: 0,
            now: 0,
            next_check: 0,
        }
    }

    /// Takes note of an event and appends what it brings about.
    pub fn apply(&mut self, event: &Event, effects: &mut Effects) {
        if self.counts.events == 0 {
            self.judge.settled = event.ts.saturating_add(IN_FLIGHT_NS);
        }
        self.counts.events += 1;
        if event.ts >= self.next_check {
            self.advance(event.ts, effects);
        }
        self.now = self.now.max(event.ts);
        match &event.body {
            Body::Change(change) => self.change_entered(event, change, effects),
            Body::Return { ret } => self.returned(event, *ret, effects),
            Body::Lookup(lookup) => self.looked_up(event, lookup, effects),
            Body::Report(report) => self.report_entered(event, report, effects),
            Body::FaultGroup(group) => self.group_seen(event, group, effects),
            Body::PageResponse(response) => self.answered(event, response, effects),
            Body::File(op) => match event.phase {
                Phase::Enter => self.enter(Call::new(event, About::File), effects),
                Phase::Exit => self.returned(event, op.ret, effects),
            },
            Body::Delivered(message) => self.delivered(event, message, effects),
            Body::Queue(op) => self.queue(event, op, effects),
            Body::Object(op) => self.object_entered(event, op, effects),
            Body::Iommufd(op) => match event.phase {
                Phase::Enter => self.iommufd_entered(event, op, effects),
                Phase::Exit => {
                    if let Some(call) = self.leave(event, effects) {
                        self.iommufd_returned(&call, event, op, effects);
                    }
                }
            },
            Body::Sva(op) => match event.phase {
                Phase::Enter => self.sva_entered(event, op, effects),
                Phase::Exit => {
                    self.mirror.learn(&op.device);
                    if let Some(call) = self.leave(event, effects) {
                        self.sva_bound(&call, event, op, effects);
                    }
                }
            },
            Body::Device(device) => self.device_seen(event, device, effects),
            Body::Domain { domain, domain_type, .. } => self.domain_freed(event, *domain, *domain_type, effects),
            Body::DmaFault(fault) => self.dma_fault(event, fault, effects),
            Body::SmmuFault(fault) => self.smmu_fault(event, fault, effects),
            Body::IoPageFault { device, iova, flags } => self.io_page_fault(event, device, *iova, *flags, effects),
            Body::Interrupt { .. } => self.interrupts.seen(event),
            Body::Dma(op) => self.dma(event, op, effects),
            Body::Invalidate(op) => self.invalidated(event, op, effects),
            Body::Flush(op) => self.flushed(event, op, effects),
            Body::Sum(sum) => self.summed(event, sum, effects),
            Body::Slot(state) => self.snapshot(event, state),
            Body::Lost { count } => self.lost(event, *count, effects),
            Body::Prepared { ret, recovering } => {
                if let Some(call) = self.leave(event, effects) {
                    self.reset_prepared(&call, event, *ret, *recovering, effects);
                }
            }
            Body::Free { ptr } => self.memory_freed(event, *ptr, effects),
        }
        if self.mirror.take_full() {
            self.forget(self.now);
        }
    }

    /// Time has passed: no later event will be older than `now`.
    pub fn advance(&mut self, now: u64, effects: &mut Effects) {
        self.now = self.now.max(now);
        self.clear_limbo(now, effects);
        self.clear_overdue(now, effects);
        let timeout = u64::try_from(self.options.answer_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.next_check = now.saturating_add((timeout / 16).clamp(1, 1_000_000_000));
    }

    /// There will be no more events: tells the faults that are outstanding.
    pub fn finish(&mut self, now: u64, effects: &mut Effects) {
        self.clear_limbo(u64::MAX, effects);
        self.advance(now, effects);
        self.finish_faults(now, effects);
    }

    /// The latencies so far.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The numbers so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What was judged so far, and what could not be.
    #[must_use]
    pub fn judgements(&self) -> &Judgements {
        &self.judge.judgements
    }

    /// What the kernel holds now.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Faults that are not over.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.faults.len()
    }

    /// What is attached at a group's PASID (0 is the RID), as the mirror has it.
    #[must_use]
    pub fn lookup(&self, group: Ptr, pasid: u32) -> Option<&Attachment> {
        self.mirror.slot(group, pasid)?.attachment()
    }

    fn enter(&mut self, call: Call, effects: &mut Effects) {
        if !self.calls.enter(call) {
            self.forget(self.now);
        }
        self.drop_calls(effects);
    }

    fn leave(&mut self, event: &Event, effects: &mut Effects) -> Option<Call> {
        let call = self.calls.leave(event.task.tid, event.probe);
        self.drop_calls(effects);
        if call.is_none() {
            // It was entered before the trace, or its entry was lost: what it did is not known.
            self.counts.unmatched_returns += 1;
            self.judge.losses.lost(event.probe, self.now);
        }
        call
    }

    /// Calls whose returns were lost are over.
    fn drop_calls(&mut self, effects: &mut Effects) {
        while let Some(call) = self.calls.take_dropped() {
            self.judge.losses.lost(call.probe, self.now);
            match &call.about {
                About::Report(fault) => self.no_longer_reporting(*fault, effects),
                About::Change(open) => self.change_lost(&call, open),
                About::Sva(_) => self.open_sva = self.open_sva.saturating_sub(1),
                About::Queue(device) => self.mirror.queue_unknown(*device),
                About::File | About::Object(_) | About::Iommufd(..) | About::Device(_) => {}
            }
        }
    }

    /// A function returned of which only the result is told.
    fn returned(&mut self, event: &Event, ret: i64, effects: &mut Effects) {
        let Some(call) = self.leave(event, effects) else { return };
        match &call.about {
            About::Change(_) => self.change_returned(event, &call, ret, effects),
            About::Report(fault) => self.report_returned(*fault, event, ret, effects),
            About::File => self.clear_limbo(event.ts, effects),
            About::Object(_) => self.object_returned(&call, event, effects),
            About::Iommufd(entered, _) => {
                let op = IommufdOp { ret, ..**entered };
                self.iommufd_returned(&call, event, &op, effects);
            }
            About::Sva(entered) if call.probe == crate::event::ProbeId::SvaBind => {
                let op = SvaOp { ret, ..**entered };
                self.sva_bound(&call, event, &op, effects);
            }
            About::Sva(_) => self.sva_unbound(&call, event, effects),
            About::Device(_) => self.reset_prepared(&call, event, ret, None, effects),
            About::Queue(device) => self.mirror.queue_unknown(*device),
        }
    }

    fn lost(&mut self, event: &Event, count: u64, effects: &mut Effects) {
        let lost = self.counts.lost.entry(event.probe).or_default();
        *lost = lost.saturating_add(count);
        // A call whose entry was lost may still be running, and bring about what its entry would have told.
        self.judge.losses.lost(event.probe, event.ts.max(self.now).saturating_add(IN_FLIGHT_NS));
        if event.probe == crate::event::ProbeId::PrqEventThread {
            self.interrupts.forget();
        }
        let span = LostSpan { probe: event.probe.function(), count };
        self.tell_event(event, SpanKind::Lost(span), effects);
    }

    fn tell(&mut self, span: Span, effects: &mut Effects) {
        self.counts.spans.count(&span.kind);
        effects.spans.push(span);
    }

    /// Tells what a call was, from its entry on.
    fn tell_call(&mut self, call: &Call, kind: SpanKind, effects: &mut Effects) {
        self.tell(Span::new(call.ts, kind, &call.task, call.stack), effects);
    }

    /// Tells what one event says by itself.
    fn tell_event(&mut self, event: &Event, kind: SpanKind, effects: &mut Effects) {
        self.tell(Span::new(event.ts, kind, &event.task, event.stack), effects);
    }
}
