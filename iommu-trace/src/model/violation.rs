//! A rule that was broken, and the events that prove it.

use serde::Serialize;

use super::rules::RuleId;
use crate::event::{Name, Phase, ProbeId, Ptr, Task};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Lawful on this kernel, but what later kernels forbid for its danger; or a question for reviewers.
    Warning,
    /// Forbidden by the kernel's own rules.
    Error,
}

impl Severity {
    /// As in the JSON form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// What a violation is about; only what is known and to the point is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The group's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Name>,
    /// 0 is the RID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pasid: Option<u32>,
    /// The attach handle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<Ptr>,
    /// The domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Ptr>,
    /// iommufd's object id of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<u32>,
    /// The `struct iopf_group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_group: Option<Ptr>,
    /// Page request group index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpid: Option<u32>,
}

/// One event that led to a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// What it was to the subject: `attach`, `look-up`, `detach` …
    pub what: &'static str,
    /// The kernel function.
    #[serde(serialize_with = "function")]
    pub probe: ProbeId,
    /// Its entry or its return.
    #[serde(serialize_with = "phase")]
    pub phase: Phase,
    /// Who and where.
    #[serde(flatten)]
    pub task: Task,
    /// Stack id in the source's table, to be resolved by the output.
    #[serde(skip)]
    pub stack: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `serialize_with` passes by reference")]
fn function<S: serde::Serializer>(probe: &ProbeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(probe.function())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `serialize_with` passes by reference")]
fn phase<S: serde::Serializer>(phase: &Phase, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match phase {
        Phase::Enter => "enter",
        Phase::Exit => "return",
    })
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Violation {
    /// When it showed.
    pub ts: u64,
    /// The rule's slug.
    pub rule: RuleId,
    /// How bad it is here.
    pub severity: Severity,
    /// One sentence for people.
    pub message: String,
    /// What it is about.
    pub subject: Subject,
    /// The events that prove it, oldest first.
    pub evidence: Vec<Evidence>,
    /// The task that the last of them happened on.
    #[serde(flatten)]
    pub task: Task,
}
