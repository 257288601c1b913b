//! Small histograms of durations: many of them are kept, one for each bucket of time and each stage.

use crate::model::{Measure, span::FaultSpan};

/// Steps in a doubling: a bin is 19 % wide, and its middle at most 9 % off.
const STEPS: u32 = 4;
/// What is below this is in the first bin.
const LEAST: u32 = 6;
/// The last bin: from some 73 minutes on.
const LAST: u8 = (36 * STEPS) as u8;

/// How many bins there are.
pub const BINS: usize = LAST as usize + 1;

/// A histogram that holds only the bins that are used, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bins(Vec<(u8, u32)>);

/// The bin of a duration in nanoseconds.
#[must_use]
pub fn bin(ns: u64) -> u8 {
    let Some(log) = ns.checked_ilog2().filter(|&log| log >= LEAST) else { return 0 };
    let step = (ns >> (log - 2)) as u32 & (STEPS - 1);
    ((log - LEAST) * STEPS + step + 1).min(u32::from(LAST)) as u8
}

/// The least duration in a bin.
#[must_use]
pub fn least(bin: u8) -> u64 {
    let Some(place) = u32::from(bin).checked_sub(1) else { return 0 };
    u64::from(STEPS + place % STEPS) << (LEAST - 2 + place / STEPS)
}

/// The duration that stands for all in a bin.
fn middle(bin: u8) -> u64 {
    if bin >= LAST { least(LAST) } else { least(bin).midpoint(least(bin + 1)) }
}

impl Bins {
    /// One more of this duration.
    pub fn record(&mut self, ns: u64) {
        self.put(bin(ns), 1);
    }

    /// So many more of this duration.
    pub fn record_many(&mut self, ns: u64, count: u32) {
        if count > 0 {
            self.put(bin(ns), count);
        }
    }

    fn put(&mut self, bin: u8, count: u32) {
        match self.0.binary_search_by_key(&bin, |&(known, _)| known) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(count),
            Err(at) => self.0.insert(at, (bin, count)),
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Bins) {
        for &(bin, count) in &other.0 {
            self.put(bin, count);
        }
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&(_, count)| u64::from(count)).sum()
    }

    /// The duration that `share` of them do not exceed, as near as a bin is wide; `None` when there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut so_far = 0;
        self.0.iter().find_map(|&(bin, count)| {
            so_far += u64::from(count);
            (so_far >= wanted).then(|| middle(bin))
        })
    }

    /// The longest, as near as a bin is wide.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.0.last().map(|&(bin, _)| middle(bin))
    }

    /// The bins that are used, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, u32)> {
        self.0.iter().copied()
    }

    /// The first and last bin that is used.
    #[must_use]
    pub fn ends(&self) -> Option<(u8, u8)> {
        Some((self.0.first()?.0, self.0.last()?.0))
    }
}

/// What is measured of a fault: its stages in their order, then what few machines have.
pub const STAGES: [Measure; 6] =
    [Measure::Lookup, Measure::DeviceId, Measure::Handler, Measure::Delivered, Measure::Response, Measure::Interrupt];

/// One histogram for each stage.
#[derive(Clone, Debug, Default)]
pub struct StageBins(pub [Bins; STAGES.len()]);

impl StageBins {
    /// Takes note of a fault.
    pub fn record(&mut self, fault: &FaultSpan) {
        for (bins, measure) in self.0.iter_mut().zip(STAGES) {
            if let Some(ns) = measure.of(fault) {
                bins.record(ns);
            }
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &StageBins) {
        for (bins, more) in self.0.iter_mut().zip(&other.0) {
            bins.add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_follow_one_another_and_a_duration_is_in_its_own() {
        for bin_number in 1..LAST {
            assert!(least(bin_number) < least(bin_number + 1), "{bin_number}");
            assert_eq!(bin(least(bin_number)), bin_number);
            assert_eq!(bin(least(bin_number + 1) - 1), bin_number);
        }
        assert_eq!([bin(0), bin(63), bin(64), bin(u64::MAX)], [0, 0, 1, LAST]);
    }

    #[test]
    fn a_quantile_is_within_a_tenth() {
        let mut bins = Bins::default();
        assert_eq!((bins.quantile(0.5), bins.max(), bins.count()), (None, None, 0));
        for n in 1..=1000 {
            bins.record(n * 1000);
        }
        for share in [0.01, 0.5, 0.99, 1.0] {
            let (told, exact) = (bins.quantile(share).unwrap() as f64, share * 1_000_000.0);
            assert!((told / exact - 1.0).abs() < 0.1, "{share}: {told}");
        }
        let mut twice = bins.clone();
        twice.add(&bins);
        assert_eq!((twice.count(), twice.quantile(0.5)), (2000, bins.quantile(0.5)));
    }
}
