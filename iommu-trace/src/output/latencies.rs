//! Latencies of the stages of faults, and their percentiles.

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::model::span::{FaultSpan, Stage};

/// The stages that have latencies, in their order.
pub const STAGES: [Stage; 5] = [Stage::Lookup, Stage::DeviceId, Stage::Handler, Stage::Delivered, Stage::Response];

/// A fault's times from its report, in the order of [`STAGES`].
#[must_use]
pub fn stage_times(fault: &FaultSpan) -> [Option<u64>; STAGES.len()] {
    [fault.lookup_ns, fault.device_id_ns, fault.handler_ns, fault.delivered_ns, fault.response_ns]
}

/// Percentiles of one stage, nanoseconds from the report. Those but the maximum are as exact as a histogram of three
/// significant digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Faults that reached the stage.
    pub count: u64,
    /// Half of them were no slower.
    pub p50_ns: u64,
    /// Nine of ten were no slower.
    pub p90_ns: u64,
    /// 99 of 100 were no slower.
    pub p99_ns: u64,
    /// 999 of 1000 were no slower.
    pub p999_ns: u64,
    /// The slowest.
    pub max_ns: u64,
}

/// One stage's times.
#[derive(Clone, Debug)]
struct Times {
    histogram: Histogram<u64>,
    /// The histogram rounds; the slowest is kept as it was.
    max: u64,
}

/// A histogram for each stage; absent until something was measured.
#[derive(Clone, Debug, Default)]
pub struct Stages([Option<Times>; STAGES.len()]);

impl Stages {
    /// Takes a fault's times in.
    pub fn record(&mut self, fault: &FaultSpan) {
        for (times, ns) in self.0.iter_mut().zip(stage_times(fault)) {
            let Some(ns) = ns else { continue };
            if times.is_none() {
                // Fails only for more than five digits.
                *times = Histogram::new(3).ok().map(|histogram| Times { histogram, max: 0 });
            }
            if let Some(times) = times {
                times.max = times.max.max(ns);
                // It grows as needed; a time that it cannot grow to is counted as the largest it can tell.
                if times.histogram.record(ns).is_err() {
                    times.histogram.saturating_record(ns);
                }
            }
        }
    }

    /// The percentiles of each stage that was reached.
    #[must_use]
    pub fn percentiles(&self) -> Vec<(Stage, Percentiles)> {
        let of = |times: &Times| {
            // A bucket's upper end may lie above the largest value.
            let at = |quantile| times.histogram.value_at_quantile(quantile).min(times.max);
            Percentiles {
                count: times.histogram.len(),
                p50_ns: at(0.50),
                p90_ns: at(0.90),
                p99_ns: at(0.99),
                p999_ns: at(0.999),
                max_ns: times.max,
            }
        };
        STAGES.into_iter().zip(&self.0).filter_map(|(stage, times)| Some((stage, of(times.as_ref()?)))).collect()
    }
}

/// As one object, by the stages' names.
pub(super) fn by_stage<S: Serializer>(stages: &[(Stage, Percentiles)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(stages.len()))?;
    for (stage, percentiles) in stages {
        map.serialize_entry(stage.name(), percentiles)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_times() {
        let mut stages = Stages::default();
        for n in 1..=10_000 {
            stages.record(&FaultSpan { response_ns: Some(n * 10), ..FaultSpan::default() });
        }
        let [(Stage::Response, told)] = stages.percentiles()[..] else { panic!("{stages:?}") };
        let near = |got: u64, expected: u64| got.abs_diff(expected) * 1000 <= expected;
        assert_eq!((told.count, told.max_ns), (10_000, 100_000));
        assert!(near(told.p50_ns, 50_000) && near(told.p99_ns, 99_000) && near(told.p999_ns, 99_900), "{told:?}");
    }
}
