//! Bounded logs: the last faults, changes, unrecoverable faults, and the rules that were broken.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    event::{Name, Ptr},
    model::{
        RuleId, Severity, Violation,
        span::{FaultSpan, Span, SpanKind},
    },
};

/// Faults that are over and remembered.
const MAX_FAULTS: usize = 1 << 13;
/// Changes that are remembered.
const MAX_CHANGES: usize = 1 << 12;
/// Unrecoverable faults that are remembered.
const MAX_DMA_FAULTS: usize = 1 << 9;
/// Different violations that are remembered; more are counted.
const MAX_BREACHES: usize = 1 << 9;

/// A span with the time at which it was over.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When it was over.
    pub end: u64,
    /// What it was.
    pub span: Span,
}

impl Told {
    /// The page fault that it is.
    #[must_use]
    pub fn fault(&self) -> Option<&FaultSpan> {
        match &self.span.kind {
            SpanKind::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

/// The last spans of some kinds.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// Page faults.
    pub faults: VecDeque<Told>,
    /// Attaches, replaces and detaches, failed ones as well.
    pub changes: VecDeque<Told>,
    /// Unrecoverable faults.
    pub dma_faults: VecDeque<Told>,
    /// The end of the oldest page fault that was forgotten.
    pub forgotten: Option<u64>,
}

fn keep(log: &mut VecDeque<Told>, room: usize, told: Told) -> Option<Told> {
    log.push_back(told);
    if log.len() > room { log.pop_front() } else { None }
}

impl Logs {
    /// Takes note of what was over at `now`.
    pub fn take(&mut self, now: u64, span: &Span) {
        let told = |end: u64| Told { end, span: span.clone() };
        match &span.kind {
            SpanKind::Fault(fault) => {
                let last = fault.freed_ns.or(fault.response_ns);
                let end = last.map_or(now, |ns| span.ts.saturating_add(ns));
                if let Some(old) = keep(&mut self.faults, MAX_FAULTS, told(end)) {
                    self.forgotten = self.forgotten.max(Some(old.end));
                }
            }
            SpanKind::Attach(change) | SpanKind::Replace(change) | SpanKind::Detach(change) => {
                keep(&mut self.changes, MAX_CHANGES, told(span.ts.saturating_add(change.duration_ns)));
            }
            SpanKind::DmaFault(_) => {
                keep(&mut self.dma_faults, MAX_DMA_FAULTS, told(span.ts));
            }
            _ => {}
        }
    }
}

/// What makes two violations the same thing: the rule, and what it is about.
type Same = (RuleId, Option<u32>, Option<Name>, Option<u32>, Option<Ptr>);

/// A rule that was broken about one thing, once or more.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    /// The first time.
    pub first: Violation,
    /// When it happened last.
    pub last: u64,
    /// How often.
    pub count: u64,
}

/// The rules that were broken.
#[derive(Clone, Debug, Default)]
pub struct Breaches {
    list: Vec<Breach>,
    places: BTreeMap<Same, usize>,
    /// Violations by severity: warnings, errors.
    pub warnings: u64,
    /// See `warnings`.
    pub errors: u64,
    /// Violations of things that found no room.
    pub left_out: u64,
}

impl Breaches {
    /// In the order in which they first happened.
    #[must_use]
    pub fn list(&self) -> &[Breach] {
        &self.list
    }

    /// Takes note of a violation. True if nothing like it was known.
    pub fn take(&mut self, violation: &Violation) -> bool {
        match violation.severity {
            Severity::Warning => self.warnings += 1,
            Severity::Error => self.errors += 1,
        }
        let subject = &violation.subject;
        let same = (violation.rule, subject.group, subject.device, subject.pasid, subject.handle);
        if let Some(known) = self.places.get(&same).and_then(|&at| self.list.get_mut(at)) {
            known.last = known.last.max(violation.ts);
            known.count += 1;
            return false;
        }
        if self.list.len() >= MAX_BREACHES {
            self.left_out += 1;
            return false;
        }
        self.places.insert(same, self.list.len());
        self.list.push(Breach { first: violation.clone(), last: violation.ts, count: 1 });
        true
    }
}
