//! What calls of a hot function came to.

use iommu_trace_common::record::{self, SumKey, SumValue};

use super::{ProbeId, Ptr};

/// Calls of one function on one object, summed up over some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The function.
    pub of: ProbeId,
    /// The domain, or the IOMMU of an invalidation.
    pub object: Ptr,
    /// Type of VT-d's descriptor, for its invalidations.
    pub kind: u32,
    /// How many and how much.
    pub value: SumValue,
}

impl Sum {
    /// Of what BPF has counted; `None` for a function that this version does not know.
    #[must_use]
    pub fn new(key: &SumKey, value: &SumValue) -> Option<Sum> {
        let of = u16::try_from(key.probe).ok().and_then(ProbeId::from_u16)?;
        Some(Sum { of, object: Ptr(key.object), kind: key.kind, value: *value })
    }

    /// As it lies in a recording.
    #[must_use]
    pub fn record(&self) -> record::Sum {
        let key = SumKey { object: self.object.0, probe: self.of as u32, kind: self.kind };
        record::Sum { key, value: self.value }
    }
}
