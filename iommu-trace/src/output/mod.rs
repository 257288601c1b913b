//! What people and programs get to read: text and JSON lines, and the summary at their end.
//!
//! A [`Sink`] turns spans into bytes and knows nothing of where they come from. The bytes go to an [`Output`]; that
//! and [`Target`], the way to every file, are the only places here that do I/O. Nothing in this room decides what is worth printing: that is the consumer's part.

mod clock;
mod facts;
mod file;
mod holdings;
mod json;
mod json_fault;
mod judged;
mod latencies;
mod palette;
mod summary;
mod target;
mod text;
mod units;

use std::io;

use serde::Serialize;

use crate::{
    model::{
        Violation,
        span::{Span, Topic},
    },
    probes::stretch::Stretched,
    source::{Frame, SourceInfo},
};

pub use clock::{Clock, TimeForm};
pub use file::{Output, OutputError, is_closed_pipe};
pub use holdings::{Domain, HeldGroup, HeldSlot, Holdings, Seen};
pub use json::JsonSink;
pub use judged::{Blind, Judged, Mirrored, Refcounted, Unjudged, Watched};
pub(crate) use latencies::Columns;
pub use latencies::{FIGURES, Figure, Measured, Percentiles, Stages, stage_name};
pub(crate) use palette::Painted;
pub use palette::Palette;
pub use summary::{CommandEnd, Exit, FaultCounts, Lost, Reason, Summary, Tally};
pub(crate) use target::quoted;
pub use target::{Target, create_new};
pub use text::{TextOptions, TextSink};
pub use units::{duration, errno_name, nanoseconds, size};

/// Version of the JSON lines: grows when a field changes its meaning or goes away, not when one is added.
pub const SCHEMA: u32 = 1;

/// The JSON Schema of the lines, as `docs/events.schema.json` has it.
pub const JSON_SCHEMA: &str = include_str!("../../../docs/events.schema.json");

/// What is told before the first event.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The source.
    pub info: &'a SourceInfo,
    /// The topics that are traced.
    pub topics: &'a [Topic],
    /// The command that will be started, as given.
    pub command: &'a [String],
}

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Text,
    /// One JSON object a line, as docs/events.md has them.
    Json,
}

/// That the kernel was made to wait, where and how long; `None` when it was not.
#[must_use]
pub fn stretched(steps: &[Stretched]) -> Option<String> {
    let steps: Vec<String> = steps
        .iter()
        .map(|of| format!("{} at {} ({})", duration(of.wait_ns), of.step, of.functions.join(", ")))
        .collect();
    (!steps.is_empty()).then(|| format!("stretched: the kernel is made to wait {}", steps.join("; ")))
}

/// Takes what happened, in the order in which it became known.
pub trait Sink {
    /// Before anything else.
    fn start(&mut self, start: &Start<'_>) -> io::Result<()>;

    /// One span, with the frames of its kernel stack (innermost first; none when stacks are not wanted or unknown).
    fn span(&mut self, span: &Span, stack: &[Frame]) -> io::Result<()>;

    /// One broken rule, with the stacks of its evidence where they are wanted and known: one for each piece, in order.
    fn violation(&mut self, violation: &Violation, stacks: &[Vec<Frame>]) -> io::Result<()>;

    /// After everything else.
    fn end(&mut self, summary: &Summary) -> io::Result<()>;

    /// Hands on what waits in a buffer.
    fn flush(&mut self) -> io::Result<()>;
}
