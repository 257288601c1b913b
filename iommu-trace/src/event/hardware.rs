//! What IOMMUs do and report: unrecoverable faults, map and unmap, invalidation.

use super::{DeviceRef, Name, Ptr};

/// A record of VT-d's fault recording registers, an entry of AMD-Vi's event log or an event of virtio-iommu; the probe
/// tells which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaFault {
    /// The `struct intel_iommu` or `amd_iommu`, or virtio-iommu's event queue.
    pub iommu: Ptr,
    /// The number in `dmarN`, `ivhdN` or `virtioN`.
    pub seq_id: u32,
    /// Requester id: bus 8 bits, device 5, function 3.
    pub source: u32,
    /// Faulting address; VT-d's is page aligned.
    pub addr: u64,
    /// VT-d's fault reason, AMD-Vi's type of event, or `VIRTIO_IOMMU_FAULT_R_*`.
    pub reason: u32,
    /// VT-d: a read (else a write). Others tell by their flags.
    pub read: bool,
    /// PASID where the request had one.
    pub pasid: Option<u32>,
    /// VT-d: the fault status register. Others: the event's flags.
    pub status: u32,
}

/// A record of SMMUv3's event queue: a transaction that it refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmmuFault {
    /// The device that has this stream, by the driver's own table.
    pub device: DeviceRef,
    /// The `struct arm_smmu_device`.
    pub smmu: Ptr,
    /// The unit's name in `/sys/class/iommu`.
    pub unit: Name,
    /// The stream id.
    pub stream: u32,
    /// The input address; 0 for events that have none.
    pub addr: u64,
    /// The event's number (Arm SMMUv3 specification, 7.3).
    pub kind: u32,
    /// The substream id where the transaction had one.
    pub pasid: Option<u32>,
    /// The upper half of the record's second word.
    pub flags: u32,
}

/// Return of a map or unmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaOp {
    /// The domain.
    pub domain: Ptr,
    /// First address.
    pub iova: u64,
    /// Bytes asked for.
    pub size: u64,
    /// What was returned.
    pub ret: i64,
    /// Entry to return.
    pub duration: u64,
}

/// Return of a queued invalidation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Invalidate {
    /// The IOMMU.
    pub iommu: Ptr,
    /// First quadword of the first descriptor.
    pub desc: u64,
    /// Descriptors.
    pub count: u32,
    /// `QI_OPT_*`.
    pub options: u32,
    /// What was returned.
    pub ret: i64,
    /// Entry to return.
    pub duration: u64,
}
