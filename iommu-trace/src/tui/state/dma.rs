//! Map, unmap and invalidation: counts, sizes and durations, by domain and by IOMMU.

use std::collections::BTreeMap;

use iommu_trace_common::SUM_BOUNDS_NS;

use crate::{
    event::Ptr,
    model::span::{DmaSpan, Span, SpanKind, SumSpan, Summed},
};

use super::{
    bins::Bins,
    series::{Series, Window},
};

/// Domains, and kinds of invalidation, that are told apart; the others are one.
const MAX_ROWS: usize = 1 << 9;
/// Buckets of each row's history: a minute.
const ROW_BUCKETS: usize = 240;

/// Calls of one kind.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// How many.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Bytes mapped or unmapped, or descriptors of an invalidation.
    pub amount: u64,
    /// From entry to return.
    pub took: Bins,
}

impl Calls {
    fn sum(&mut self, sum: &SumSpan) {
        self.calls += sum.calls;
        self.failed += sum.failed;
        self.amount = self.amount.saturating_add(sum.bytes.or(sum.descriptors).unwrap_or(0));
        for (&calls, ns) in sum.within.iter().flat_map(|within| within.iter()).zip(bucket_ends()) {
            self.took.record_many(ns, calls);
        }
    }

    fn take(&mut self, failed: bool, amount: u64, ns: u64) {
        self.calls += 1;
        self.failed += u64::from(failed);
        self.amount = self.amount.saturating_add(amount);
        self.took.record(ns);
    }
}

/// What happened to a row in one bucket: first calls, second calls, amount.
pub type RowTick = (u32, u32, u64);

/// A domain, or a kind of invalidation of one IOMMU.
#[derive(Clone, Debug)]
pub struct Row {
    /// Maps of a domain; the invalidations of an IOMMU.
    pub maps: Calls,
    /// Unmaps of a domain.
    pub unmaps: Calls,
    /// Its last minute.
    pub history: Series<RowTick>,
    /// When the last call was.
    pub last: u64,
}

impl Default for Row {
    fn default() -> Self {
        Row { maps: Calls::default(), unmaps: Calls::default(), history: Series::new(ROW_BUCKETS), last: 0 }
    }
}

impl Row {
    /// What happened in a window, and in how many seconds: at most the last minute of it.
    #[must_use]
    pub fn recent(&self, window: Window) -> (RowTick, f64) {
        let window = Window { from: window.from.max(window.to.saturating_sub(ROW_BUCKETS as u64)), ..window };
        let sum = self
            .history
            .range(window.from, window.to)
            .fold((0, 0, 0), |sum: RowTick, tick| (sum.0 + tick.0, sum.1 + tick.1, sum.2.saturating_add(tick.2)));
        (sum, window.seconds())
    }
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Dma {
    /// By domain; `NULL` stands for those that found no room.
    pub domains: BTreeMap<Ptr, Row>,
    /// By IOMMU and kind; `NULL` and `other` stand for those that found no room.
    pub invalidations: BTreeMap<(Ptr, &'static str), Row>,
}

/// A duration for each bucket of a sum: its upper bound, and what is longer than all.
fn bucket_ends() -> impl Iterator<Item = u64> {
    SUM_BOUNDS_NS.into_iter().chain([SUM_BOUNDS_NS[SUM_BOUNDS_NS.len() - 1] * 2])
}

/// Whether a map or unmap failed. An unmap, and a scatter-gather map, return the bytes done.
fn failed(span: &DmaSpan) -> bool {
    span.ret < 0
}

impl Dma {
    /// Takes note of what was over at `now`.
    pub fn take(&mut self, now: u64, span: &Span) {
        match &span.kind {
            SpanKind::Map(map) | SpanKind::Unmap(map) => {
                let row = self.domain(map.domain);
                let is_map = matches!(span.kind, SpanKind::Map(_));
                let calls = if is_map { &mut row.maps } else { &mut row.unmaps };
                calls.take(failed(map), map.size, map.duration_ns);
                row.last = now;
                if let Some(tick) = row.history.at(now) {
                    tick.0 = tick.0.saturating_add(u32::from(is_map));
                    tick.1 = tick.1.saturating_add(u32::from(!is_map));
                    tick.2 = tick.2.saturating_add(map.size);
                }
            }
            SpanKind::Sum(sum) => self.sum(now, sum),
            SpanKind::Invalidate(invalidate) => {
                let row = self.invalidation((invalidate.iommu, invalidate.kind));
                row.maps.take(invalidate.ret < 0, u64::from(invalidate.count), invalidate.duration_ns);
                row.last = now;
                if let Some(tick) = row.history.at(now) {
                    tick.0 = tick.0.saturating_add(1);
                    tick.2 = tick.2.saturating_add(u64::from(invalidate.count));
                }
            }
            _ => {}
        }
    }

    fn sum(&mut self, now: u64, sum: &SumSpan) {
        let row = match sum.of {
            Summed::Map | Summed::Unmap => self.domain(sum.domain.unwrap_or(Ptr::NULL)),
            Summed::Invalidate => self.invalidation((sum.iommu.unwrap_or(Ptr::NULL), sum.kind.unwrap_or("other"))),
            // Above the invalidations, which are counted.
            Summed::Flush => return,
        };
        let calls = if sum.of == Summed::Unmap { &mut row.unmaps } else { &mut row.maps };
        calls.sum(sum);
        row.last = now;
        if let Some(tick) = row.history.at(now) {
            let count = u32::try_from(sum.calls).unwrap_or(u32::MAX);
            let place = if sum.of == Summed::Unmap { &mut tick.1 } else { &mut tick.0 };
            *place = place.saturating_add(count);
            tick.2 = tick.2.saturating_add(sum.bytes.or(sum.descriptors).unwrap_or(0));
        }
    }

    fn domain(&mut self, domain: Ptr) -> &mut Row {
        let known = self.domains.len() < MAX_ROWS || self.domains.contains_key(&domain);
        self.domains.entry(if known { domain } else { Ptr::NULL }).or_default()
    }

    fn invalidation(&mut self, key: (Ptr, &'static str)) -> &mut Row {
        let known = self.invalidations.len() < MAX_ROWS || self.invalidations.contains_key(&key);
        self.invalidations.entry(if known { key } else { (Ptr::NULL, "other") }).or_default()
    }
}
