//! Statistics as people read them: at most 100 columns, the figures first.

use std::fmt::{self, Write as _};

use super::{Comparison, DeviceStats, SlowFault, StatsDocument};
use crate::{
    model::Measure,
    output::{Columns, FIGURES, Painted, Palette, Percentiles, duration, stage_name, stretched},
};

/// Rows of a table that fit a screen; JSON has all.
const ROWS: usize = 12;

fn rate(rate: f64) -> String {
    match rate {
        0.0..10.0 => format!("{rate:.2}/s"),
        10.0..10_000.0 => format!("{rate:.0}/s"),
        _ => format!("{:.1}k/s", rate / 1e3),
    }
}

fn pasid_name(pasid: Option<u32>) -> String {
    match pasid {
        None => String::new(),
        Some(0) => "rid".to_owned(),
        Some(pasid) => pasid.to_string(),
    }
}

impl StatsDocument {
    /// One screen.
    pub fn write_text(&self, palette: Palette, text: &mut String) -> fmt::Result {
        let title = format!("Linux {} {} on {}: {}", self.kernel, self.machine, self.host, duration(self.duration_ns));
        writeln!(text, "{} from {}", Painted(palette.strong, title), self.started)?;
        if let Some(told) = stretched(&self.stretched) {
            writeln!(text, "  {}", Painted(palette.warn, told))?;
        }
        let events: u64 = self.events.iter().filter(|(name, _)| **name != "lost").map(|(_, of)| of.count).sum();
        let filtered = match self.filtered {
            0 => String::new(),
            filtered => format!(", {filtered} left out by the filters"),
        };
        writeln!(text, "  events    {events} from {} records of the probes{filtered}", self.records)?;
        let mut line = String::new();
        for (name, of) in self.events.iter().filter(|(name, _)| **name != "lost") {
            let told = format!("{name} {} ({})", of.count, rate(of.rate));
            if line.len() + told.len() > 85 {
                writeln!(text, "            {line}")?;
                line.clear();
            }
            if !line.is_empty() {
                line.push_str(", ");
            }
            line.push_str(&told);
        }
        if !line.is_empty() {
            writeln!(text, "            {line}")?;
        }
        self.write_answers(palette, text)?;
        self.write_latencies(palette, text)?;
        write_rows("DEVICE", &self.devices, palette, text)?;
        if self.pasids.iter().any(|row| row.pasid != Some(0)) {
            write_rows("DEVICE AND PASID", &self.pasids, palette, text)?;
        }
        self.write_slowest(palette, text)?;
        self.write_end(palette, text)
    }

    fn write_answers(&self, palette: Palette, text: &mut String) -> fmt::Result {
        let faults = &self.faults;
        let counts = [
            (faults.success, "success", palette.good),
            (faults.invalid, "invalid", palette.warn),
            (faults.failure, "failure", palette.bad),
            (faults.other, "other", palette.bad),
            (faults.none, "no answer", palette.bad),
            (faults.outstanding, "outstanding", palette.warn),
            (faults.partial, "partial", palette.dim),
        ];
        let told: Vec<String> = counts
            .iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, name, style)| Painted(*style, format!("{name} {count}")).to_string())
            .collect();
        if told.is_empty() {
            writeln!(text, "  faults    none")
        } else {
            writeln!(text, "  faults    {}", told.join(", "))
        }
    }

    fn write_latencies(&self, palette: Palette, text: &mut String) -> fmt::Result {
        if self.latencies.0.is_empty() {
            return Ok(());
        }
        writeln!(text)?;
        let columns =
            Columns { name: "FROM REPORT TO", counted: "FAULTS", width: 9, capitals: true, figures: &FIGURES };
        self.latencies.write_text(&columns, palette, text)
    }

    fn write_slowest(&self, palette: Palette, text: &mut String) -> fmt::Result {
        if self.slowest.is_empty() {
            return Ok(());
        }
        let heads = format!(
            "\n  {:<14} {:>6} {:<18} {:>9} {:>9} {:>9} {:>9}  {}",
            "SLOWEST FAULTS", "PASID", "ADDRESS", "LOOKUP", "HANDLER", "READ", "ANSWER", "RESPONSE"
        );
        writeln!(text, "{}", Painted(palette.dim, heads))?;
        self.slowest.iter().try_for_each(|slow| write_slow(slow, text))
    }

    fn write_end(&self, palette: Palette, text: &mut String) -> fmt::Result {
        writeln!(text)?;
        if self.violations.is_empty() {
            writeln!(text, "  violations {}", Painted(palette.good, "none"))?;
        } else {
            let told: Vec<String> = self.violations.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
            writeln!(text, "  violations {}", Painted(palette.bad, told.join(", ")))?;
        }
        if self.lost.is_empty() {
            return writeln!(text, "  lost       none");
        }
        let told: Vec<String> = self.lost.iter().map(|lost| format!("{} {}", lost.probe, lost.count)).collect();
        writeln!(text, "  lost       {}", Painted(palette.bad, told.join(", ")))
    }
}

