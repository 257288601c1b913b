//! A PCI device in VFIO's container: the way to attach that kernels without iommufd have.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::NotApplicable;
use crate::abi::size_u32;
use crate::abi::vfio::{
    DMA_MAP_READ_WRITE, DmaMap, DmaUnmap, GROUP_UNSET_CONTAINER, GroupGetDeviceFd, GroupSetContainer, SET_IOMMU,
    TYPE1V2_IOMMU,
};
use crate::notice::Notice;
use crate::sys::{Failure, Tried, ioctl, ioctl_value};
use crate::truth::{Fact, Hex, Outcome, Slot, Truth, Via};
use crate::vfio::Claimed;

/// A group in a container, attached, with its device open.
pub struct Container {
    file: File,
    group_file: File,
    device: OwnedFd,
    address: String,
    group: u32,
    truth: Arc<Truth>,
}

fn open(path: &Path) -> Tried<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| Failure::from_io(&e, format!("open of {}", path.display())))
}

impl Container {
    /// Puts the device's group into a new container, which attaches it, and opens the device.
    pub fn open(claimed: &Claimed, truth: &Arc<Truth>) -> Result<Self> {
        let address = claimed.pci.address.clone();
        let Some(group) = claimed.pci.group() else { bail!(NotApplicable(format!("{address} is behind no IOMMU"))) };
        let container = match open(Path::new("/dev/vfio/vfio")) {
            Err(f) if [libc::ENOENT, libc::ENODEV, libc::ENXIO].contains(&f.errno) => {
                bail!(NotApplicable(format!("this kernel has no VFIO container: {f}")));
            }
            result => result?,
        };
        let group_file = open(&Path::new("/dev/vfio").join(group.to_string()))?;
        let mut set = GroupSetContainer { container: container.as_raw_fd() };
        ioctl(group_file.as_fd(), &mut set, || format!("group {group}"))?;
        let (outcome, result) = Outcome::of(|| {
            ioctl_value(container.as_fd(), SET_IOMMU, TYPE1V2_IOMMU, &format!("VFIO_SET_IOMMU (group {group})"))
        });
        truth.tell(&Fact::Attach(slot(&address, group, outcome)));
        result?;
        let mut name = GroupGetDeviceFd { name: [0; 64] };
        // One byte stays zero: the name is a C string.
        for (to, from) in name.name.iter_mut().take(63).zip(address.bytes()) {
            *to = from;
        }
        let fd = ioctl(group_file.as_fd(), &mut name, || address.clone())?;
        // SAFETY: the kernel has just installed this descriptor for us; nothing else owns it.
        let device = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { file: container, group_file, device, address, group, truth: Arc::clone(truth) })
    }

    /// `VFIO_IOMMU_MAP_DMA`, readable and writable.
    pub fn map(&self, iova: u64, user_va: u64, length: u64) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            let argsz = size_u32::<DmaMap>();
            let mut cmd = DmaMap { argsz, flags: DMA_MAP_READ_WRITE, vaddr: user_va, iova, size: length };
            ioctl(self.file.as_fd(), &mut cmd, || format!("{iova:#x}+{length:#x}")).map(drop)
        });
        self.truth.tell(&Fact::Map { ioas_id: None, iova: Hex(iova), length, outcome });
        result
    }

    /// `VFIO_IOMMU_UNMAP_DMA`; gives back how many bytes went.
    pub fn unmap(&self, iova: u64, length: u64) -> Tried<u64> {
        let mut unmapped = 0;
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = DmaUnmap { argsz: size_u32::<DmaUnmap>(), flags: 0, iova, size: length };
            ioctl(self.file.as_fd(), &mut cmd, || format!("{iova:#x}+{length:#x}"))?;
            unmapped = cmd.size;
            Ok(unmapped)
        });
        self.truth.tell(&Fact::Unmap { ioas_id: None, iova: Hex(iova), length, unmapped, outcome });
        result
    }

    /// Has the kernel ask for the device when it is to be removed.
    pub fn notice(&self) -> Tried<Notice> {
        Notice::of(self.device.as_fd())
    }

    /// Closes the device and leaves the group attached.
    pub fn close_device(self) -> Orphan {
        let Self { file, group_file, device, address, group, truth } = self;
        drop(device);
        Orphan { files: [group_file, file], address, group, truth }
    }

    /// Closes the device and takes the group out of the container, which detaches it.
    pub fn close(self) -> Tried<()> {
        let Self { file, group_file, device, address, group, truth } = self;
        drop(device);
        let (outcome, result) = Outcome::of(|| {
            let tried = format!("VFIO_GROUP_UNSET_CONTAINER (group {group})");
            ioctl_value(group_file.as_fd(), GROUP_UNSET_CONTAINER, 0, &tried)
        });
        truth.tell(&Fact::Detach(slot(&address, group, outcome)));
        drop((group_file, file));
        result
    }
}

/// A group in a container whose device is about to be removed.
pub struct Orphan {
    files: [File; 2],
    address: String,
    group: u32,
    truth: Arc<Truth>,
}

impl Orphan {
    /// Tells that the kernel has detached the group on its own, in a removal, and closes what is left.
    pub fn removed(self, outcome: Outcome) {
        let Self { files, address, group, truth } = self;
        truth.tell(&Fact::Detach(Slot { implicit: true, ..slot(&address, group, outcome) }));
        drop(files);
    }
}

/// The RID's slot of a group in a container: no iommufd object has anything to do with it.
fn slot(address: &str, group: u32, outcome: Outcome) -> Slot {
    Slot {
        via: Via::VfioContainer,
        device: Some(address.to_owned()),
        group: Some(group),
        device_id: None,
        stdev_id: None,
        pasid: 0,
        pt_id: None,
        pt: None,
        hwpt_id: None,
        old_hwpt_id: None,
        fault_id: None,
        core: true,
        implicit: false,
        why: None,
        outcome,
    }
}
