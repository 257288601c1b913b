//! What the caller may choose, and the one thing that the model cannot do itself: read a clock.

use std::{fmt, time::Duration};

use iommu_trace_common::ProbeId;

use super::rules::RuleSet;

/// Reads a clock in nanoseconds; only differences count. The model times its own look-ups with it.
pub type Clock = Box<dyn FnMut() -> u64 + Send>;

/// A set of probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProbeSet(u128);

impl ProbeSet {
    /// No probe.
    pub const NONE: ProbeSet = ProbeSet(0);

    /// The probes of a list.
    #[must_use]
    pub const fn of(probes: &[ProbeId]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < probes.len() {
            bits |= 1 << probes[at] as u16;
            at += 1;
        }
        ProbeSet(bits)
    }

    /// Whether `probe` is in it.
    #[must_use]
    pub const fn contains(self, probe: ProbeId) -> bool {
        self.0 & (1 << probe as u16) != 0
    }

    /// The probes of both.
    #[must_use]
    pub const fn union(self, other: ProbeSet) -> ProbeSet {
        ProbeSet(self.0 | other.0)
    }

    /// The probes that are in both.
    #[must_use]
    pub const fn intersection(self, other: ProbeSet) -> ProbeSet {
        ProbeSet(self.0 & other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Every probe in it, in numeric order.
    pub fn iter(self) -> impl Iterator<Item = ProbeId> {
        ProbeId::ALL.iter().copied().filter(move |&probe| self.contains(probe))
    }
}

impl FromIterator<ProbeId> for ProbeSet {
    fn from_iter<I: IntoIterator<Item = ProbeId>>(probes: I) -> Self {
        ProbeSet(probes.into_iter().fold(0, |bits, probe| bits | 1 << probe as u16))
    }
}

/// How the model is to work.
pub struct ModelOptions {
    /// Tell each stage of a fault as it happens, too.
    pub stages: bool,
    /// A page request without a response for this long is a violation.
    pub answer_timeout: Duration,
    /// Probes of functions that this kernel has and that are not attached: nothing is known of their calls.
    pub unseen: ProbeSet,
    /// Whether no slot was being changed when the trace began; else what the snapshot told is not certain for a while.
    pub settled: bool,
    /// Times the mirror's own look-ups; `None` leaves them untimed.
    pub clock: Option<Clock>,
    /// The rules that are judged: those of the merged design unless told otherwise.
    pub rules: RuleSet,
    /// Keep histograms of the stages of faults.
    pub latencies: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            stages: false,
            answer_timeout: Duration::from_secs(10),
            unseen: ProbeSet::NONE,
            settled: false,
            clock: None,
            rules: RuleSet::default(),
            latencies: true,
        }
    }
}

impl fmt::Debug for ModelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOptions")
            .field("stages", &self.stages)
            .field("answer_timeout", &self.answer_timeout)
            .field("unseen", &self.unseen)
            .field("settled", &self.settled)
            .field("clock", &self.clock.is_some())
            .field("rules", &self.rules)
            .field("latencies", &self.latencies)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_fits_a_set() {
        let all: ProbeSet = ProbeId::ALL.iter().copied().collect();
        assert_eq!(all.iter().count(), ProbeId::ALL.len());
        assert_eq!(all, ProbeSet::of(ProbeId::ALL));
    }
}
