//! The way of a page fault: its report, its group, its delivery, its answer.

use super::{DeviceRef, FLAG_LAST_PAGE, FLAG_PASID_VALID, Ptr};

/// Entry of `iommu_report_device_fault`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The faulting device.
    pub device: DeviceRef,
    /// The `struct iopf_fault` passed (its own when the core answers without a group).
    pub evt: Ptr,
    /// `IOMMU_FAULT_PAGE_REQ` is 1.
    pub kind: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Meaningful with [`FLAG_PASID_VALID`].
    pub pasid: u32,
    /// Page request group index.
    pub grpid: u32,
    /// `IOMMU_FAULT_PERM_*`.
    pub perm: u32,
    /// The faulting address.
    pub addr: u64,
}

impl Report {
    /// The PASID of the request, `None` for a request by RID.
    #[must_use]
    pub fn pasid(&self) -> Option<u32> {
        (self.flags & FLAG_PASID_VALID != 0).then_some(self.pasid)
    }

    /// Whether the request ends its group, and so must be answered.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.flags & FLAG_LAST_PAGE != 0
    }
}

/// A `struct iopf_group` in a handler (`ProbeId::IommufdIopfHandler`, `ProbeId::SvaIopfHandler`), in
/// `ProbeId::GroupResponse`, `ProbeId::GroupDequeue` or `ProbeId::GroupFree`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultGroup {
    /// The group. Its first member is the last fault, so a `page_response` with this `evt` answers it.
    pub group: Ptr,
    /// `attach_handle`.
    pub handle: Ptr,
    /// The handle's domain; `NULL` where the probe did not follow the handle (only handlers do).
    pub domain: Ptr,
    /// The `struct iommufd_fault` that it will be put into; `NULL` where it was not followed.
    pub queue: Ptr,
    /// `fault_param->dev`.
    pub device: Ptr,
    /// Address of the last fault.
    pub addr: u64,
    /// Requests in the group, the last included.
    pub count: u32,
    /// PASID of the last fault.
    pub pasid: u32,
    /// Group index of the last fault.
    pub grpid: u32,
    /// Flags of the last fault.
    pub flags: u32,
    /// iommufd's cookie, once delivered.
    pub cookie: u32,
    /// The code, in a response.
    pub code: u32,
}

/// Entry of a driver's `page_response` op: the one complete place to see responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageResponse {
    /// The device answered.
    pub device: Ptr,
    /// The fault answered: equals its [`FaultGroup::group`], or the [`Report::evt`] when there is no group.
    pub evt: Ptr,
    /// PASID.
    pub pasid: u32,
    /// Page request group index.
    pub grpid: u32,
    /// `IOMMU_PAGE_RESP_*`.
    pub code: u32,
}

/// Entry or return of `read` or `write` on a fault file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOp {
    /// The `struct file`.
    pub file: Ptr,
    /// The `struct iommufd_fault`.
    pub fault: Ptr,
    /// Bytes asked for.
    pub count: u64,
    /// Bytes done or the error; 0 at entry.
    pub ret: i64,
}

/// One message that `read` gave to user space: the moment when it holds the device id. One for each request of a
/// group, the last request included, all with the group's cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The `struct iommufd_fault`.
    pub fault: Ptr,
    /// Position in this read.
    pub index: u32,
    /// The device id that user space got.
    pub device_id: u32,
    /// PASID.
    pub pasid: u32,
    /// Page request group index.
    pub grpid: u32,
    /// `IOMMU_FAULT_PERM_*`.
    pub perm: u32,
    /// Flags.
    pub flags: u32,
    /// The cookie to answer with.
    pub cookie: u32,
    /// Faulting address.
    pub addr: u64,
}
