//! What a run came to: counted over the printed spans as they pass, told once at the end.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde::Serialize;

use super::{
    Judged, Mirrored, Palette, Watched,
    latencies::{Columns, FIGURES, Measured, Stages},
    palette::Painted,
    units::duration,
};
use crate::{
    event::ResponseCode,
    model::{
        Severity, Violation,
        span::{ChangeSpan, FaultSpan, LostSpan, Span, SpanKind},
    },
};

/// Counts what is printed.
#[derive(Debug, Default)]
pub struct Tally {
    events: BTreeMap<&'static str, u64>,
    filtered: u64,
    faults: FaultCounts,
    latencies: Stages,
    lost: BTreeMap<&'static str, u64>,
    violations: BTreeMap<&'static str, u64>,
    errors: u64,
    warnings: u64,
    attached: u64,
    detached: u64,
}

/// Page faults by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultCounts {
    /// Answered with success.
    pub success: u64,
    /// Answered with invalid.
    pub invalid: u64,
    /// Answered with failure.
    pub failure: u64,
    /// Answered with a code that the kernel does not define.
    pub other: u64,
    /// Over, and no answer was seen.
    pub none: u64,
    /// Not answered when the trace ended.
    pub outstanding: u64,
    /// Requests that are not the last of their group, and so have no answer of their own.
    pub partial: u64,
}

/// Lost records of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The kernel function.
    pub probe: &'static str,
    /// How many.
    pub count: u64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// `--duration` is over.
    Duration,
    /// `--count` is reached.
    Count,
    /// The command ended.
    Command,
    /// The source had no more.
    EndOfSource,
    /// The source failed, or the command could not be started.
    Error,
}

/// How the command ended: one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CommandEnd {
    /// Its exit status.
    pub status: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl CommandEnd {
    /// What a shell would make of it: the status, or 128 and the signal.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            CommandEnd { signal: Some(signal), .. } => 128_u8.saturating_add(signal as u8),
            CommandEnd { status: Some(status), .. } => status as u8,
            CommandEnd { .. } => 0,
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// Why.
    pub reason: Reason,
    /// How the command ended, if there was one and it has.
    pub command: Option<CommandEnd>,
}

/// All of it. Its JSON form is the `end` line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// When the trace ended, on the events' clock.
    pub ts: u64,
    /// How long it took.
    pub duration_ns: u64,
    /// Printed events by name; those that never came are not listed.
    pub events: BTreeMap<&'static str, u64>,
    /// Events that the filters left out.
    pub filtered: u64,
    /// Page faults among the printed.
    pub faults: FaultCounts,
    /// Latencies of the printed faults by stage; stages that none reached are not listed.
    pub latencies: Measured,
    /// Losses by probe, of everything that was traced.
    pub lost: Vec<Lost>,
    /// Broken rules, by rule; those that held are not listed.
    pub violations: BTreeMap<&'static str, u64>,
    /// The mirror's own look-ups.
    pub mirror: Mirrored,
    /// What `check` came to; `None` for other commands.
    pub check: Option<Judged>,
    /// How it ended.
    pub exit: Exit,
}

impl Summary {
    /// All losses together.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().map(|lost| lost.count).sum()
    }

    /// As people read it, at the end of the text output.
    pub fn write_text(&self, palette: Palette, text: &mut String) -> fmt::Result {
        write_text(self, palette, text)
    }
}

impl Tally {
    /// Counts a span that is printed.
    pub fn count(&mut self, span: &Span) {
        *self.events.entry(span.kind.name()).or_default() += 1;
        match &span.kind {
            SpanKind::Fault(fault) => self.fault(fault),
            SpanKind::Attach(change) | SpanKind::Replace(change) if change.ret == 0 => {
                self.attached += u64::from(change.handle.is_some());
                self.detached += u64::from(change.old_handle.is_some());
            }
            SpanKind::Detach(ChangeSpan { handle: Some(_), .. }) => self.detached += 1,
            SpanKind::Lost(LostSpan { probe, count }) => *self.lost.entry(probe).or_default() += count,
            _ => {}
        }
    }

