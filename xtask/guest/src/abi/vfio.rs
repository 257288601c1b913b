//! `include/uapi/linux/vfio.h`: a VFIO device on iommufd, moved between page tables, and the older container.

use std::ffi::c_ulong;

use super::{commands, io};

/// `VFIO_BASE`.
const BASE: u8 = 100;

/// `struct vfio_device_bind_iommufd` as first released; newer kernels append a token pointer, which
/// `argsz` says is not there.
#[repr(C)]
#[derive(Debug, Default)]
pub struct BindIommufd {
    pub argsz: u32,
    pub flags: u32,
    pub iommufd: i32,
    pub out_devid: u32,
}

/// `struct vfio_device_attach_iommufd_pt`. `pasid` is read with its flag only.
#[repr(C)]
#[derive(Debug, Default)]
pub struct AttachPt {
    pub argsz: u32,
    pub flags: u32,
    pub pt_id: u32,
    pub pasid: u32,
}

/// `struct vfio_device_detach_iommufd_pt`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct DetachPt {
    pub argsz: u32,
    pub flags: u32,
    pub pasid: u32,
}

/// `VFIO_DEVICE_ATTACH_PASID` and `VFIO_DEVICE_DETACH_PASID`: the PASID counts. Kernels before 6.15 do not know it.
pub const WITH_PASID: u32 = 1 << 0;

commands! {
    BindIommufd = BASE + 18, "VFIO_DEVICE_BIND_IOMMUFD", 16 bytes;
    AttachPt = BASE + 19, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", 16 bytes;
    DetachPt = BASE + 20, "VFIO_DEVICE_DETACH_IOMMUFD_PT", 12 bytes;
}

/// `struct vfio_irq_set` with one eventfd for data.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SetIrqs {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub start: u32,
    pub count: u32,
    pub eventfd: i32,
}

/// `VFIO_IRQ_SET_DATA_EVENTFD`.
pub const IRQ_DATA_EVENTFD: u32 = 1 << 2;
/// `VFIO_IRQ_SET_ACTION_TRIGGER`.
pub const IRQ_ACTION_TRIGGER: u32 = 1 << 5;
/// `VFIO_PCI_REQ_IRQ_INDEX`: no interrupt of the device, but the kernel's wish to have it back.
pub const PCI_REQ_IRQ: u32 = 4;

commands! {
    SetIrqs = BASE + 10, "VFIO_DEVICE_SET_IRQS", 24 bytes;
}

/// `VFIO_SET_IOMMU`: its argument is a value, the kind of IOMMU.
pub const SET_IOMMU: c_ulong = io(BASE + 2);
/// `VFIO_TYPE1v2_IOMMU`.
pub const TYPE1V2_IOMMU: c_ulong = 3;
/// `VFIO_GROUP_UNSET_CONTAINER`: no argument.
pub const GROUP_UNSET_CONTAINER: c_ulong = io(BASE + 5);

/// The argument of `VFIO_GROUP_SET_CONTAINER`: a pointer to the container's descriptor.
#[repr(C)]
#[derive(Debug, Default)]
pub struct GroupSetContainer {
    pub container: i32,
}

/// The argument of `VFIO_GROUP_GET_DEVICE_FD`: the device's name as a C string. The request returns a descriptor.
#[repr(C)]
#[derive(Debug)]
pub struct GroupGetDeviceFd {
    pub name: [u8; 64],
}

/// `VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE`.
pub const DMA_MAP_READ_WRITE: u32 = 0b11;

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    pub vaddr: u64,
    pub iova: u64,
    pub size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap` without its flexible array.
#[repr(C)]
#[derive(Debug, Default)]
pub struct DmaUnmap {
    pub argsz: u32,
    pub flags: u32,
    pub iova: u64,
    pub size: u64,
}

commands! {
    GroupSetContainer = BASE + 4, "VFIO_GROUP_SET_CONTAINER", 4 bytes;
    GroupGetDeviceFd = BASE + 6, "VFIO_GROUP_GET_DEVICE_FD", 64 bytes;
    DmaMap = BASE + 13, "VFIO_IOMMU_MAP_DMA", 32 bytes;
    DmaUnmap = BASE + 14, "VFIO_IOMMU_UNMAP_DMA", 24 bytes;
}
