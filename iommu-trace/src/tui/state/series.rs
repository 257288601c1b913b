//! Histories: a ring of buckets of equal time.

use std::collections::VecDeque;

use crate::model::SpanCounts;

use super::bins::StageBins;

/// Time that a bucket stands for.
pub const BUCKET_NS: u64 = 250_000_000;
/// Buckets that are kept: a quarter of an hour.
pub const BUCKETS: usize = 3600;

/// The bucket that a time falls into. Counted from before the clock began, so that a window can reach back past that.
#[must_use]
pub fn bucket(ts: u64) -> u64 {
    ts / BUCKET_NS + BUCKETS as u64
}

/// Buckets by their number; those never written are zero between the first and the last that were.
#[derive(Clone, Debug)]
pub struct Series<T> {
    buckets: VecDeque<T>,
    first: u64,
    room: usize,
}

impl<T: Default> Series<T> {
    /// Room for so many buckets.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Series { buckets: VecDeque::new(), first: 0, room: room.max(1) }
    }

    /// The bucket of a time, to be written; `None` for a time that is too long ago.
    pub fn at(&mut self, ts: u64) -> Option<&mut T> {
        let wanted = bucket(ts);
        let end = self.first.saturating_add(self.buckets.len() as u64);
        if self.buckets.is_empty() || wanted >= end.saturating_add(self.room as u64) {
            self.buckets.clear();
            self.first = wanted;
            self.buckets.push_back(T::default());
        }
        let index = usize::try_from(wanted.checked_sub(self.first)?).ok()?;
        while self.buckets.len() <= index {
            self.buckets.push_back(T::default());
        }
        let surplus = self.buckets.len().saturating_sub(self.room);
        self.buckets.drain(..surplus);
        self.first += surplus as u64;
        self.buckets.get_mut(index - surplus)
    }

    /// A bucket by its number.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&T> {
        self.buckets.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The buckets with numbers from `from` to before `to` that are kept.
    pub fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &T> {
        let place = |number: u64| {
            usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.buckets.len())
        };
        let (from, to) = (place(from), place(to));
        self.buckets.range(from..to.max(from))
    }
}

/// What happened in one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Spans told, by kind.
    pub kinds: SpanCounts,
    /// Events applied.
    pub events: u32,
    /// Records lost.
    pub lost: u64,
    /// Rules broken.
    pub violations: u32,
}

impl Tick {
    /// Adds another's numbers.
    pub fn add(&mut self, other: &Tick) {
        self.kinds.add(&other.kinds);
        self.events = self.events.saturating_add(other.events);
        self.lost = self.lost.saturating_add(other.lost);
        self.violations = self.violations.saturating_add(other.violations);
    }
}

/// A stretch of time, in whole buckets: what a view shows of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first bucket.
    pub from: u64,
    /// The one after its last.
    pub to: u64,
    /// The first bucket of which anything is known.
    pub began: u64,
    /// The last bucket of which anything is known.
    pub known: u64,
}

impl Window {
    /// Seconds in it of which anything is known.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        let (from, to) = (self.from.max(self.began), self.to.min(self.known.saturating_add(1)));
        to.saturating_sub(from) as f64 * (BUCKET_NS as f64 / 1e9)
    }

    /// The stretch of buckets of each of `columns` columns, the newest last; `None` where nothing is known.
    pub fn columns(self, columns: usize) -> impl Iterator<Item = Option<(u64, u64)>> {
        let (span, count) = (self.to.saturating_sub(self.from).max(1), columns.max(1) as u64);
        (0..count).map(move |column| {
            let from = self.from.saturating_add(span.saturating_mul(column) / count);
            let to = self.from.saturating_add(span.saturating_mul(column + 1) / count).max(from + 1);
            (to > self.began && from <= self.known).then_some((from, to))
        })
    }
}

/// The sum of a history over each column of a window; `None` where nothing is known, which is not zero.
pub fn columns<T: Default, U: Default>(
    series: &Series<T>,
    window: Window,
    columns: usize,
    mut add: impl FnMut(&mut U, &T),
) -> Vec<Option<U>> {
    window
        .columns(columns)
        .map(|column| {
            column.map(|(from, to)| {
                let mut sum = U::default();
                series.range(from, to).for_each(|tick| add(&mut sum, tick));
                sum
            })
        })
        .collect()
}

/// Latencies of each stage over time.
pub type StageSeries = Series<StageBins>;

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: u64 = BUCKETS as u64;

    fn filled(room: usize, buckets: &[u64]) -> Series<u32> {
        let mut series = Series::new(room);
        for bucket in buckets {
            if let Some(value) = series.at(bucket * BUCKET_NS) {
                *value += 1;
            }
        }
        series
    }

    #[test]
    fn a_ring_keeps_the_newest_buckets_and_fills_the_gaps_with_zero() {
        let series = filled(4, &[10, 10, 12, 15]);
        assert_eq!(
            [9, 10, 11, 12, 13, 14, 15, 16].map(|n| series.get(ZERO + n).copied()),
            [None, None, None, Some(1), Some(0), Some(0), Some(1), None]
        );
    }

    #[test]
    fn time_that_runs_back_or_leaps_is_survived() {
        let series = filled(4, &[100, 3, u64::MAX / BUCKET_NS, 5]);
        assert_eq!(series.range(0, u64::MAX).count(), 1);
        assert_eq!(filled(3600, &[0, 3600, 3601]).range(0, u64::MAX).count(), 3600);
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let series = filled(100, &[10, 11, 13]);
        let window = Window { from: ZERO + 8, to: ZERO + 16, began: ZERO + 10, known: ZERO + 13 };
        let sums: Vec<Option<u32>> = columns(&series, window, 8, |sum, tick| *sum += tick);
        assert_eq!(sums, [None, None, Some(1), Some(1), Some(0), Some(1), None, None]);
        assert!((window.seconds() - 1.0).abs() < 1e-9);
        let wide: Vec<Option<u32>> = columns(&series, window, 4, |sum, tick| *sum += tick);
        assert_eq!(wide, [None, Some(2), Some(1), None]);
        assert_eq!(columns::<u32, u32>(&series, window, 0, |_, _| ()).len(), 1);
    }
}
