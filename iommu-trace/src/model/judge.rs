//! From a breach that a rule found to a violation: what is uncertain is counted instead of told.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{
    Model, ModelOptions, ProbeSet,
    effects::Effects,
    rules::{RuleId, RuleSet},
    violation::{Evidence, Severity, Subject, Violation},
};
use crate::event::{Event, ProbeId};

/// Why something could not be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Doubt {
    /// Records of this probe were lost.
    Lost(ProbeId),
    /// This probe is not attached.
    Unseen(ProbeId),
    /// What it is about began before the trace.
    Beginning,
    /// Calls on one object ran at once, and their order is not known.
    Overlap,
    /// A table was full.
    Forgotten,
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Doubt::Lost(probe) => write!(f, "records of {} were lost", probe.function()),
            Doubt::Unseen(probe) => write!(f, "{} is not probed", probe.function()),
            Doubt::Beginning => f.write_str("it began before the trace"),
            Doubt::Overlap => f.write_str("calls on it overlapped"),
            Doubt::Forgotten => f.write_str("a table was full"),
        }
    }
}

impl Serialize for Doubt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A rule that was broken, if what it rests on is certain.
#[derive(Clone, Debug)]
pub(super) struct Breach {
    pub rule: RuleId,
    /// Another severity than the rule's.
    pub severity: Option<Severity>,
    pub message: String,
    pub subject: Subject,
    pub evidence: Vec<Evidence>,
    /// Since when everything that it rests on must have been seen.
    pub known_since: u64,
    /// Why it cannot be judged, whatever was seen since.
    pub doubt: Option<Doubt>,
}

impl Breach {
    pub fn new(rule: RuleId, known_since: u64, message: String, subject: Subject) -> Self {
        Breach { rule, severity: None, message, subject, evidence: Vec::new(), known_since, doubt: None }
    }

    /// With the events that prove it; those that are not known are left out.
    pub fn proven_by(mut self, evidence: impl IntoIterator<Item = Option<Evidence>>) -> Self {
        self.evidence.extend(evidence.into_iter().flatten());
        self
    }

    pub fn unless(mut self, doubt: Option<Doubt>) -> Self {
        self.doubt = self.doubt.or(doubt);
        self
    }

    pub fn with(mut self, severity: Severity) -> Self {
        self.severity = Some(severity);
        self
    }
}

/// What was judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgements {
    /// Violations, by rule.
    pub violations: BTreeMap<RuleId, u64>,
    /// What looked like a violation and could not be judged, by rule and reason.
    pub unjudged: BTreeMap<(RuleId, Doubt), u64>,
}

/// Until when nothing is certain.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    until: [u64; ProbeId::ALL.len()],
    lossy: ProbeSet,
    unseen: ProbeSet,
    forgotten: Option<u64>,
}

impl Losses {
    pub fn new(unseen: ProbeSet) -> Self {
        Losses { until: [0; ProbeId::ALL.len()], lossy: ProbeSet::NONE, unseen, forgotten: None }
    }

    /// Records of a probe were lost, some time until `until`.
    pub fn lost(&mut self, probe: ProbeId, until: u64) {
        self.lossy = self.lossy.union(ProbeSet::of(&[probe]));
        let known = &mut self.until[probe as usize];
        *known = until.max(*known);
    }

    /// Something was forgotten: nothing older than `until` is certain.
    pub fn forgot(&mut self, until: u64) {
        self.forgotten = self.forgotten.max(Some(until));
    }

    /// Why what needs these probes is not certain, though it has been watched from `since` on.
    pub fn doubt(&self, needs: ProbeSet, since: u64) -> Option<Doubt> {
        if let Some(probe) = needs.intersection(self.unseen).iter().next() {
            return Some(Doubt::Unseen(probe));
        }
        if self.forgotten.is_some_and(|until| until >= since) {
            return Some(Doubt::Forgotten);
        }
        let lossy = needs.intersection(self.lossy);
        if lossy.is_empty() {
            return None;
        }
        lossy.iter().find(|&probe| self.until[probe as usize] >= since).map(Doubt::Lost)
    }
}

