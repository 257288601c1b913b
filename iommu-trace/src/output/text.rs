//! Text for people: aligned columns, one line a span, readable in 100 columns.
//!
//! A line is a prefix (time, group, device, PASID, event) and facts. Facts have a rank: those of rank 0 are always
//! told, others as far as the width reaches, the lowest first. On a terminal, what does not fit goes on under the facts;
//! elsewhere a span stays on one line, for `grep`.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anstyle::Style;

use super::{
    Clock, Palette, Sink, Start, Summary, TimeForm,
    palette::Painted,
    stretched,
    units::{duration, durations, errno_name, size},
};
use crate::{
    event::{Name, Phase, Ptr, ResponseCode},
    model::{
        Severity, Subject as ViolationSubject, Violation,
        span::{Answerer, ChangeSpan, FaultSpan, Span, SpanKind, Stage},
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
}

/// One piece of what is told of a span.
struct Fact {
    text: String,
    style: Style,
    rank: u8,
}

/// The columns that most spans have.
#[derive(Default)]
struct Subject {
    group: Option<u32>,
    device: Option<Name>,
    pasid: Slot,
}

#[derive(Default)]
enum Slot {
    /// The event is not about a PASID.
    #[default]
    None,
    Rid,
    Pasid(u32),
}

impl Slot {
    fn of_request(pasid: Option<u32>) -> Self {
        pasid.map_or(Slot::Rid, Slot::Pasid)
    }

    fn of_slot(pasid: u32) -> Self {
        if pasid == 0 { Slot::Rid } else { Slot::Pasid(pasid) }
    }
}

impl<W: Write> TextSink<W> {
    /// Writes to `out`.
    pub fn new(out: W, clock: Clock, options: TextOptions) -> Self {
        TextSink { out, clock, options, date: None }
    }

    fn time_width(&self) -> usize {
        match self.clock.form {
            TimeForm::Relative => 11,
            TimeForm::Monotonic => 13,
            TimeForm::Utc => 16,
        }
    }

    fn facts(&self, span: &Span) -> (Subject, Vec<Fact>) {
        let palette = &self.options.palette;
        let mut facts = Facts { palette, list: Vec::new() };
        let subject = match &span.kind {
            SpanKind::Attach(change) | SpanKind::Replace(change) | SpanKind::Detach(change) => {
                facts.change(change, &span.kind);
                Subject { group: change.group, device: change.device, pasid: Slot::of_slot(change.pasid) }
            }
            SpanKind::Fault(fault) => {
                facts.fault(fault, self.options.columns >= NAMED_TIMES_COLUMNS);
                Subject { group: fault.group, device: Some(fault.device), pasid: Slot::of_request(fault.pasid) }
            }
            SpanKind::FaultStage(stage) => {
                facts.add(0, stage.stage.name());
                facts.add(0, format!("{:#x}", stage.addr));
                facts.id(stage.device_id);
                match stage.response {
                    Some(code) => facts.response(code),
                    None => facts.handle(1, stage.handle),
                }
                if stage.stage != Stage::Report {
                    facts.add(0, format!("+{}", duration(stage.since_report_ns)));
                }
                facts.add(2, format!("prgi {}", stage.grpid));
                Subject { group: stage.group, device: Some(stage.device), pasid: Slot::of_request(stage.pasid) }
            }
            SpanKind::SvaBind(bond) | SpanKind::SvaUnbind(bond) => {
                facts.ret(bond.ret);
                facts.add(0, format!("users {}", bond.users));
                facts.handle(0, bond.handle);
                facts.add(1, duration(bond.duration_ns));
                facts.add(3, format!("mm {:x}", bond.mm.0));
                Subject {
                    group: bond.group,
                    device: Some(bond.device),
                    pasid: bond.pasid.map_or(Slot::None, Slot::Pasid),
                }
            }
            SpanKind::IopfEnable(queue) | SpanKind::IopfDisable(queue) => {
                facts.ret(queue.ret);
                facts.add(1, format!("queue {:x}", queue.queue.0));
                Subject { group: queue.group, device: Some(queue.device), pasid: Slot::None }
            }
            SpanKind::IommufdBind(bound) | SpanKind::IommufdUnbind(bound) => {
                facts.ret(bound.ret);
                facts.id(bound.device_id);
                facts.add(1, duration(bound.duration_ns));
                Subject { group: bound.group, device: Some(bound.device), pasid: Slot::None }
            }
            SpanKind::FaultQueueDestroy(object) => {
                facts.id(object.object_id);
                facts.add(1, duration(object.duration_ns));
                facts.add(3, format!("object {:x}", object.object.0));
                Subject::default()
            }
            SpanKind::DeviceAdd(device)
            | SpanKind::DeviceRemove(device)
            | SpanKind::ResetPrepare(device)
            | SpanKind::ResetDone(device) => {
                if let Some(ret) = device.ret {
                    facts.ret(ret);
                }
                Subject { group: device.group, device: Some(device.device), pasid: Slot::None }
            }
            SpanKind::DomainFree(domain) => {
                facts.add(0, domain.domain_type.to_string());
                facts.add(0, format!("domain {:x}", domain.domain.0));
                Subject::default()
            }
            SpanKind::DmaFault(fault) => {
                facts.styled(
                    0,
                    palette.bad,
                    format!("{} {:#x}", if fault.access == "unknown" { "access" } else { fault.access }, fault.addr),
                );
                if let Some(reason) = fault.reason {
                    facts.add(0, format!("reason {reason:#04x}"));
                }
                if let Some(flags) = fault.flags {
                    facts.add(0, format!("flags {flags:#05x}"));
                }
                if let Some(source) = &fault.source_id {
                    facts.add(u8::from(fault.device.is_some()), format!("from {source}"));
                }
                if let Some(iommu) = &fault.iommu {
                    facts.add(1, iommu.clone());
                }
                Subject { group: fault.group, device: fault.device, pasid: fault.pasid.map_or(Slot::None, Slot::Pasid) }
            }
            SpanKind::Map(dma) | SpanKind::Unmap(dma) => {
                // An unmap returns the bytes that it unmapped.
                if dma.ret < 0 {
                    facts.ret(dma.ret);
                }
                facts.add(0, format!("{:#x}", dma.addr));
                facts.add(0, size(dma.size));
                if matches!(span.kind, SpanKind::Unmap(_)) && dma.ret.unsigned_abs() != dma.size && dma.ret >= 0 {
                    facts.styled(0, palette.warn, format!("only {}", size(dma.ret.unsigned_abs())));
                }
                facts.add(1, duration(dma.duration_ns));
                facts.add(1, format!("domain {:x}", dma.domain.0));
                Subject::default()
            }
            SpanKind::Invalidate(invalidate) => {
                facts.ret(invalidate.ret);
                facts.add(0, invalidate.kind);
                if invalidate.count != 1 {
                    facts.add(0, format!("x{}", invalidate.count));
                }
                if invalidate.drain {
                    facts.add(0, "drains page requests");
                }
                facts.add(1, duration(invalidate.duration_ns));
                facts.add(3, format!("iommu {:x}", invalidate.iommu.0));
                Subject::default()
            }
            SpanKind::Flush(flush) => {
                if flush.size == u64::MAX {
                    facts.add(0, "all");
                } else {
                    facts.add(0, format!("{:#x}", flush.addr));
                    facts.add(0, size(flush.size));
                }
                facts.add(1, duration(flush.duration_ns));
                facts.add(1, format!("domain {:x}", flush.domain.0));
                Subject::default()
            }
            SpanKind::Sum(sum) => {
                facts.add(0, format!("{} {}", sum.calls, sum.of.name()));
                if let Some(kind) = sum.kind {
                    facts.add(0, kind);
                }
                if sum.failed > 0 {
                    facts.styled(0, palette.bad, format!("{} failed", sum.failed));
                }
                if let Some(bytes) = sum.bytes {
                    facts.add(0, size(bytes));
                }
                if let Some(ns) = sum.duration_ns {
                    facts.add(1, format!("{} each", duration(ns / sum.calls.max(1))));
                }
                if let Some(domain) = sum.domain {
                    facts.add(1, format!("domain {:x}", domain.0));
                }
                if let Some(iommu) = sum.iommu {
                    facts.add(1, format!("iommu {:x}", iommu.0));
                }
                Subject::default()
            }
            SpanKind::Lost(lost) => {
                facts.styled(0, palette.bad, format!("{} of {}", lost.count, lost.probe));
                facts.add(0, "(see --buffer-size)");
                Subject::default()
            }
        };
        // Sums and losses are nobody's.
        if !matches!(span.kind, SpanKind::Lost(_) | SpanKind::Sum(_)) {
            facts.styled(2, palette.dim, format!("{}/{}", span.comm, span.pid));
        }
        (subject, facts.list)
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

    /// Chooses which facts are told: all of rank 0, others while they fit.
    fn choose(&self, prefix: usize, facts: Vec<Fact>) -> Vec<Fact> {
        let width = |fact: &Fact| fact.text.chars().count() + 1;
        let mut room = self
            .options
            .columns
            .saturating_sub(prefix + facts.iter().filter(|fact| fact.rank == 0).map(width).sum::<usize>());
        let mut ranked: Vec<(usize, u8, usize)> = facts
            .iter()
            .enumerate()
            .filter(|(_, fact)| fact.rank > 0)
            .map(|(at, fact)| (at, fact.rank, width(fact)))
            .collect();
        ranked.sort_by_key(|&(_, rank, _)| rank);
        let mut told: Vec<bool> = facts.iter().map(|fact| fact.rank == 0).collect();
        for (at, _, width) in ranked {
            // The first that does not fit ends it, so that lines of one kind differ as little as can be.
            let Some(rest) = room.checked_sub(width) else { break };
            room = rest;
            told[at] = true;
        }
        facts.into_iter().zip(told).filter_map(|(fact, told)| told.then_some(fact)).collect()
    }
}

struct Facts<'a> {
    palette: &'a Palette,
    list: Vec<Fact>,
}

impl Facts<'_> {
    fn add(&mut self, rank: u8, text: impl Into<String>) {
        self.styled(rank, Style::new(), text);
    }

    fn styled(&mut self, rank: u8, style: Style, text: impl Into<String>) {
        self.list.push(Fact { text: text.into(), style, rank });
    }

    fn ret(&mut self, ret: i64) {
        if ret != 0 {
            self.styled(0, self.palette.bad, errno_name(ret));
        }
    }

    fn id(&mut self, id: Option<u32>) {
        if let Some(id) = id {
            self.add(0, format!("id {id}"));
        }
    }

    fn handle(&mut self, rank: u8, handle: Option<Ptr>) {
        if let Some(handle) = handle {
            self.add(rank, format!("handle {:x}", handle.0));
        }
    }

    fn response(&mut self, code: ResponseCode) {
        let style = match code {
            ResponseCode::Success => self.palette.good,
            ResponseCode::Invalid => self.palette.warn,
            ResponseCode::Failure | ResponseCode::Other(_) => self.palette.bad,
        };
        self.styled(0, style, code.to_string());
    }

    fn change(&mut self, change: &ChangeSpan, kind: &SpanKind) {
        self.ret(change.ret);
        self.add(0, change.owner.name());
        self.id(change.device_id);
        self.add(0, change.domain_type.to_string());
        match (change.old_handle, change.handle) {
            // The arrow of a detach would point to nothing: there `handle` is the one that was in the slot.
            (Some(old), Some(new)) if !matches!(kind, SpanKind::Detach(_)) => {
                self.add(0, format!("handle {:x} > {:x}", old.0, new.0));
            }
            (Some(old), None) => self.add(0, format!("handle {:x} > none", old.0)),
            (_, handle) => self.handle(0, handle),
        }
        self.add(1, duration(change.duration_ns));
        self.add(3, format!("domain {:x}", change.domain.0));
        self.styled(4, self.palette.dim, change.function);
    }

    fn fault(&mut self, fault: &FaultSpan, named: bool) {
        self.add(0, format!("{:#x}", fault.addr));
        self.add(0, permissions(fault.perm));
        self.id(fault.device_id);
        if let (Some(told), true) = (fault.delivered_id, fault.delivered_id != fault.device_id) {
            let style = if fault.device_id.is_some() { self.palette.bad } else { Style::new() };
            self.styled(0, style, format!("told id {told}"));
        }
        if let Some(ret) = fault.ret {
            self.ret(ret);
        }
        if let Some(ns) = fault.interrupt_ns {
            self.add(1, format!("irq {}", duration(ns)));
        }
        let times = [
            ("lookup", fault.lookup_ns),
            ("handler", fault.handler_ns),
            ("read", fault.delivered_ns),
            ("answer", fault.response_ns),
        ];
        if named {
            for (name, ns) in times {
                if let Some(ns) = ns {
                    self.add(0, format!("{name} {}", duration(ns)));
                }
            }
        } else if let Some(told) = durations(&times.map(|(_, ns)| ns)) {
            self.add(0, told);
        }
        match fault.response.0 {
            Some(code) => self.response(code),
            // It is answered with the last of its group.
            None if !fault.last => self.styled(0, self.palette.dim, "partial"),
            None if !fault.complete => self.styled(0, self.palette.warn, "outstanding"),
            None => self.styled(0, self.palette.bad, "no answer"),
        }
        if let Some(by) = fault.answered_by {
            match by {
                Answerer::User => {}
                Answerer::Handler => self.add(1, "(by its handler)"),
                Answerer::Automatic => self.styled(0, self.palette.warn, "(by detach)"),
                Answerer::QueueDestroy => self.styled(0, self.palette.warn, "(by destroy)"),
                Answerer::QueueRemove => self.styled(0, self.palette.warn, "(by removal)"),
                Answerer::Report => self.styled(0, self.palette.warn, "(by report)"),
            }
        }
        if let Some(requests) = fault.requests.filter(|&requests| requests > 1) {
            self.add(1, format!("{requests} requests"));
        }
        self.add(3, format!("prgi {}", fault.grpid));
        self.handle(3, fault.handle);
        if let Some(freed) = fault.freed_ns {
            self.add(4, format!("freed {}", duration(freed)));
        }
    }
}

