//! Two recordings side by side, stage by stage.

use serde::{Serialize, Serializer};

use super::StatsDocument;
use crate::{
    model::Measure,
    output::{FIGURES, Measured, Percentiles},
};

/// One stage in both; a side that never reached it has none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The stage.
    #[serde(serialize_with = "name")]
    pub stage: Measure,
    /// The device; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Before.
    pub a: Option<Percentiles>,
    /// After.
    pub b: Option<Percentiles>,
    /// By how much each figure changed, in percent of the first.
    pub percent: Vec<(&'static str, Option<f64>)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `serialize_with` passes by reference")]
fn name<S: Serializer>(stage: &Measure, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(stage.name())
}

/// Both, and what changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The first recording.
    pub a: StatsDocument,
    /// The second.
    pub b: StatsDocument,
    /// Stages of all faults, then of each device that is in both.
    pub changes: Vec<Change>,
}

/// By how many percent `b` is more than `a`.
fn percent(a: u64, b: u64) -> Option<f64> {
    (a != 0).then(|| (b as f64 - a as f64) / a as f64 * 100.0)
}

impl Comparison {
    /// Compares two.
    #[must_use]
    pub fn new(a: StatsDocument, b: StatsDocument) -> Self {
        let mut changes = changes(None, &a.latencies, &b.latencies);
        for device in &a.devices {
            let same = b.devices.iter().find(|other| other.device == device.device && !device.device.is_empty());
            if let Some(other) = same {
                changes.extend(changes_of(&device.device.to_string(), &device.latencies, &other.latencies));
            }
        }
        Comparison { a, b, changes }
    }
}

fn changes_of(device: &str, a: &Measured, b: &Measured) -> Vec<Change> {
    changes(Some(device), a, b)
}

fn changes(device: Option<&str>, a: &Measured, b: &Measured) -> Vec<Change> {
    Measure::OF_FAULTS
        .into_iter()
        .map(|stage| (stage, a.get(stage).copied(), b.get(stage).copied()))
        .filter(|(_, a, b)| a.is_some() || b.is_some())
        .map(|(stage, a, b)| {
            let both = a.zip(b);
            let percent = FIGURES
                .iter()
                .map(|(name, figure)| (*name, both.and_then(|(a, b)| percent(figure(&a), figure(&b)))))
                .collect();
            Change { stage, device: device.map(str::to_owned), a, b, percent }
        })
        .collect()
}