    /// Counts a broken rule.
    pub fn violation(&mut self, violation: &Violation) {
        *self.violations.entry(violation.rule.slug()).or_default() += 1;
        *match violation.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        } += 1;
    }

    /// Violations that are errors, and those that are warnings.
    #[must_use]
    pub fn violations(&self) -> (u64, u64) {
        (self.errors, self.warnings)
    }

    /// What is counted here of what was watched.
    #[must_use]
    pub fn watched(&self) -> Watched {
        Watched {
            handles_attached: self.attached,
            handles_detached: self.detached,
            faults: self.events.get("fault").copied().unwrap_or(0),
            ..Watched::default()
        }
    }

    /// Counts a span that is not.
    pub fn leave_out(&mut self) {
        self.filtered += 1;
    }

    fn fault(&mut self, fault: &FaultSpan) {
        let counts = &mut self.faults;
        *match fault.response.0 {
            Some(ResponseCode::Success) => &mut counts.success,
            Some(ResponseCode::Invalid) => &mut counts.invalid,
            Some(ResponseCode::Failure) => &mut counts.failure,
            Some(ResponseCode::Other(_)) => &mut counts.other,
            None if !fault.last => &mut counts.partial,
            None if !fault.complete => &mut counts.outstanding,
            None => &mut counts.none,
        } += 1;
        self.latencies.record(fault);
    }

    /// What it came to.
    #[must_use]
    pub fn summary(&self, started_ns: u64, ended_ns: u64, exit: Exit) -> Summary {
        Summary {
            ts: ended_ns,
            duration_ns: ended_ns.saturating_sub(started_ns),
            events: self.events.clone(),
            filtered: self.filtered,
            faults: self.faults,
            latencies: self.latencies.percentiles(),
            lost: self.lost.iter().map(|(&probe, &count)| Lost { probe, count }).collect(),
            violations: self.violations.clone(),
            mirror: Mirrored::default(),
            check: None,
            exit,
        }
    }
}

fn write_text(summary: &Summary, palette: Palette, text: &mut String) -> fmt::Result {
    writeln!(text)?;
    let deed = if summary.check.is_some() { "watched" } else { "traced" };
    let title = format!("{} {deed}, {}", duration(summary.duration_ns), ending(summary.exit));
    writeln!(text, "{}", Painted(palette.strong, title))?;
    if let Some(check) = &summary.check {
        check.write_text(palette, text)?;
    }

    let events: u64 = summary.events.iter().filter(|(name, _)| **name != "lost").map(|(_, count)| count).sum();
    let filtered = match summary.filtered {
        0 => String::new(),
        filtered => format!(" ({filtered} left out by the filters)"),
    };
    writeln!(text, "  events    {events}{filtered}")?;
    let mut at = 0;
    for (name, count) in summary.events.iter().filter(|(name, _)| **name != "lost") {
        let told = format!("{name} {count}");
        let separator = match at {
            0 => "            ",
            _ if at + told.len() > 85 => {
                at = 0;
                ",\n            "
            }
            _ => ", ",
        };
        write!(text, "{separator}{told}")?;
        at += told.len() + 2;
    }
    if at > 0 {
        writeln!(text)?;
    }

    let faults = &summary.faults;
    let of_faults = [
        (faults.success, "success", palette.good),
        (faults.invalid, "invalid", palette.warn),
        (faults.failure, "failure", palette.bad),
        (faults.other, "other", palette.bad),
        (faults.none, "no answer", palette.bad),
        (faults.outstanding, "outstanding", palette.warn),
        (faults.partial, "partial", palette.dim),
    ];
    if of_faults.iter().any(|(count, ..)| *count > 0) {
        let told: Vec<String> = of_faults
            .iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, name, style)| Painted(*style, format!("{name} {count}")).to_string())
            .collect();
        writeln!(text, "  faults    {}", told.join(", "))?;
    }

    let [p50, p90, p99, _, max] = FIGURES;
    let figures = [p50, p90, p99, max];
    let columns = Columns { name: "from report to", counted: "count", width: 7, capitals: false, figures: &figures };
    summary.latencies.write_text(&columns, palette, text)?;

    summary.mirror.write_text(text)?;

    if !summary.violations.is_empty() {
        let told: Vec<String> = summary.violations.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
        writeln!(text, "  violations {}", Painted(palette.bad, told.join(", ")))?;
    }

    if summary.lost.is_empty() {
        writeln!(text, "  lost      none")?;
    } else {
        let told: Vec<String> = summary.lost.iter().map(|lost| format!("{} {}", lost.probe, lost.count)).collect();
        let told = format!("{} events: {}", summary.lost_total(), told.join(", "));
        writeln!(text, "  lost      {}", Painted(palette.bad, told))?;
        writeln!(
            text,
            "            what is told above may be incomplete; try a larger --buffer-size or fewer --events"
        )?;
    }
    if let Some(check) = &summary.check {
        let style = match (check.errors, check.warnings) {
            (0, 0) => palette.good,
            (0, _) => palette.warn,
            _ => palette.bad,
        };
        writeln!(text, "{}", Painted(style, check.verdict()))?;
    }
    Ok(())
}

