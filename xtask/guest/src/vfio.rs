//! A PCI device under vfio-pci: its device file bound to iommufd, attached, moved and detached.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::NotApplicable;
use crate::abi::size_u32;
use crate::abi::vfio::{AttachPt, BindIommufd, DetachPt, WITH_PASID};
use crate::iommufd::{Iommufd, Pt};
use crate::mock::Expect;
use crate::notice::Notice;
use crate::pci::Pci;
use crate::sys::{Failure, Tried, ioctl};
use crate::truth::{Fact, Outcome, Slot, Truth, Via};

const VFIO_PCI: &str = "vfio-pci";

/// A device that vfio-pci has, with what it had before.
pub struct Claimed {
    /// The device.
    pub pci: Pci,
    before: Option<String>,
    truth: Arc<Truth>,
}

/// Neither QEMU's AMD-Vi nor its virtio-iommu remaps interrupts here, and without that the kernel hands no device to user
/// space unless it is told to. Nothing of this machine needs protection from its own device.
fn allow_unsafe_interrupts() {
    for module in ["vfio_iommu_type1", "iommufd"] {
        // Where there is no such module, there is nothing to allow.
        let _ = fs::write(format!("/sys/module/{module}/parameters/allow_unsafe_interrupts"), "Y");
    }
}

impl Claimed {
    /// Hands `pci` to vfio-pci.
    pub fn new(pci: Pci, truth: &Arc<Truth>) -> Result<Self> {
        if !Path::new("/sys/bus/pci/drivers").join(VFIO_PCI).exists() {
            bail!(NotApplicable("this kernel has no vfio-pci driver, or its module is not loaded".to_owned()));
        }
        if pci.group().is_none() {
            bail!(NotApplicable(format!("{} is behind no IOMMU", pci.address)));
        }
        allow_unsafe_interrupts();
        let before = pci.unbind(truth)?;
        let claimed = Self { pci, before, truth: Arc::clone(truth) };
        claimed.pci.bind(truth, VFIO_PCI)?;
        Ok(claimed)
    }

    /// Where the device file is, once the kernel has made it.
    fn cdev(&self) -> Result<PathBuf> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let name = fs::read_dir(self.pci.path("vfio-dev"))
                .ok()
                .and_then(|mut dir| dir.next()?.ok()?.file_name().into_string().ok());
            if let Some(name) = name {
                let path = Path::new("/dev/vfio/devices").join(name);
                if path.exists() {
                    return Ok(path);
                }
            }
            if Instant::now() > deadline {
                let Pci { address } = &self.pci;
                match self.pci.driver() {
                    Some(driver) if driver == VFIO_PCI => {
                        bail!(NotApplicable(format!("{address} has no VFIO device file (CONFIG_VFIO_DEVICE_CDEV)")))
                    }
                    driver => bail!("{VFIO_PCI} has lost {address} ({driver:?}), or never had it"),
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Opens the device file and binds it to `fd`.
    pub fn open(&self, fd: &Arc<Iommufd>) -> Result<Vfio> {
        let path = self.cdev()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| Failure::from_io(&e, format!("open of {}", path.display())))?;
        let group = self.pci.group();
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = BindIommufd { argsz: size_u32::<BindIommufd>(), flags: 0, iommufd: fd.raw(), out_devid: 0 };
            ioctl(file.as_fd(), &mut cmd, || self.pci.address.clone())?;
            Ok(cmd.out_devid)
        });
        let device_id = result?;
        self.truth.tell(&Fact::Bind {
            via: Via::Vfio,
            device: Some(self.pci.address.clone()),
            group,
            device_id,
            outcome,
        });
        Ok(Vfio { file, fd: Arc::clone(fd), address: self.pci.address.clone(), group, device_id, held: None })
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // Best effort: the device goes back to the driver it had.
        drop(self.pci.unbind(&self.truth));
        if let Some(driver) = &self.before {
            drop(self.pci.bind(&self.truth, driver));
        }
    }
}

/// An open VFIO device, bound to iommufd.
pub struct Vfio {
    file: File,
    fd: Arc<Iommufd>,
    address: String,
    group: Option<u32>,
    /// The device object.
    pub device_id: u32,
    held: Option<u32>,
}

impl Vfio {
    fn slot(&self, pt: Option<Pt>, expect: Expect, outcome: Outcome) -> Slot {
        Slot {
            via: Via::Vfio,
            device: Some(self.address.clone()),
            group: self.group,
            device_id: Some(self.device_id),
            stdev_id: None,
            pasid: 0,
            pt_id: pt.map(|pt| pt.id),
            pt: pt.map(|pt| pt.kind),
            hwpt_id: None,
            old_hwpt_id: self.held,
            fault_id: None,
            core: expect.reaches_core(true),
            implicit: false,
            why: expect.why(),
            outcome,
        }
    }