/// `IOMMU_FAULT_PERM_*` as letters: read, write, exec, privileged; `-` for none.
fn permissions(perm: u32) -> String {
    let mut letters: String =
        [(1, 'r'), (2, 'w'), (4, 'x'), (8, 'p')].iter().filter(|(bit, _)| perm & bit != 0).map(|(_, c)| c).collect();
    if letters.is_empty() {
        letters.push('-');
    }
    letters
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

        let (subject, facts) = self.facts(span);
        let group = subject.group.map_or_else(|| "-".to_owned(), |group| group.to_string());
        let device = subject.device.filter(|name| !name.is_empty()).map_or_else(|| "-".to_owned(), |n| n.to_string());
        let pasid = match subject.pasid {
            Slot::None => "-".to_owned(),
            Slot::Rid => "rid".to_owned(),
            Slot::Pasid(pasid) => pasid.to_string(),
        };
        let before = format!(
            "{:>time$} {group:>GROUP_WIDTH$} {device:<DEVICE_WIDTH$} {pasid:>PASID_WIDTH$} ",
            self.clock.text(span.ts),
            time = self.time_width(),
        );
        let indent = before.chars().count() + EVENT_WIDTH + 1;
        let name = match &span.kind {
            SpanKind::Lost(_) => "LOST",
            kind => kind.name(),
        };
        let style = match &span.kind {
            SpanKind::Lost(_) | SpanKind::DmaFault(_) => palette.bad,
            _ => palette.strong,
        };
        let mut line = format!("{before}{}", Painted(style, name));
        let mut at = indent - EVENT_WIDTH - 1 + name.len();
        // Trailing blanks are for nothing.
        let mut pad = EVENT_WIDTH.saturating_sub(name.len());
        let indent = if self.options.columns < NARROW_COLUMNS { 4 } else { indent };
        for fact in self.choose(indent.max(at + pad), facts) {
            let width = fact.text.chars().count();
            if self.options.wrap && at + pad + 1 + width > self.options.columns && at > indent {
                write!(line, "\n{:indent$}", "").map_err(io::Error::other)?;
                at = indent;
            } else {
                write!(line, "{:1$}", "", pad + 1).map_err(io::Error::other)?;
                at += pad + 1;
            }
            pad = 0;
            write!(line, "{}", Painted(fact.style, &fact.text)).map_err(io::Error::other)?;
            at += width;
        }
        line.push('\n');
        for frame in stack {
            writeln!(line, "{:16}{}", "", Painted(palette.dim, printable(&frame.symbol))).map_err(io::Error::other)?;
        }
        self.out.write_all(line.as_bytes())
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
