//! How long the stages of faults take, in HDR histograms: overall, by device, and by device and PASID.

use hdrhistogram::Histogram;

use super::{span::FaultSpan, table::Map};
use crate::event::Name;

/// Devices, and devices with PASIDs, that have histograms of their own; the rest share one set, "other".
const MAX_KEYS: usize = 256;
/// Beyond an hour a latency is an hour.
const MAX_NS: u64 = 3_600_000_000_000;

/// What is measured, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// The interrupt's thread beginning its work to the report.
    Interrupt,
    /// Report to handle.
    Lookup,
    /// Report to the device id being known in the kernel.
    DeviceId,
    /// Report to the handler being entered.
    Handler,
    /// Report to user space holding the id.
    Delivered,
    /// Report to the response.
    Response,
    /// The mirror's own look-up of (group, PASID), timed by the caller's clock.
    Mirror,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Measure; 7] = [
        Measure::Interrupt,
        Measure::Lookup,
        Measure::DeviceId,
        Measure::Handler,
        Measure::Delivered,
        Measure::Response,
        Measure::Mirror,
    ];

    /// Those of a fault, in the order of time.
    pub const OF_FAULTS: [Measure; 6] = [
        Measure::Interrupt,
        Measure::Lookup,
        Measure::DeviceId,
        Measure::Handler,
        Measure::Delivered,
        Measure::Response,
    ];

    /// Those that begin at the report.
    pub const FROM_REPORT: [Measure; 5] =
        [Measure::Lookup, Measure::DeviceId, Measure::Handler, Measure::Delivered, Measure::Response];

    /// In a fault, if it was measured there.
    #[must_use]
    pub fn of(self, fault: &FaultSpan) -> Option<u64> {
        match self {
            Measure::Interrupt => fault.interrupt_ns,
            Measure::Lookup => fault.lookup_ns,
            Measure::DeviceId => fault.device_id_ns,
            Measure::Handler => fault.handler_ns,
            Measure::Delivered => fault.delivered_ns,
            Measure::Response => fault.response_ns,
            Measure::Mirror => None,
        }
    }

    /// Its public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Measure::Interrupt => "interrupt",
            Measure::Lookup => "lookup",
            Measure::DeviceId => "device_id",
            Measure::Handler => "handler",
            Measure::Delivered => "delivered",
            Measure::Response => "response",
            Measure::Mirror => "mirror",
        }
    }
}

/// Whose faults a set of histograms is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LatencyKey {
    /// The group's number.
    pub group: Option<u32>,
    /// The device.
    pub device: Name,
    /// Faults of this PASID alone, 0 for requests by RID; `None` for the device as a whole.
    pub pasid: Option<u32>,
}

/// One histogram for each measure; absent until something was measured.
#[derive(Clone, Debug, Default)]
pub struct LatencySet([Option<Histogram<u64>>; Measure::ALL.len()]);

impl LatencySet {
    /// The histogram of a measure, `None` when nothing was measured.
    #[must_use]
    pub fn get(&self, measure: Measure) -> Option<&Histogram<u64>> {
        self.0[measure as usize].as_ref()
    }

    fn record(&mut self, measure: Measure, ns: u64, digits: u8) {
        let histogram = self.0[measure as usize].get_or_insert_with(|| {
            // Two or three digits are what the library takes; there is nothing else that can fail.
            let mut histogram = Histogram::new(digits).unwrap_or_else(|_| unreachable!("digits out of range"));
            histogram.auto(true);
            histogram
        });
        // Bounded by an hour, it always fits.
        let _ = histogram.record(ns.min(MAX_NS));
    }
}

/// Where a fault's latencies go besides the overall histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LatencySlots {
    device: u32,
    pasid: u32,
}

/// All latencies, bounded in number.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// Whether the stages of faults are kept.
    kept: bool,
    overall: LatencySet,
    keys: Map<LatencyKey, u32>,
    /// The first is "other".
    sets: Vec<(Option<LatencyKey>, LatencySet)>,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies::new(true)
    }
}

impl Latencies {
    /// Nothing yet; of the stages of faults nothing will come, either, unless they are `kept`.
    pub(super) fn new(kept: bool) -> Self {
        let (overall, keys) = (LatencySet::default(), Map::default());
        Latencies { kept, overall, keys, sets: vec![(None, LatencySet::default())] }
    }

    /// Every fault.
    #[must_use]
    pub fn overall(&self) -> &LatencySet {
        &self.overall
    }

    /// By device, and by device and PASID, in the order they were first seen.
    pub fn sets(&self) -> impl Iterator<Item = (&LatencyKey, &LatencySet)> {
        self.sets.iter().filter_map(|(key, set)| key.as_ref().map(|key| (key, set)))
    }

    /// What found no room of its own.
    #[must_use]
    pub fn other(&self) -> &LatencySet {
        &self.sets[0].1
    }

    pub(super) fn slots(&mut self, group: Option<u32>, device: Name, pasid: u32) -> LatencySlots {
        if !self.kept {
            return LatencySlots::default();
        }
        let device_key = LatencyKey { group, device, pasid: None };
        LatencySlots {
            device: self.slot(device_key),
            pasid: self.slot(LatencyKey { pasid: Some(pasid), ..device_key }),
        }
    }

    fn slot(&mut self, key: LatencyKey) -> u32 {
        if let Some(&slot) = self.keys.get(&key) {
            return slot;
        }
        if self.sets.len() > MAX_KEYS {
            return 0;
        }
        let slot = self.sets.len() as u32;
        self.sets.push((Some(key), LatencySet::default()));
        self.keys.insert(key, slot);
        slot
    }

    pub(super) fn record(&mut self, slots: LatencySlots, measure: Measure, ns: u64) {
        if !self.kept {
            return;
        }
        self.overall.record(measure, ns, 3);
        self.sets[slots.device as usize].1.record(measure, ns, 2);
        if slots.pasid != slots.device {
            self.sets[slots.pasid as usize].1.record(measure, ns, 2);
        }
    }

    pub(super) fn record_overall(&mut self, measure: Measure, ns: u64) {
        self.overall.record(measure, ns, 3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_past_the_limit_share_one_set() {
        let mut latencies = Latencies::default();
        for device in 0..1000 {
            let slots = latencies.slots(Some(device), Name::new(&format!("device{device}")), 0);
            latencies.record(slots, Measure::Lookup, u64::from(device));
        }
        assert_eq!(latencies.sets().count(), MAX_KEYS);
        let all: u64 = latencies.overall().get(Measure::Lookup).map_or(0, Histogram::len);
        let other: u64 = latencies.other().get(Measure::Lookup).map_or(0, Histogram::len);
        assert_eq!(all, 1000);
        assert_eq!(other, 1000 - MAX_KEYS as u64 / 2);
    }

    #[test]
    fn an_absurd_latency_is_an_hour() {
        let mut latencies = Latencies::default();
        latencies.record_overall(Measure::Response, u64::MAX);
        let max = latencies.overall().get(Measure::Response).map_or(0, Histogram::max);
        assert!((MAX_NS..MAX_NS + MAX_NS / 500).contains(&max));
    }
}