    /// Attaches to `pt`, or moves there when already attached: VFIO has one request for both.
    pub fn attach(&mut self, pt: Pt, expect: Expect) -> Result<()> {
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = AttachPt { argsz: size_u32::<AttachPt>(), flags: 0, pt_id: pt.id, pasid: 0 };
            ioctl(self.file.as_fd(), &mut cmd, || format!("{} to {}", self.address, pt.id))?;
            Ok(cmd.pt_id)
        });
        let mut slot = self.slot(Some(pt), expect, outcome);
        let replaces = self.held.is_some();
        match &result {
            Ok(hwpt_id) => {
                slot.core = expect.reaches_core(self.held != Some(*hwpt_id));
                slot.hwpt_id = Some(*hwpt_id);
                slot.fault_id = pt.fault_id;
                self.held = Some(*hwpt_id);
            }
            Err(_) => slot.hwpt_id = self.held,
        }
        self.fd.truth().tell(&if replaces { Fact::Replace(slot) } else { Fact::Attach(slot) });
        expect.check(result).map(drop)
    }

    /// Detaches. The kernel takes a detach of what is not attached for a success that does nothing.
    pub fn detach(&mut self) -> Tried<()> {
        self.detach_as(self.held.is_some())
    }

    /// Detaches while another device of the group stays attached: the core does not hear of it.
    pub fn leave(&mut self) -> Tried<()> {
        self.detach_as(false)
    }

    fn detach_as(&mut self, core: bool) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = DetachPt { argsz: size_u32::<DetachPt>(), flags: 0, pasid: 0 };
            ioctl(self.file.as_fd(), &mut cmd, || self.address.clone()).map(drop)
        });
        let mut slot = self.slot(None, Expect::Success, outcome);
        slot.core = core;
        self.held = None;
        self.fd.truth().tell(&Fact::Detach(slot));
        result
    }

    /// Attaches a PASID to `pt`.
    pub fn attach_pasid(&self, pasid: u32, pt: Pt) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = AttachPt { argsz: size_u32::<AttachPt>(), flags: WITH_PASID, pt_id: pt.id, pasid };
            ioctl(self.file.as_fd(), &mut cmd, || format!("PASID {pasid} of {} to {}", self.address, pt.id)).map(drop)
        });
        let slot = self.slot(Some(pt), Expect::Success, outcome);
        let hwpt_id = result.is_ok().then_some(pt.id);
        self.fd.truth().tell(&Fact::Attach(Slot { pasid, hwpt_id, old_hwpt_id: None, fault_id: pt.fault_id, ..slot }));
        result
    }

    /// Detaches a PASID.
    pub fn detach_pasid(&self, pasid: u32) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = DetachPt { argsz: size_u32::<DetachPt>(), flags: WITH_PASID, pasid };
            ioctl(self.file.as_fd(), &mut cmd, || format!("PASID {pasid} of {}", self.address)).map(drop)
        });
        let slot = self.slot(None, Expect::Success, outcome);
        self.fd.truth().tell(&Fact::Detach(Slot { pasid, old_hwpt_id: None, core: true, ..slot }));
        result
    }

    /// Has the kernel ask for the device when it is to be removed.
    pub fn notice(&self) -> Tried<Notice> {
        Notice::of(self.file.as_fd())
    }

    /// Closes the device file: the kernel detaches what is attached, and unbinds.
    pub fn close(self) {
        let mut slot = self.slot(None, Expect::Success, Outcome::default());
        let Self { file, fd, address, group, device_id, held } = self;
        let (outcome, _) = Outcome::of(|| {
            drop(file);
            Ok(())
        });
        let truth = fd.truth();
        truth.tell(&Fact::Close { what: "vfio_device", id: Some(device_id), outcome });
        if held.is_some() {
            slot.implicit = true;
            slot.outcome = outcome;
            truth.tell(&Fact::Detach(slot));
        }
        truth.tell(&Fact::Unbind { via: Via::Vfio, device: Some(address), group, device_id, implicit: true, outcome });
    }
}

/// Two devices of one group to hand over together.
pub fn pick_siblings() -> Result<[Pci; 2]> {
    let devices: Vec<_> = Pci::all().into_iter().filter(|d| d.group().is_some() && !d.is_bridge()).collect();
    let siblings = devices.iter().find_map(|one| {
        let other = devices.iter().find(|other| *other != one && other.group() == one.group())?;
        Some([one.clone(), other.clone()])
    });
    match siblings {
        Some(siblings) => Ok(siblings),
        None => bail!(NotApplicable("no two PCI devices of this machine share an IOMMU group".to_owned())),
    }
}

/// The device to hand over: the one named, else edu, else the first that is no bridge, is behind an IOMMU,
/// and whose group has no driver at work.
pub fn pick(named: Option<&str>) -> Result<Pci> {
    if let Some(address) = named {
        return Pci::at(address);
    }
    let mut devices: Vec<_> = Pci::all().into_iter().filter(|d| d.group().is_some() && !d.is_bridge()).collect();
    // A virtio device at work is this guest's way to its host.
    devices.retain(|d| d.driver().as_deref() != Some("virtio-pci"));
    devices.sort_by_key(|d| (d.ids() != Some(crate::pci::EDU), d.driver().is_some()));
    match devices.into_iter().next() {
        Some(device) => Ok(device),
        None => bail!(NotApplicable("no PCI device of this machine is behind an IOMMU".to_owned())),
    }
}
