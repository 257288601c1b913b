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
//! after that; see [`faults`]. Everything is bounded: past its limit a table forgets the oldest, and
//! [`Counts::forgotten`] says so.

mod calls;
mod changes;
mod counts;
mod devices;
mod effects;
mod faults;
mod features;
mod hardware;
mod latency;
mod mirror;
mod objects;
mod options;
mod rules;
pub mod span;
mod table;
pub mod testing;
mod violation;

#[cfg(test)]
mod tests;

pub use counts::{Counts, ResponseCounts, SpanCounts};
pub use effects::Effects;
pub use features::Features;
pub use latency::{Latencies, LatencyKey, LatencySet, Measure};
pub use mirror::{Attachment, Device, Group, Mirror, Slot, SlotKey};
pub use options::{Clock, ModelOptions, ProbeSet};
pub use rules::RuleId;
pub use violation::{Evidence, Severity, Subject, Violation};

use self::{
    calls::{About, Call, Calls},
    faults::Faults,
    span::{LostSpan, Span, SpanKind},
};
use crate::event::{Body, Event, IommufdOp, Phase, ProbeId, Ptr, QueueOp, SvaOp};

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
    mirror: Mirror,
    faults: Faults,
    latencies: Latencies,
    counts: Counts,
}

impl Model {
    /// A mirror in which nothing is known yet.
    #[must_use]
    pub fn new(features: Features, options: ModelOptions) -> Self {
        Model {
            features,
            options,
            calls: Calls::default(),
            mirror: Mirror::default(),
            faults: Faults::default(),
            latencies: Latencies::default(),
            counts: Counts::default(),
        }
    }

    /// Takes note of an event and appends what it brings about.
    pub fn apply(&mut self, event: &Event, effects: &mut Effects) {
        self.counts.events += 1;
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
            Body::Object(op) => self.enter(Call::new(event, About::Object(*op)), effects),
            Body::Iommufd(op) => self.iommufd(event, op, effects),
            Body::Sva(op) => self.sva(event, op, effects),
            Body::Device(device) => self.device_seen(event, device, effects),
            Body::Domain { domain, domain_type, .. } => self.domain_freed(event, *domain, *domain_type, effects),
            Body::DmaFault(fault) => self.dma_fault(event, fault, effects),
            Body::IoPageFault { device, iova, flags } => self.io_page_fault(event, device, *iova, *flags, effects),
            Body::Dma(op) => self.dma(event, op, effects),
            Body::Invalidate(op) => self.invalidated(event, op, effects),
            Body::Slot(state) => self.snapshot(state),
            Body::Lost { count } => self.lost(event, *count, effects),
            Body::Free { .. } => {}
        }
    }

    /// Time has passed: no later event will be older than `now`.
    pub fn advance(&mut self, now: u64, effects: &mut Effects) {
        self.clear_limbo(now, effects);
    }

    /// There will be no more events: tells the faults that are outstanding.
    pub fn finish(&mut self, now: u64, effects: &mut Effects) {
        self.clear_limbo(u64::MAX, effects);
        self.advance(now, effects);
        for fault in self.faults.all() {
            self.end_fault(fault, false, effects);
        }
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
        self.mirror.slot(group, pasid)?.attachment.as_ref()
    }

    fn enter(&mut self, call: Call, effects: &mut Effects) {
        if !self.calls.enter(call) {
            self.counts.forgotten += 1;
        }
        self.drop_calls(effects);
    }

    fn leave(&mut self, event: &Event, effects: &mut Effects) -> Option<Call> {
        let call = self.calls.leave(event.task.tid, event.probe);
        self.drop_calls(effects);
        if call.is_none() {
            self.counts.unmatched_returns += 1;
        }
        call
    }

    /// Calls whose returns were lost are over.
    fn drop_calls(&mut self, effects: &mut Effects) {
        while let Some(call) = self.calls.take_dropped() {
            if let About::Report(fault) = call.about {
                self.no_longer_reporting(fault, effects);
            }
        }
    }

    /// A function returned of which only the result is told.
    fn returned(&mut self, event: &Event, ret: i64, effects: &mut Effects) {
        let Some(call) = self.leave(event, effects) else { return };
        match &call.about {
            About::Change(_) => self.change_returned(event, &call, ret, effects),
            About::Report(fault) => self.report_returned(*fault, ret, effects),
            About::File => self.clear_limbo(event.ts, effects),
            About::Object(_) => self.object_returned(&call, event, effects),
            About::Iommufd(entered) => {
                let op = IommufdOp { ret, ..*entered };
                self.iommufd_returned(&call, event, &op, effects);
            }
            About::Sva(entered) if call.probe == ProbeId::SvaBind => {
                let op = SvaOp { ret, ..*entered };
                self.sva_bound(&call, event, &op, effects);
            }
            About::Sva(_) => self.sva_unbound(&call, event, effects),
            About::Device(_) => self.reset_prepared(&call, ret, effects),
            About::Queue => {}
        }
    }

    fn queue(&mut self, event: &Event, op: &QueueOp, effects: &mut Effects) {
        match event.phase {
            Phase::Enter if event.probe == ProbeId::QueueRemoveDevice => {
                self.mirror.learn(&op.device);
                self.enter(Call::new(event, About::Queue), effects);
            }
            Phase::Enter => {}
            Phase::Exit => {
                if event.probe == ProbeId::QueueRemoveDevice {
                    self.leave(event, effects);
                }
                self.queue_done(event, op, effects);
            }
        }
    }

    fn iommufd(&mut self, event: &Event, op: &IommufdOp, effects: &mut Effects) {
        match event.phase {
            Phase::Enter => {
                self.mirror.learn(&op.device);
                self.enter(Call::new(event, About::Iommufd(*op)), effects);
            }
            Phase::Exit => {
                if let Some(call) = self.leave(event, effects) {
                    self.iommufd_returned(&call, event, op, effects);
                }
            }
        }
    }

    fn sva(&mut self, event: &Event, op: &SvaOp, effects: &mut Effects) {
        self.mirror.learn(&op.device);
        match event.phase {
            Phase::Enter => self.enter(Call::new(event, About::Sva(*op)), effects),
            Phase::Exit => {
                let Some(call) = self.leave(event, effects) else { return };
                if call.probe == ProbeId::SvaBind {
                    self.sva_bound(&call, event, op, effects);
                } else {
                    self.sva_unbound(&call, event, effects);
                }
            }
        }
    }

    fn lost(&mut self, event: &Event, count: u64, effects: &mut Effects) {
        *self.counts.lost.entry(event.probe).or_default() += count;
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
