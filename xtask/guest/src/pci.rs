//! PCI devices through sysfs: finding one, its group, its driver; remove and rescan.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::NotApplicable;
use crate::sys::{Failure, Tried};
use crate::truth::{Fact, Outcome, Truth};

const DEVICES: &str = "/sys/bus/pci/devices";

/// QEMU's edu device.
pub const EDU: (u16, u16) = (0x1234, 0x11e8);

/// A PCI device, by its address (`0000:00:02.0`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pci {
    /// The address.
    pub address: String,
}

/// Writes a sysfs attribute in one write.
pub fn write(path: &Path, value: &str) -> Tried<()> {
    fs::write(path, value).map_err(|e| Failure::from_io(&e, format!("write of {value:?} to {}", path.display())))
}

impl Pci {
    /// The device at `address`, with or without the domain (`00:02.0`).
    pub fn at(address: &str) -> Result<Self> {
        let address = match address.matches(':').count() {
            1 => format!("0000:{address}"),
            _ => address.to_owned(),
        };
        let device = Self { address };
        if !device.path("").exists() {
            bail!("there is no PCI device {}", device.address);
        }
        Ok(device)
    }

    /// Every device there is, by address.
    pub fn all() -> Vec<Self> {
        let Ok(dir) = fs::read_dir(DEVICES) else { return Vec::new() };
        let mut addresses: Vec<_> = dir.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        addresses.sort();
        addresses.into_iter().map(|address| Self { address }).collect()
    }

    /// The device at `address`, or the first edu device.
    pub fn edu(address: Option<&str>) -> Result<Self> {
        let found = match address {
            Some(address) => Some(Self::at(address)?),
            None => Self::all().into_iter().find(|d| d.ids() == Some(EDU)),
        };
        match found {
            Some(device) if device.ids() == Some(EDU) => Ok(device),
            Some(device) => bail!("PCI device {} is no edu device", device.address),
            None => {
                bail!(NotApplicable("this machine has no edu device (qemu -device edu)".to_owned()))
            }
        }
    }

    /// A sysfs path of the device.
    pub fn path(&self, attribute: &str) -> PathBuf {
        Path::new(DEVICES).join(&self.address).join(attribute)
    }

    fn number(&self, attribute: &str) -> Option<u32> {
        let text = fs::read_to_string(self.path(attribute)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    }

    /// Vendor and device id.
    pub fn ids(&self) -> Option<(u16, u16)> {
        Some((self.number("vendor")? as u16, self.number("device")? as u16))
    }

    /// Its requester id: bus, device, function.
    pub fn rid(&self) -> Result<u16> {
        let parts: Vec<_> =
            self.address.split([':', '.']).filter_map(|part| u16::from_str_radix(part, 16).ok()).collect();
        match parts.as_slice() {
            [_, bus, device, function] => Ok(bus << 8 | device << 3 | function),
            _ => bail!("{} is no PCI address", self.address),
        }
    }

    /// Whether it has address translation services: the extended capability 0x0f.
    pub fn has_ats(&self) -> bool {
        let config = fs::read(self.path("config")).unwrap_or_default();
        let header = |at: usize| Some(u32::from_le_bytes(config.get(at..at + 4)?.try_into().ok()?));
        let mut at = 0x100;
        // As many as there is room for: a chain may be a ring.
        for _ in 0..960 {
            match header(at) {
                Some(header) if header & 0xffff == 0x0f => return true,
                Some(header) if header >> 20 >= 0x100 => at = (header >> 20) as usize,
                _ => return false,
            }
        }
        false
    }

    /// Whether it is a bridge, which is never handed to user space.
    pub fn is_bridge(&self) -> bool {
        self.number("class").is_some_and(|class| class >> 16 == 6)
    }

    /// Its IOMMU group.
    pub fn group(&self) -> Option<u32> {
        fs::read_link(self.path("iommu_group")).ok()?.file_name()?.to_str()?.parse().ok()
    }

    /// Its driver.
    pub fn driver(&self) -> Option<String> {
        let link = fs::read_link(self.path("driver")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// Unbinds its driver, if there is one, and tells.
    pub fn unbind(&self, truth: &Truth) -> Tried<Option<String>> {
        let Some(driver) = self.driver() else { return Ok(None) };
        let (outcome, result) = Outcome::of(|| write(&self.path("driver/unbind"), &self.address));
        truth.tell(&Fact::Driver {
            device: self.address.clone(),
            group: self.group(),
            driver: driver.clone(),
            bind: false,
            outcome,
        });
        result.map(|()| Some(driver))
    }

    /// Binds `driver`, which need not list the device, and tells.
    pub fn bind(&self, truth: &Truth, driver: &str) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            write(&self.path("driver_override"), driver)?;
            // A device that has just come is in sysfs some time before the kernel lets drivers have it.
            let deadline = Instant::now() + Duration::from_secs(2);
            let bind = Path::new("/sys/bus/pci/drivers").join(driver).join("bind");
            let bound = loop {
                match write(&bind, &self.address) {
                    Err(failure) if failure.errno == libc::ENODEV && Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    // The thread that has plugged it in may have bound it meanwhile. Unlike a write to `drivers_probe`, this has
                    // waited for the device's lock, and so for the end of that probe.
                    Err(failure)
                        if failure.errno == libc::EBUSY && self.driver().is_some_and(|bound| bound == driver) =>
                    {
                        break Ok(());
                    }
                    result => break result,
                }
            };
            // A newline empties it again.
            write(&self.path("driver_override"), "\n")?;
            bound
        });
        truth.tell(&Fact::Driver {
            device: self.address.clone(),
            group: self.group(),
            driver: driver.to_owned(),
            bind: true,
            outcome,
        });
        result
    }

    /// Removes the device from the bus, and tells.
    pub fn remove(&self, truth: &Truth) -> Tried<Outcome> {
        let group = self.group();
        let (outcome, result) = Outcome::of(|| write(&self.path("remove"), "1"));
        truth.tell(&Fact::DeviceRemove { device: self.address.clone(), group, outcome });
        result.map(|()| outcome)
    }

    /// Rescans the bus until the device is there again, and tells.
    pub fn rescan(&self, truth: &Truth) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            write(Path::new("/sys/bus/pci/rescan"), "1")?;
            let deadline = Instant::now() + Duration::from_secs(5);
            while !self.path("").exists() {
                if Instant::now() > deadline {
                    let tried = format!("rescan for {}", self.address);
                    return Err(Failure::new(libc::ETIMEDOUT, tried));
                }
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        truth.tell(&Fact::DeviceAdd { device: self.address.clone(), group: self.group(), outcome });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requester_id_is_bus_device_and_function() {
        let rid = |address: &str| Pci { address: address.to_owned() }.rid().ok();
        assert_eq!(rid("0000:01:00.0"), Some(0x0100));
        assert_eq!(rid("0000:00:1f.3"), Some(0xfb));
        assert_eq!(rid("virtio0"), None);
    }
}
