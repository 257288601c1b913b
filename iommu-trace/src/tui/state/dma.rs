//! Map, unmap and invalidation: counts, sizes and durations, by domain and by IOMMU.

use std::collections::BTreeMap;

use crate::{
    event::Ptr,
    model::span::{DmaSpan, Span, SpanKind},
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

/// Whether a map or unmap failed. An unmap, and a scatter-gather map, return the bytes done.
fn failed(span: &DmaSpan) -> bool {
    span.ret < 0
}

impl Dma {
    /// Takes note of what was over at `now`.
    pub fn take(&mut self, now: u64, span: &Span) {
        match &span.kind {
            SpanKind::Map(map) | SpanKind::Unmap(map) => {
                let known = self.domains.len() < MAX_ROWS || self.domains.contains_key(&map.domain);
                let row = self.domains.entry(if known { map.domain } else { Ptr::NULL }).or_default();
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
            SpanKind::Invalidate(invalidate) => {
                let key = (invalidate.iommu, invalidate.kind);
                let known = self.invalidations.len() < MAX_ROWS || self.invalidations.contains_key(&key);
                let row = self.invalidations.entry(if known { key } else { (Ptr::NULL, "other") }).or_default();
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
}
