//! `include/uapi/linux/vfio.h`: binding a VFIO device to iommufd and moving it between page tables.

use super::commands;

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

/// `struct vfio_device_attach_iommufd_pt`. `pasid` is read with a flag only that nothing here sets.
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

commands! {
    BindIommufd = BASE + 18, "VFIO_DEVICE_BIND_IOMMUFD", 16 bytes;
    AttachPt = BASE + 19, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", 16 bytes;
    DetachPt = BASE + 20, "VFIO_DEVICE_DETACH_IOMMUFD_PT", 12 bytes;
}
