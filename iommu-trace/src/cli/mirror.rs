//! What the model is told of its source.

use crate::{
    event::ProbeId,
    model::{ModelOptions, ProbeSet},
    probes::{CATALOGUE, Verdict},
    source::SourceInfo,
};

/// How a model is to work on what this source gives, with nothing asked for.
#[must_use]
pub fn options(info: &SourceInfo) -> ModelOptions {
    ModelOptions { unseen: unseen(info), settled: info.settled, ..ModelOptions::default() }
}

/// Functions that the kernel has and that are not probed: the model must not take silence for absence.
///
/// Those of a driver that is not at work here are never called, and so hide nothing.
pub fn unseen(info: &SourceInfo) -> ProbeSet {
    let has_driver = |id| CATALOGUE.iter().any(|probe| probe.id == id && !probe.driver.is_empty());
    info.probes
        .iter()
        .filter_map(|probe| {
            Some((probe.verdict, ProbeId::ALL.iter().copied().find(|id| id.function() == probe.function)?))
        })
        .filter(|&(verdict, id)| match verdict {
            Verdict::Ok | Verdict::Missing | Verdict::Waiting => false,
            Verdict::Broken => true,
            Verdict::NotApplicable => !has_driver(id),
        })
        .map(|(_, id)| id)
        .collect()
}

/// Nanoseconds since now, for the model to time its own look-ups with.
pub fn clock() -> impl FnMut() -> u64 + Send {
    let begin = std::time::Instant::now();
    move || begin.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}
