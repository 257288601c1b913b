//! Latencies of faults: their percentiles, and how people read them.

use std::fmt::{self, Write as _};

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{Palette, palette::Painted, units::duration};
use crate::model::{Measure, span::FaultSpan};

/// Percentiles of one measure, nanoseconds. Those but the maximum are as exact as a histogram of three significant digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Faults in which it was measured.
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

impl Percentiles {
    /// Of a histogram whose largest value was `max`.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>, max: u64) -> Self {
        // A bucket's upper end may lie above the largest value.
        let at = |quantile| histogram.value_at_quantile(quantile).min(max);
        Percentiles {
            count: histogram.len(),
            p50_ns: at(0.50),
            p90_ns: at(0.90),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: max,
        }
    }
}

/// What of the percentiles people are told.
pub type Figure = (&'static str, fn(&Percentiles) -> u64);

/// All figures, the most usual first.
pub const FIGURES: [Figure; 5] = [
    ("p50", |of| of.p50_ns),
    ("p90", |of| of.p90_ns),
    ("p99", |of| of.p99_ns),
    ("p99.9", |of| of.p999_ns),
    ("max", |of| of.max_ns),
];

/// What people call a measure, below "from report to".
#[must_use]
pub fn stage_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Interrupt => "(its interrupt)",
        Measure::Delivered => "read",
        Measure::Response => "answer",
        other => other.name(),
    }
}

/// One measure's times.
#[derive(Clone, Debug)]
struct Times {
    histogram: Histogram<u64>,
    /// The histogram rounds; the slowest is kept as it was, to be found again among the faults.
    max: u64,
}

/// A histogram for each of [`Measure::OF_FAULTS`]; absent until something was measured.
#[derive(Clone, Debug, Default)]
pub struct Stages([Option<Times>; Measure::OF_FAULTS.len()]);

impl Stages {
    /// Takes a fault's times in.
    pub fn record(&mut self, fault: &FaultSpan) {
        for (times, measure) in self.0.iter_mut().zip(Measure::OF_FAULTS) {
            let Some(ns) = measure.of(fault) else { continue };
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

    /// The percentiles of what was measured, in order.
    #[must_use]
    pub fn percentiles(&self) -> Measured {
        let of = |times: &Times| Percentiles::of(&times.histogram, times.max);
        let all = Measure::OF_FAULTS.into_iter().zip(&self.0);
        Measured(all.filter_map(|(measure, times)| Some((measure, of(times.as_ref()?)))).collect())
    }
}

/// What was measured, in the order of [`Measure::OF_FAULTS`]. Its JSON form is one object, by the measures' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured(pub Vec<(Measure, Percentiles)>);

impl Measured {
    /// Of one measure, if it was measured.
    #[must_use]
    pub fn get(&self, measure: Measure) -> Option<&Percentiles> {
        self.0.iter().find(|(known, _)| *known == measure).map(|(_, of)| of)
    }

    /// A table, one line each; `counts` is the width of the counts, `caps` whether the heads are in capitals.
    pub(crate) fn write_text(&self, table: &Columns<'_>, palette: Palette, text: &mut String) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut heads = format!("  {:<15} {:>2$}", table.name, table.counted, table.width);
        for (name, _) in table.figures {
            write!(heads, " {:>10}", if table.capitals { name.to_uppercase() } else { (*name).to_owned() })?;
        }
        writeln!(text, "{}", Painted(palette.dim, heads))?;
        for (measure, of) in &self.0 {
            write!(text, "  {:<15} {:>2$}", stage_name(*measure), of.count, table.width)?;
            for (_, figure) in table.figures {
                write!(text, " {:>10}", duration(figure(of)))?;
            }
            writeln!(text)?;
        }
        Ok(())
    }
}

/// The columns of a table of latencies.
pub(crate) struct Columns<'a> {
    /// The head of the measures' names.
    pub name: &'a str,
    /// The head of the counts.
    pub counted: &'a str,
    /// How wide the counts are.
    pub width: usize,
    /// Whether the figures' names are in capitals.
    pub capitals: bool,
    /// Which figures.
    pub figures: &'a [Figure],
}

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (measure, percentiles) in &self.0 {
            map.serialize_entry(measure.name(), percentiles)?;
        }
        map.end()
    }
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
        let [(Measure::Response, told)] = stages.percentiles().0[..] else { panic!("{stages:?}") };
        let near = |got: u64, expected: u64| got.abs_diff(expected) * 1000 <= expected;
        assert_eq!((told.count, told.max_ns), (10_000, 100_000));
        assert!(near(told.p50_ns, 50_000) && near(told.p99_ns, 99_000) && near(told.p999_ns, 99_900), "{told:?}");
    }

    #[test]
    fn an_interrupt_is_told_apart_from_what_comes_after_the_report() {
        let mut stages = Stages::default();
        stages.record(&FaultSpan { interrupt_ns: Some(700), lookup_ns: Some(900), ..FaultSpan::default() });
        let measured = stages.percentiles();
        assert_eq!(serde_json::to_value(&measured).unwrap()["interrupt"]["max_ns"], 700);
        let mut text = String::new();
        let columns =
            Columns { name: "from report to", counted: "count", width: 7, capitals: false, figures: &FIGURES[..1] };
        measured.write_text(&columns, Palette::default(), &mut text).unwrap();
        assert_eq!(
            text,
            "  from report to    count        p50\n  (its interrupt)       1      0.7µs\n  lookup                1      0.9µs\n"
        );
    }
}