fn write_slow(slow: &SlowFault, text: &mut String) -> fmt::Result {
    let fault = &slow.fault;
    let [lookup, handler, read, answer] = [Measure::Lookup, Measure::Handler, Measure::Delivered, Measure::Response]
        .map(|measure| measure.of(fault).map_or_else(|| "-".to_owned(), duration));
    let response = fault.response.0.map_or_else(|| "none".to_owned(), |code| code.to_string());
    writeln!(
        text,
        "  {:<14} {:>6} {:<18} {lookup:>9} {handler:>9} {read:>9} {answer:>9}  {response}",
        fault.device.to_string(),
        pasid_name(Some(super::pasid(fault))),
        format!("{:#x}", fault.addr),
    )
}

fn write_rows(head: &str, rows: &[DeviceStats], palette: Palette, text: &mut String) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let heads = format!(
        "\n  {head:<24} {:>9} {:>9} {:>10} {:>10} {:>10} {:>10}",
        "FAULTS", "RATE", "LOOKUP P99", "ANSWER P50", "P99", "MAX"
    );
    writeln!(text, "{}", Painted(palette.dim, heads))?;
    for row in rows.iter().take(ROWS) {
        let told = |of: Option<&Percentiles>, figure: fn(&Percentiles) -> u64| {
            of.map_or_else(|| "-".to_owned(), |of| duration(figure(of)))
        };
        let (lookup, answer) = (row.latencies.get(Measure::Lookup), row.latencies.get(Measure::Response));
        let name = if row.device.is_empty() { "(all others)".to_owned() } else { row.device.to_string() };
        writeln!(
            text,
            "  {:<24} {:>9} {:>9} {:>10} {:>10} {:>10} {:>10}",
            format!("{name} {}", pasid_name(row.pasid)).trim_end(),
            row.faults.count,
            rate(row.faults.rate),
            told(lookup, |of| of.p99_ns),
            told(answer, |of| of.p50_ns),
            told(answer, |of| of.p99_ns),
            told(answer, |of| of.max_ns),
        )?;
    }
    match rows.len().saturating_sub(ROWS) {
        0 => Ok(()),
        more => writeln!(text, "  and {more} more: see --format json"),
    }
}

impl Comparison {
    /// Each stage of the first above the second, with what changed.
    pub fn write_text(&self, palette: Palette, text: &mut String) -> fmt::Result {
        for (name, of) in [("A", &self.a), ("B", &self.b)] {
            let title =
                format!("{name}  Linux {} {} on {}: {}", of.kernel, of.machine, of.host, duration(of.duration_ns));
            writeln!(text, "{} from {}", Painted(palette.strong, title), of.started)?;
            let count = |event: &str| of.events.get(event).map_or(0, |of| of.count);
            let broken: u64 = of.violations.values().sum();
            let lost: u64 = of.lost.iter().map(|lost| lost.count).sum();
            let (faults, attached) = (count("fault"), count("attach"));
            writeln!(text, "   {faults} faults, {attached} attaches, {broken} violations, {lost} lost")?;
        }
        let mut of: Option<Option<&str>> = None;
        for change in &self.changes {
            if of != Some(change.device.as_deref()) {
                of = Some(change.device.as_deref());
                let heads = format!(
                    "\n  {:<24} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
                    change.device.as_deref().unwrap_or("ALL FAULTS, FROM REPORT TO"),
                    "FAULTS",
                    "P50",
                    "P90",
                    "P99",
                    "P99.9",
                    "MAX"
                );
                writeln!(text, "{}", Painted(palette.dim, heads))?;
            }
            for (name, side) in [("A", &change.a), ("B", &change.b)] {
                let label = if name == "A" { stage_name(change.stage) } else { "" };
                write!(text, "  {label:<22} {name} {:>9}", side.map_or(0, |side| side.count))?;
                for (_, figure) in FIGURES {
                    let told = side.as_ref().map_or_else(|| "-".to_owned(), |side| duration(figure(side)));
                    write!(text, " {told:>10}")?;
                }
                writeln!(text)?;
            }
            write!(text, "  {:<34}", "")?;
            for (_, percent) in &change.percent {
                let (told, style) = match percent {
                    None => ("-".to_owned(), palette.dim),
                    Some(more) => (
                        format!("{more:+.1}%"),
                        // A tenth more or less is what two runs of the same differ by.
                        if *more > 10.0 {
                            palette.bad
                        } else if *more < -10.0 {
                            palette.good
                        } else {
                            palette.dim
                        },
                    ),
                };
                write!(text, " {}", Painted(style, format!("{told:>10}")))?;
            }
            writeln!(text)?;
        }
        if self.changes.is_empty() {
            writeln!(text, "\n  no fault is in either: there is nothing to compare")?;
        }
        Ok(())
    }
}