/// The judge: which rules count, and what came of them.
#[derive(Debug)]
pub(super) struct Judge {
    rules: RuleSet,
    pub losses: Losses,
    pub judgements: Judgements,
    /// The last piece of the snapshot.
    pub snapshot: u64,
    /// Until when calls may be running that were entered before the trace.
    pub settled: u64,
    /// None of them changes a slot.
    slots_settled: bool,
}

impl Judge {
    pub fn new(options: &ModelOptions) -> Self {
        Judge {
            rules: options.rules,
            losses: Losses::new(options.unseen),
            judgements: Judgements::default(),
            snapshot: 0,
            settled: 0,
            slots_settled: options.settled,
        }
    }

    pub fn wants(&self, rule: RuleId) -> bool {
        self.rules.contains(rule)
    }

    fn consider(&mut self, breach: Breach, event: Option<&Event>, now: u64, effects: &mut Effects) -> bool {
        let rule = breach.rule.rule();
        if !self.rules.contains(breach.rule) {
            return false;
        }
        let ts = event.map_or(now, |event| event.ts);
        // What the snapshot told may be changed by a call that was entered before the trace.
        let unsettled = !self.slots_settled && ts < self.settled && breach.known_since <= self.snapshot;
        let unsettled = unsettled.then_some(Doubt::Beginning);
        let doubt = breach.doubt.or_else(|| self.losses.doubt(rule.needs, breach.known_since)).or(unsettled);
        if let Some(doubt) = doubt {
            *self.judgements.unjudged.entry((breach.rule, doubt)).or_default() += 1;
            return false;
        }
        *self.judgements.violations.entry(breach.rule).or_default() += 1;
        let mut evidence = breach.evidence;
        evidence.sort_by_key(|piece| piece.ts);
        evidence.dedup();
        let task = event.map(|event| event.task).or(evidence.last().map(|last| last.task)).unwrap_or_default();
        effects.violations.push(Violation {
            ts,
            rule: breach.rule,
            severity: breach.severity.unwrap_or(rule.severity),
            message: breach.message,
            subject: breach.subject,
            evidence,
            task,
        });
        true
    }
}

impl Model {
    /// Tells a breach, if it is certain and asked for.
    pub(super) fn judge(&mut self, breach: impl Into<Option<Breach>>, event: &Event, effects: &mut Effects) -> bool {
        breach.into().is_some_and(|breach| self.judge.consider(breach, Some(event), event.ts, effects))
    }

    /// Tells a breach that showed because nothing happened.
    pub(super) fn judge_late(&mut self, breach: impl Into<Option<Breach>>, now: u64, effects: &mut Effects) -> bool {
        breach.into().is_some_and(|breach| self.judge.consider(breach, None, now, effects))
    }

    /// Something found no room: nothing before `now` is certain any more.
    pub(super) fn forget(&mut self, now: u64) {
        self.counts.forgotten += 1;
        self.judge.losses.forgot(now);
    }
}

impl Evidence {
    /// An event, as a piece of evidence.
    #[must_use]
    pub fn of(event: &Event, what: &'static str) -> Self {
        Evidence { ts: event.ts, what, probe: event.probe, phase: event.phase, task: event.task, stack: event.stack }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_after_the_loss_was_read_is_certain() {
        let mut losses = Losses::new(ProbeSet::NONE);
        let needs = ProbeSet::of(&[ProbeId::AttachGroup, ProbeId::DetachGroup]);
        losses.lost(ProbeId::DetachGroup, 100);
        losses.lost(ProbeId::Map, 500);
        assert_eq!(losses.doubt(needs, 100), Some(Doubt::Lost(ProbeId::DetachGroup)));
        assert_eq!(losses.doubt(needs, 101), None);
    }

    #[test]
    fn a_probe_that_is_not_attached_makes_everything_uncertain_that_needs_it() {
        let losses = Losses::new(ProbeSet::of(&[ProbeId::GroupFree]));
        assert_eq!(
            losses.doubt(ProbeSet::of(&[ProbeId::GroupFree]), u64::MAX),
            Some(Doubt::Unseen(ProbeId::GroupFree))
        );
        assert_eq!(losses.doubt(ProbeSet::of(&[ProbeId::Map]), 0), None);
    }
}
