//! What was seen, in numbers.

use std::collections::BTreeMap;

use super::span::{Response, SpanKind};
use crate::event::{ProbeId, ResponseCode};

/// Numbers of what the model was given and what it told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events applied.
    pub events: u64,
    /// Spans told, by public name.
    pub spans: SpanCounts,
    /// Finished faults by their response; partial requests are never answered and not counted here.
    pub responses: ResponseCounts,
    /// Records lost, by probe.
    pub lost: BTreeMap<ProbeId, u64>,
    /// Returns whose entry was not seen.
    pub unmatched_returns: u64,
    /// Responses, deliveries and frees of faults whose report was not seen.
    pub unmatched_faults: u64,
    /// Things that were forgotten because a table was full.
    pub forgotten: u64,
}

/// Spans told, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts([u64; SPAN_NAMES.len()]);

/// Public names in the order of [`index`].
const SPAN_NAMES: [&str; 24] = [
    "attach",
    "replace",
    "detach",
    "fault",
    "fault_stage",
    "sva_bind",
    "sva_unbind",
    "iopf_enable",
    "iopf_disable",
    "iommufd_bind",
    "iommufd_unbind",
    "fault_queue_destroy",
    "device_add",
    "device_remove",
    "domain_free",
    "dma_fault",
    "map",
    "unmap",
    "invalidate",
    "reset_prepare",
    "reset_done",
    "lost",
    "flush",
    "sum",
];

fn index(kind: &SpanKind) -> usize {
    match kind {
        SpanKind::Attach(_) => 0,
        SpanKind::Replace(_) => 1,
        SpanKind::Detach(_) => 2,
        SpanKind::Fault(_) => 3,
        SpanKind::FaultStage(_) => 4,
        SpanKind::SvaBind(_) => 5,
        SpanKind::SvaUnbind(_) => 6,
        SpanKind::IopfEnable(_) => 7,
        SpanKind::IopfDisable(_) => 8,
        SpanKind::IommufdBind(_) => 9,
        SpanKind::IommufdUnbind(_) => 10,
        SpanKind::FaultQueueDestroy(_) => 11,
        SpanKind::DeviceAdd(_) => 12,
        SpanKind::DeviceRemove(_) => 13,
        SpanKind::DomainFree(_) => 14,
        SpanKind::DmaFault(_) => 15,
        SpanKind::Map(_) => 16,
        SpanKind::Unmap(_) => 17,
        SpanKind::Invalidate(_) => 18,
        SpanKind::ResetPrepare(_) => 19,
        SpanKind::ResetDone(_) => 20,
        SpanKind::Lost(_) => 21,
        SpanKind::Flush(_) => 22,
        SpanKind::Sum(_) => 23,
    }
}

impl SpanCounts {
    /// One more of this kind.
    pub fn count(&mut self, kind: &SpanKind) {
        self.0[index(kind)] += 1;
    }

    /// The same, with calls that were summed up counted as if each had been told.
    pub fn count_calls(&mut self, kind: &SpanKind) {
        let SpanKind::Sum(sum) = kind else { return self.count(kind) };
        for (place, name) in SPAN_NAMES.into_iter().enumerate() {
            if name == sum.of.name() {
                self.0[place] += sum.calls;
            }
        }
    }

    /// How many of this name were told.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.iter().find(|&(known, _)| known == name).map_or(0, |(_, count)| count)
    }

    /// Those of both.
    pub fn add(&mut self, other: &SpanCounts) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// Every public name with its count, zero included.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SPAN_NAMES.into_iter().zip(self.0)
    }
}

/// Finished faults by response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseCounts {
    /// `IOMMU_PAGE_RESP_SUCCESS`.
    pub success: u64,
    /// `IOMMU_PAGE_RESP_INVALID`.
    pub invalid: u64,
    /// `IOMMU_PAGE_RESP_FAILURE`.
    pub failure: u64,
    /// A code that the kernel does not define.
    pub other: u64,
    /// Not answered.
    pub none: u64,
}

impl ResponseCounts {
    pub(super) fn count(&mut self, response: Response) {
        *match response.0 {
            Some(ResponseCode::Success) => &mut self.success,
            Some(ResponseCode::Invalid) => &mut self.invalid,
            Some(ResponseCode::Failure) => &mut self.failure,
            Some(ResponseCode::Other(_)) => &mut self.other,
            None => &mut self.none,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{DomainType, Ptr},
        model::span::{DomainSpan, LostSpan},
    };

    #[test]
    fn names_and_places_agree() {
        for kind in [
            SpanKind::Fault(super::super::span::FaultSpan::default()),
            SpanKind::DomainFree(DomainSpan { domain: Ptr(1), domain_type: DomainType::DMA }),
            SpanKind::Lost(LostSpan { probe: "x", count: 1 }),
        ] {
            assert_eq!(SPAN_NAMES[index(&kind)], kind.name());
        }
    }
}
