//! Text for people: aligned columns, one line a span, readable in 100 columns.
//!
//! A line is a prefix (time, group, device, PASID, event) and facts. Facts have a rank: those of rank 0 are always
//! told, others as far as the width reaches, the lowest first. On a terminal, what does not fit goes on under the facts;
//! elsewhere a span stays on one line, for `grep`.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
};

use super::{
    Clock, Palette, Sink, Start, Summary, TimeForm,
    facts::{Facts, Slot, Subject},
    palette::Painted,
    stretched,
};
use crate::{
    event::Phase,
    model::{
        Severity, Subject as ViolationSubject, Violation,
        span::{Span, SpanKind},
    },
    probes::Verdict,
    source::Frame,
};

/// What the text looks like.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Colours.
    pub palette: Palette,
    /// Columns to aim at: what is of less importance is told as far as they reach.
    pub columns: usize,
    /// Whether what does not fit goes on in another line.
    pub wrap: bool,
    /// Whether there will be spans, and so columns that need heads.
    pub heads: bool,
}

/// From here on the times of a fault have their names.
const NAMED_TIMES_COLUMNS: usize = 140;
/// In terminals narrower than this, what goes on in a further line is indented by little.
const NARROW_COLUMNS: usize = 80;

const GROUP_WIDTH: usize = 3;
const DEVICE_WIDTH: usize = 13;
const PASID_WIDTH: usize = 5;
const EVENT_WIDTH: usize = 7;

/// Writes text.
pub struct TextSink<W> {
    out: W,
    clock: Clock,
    options: TextOptions,
    date: Option<String>,
    facts: Facts,
    /// The line that is being made.
    line: String,
}

impl<W: Write> TextSink<W> {
    /// Writes to `out`.
    pub fn new(out: W, clock: Clock, options: TextOptions) -> Self {
        let facts = Facts::new(options.palette);
        TextSink { out, clock, options, date: None, facts, line: String::new() }
    }

    fn time_width(&self) -> usize {
        match self.clock.form {
            TimeForm::Relative => 11,
            TimeForm::Monotonic => 13,
            TimeForm::Utc => 16,
        }
    }

    /// Begins a line with the columns that most spans have; how wide they are.
    fn prefix(&mut self, ts: u64, subject: &Subject) -> Result<usize, fmt::Error> {
        let width = self.time_width();
        let TextSink { line, clock, .. } = self;
        clock.put(ts, line);
        // Times are ASCII.
        if line.len() < width {
            line.insert_str(0, &BLANKS[..width - line.len()]);
        }
        match subject.group {
            Some(group) => write!(line, " {group:>GROUP_WIDTH$} ")?,
            None => write!(line, " {:>GROUP_WIDTH$} ", "-")?,
        }
        match subject.device.filter(|name| !name.is_empty()) {
            Some(device) => write!(line, "{device:<DEVICE_WIDTH$} ")?,
            None => write!(line, "{:<DEVICE_WIDTH$} ", "-")?,
        }
        match subject.pasid {
            Slot::None => write!(line, "{:>PASID_WIDTH$} ", "-")?,
            Slot::Rid => write!(line, "{:>PASID_WIDTH$} ", "rid")?,
            Slot::Pasid(pasid) => write!(line, "{pasid:>PASID_WIDTH$} ")?,
        }
        Ok(line.chars().count())
    }

    /// Heads of the columns, as wide as the columns.
    fn heads(&self) -> String {
        format!(
            "{:>time$} {:>GROUP_WIDTH$} {:<DEVICE_WIDTH$} {:>PASID_WIDTH$} {:<EVENT_WIDTH$} (a fault's times: from report to lookup/handler/read/answer)",
            "TIME",
            "GRP",
            "DEVICE",
            "PASID",
            "EVENT",
            time = self.time_width(),
        )
    }
}

impl<W: Write> Sink for TextSink<W> {
    fn start(&mut self, start: &Start<'_>) -> io::Result<()> {
        let info = start.info;
        let palette = self.options.palette;
        let count = |verdict| info.probes.iter().filter(|probe| probe.verdict == verdict).count();
        let host = match info.host.as_str() {
            // The kernel's word for a name that nobody set.
            "" | "(none)" => String::new(),
            host => format!(" on {}", printable(host)),
        };
        let mut title = format!(
            "iommu-trace {}{host}, Linux {} {}: {} probes",
            crate::version::VERSION,
            printable(&info.kernel),
            printable(&info.machine),
            count(Verdict::Ok)
        );
        match count(Verdict::Missing) {
            0 => {}
            missing => write!(title, ", {missing} not in this kernel").map_err(io::Error::other)?,
        }
        match count(Verdict::Waiting) {
            0 => {}
            waiting => write!(title, ", {waiting} waiting for iommufd to be loaded").map_err(io::Error::other)?,
        }
        writeln!(self.out, "{}", Painted(palette.strong, title))?;
        if let Some(told) = stretched(&info.stretched) {
            writeln!(self.out, "{}", Painted(palette.warn, printable(&told)))?;
        }
        for probe in info.probes.iter().filter(|probe| probe.verdict == Verdict::Broken) {
            let reason = probe.reason.as_deref().unwrap_or("the reason is not known");
            let told = format!("{} {} could not be attached ({reason}): {}", probe.kind, probe.function, probe.cost);
            writeln!(self.out, "{}", Painted(palette.warn, told))?;
        }
        if self.options.heads {
            writeln!(self.out, "{}", Painted(palette.dim, self.heads()))?;
        }
        Ok(())
    }