fn ending(exit: Exit) -> String {
    let command = exit.command.map(|end| match (end.signal, end.status) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(status)) => format!("exited with status {status}"),
        (None, None) => "ended".to_owned(),
    });
    match (exit.reason, command) {
        (Reason::Command, Some(command)) => format!("the command {command}"),
        (reason, command) => {
            let mut told = match reason {
                Reason::Interrupt => "interrupted",
                Reason::Terminate => "terminated",
                Reason::Duration => "the time given is over",
                Reason::Count => "the number of events given is reached",
                Reason::Command => "the command ended",
                Reason::EndOfSource => "the source has ended",
                Reason::Error => "ended by an error",
            }
            .to_owned();
            if let Some(command) = command {
                told = format!("{told}; the command {command}");
            }
            told
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Comm, Name},
        model::span::Response,
    };

    fn fault(edit: impl FnOnce(&mut FaultSpan)) -> Span {
        let mut fault =
            FaultSpan { device: Name::new("0000:00:02.0"), last: true, complete: true, ..FaultSpan::default() };
        edit(&mut fault);
        Span { ts: 0, kind: SpanKind::Fault(fault), cpu: 0, pid: 0, tid: 0, comm: Comm::default(), stack: None }
    }

    const EXIT: Exit = Exit { reason: Reason::Interrupt, command: None };

    #[test]
    fn each_fault_is_counted_once_by_what_became_of_it() {
        let mut tally = Tally::default();
        tally.count(&fault(|f| f.response = Response(Some(ResponseCode::Success))));
        tally.count(&fault(|f| {
            f.response = Response(Some(ResponseCode::Invalid));
            f.complete = false;
        }));
        tally.count(&fault(|f| f.last = false));
        tally.count(&fault(|f| f.complete = false));
        tally.count(&fault(|_| ()));
        let summary = tally.summary(0, 0, EXIT);
        let expected =
            FaultCounts { success: 1, invalid: 1, partial: 1, outstanding: 1, none: 1, ..FaultCounts::default() };
        assert_eq!(summary.faults, expected);
        assert_eq!(summary.events["fault"], 5);
    }

    #[test]
    fn a_stage_that_no_fault_reached_has_no_latency() {
        let mut tally = Tally::default();
        tally.count(&fault(|f| f.lookup_ns = Some(1000)));
        tally.count(&fault(|f| f.lookup_ns = Some(3_000_000)));
        let summary = tally.summary(0, 0, EXIT);
        let [(crate::model::Measure::Lookup, lookup)] = summary.latencies.0[..] else {
            panic!("{:?}", summary.latencies)
        };
        assert_eq!(lookup.count, 2);
        assert_eq!(lookup.max_ns, 3_000_000);
        assert!(lookup.p50_ns.abs_diff(1000) <= 1, "{lookup:?}");
        assert!(lookup.p99_ns <= lookup.max_ns);
    }

    #[test]
    fn a_command_s_end_becomes_an_exit_status_as_in_a_shell() {
        assert_eq!(CommandEnd { status: Some(7), signal: None }.exit_code(), 7);
        assert_eq!(CommandEnd { status: None, signal: Some(9) }.exit_code(), 137);
    }
}
