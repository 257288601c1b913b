//! JSON lines: one object a line, the fields of docs/events.md. No field is left out: what is not known is `null`.

use std::io::{self, Write};

use serde::Serialize;

use super::{Clock, SCHEMA, Sink, Start, Summary, TimeForm, json_fault};
use crate::{
    model::{
        Features, Violation,
        span::{Span, SpanKind, Topic},
    },
    probes::{ProbeStatus, stretch::Stretched},
    source::Frame,
};

/// Writes JSON lines.
pub struct JsonSink<W> {
    out: W,
    clock: Clock,
    stacks: bool,
    /// A line being made; kept for its memory.
    bytes: Vec<u8>,
}

#[derive(Serialize)]
struct StartLine<'a> {
    ts: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    schema: u32,
    version: &'static str,
    kernel: &'a str,
    machine: &'a str,
    host: &'a str,
    epoch_offset_ns: i64,
    topics: &'a [Topic],
    command: &'a [String],
    features: &'a Features,
    probes: &'a [ProbeStatus],
    stretched: &'a [Stretched],
}

#[derive(Serialize)]
struct SpanLine<'a> {
    #[serde(flatten)]
    span: &'a Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<Vec<&'a str>>,
}

#[derive(Serialize)]
struct ViolationLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    violation: &'a Violation,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stacks: Option<Vec<Vec<String>>>,
}

#[derive(Serialize)]
struct EndLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    summary: &'a Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl<W: Write> JsonSink<W> {
    /// Writes to `out`; with `stacks` every span has a `stack`.
    pub fn new(out: W, clock: Clock, stacks: bool) -> Self {
        JsonSink { out, clock, stacks, bytes: Vec::new() }
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        self.bytes.clear();
        serde_json::to_writer(&mut self.bytes, line)?;
        self.write()
    }

    /// In one piece, so that a reader never sees half a line but at the end of a cut file.
    fn write(&mut self) -> io::Result<()> {
        self.bytes.push(b'\n');
        self.out.write_all(&self.bytes)
    }
}

impl<W: Write> Sink for JsonSink<W> {
    fn start(&mut self, start: &Start<'_>) -> io::Result<()> {
        let info = start.info;
        self.line(&StartLine {
            ts: info.started_ns,
            event: "start",
            time: self.clock.rfc3339(info.started_ns),
            schema: SCHEMA,
            version: crate::version::VERSION,
            kernel: &info.kernel,
            machine: &info.machine,
            host: &info.host,
            epoch_offset_ns: info.epoch_offset_ns,
            topics: start.topics,
            command: start.command,
            features: &info.features,
            probes: &info.probes,
            stretched: &info.stretched,
        })
    }

    fn span(&mut self, span: &Span, stack: &[Frame]) -> io::Result<()> {
        if let (SpanKind::Fault(fault), false, TimeForm::Relative | TimeForm::Monotonic) =
            (&span.kind, self.stacks, self.clock.form)
        {
            self.bytes.clear();
            json_fault::open(&mut self.bytes, span, fault);
            self.bytes.push(b'}');
            return self.write();
        }
        let stack = self.stacks.then(|| stack.iter().map(|frame| frame.symbol.as_str()).collect());
        let time = self.clock.rfc3339(span.ts);
        self.line(&SpanLine { span, time, stack })
    }

    fn violation(&mut self, violation: &Violation, stacks: &[Vec<Frame>]) -> io::Result<()> {
        let names = |frames: &'_ [Frame]| frames.iter().map(|frame| frame.symbol.clone()).collect::<Vec<_>>();
        let time = self.clock.rfc3339(violation.ts);
        let stacks = self.stacks.then(|| stacks.iter().map(|frames| names(frames)).collect());
        self.line(&ViolationLine { event: "violation", violation, time, stacks })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        let time = self.clock.rfc3339(summary.ts);
        self.line(&EndLine { event: "end", summary, time })
    }
}
