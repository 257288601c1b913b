//! Where events come from: the live kernel or a recording, behind one trait.
//!
//! A [`Source`] is polled on a thread of its own ([`spawn`]), so that neither a slow terminal nor a busy model ever
//! slows the reader of the ring; consumers take [`Batch`]es from a bounded channel.

pub mod live;
mod stream;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    event::Event,
    model::Features,
    probes::{ProbeStatus, stretch::Stretched},
    sandbox::Needs,
};

pub use stream::{Stream, StreamControl, spawn};

/// What is known of a source before its first event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// `uname -r` of the traced kernel.
    pub kernel: String,
    /// `uname -m` of the traced machine.
    pub machine: String,
    /// Its host name.
    pub host: String,
    /// How this kernel treats handles, as its BTF and symbols tell.
    pub features: Features,
    /// What became of each probe that was wanted.
    pub probes: Vec<ProbeStatus>,
    /// Add this to an event's `ts` (`CLOCK_MONOTONIC`) for nanoseconds since the Unix epoch.
    pub epoch_offset_ns: i64,
    /// When the source began, on the events' clock.
    pub started_ns: u64,
    /// Whether it is known that no slot was being changed just then, as where a recording goes on in a further file. A
    /// trace that begins anywhere cannot know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
    /// Where the kernel was made to wait meanwhile (`check --stretch`): what happens when is then not as it would be without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stretched: Vec<Stretched>,
}

/// Events in the order they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In time order, also across batches; losses ([`crate::event::Body::Lost`]) come before the first event that could
    /// have followed them, with the time at which they were known.
    pub events: Vec<Event>,
    /// No later event will be older than this: the model's clock may advance to it.
    pub upto: u64,
}

/// Whether a source has more to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Poll again.
    More,
    /// That was all.
    End,
}

/// Something that gives events.
pub trait Source: Send {
    /// What is known of it.
    fn info(&self) -> &SourceInfo;

    /// What its reader needs when it is polled, besides what it has open.
    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    /// The thread that will poll it from now on is the one that this is called on.
    fn on_reader_thread(&mut self) {}

    /// Whether what is not taken in time is lost.
    fn is_live(&self) -> bool {
        false
    }

    /// Appends the next events to `batch` and sets its `upto`, waiting at most `timeout` for the first of them.
    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress>;

    /// Stops at the source: a live one detaches its probes. Later polls give what is left, the losses last, and end.
    fn stop(&mut self) -> anyhow::Result<()>;

    /// Where its stacks are resolved.
    fn stacks(&self) -> Arc<dyn Stacks>;

    /// What was waited for its sake, where it makes the kernel wait.
    fn waits(&self) -> Option<Arc<dyn Waits>> {
        None
    }

    /// What the source itself has cost so far, where it can tell.
    fn cost(&self) -> Cost {
        Cost::default()
    }
}

/// One frame of a kernel stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// The address.
    pub addr: u64,
    /// Function, offset and module as the kernel prints them (`name+0x12 [module]`), or the address.
    pub symbol: String,
}

/// Resolves stack ids.
pub trait Stacks: Send + Sync {
    /// The frames of a stack, innermost first; empty when it is unknown.
    fn frames(&self, id: u32) -> Vec<Frame>;

    /// What resolving them takes.
    fn needs(&self) -> Needs {
        Needs::NOTHING
    }
}

/// Tells what was waited at the steps that are stretched.
pub trait Waits: Send + Sync {
    /// So far, by step.
    fn waits(&self) -> Vec<StepWaits>;
}

/// What was waited at one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StepWaits {
    /// The step.
    pub step: String,
    /// How long each wait is, nanoseconds.
    pub wait_ns: u64,
    /// How often was waited; `None` where that is not known, as of a recording.
    pub waits: Option<u64>,
    /// How long in all, nanoseconds.
    pub waited_ns: Option<u64>,
}

/// No stacks at all.
pub struct NoStacks;

impl Stacks for NoStacks {
    fn frames(&self, _id: u32) -> Vec<Frame> {
        Vec::new()
    }
}

/// What tracing itself costs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cost {
    /// By program.
    pub programs: Vec<ProgramCost>,
}

/// What one BPF program cost.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProgramCost {
    /// Its name.
    pub program: String,
    /// How often it ran.
    pub runs: u64,
    /// How long in all, nanoseconds.
    pub run_ns: u64,
}
