//! `include/uapi/linux/iommufd.h`: the part that the guest programs use.

use super::{commands, size_u32};

/// `IOMMUFD_CMD_BASE`.
pub const CMD_BASE: u8 = 0x80;

/// `struct iommu_destroy`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Destroy {
    pub size: u32,
    pub id: u32,
}

/// `struct iommu_ioas_alloc`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct IoasAlloc {
    pub size: u32,
    pub flags: u32,
    pub out_ioas_id: u32,
}

/// `enum iommufd_ioas_map_flags`.
pub const MAP_FIXED_IOVA: u32 = 1 << 0;
/// `enum iommufd_ioas_map_flags`.
pub const MAP_WRITEABLE: u32 = 1 << 1;
/// `enum iommufd_ioas_map_flags`.
pub const MAP_READABLE: u32 = 1 << 2;

/// `struct iommu_ioas_map`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct IoasMap {
    pub size: u32,
    pub flags: u32,
    pub ioas_id: u32,
    pub reserved: u32,
    pub user_va: u64,
    pub length: u64,
    pub iova: u64,
}

/// `struct iommu_ioas_unmap`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct IoasUnmap {
    pub size: u32,
    pub ioas_id: u32,
    pub iova: u64,
    pub length: u64,
}

/// `IOMMU_HWPT_ALLOC_NEST_PARENT` of `enum iommufd_hwpt_alloc_flags`.
pub const HWPT_NEST_PARENT: u32 = 1 << 0;
/// `IOMMU_HWPT_ALLOC_DIRTY_TRACKING`.
pub const HWPT_DIRTY_TRACKING: u32 = 1 << 1;
/// `IOMMU_HWPT_FAULT_ID_VALID`.
pub const HWPT_FAULT_ID_VALID: u32 = 1 << 2;
/// `IOMMU_HWPT_ALLOC_PASID`; kernels before 6.13 do not know it.
pub const HWPT_PASID: u32 = 1 << 3;

/// `struct iommu_hwpt_alloc`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct HwptAlloc {
    pub size: u32,
    pub flags: u32,
    pub dev_id: u32,
    pub pt_id: u32,
    pub out_hwpt_id: u32,
    pub reserved: u32,
    pub data_type: u32,
    pub data_len: u32,
    pub data_uptr: u64,
    pub fault_id: u32,
    pub reserved2: u32,
}

/// `struct iommu_fault_alloc`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FaultAlloc {
    pub size: u32,
    pub flags: u32,
    pub out_fault_id: u32,
    pub out_fault_fd: u32,
}

/// `IOMMU_PGFAULT_PERM_READ` of `enum iommu_hwpt_pgfault_perm`.
pub const PERM_READ: u32 = 1 << 0;
/// `IOMMU_PGFAULT_PERM_WRITE`.
pub const PERM_WRITE: u32 = 1 << 1;
/// `IOMMU_PGFAULT_PERM_EXEC`.
pub const PERM_EXEC: u32 = 1 << 2;
/// `IOMMU_PGFAULT_PERM_PRIV`.
pub const PERM_PRIV: u32 = 1 << 3;

/// `struct iommu_hwpt_pgfault`: one record that the fault file delivers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PageFault {
    pub flags: u32,
    pub dev_id: u32,
    pub pasid: u32,
    pub grpid: u32,
    pub perm: u32,
    pub reserved: u32,
    pub addr: u64,
    pub length: u32,
    pub cookie: u32,
}
const _: () = assert!(size_of::<PageFault>() == 40);

/// `IOMMUFD_PAGE_RESP_SUCCESS` of `enum iommufd_page_response_code`.
pub const RESP_SUCCESS: u32 = 0;
/// `IOMMUFD_PAGE_RESP_INVALID`. The core has a third code, FAILURE, which this ABI does not offer.
pub const RESP_INVALID: u32 = 1;

/// `struct iommu_hwpt_page_response`: one answer written to the fault file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PageResponse {
    pub cookie: u32,
    pub code: u32,
}
const _: () = assert!(size_of::<PageResponse>() == 8);

commands! {
    Destroy = CMD_BASE, "IOMMU_DESTROY", 8 bytes;
    IoasAlloc = CMD_BASE + 1, "IOMMU_IOAS_ALLOC", 12 bytes;
    IoasMap = CMD_BASE + 5, "IOMMU_IOAS_MAP", 40 bytes;
    IoasUnmap = CMD_BASE + 6, "IOMMU_IOAS_UNMAP", 24 bytes;
    HwptAlloc = CMD_BASE + 9, "IOMMU_HWPT_ALLOC", 48 bytes;
    FaultAlloc = CMD_BASE + 14, "IOMMU_FAULT_QUEUE_ALLOC", 16 bytes;
}

impl HwptAlloc {
    /// An argument with its size filled in.
    pub fn sized() -> Self {
        Self { size: size_u32::<Self>(), ..Self::default() }
    }
}
