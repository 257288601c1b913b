//! The test guests' own kernel module, which gives a PCI device the capabilities that page requests need.
//!
//! `xtask/guest/module` has its source and says how it does that. It can bind the device to this process, too.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::NotApplicable;
use crate::pci::{self, Pci};
use crate::sys::{Failure, Tried};

/// Where `cargo xtask vm` puts it, for kernels that it was built for.
const MODULE: &str = "/lib/modules/iommu_trace_pri.ko";
const PARAMETERS: &str = "/sys/module/iommu_trace_pri/parameters";

/// The module at work; unloaded when dropped.
pub struct Shim {
    parameters: &'static Path,
}

impl Shim {
    /// Loads it for a device, which is removed and found again: whatever held it lets it go.
    pub fn load(device: &Pci) -> Result<Self> {
        Self::load_for(device, 1)
    }

    /// Loads it for so many functions of a device, this one and those after it.
    pub fn load_for(device: &Pci, functions: u32) -> Result<Self> {
        let file = match File::open(MODULE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = format!("{MODULE} is not there: it is built for kernels that xtask builds");
                bail!(NotApplicable(why));
            }
            file => file.with_context(|| format!("cannot open {MODULE}"))?,
        };
        let parameters = CString::new(format!("device={} functions={functions}", device.address))?;
        // SAFETY: the descriptor is open, and the parameters are a C string; both outlive the call.
        let ret = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
        if ret < 0 {
            let error = io::Error::last_os_error();
            bail!(Failure::from_io(&error, format!("loading {MODULE} for {}", device.address)));
        }
        Ok(Self { parameters: Path::new(PARAMETERS) })
    }

    /// Binds the device to this process's address space; gives back the PASID.
    pub fn bind(&self) -> Result<u32> {
        match pci::write(&self.parameters.join("bind"), "1") {
            // The kernel's stubs, or a driver that cannot.
            Err(failure) if [libc::ENODEV, libc::EOPNOTSUPP].contains(&failure.errno) => {
                bail!(NotApplicable(format!("this kernel binds no device to a process: {failure}")));
            }
            result => result?,
        }
        let pasid = fs::read_to_string(self.parameters.join("pasid")).context("cannot read the bond's PASID")?;
        Ok(pasid.trim().parse()?)
    }

    /// Undoes [`Shim::bind`].
    pub fn unbind(&self) -> Tried<()> {
        pci::write(&self.parameters.join("bind"), "0")
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // SAFETY: the name is a C string. A module that is busy stays, which ends with the guest.
        unsafe { libc::syscall(libc::SYS_delete_module, c"iommu_trace_pri".as_ptr(), libc::O_NONBLOCK) };
    }
}
