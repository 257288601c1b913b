//! The catalogue of probes, what is planned, and what became of each.

pub mod catalogue;
pub mod drift;
mod plan;
pub mod stretch;

use serde::{Deserialize, Serialize};

pub use catalogue::{CATALOGUE, Probe, Purpose, Reach, SUMMED_BY, Wanted};
pub use plan::{Machine, Plan, Planned, Program, Way};

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Attached (or, in `doctor`, attachable).
    Ok,
    /// This kernel does not have the function.
    Missing,
    /// The kernel has the function and would not let us attach.
    Broken,
    /// Its function is in a module that is not loaded: it is attached when that comes.
    Waiting,
    /// This machine has no use for it: another vendor's driver, a topic nobody asked for.
    NotApplicable,
}

impl Verdict {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Missing => "missing",
            Verdict::Broken => "broken",
            Verdict::Waiting => "waiting",
            Verdict::NotApplicable => "not applicable",
        }
    }
}

/// One probe and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// The kernel function or tracepoint.
    pub function: String,
    /// `fentry`, `fexit`, `fentry+fexit`, `kprobe`, `tp_btf` …
    pub kind: String,
    /// Its topic.
    pub topic: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, unless it is well.
    pub reason: Option<String>,
    /// What its absence costs.
    pub cost: String,
    /// Whether a run without it makes no sense.
    pub essential: bool,
}