    fn span(&mut self, span: &Span, stack: &[Frame]) -> io::Result<()> {
        let palette = self.options.palette;
        let date = self.clock.date(span.ts);
        if date != self.date {
            if let Some(date) = &date {
                writeln!(self.out, "{}", Painted(palette.dim, format!("-- {date} UTC --")))?;
            }
            self.date = date;
        }

        let columns = self.options.columns;
        let subject = self.facts.take(span, columns >= NAMED_TIMES_COLUMNS);
        self.line.clear();
        let at = self.prefix(span.ts, &subject).map_err(io::Error::other)?;
        let TextSink { out, line, facts, options, .. } = self;
        let name = match &span.kind {
            SpanKind::Lost(_) => "LOST",
            kind => kind.name(),
        };
        let style = match &span.kind {
            SpanKind::Lost(_) | SpanKind::DmaFault(_) => palette.bad,
            _ => palette.strong,
        };
        write!(line, "{}", Painted(style, name)).map_err(io::Error::other)?;
        let indent = if columns < NARROW_COLUMNS { 4 } else { at + EVENT_WIDTH + 1 };
        let mut at = at + name.len();
        // Trailing blanks are for nothing.
        let mut pad = EVENT_WIDTH.saturating_sub(name.len());
        facts.choose(columns.saturating_sub(indent.max(at + pad)));
        for fact in facts.chosen() {
            if options.wrap && at + pad + 1 + fact.width > columns && at > indent {
                line.push('\n');
                blanks(line, indent);
                at = indent;
            } else {
                blanks(line, pad + 1);
                at += pad + 1;
            }
            pad = 0;
            if fact.style.is_plain() {
                line.push_str(fact.text);
            } else {
                write!(line, "{}", Painted(fact.style, fact.text)).map_err(io::Error::other)?;
            }
            at += fact.width;
        }
        line.push('\n');
        for frame in stack {
            writeln!(line, "{:16}{}", "", Painted(palette.dim, printable(&frame.symbol))).map_err(io::Error::other)?;
        }
        out.write_all(line.as_bytes())
    }

    fn violation(&mut self, violation: &Violation, stacks: &[Vec<Frame>]) -> io::Result<()> {
        let palette = self.options.palette;
        let style = match violation.severity {
            Severity::Error => palette.bad,
            Severity::Warning => palette.warn,
        };
        let mut lines = format!(
            "{:>time$} {}\n",
            self.clock.text(violation.ts),
            Painted(style, format!("VIOLATION {} ({})", violation.rule.slug(), violation.severity.name())),
            time = self.time_width(),
        );
        let mut tell = |line: String| writeln!(lines, "{:16}{line}", "").map_err(io::Error::other);
        tell(violation.message.clone())?;
        let subject = subject(&violation.subject);
        if !subject.is_empty() {
            tell(subject)?;
        }
        let times: Vec<String> = violation.evidence.iter().map(|piece| self.clock.text(piece.ts)).collect();
        let time = times.iter().map(String::len).max().unwrap_or(0);
        let what = violation.evidence.iter().map(|piece| piece.what.chars().count()).max().unwrap_or(0);
        for (at, (piece, ts)) in violation.evidence.iter().zip(&times).enumerate() {
            tell(format!(
                "{ts:>time$}  {:<what$}  {}/{} on CPU {}, {} of {}",
                piece.what,
                piece.task.comm,
                piece.task.pid,
                piece.task.cpu,
                match piece.phase {
                    Phase::Enter => "entry",
                    Phase::Exit => "return",
                },
                piece.probe.function(),
            ))?;
            for frame in stacks.get(at).into_iter().flatten() {
                tell(format!("    {}", Painted(palette.dim, printable(&frame.symbol))))?;
            }
        }
        self.out.write_all(lines.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        let palette = self.options.palette;
        let mut text = String::new();
        summary.write_text(palette, &mut text).map_err(io::Error::other)?;
        self.out.write_all(text.as_bytes())
    }
}

const BLANKS: &str = "                ";

fn blanks(line: &mut String, mut wanted: usize) {
    while wanted > 0 {
        let some = wanted.min(BLANKS.len());
        line.push_str(&BLANKS[..some]);
        wanted -= some;
    }
}

/// What a violation is about, as far as it is known.
fn subject(subject: &ViolationSubject) -> String {
    let mut parts = Vec::new();
    let mut tell = |part: Option<String>| parts.extend(part);
    tell(subject.group.map(|group| format!("group {group}")));
    tell(subject.device.map(|device| device.to_string()));
    tell(subject.pasid.map(|pasid| if pasid == 0 { "RID".to_owned() } else { format!("PASID {pasid}") }));
    tell(subject.device_id.map(|id| format!("id {id}")));
    for (name, ptr) in [("handle", subject.handle), ("domain", subject.domain), ("fault group", subject.fault_group)] {
        tell(ptr.map(|ptr| format!("{name} {:x}", ptr.0)));
    }
    tell(subject.grpid.map(|grpid| format!("prgi {grpid}")));
    parts.join(", ")
}

/// Text of the kernel's or a recording's that is not ours: nothing that steers a terminal may pass.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
