//! One mock device of iommufd's test driver: its RID and PASID slots, attached, moved and detached, each
//! step told and compared with what the kernel had to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::NotApplicable;
use crate::iommufd::{Iommufd, Pt};
use crate::sys::{Failure, Tried};
use crate::truth::{Fact, Outcome, Slot, Via};

/// What an attach or replace must come to.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// It succeeds.
    Success,
    /// It succeeds without a word to the core: the group is attached already, by another of its devices.
    Joins,
    /// iommufd refuses it before the IOMMU core hears of it.
    Refused(i32, &'static str),
    /// The IOMMU core or its driver fails it.
    Failed(i32, &'static str),
}

impl Expect {
    /// Why it is to fail.
    pub fn why(self) -> Option<&'static str> {
        match self {
            Self::Success | Self::Joins => None,
            Self::Refused(_, why) | Self::Failed(_, why) => Some(why),
        }
    }

    /// Whether the core is called, if the page table in the slot `changes`.
    pub fn reaches_core(self, changes: bool) -> bool {
        match self {
            Self::Success => changes,
            Self::Joins | Self::Refused(..) => false,
            Self::Failed(..) => true,
        }
    }

    /// Compares with what came. `Ok(None)` is a failure that was wanted.
    pub fn check<T>(self, result: Tried<T>) -> Result<Option<T>> {
        match (self, result) {
            (Self::Success | Self::Joins, result) => Ok(Some(result?)),
            (Self::Refused(errno, _) | Self::Failed(errno, _), Err(f)) if f.errno == errno => Ok(None),
            (Self::Refused(errno, why) | Self::Failed(errno, why), result) => {
                let wanted = std::io::Error::from_raw_os_error(errno);
                match result {
                    Ok(_) => bail!("{why}: succeeded where \"{wanted}\" was due"),
                    Err(f) => bail!("{why}: {f}, where \"{wanted}\" was due"),
                }
            }
        }
    }
}

/// What the running kernel's iommufd offers, found by trying.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// The test device is built in.
    pub mock: bool,
    /// The test device attaches by PASID.
    pub pasid_attach: bool,
}

impl Features {
    /// Probes `fd`, and tells.
    pub fn probe(fd: &Iommufd) -> Self {
        let mock = fd.has_test_device();
        let pasid_attach = mock && fd.has_test_pasid();
        fd.truth().tell(&Fact::Features { mock, pasid_attach });
        Self { mock, pasid_attach }
    }

    /// Fails as "not applicable" on a kernel without the test device.
    pub fn need_mock(self) -> Result<Self> {
        if !self.mock {
            bail!(NotApplicable("this kernel has no iommufd test device (CONFIG_IOMMUFD_TEST)".to_owned()));
        }
        Ok(self)
    }

    /// Fails as "not applicable" on a kernel whose test device has no PASIDs.
    pub fn need_pasid(self) -> Result<Self> {
        if !self.pasid_attach {
            bail!(NotApplicable(
                "this kernel's iommufd test device does not attach by PASID (it came in 6.15)".to_owned()
            ));
        }
        Ok(self)
    }
}

/// Opens `/dev/iommu` and probes it; "not applicable" without it.
pub fn open(truth: &Arc<crate::truth::Truth>) -> Result<(Arc<Iommufd>, Features)> {
    let fd = match Iommufd::open(truth) {
        Err(f) if [libc::ENOENT, libc::ENODEV, libc::ENXIO].contains(&f.errno) => {
            bail!(NotApplicable(format!("this kernel has no iommufd: {f}")));
        }
        result => result?,
    };
    let features = Features::probe(&fd);
    Ok((Arc::new(fd), features))
}

/// A slot's page table.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The page table's id; for an IOAS the one that iommufd chose.
    pub hwpt_id: u32,
    /// Its fault queue.
    pub fault_id: Option<u32>,
}

/// A mock device. Dropping it detaches its PASIDs and then the device: the kernel warns about a mock
/// device that goes with PASIDs attached.
pub struct Mock {
    fd: Arc<Iommufd>,
    /// The device's name, when it could be told from the others.
    pub name: Option<String>,
    /// Its group.
    pub group: Option<u32>,
    /// The device object.
    pub device_id: u32,
    /// The test object.
    pub stdev_id: u32,
    rid: Option<Held>,
    pasids: BTreeMap<u32, Held>,
}

/// Where the mock bus lists its devices.
const MOCK_DEVICES: &str = "/sys/bus/iommufd_mock/devices";

/// Serialises making devices, so that the new name is the one that was not there before.
static CREATE: Mutex<()> = Mutex::new(());

/// The mock devices there are. A name is used again at once, the number of its sysfs entry is not: together
/// they tell a new device from an old one.
fn mock_devices() -> BTreeSet<(String, u64)> {
    let Ok(dir) = fs::read_dir(MOCK_DEVICES) else { return BTreeSet::new() };
    dir.flatten().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.ino()))).collect()
}

/// The group of a mock device, from sysfs.
fn mock_group(name: &str) -> Option<u32> {
    let link = fs::read_link(format!("{MOCK_DEVICES}/{name}/iommu_group")).ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

impl Mock {
    /// Makes a device with `flags` on `pt`. `None` is a failure that was wanted.
    pub fn create_as(fd: &Arc<Iommufd>, pt: Pt, flags: u32, expect: Expect) -> Result<Option<Self>> {
        let guard = CREATE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mock_devices();
        let (outcome, result) = Outcome::of(|| fd.mock_domain(pt.id, flags));
        let mut new = mock_devices().into_iter().filter(|device| !before.contains(device));
        // Another process may have made one at the same time: then better no name than a wrong one.
        let name = match (new.next(), new.next()) {
            (Some((name, _)), None) => Some(name),
            _ => None,
        };
        drop(guard);
        let group = name.as_deref().and_then(mock_group);
        let out = result.as_ref().ok().copied();
        if let Some(out) = out {
            fd.truth().tell(&Fact::Bind {
                via: Via::Mock,
                device: name.clone(),
                group,
                device_id: out.device_id,
                outcome,
            });
        }
        fd.truth().tell(&Fact::Attach(Slot {
            via: Via::Mock,
            device: name.clone(),
            group,
            device_id: out.map(|out| out.device_id),
            stdev_id: out.map(|out| out.stdev_id),
            pasid: 0,
            pt_id: Some(pt.id),
            pt: Some(pt.kind),
            hwpt_id: out.map(|out| out.hwpt_id),
            old_hwpt_id: None,
            fault_id: out.and(pt.fault_id),
            // One that fails though nothing was wrong with it never got that far.
            core: expect.reaches_core(out.is_some()),
            implicit: false,
            why: expect.why(),
            outcome,
        }));
        let out = match (expect, result) {
            (Expect::Success, Err(failure)) => return Err(explain_create(failure)),
            (_, result) => expect.check(result)?,
        };
        Ok(out.map(|out| Self {
            fd: Arc::clone(fd),
            name,
            group,
            device_id: out.device_id,
            stdev_id: out.stdev_id,
            rid: Some(Held { hwpt_id: out.hwpt_id, fault_id: pt.fault_id }),
            pasids: BTreeMap::new(),
        }))
    }

    /// Makes a device with `flags` on `pt`.
    pub fn create(fd: &Arc<Iommufd>, pt: Pt, flags: u32) -> Result<Self> {
        match Self::create_as(fd, pt, flags, Expect::Success)? {
            Some(mock) => Ok(mock),
            None => bail!("the mock device was not made"),
        }
    }

    /// The page table in the slot of `pasid` (0: the RID).
    pub fn held(&self, pasid: u32) -> Option<Held> {
        if pasid == 0 { self.rid } else { self.pasids.get(&pasid).copied() }
    }

    /// The PASIDs that are attached.
    pub fn pasids(&self) -> Vec<u32> {
        self.pasids.keys().copied().collect()
    }

    /// The device's open iommufd.
    pub fn fd(&self) -> &Arc<Iommufd> {
        &self.fd
    }

    fn slot(&self, pasid: u32, pt: Option<Pt>, expect: Expect, outcome: Outcome) -> Slot {
        Slot {
            via: Via::Mock,
            device: self.name.clone(),
            group: self.group,
            device_id: Some(self.device_id),
            stdev_id: Some(self.stdev_id),
            pasid,
            pt_id: pt.map(|pt| pt.id),
            pt: pt.map(|pt| pt.kind),
            hwpt_id: None,
            old_hwpt_id: self.held(pasid).map(|held| held.hwpt_id),
            fault_id: None,
            core: expect.reaches_core(true),
            implicit: false,
            why: expect.why(),
            outcome,
        }
    }

    /// Fills in the page table that the slot ends up on, and whether that is news to the core.
    fn settle(slot: &mut Slot, pt: Pt, expect: Expect, result: &Tried<u32>) -> Option<Held> {
        let Ok(&hwpt_id) = result.as_ref() else {
            slot.hwpt_id = slot.old_hwpt_id;
            return None;
        };
        slot.core = expect.reaches_core(slot.old_hwpt_id != Some(hwpt_id));
        slot.hwpt_id = Some(hwpt_id);
        slot.fault_id = pt.fault_id;
        Some(Held { hwpt_id, fault_id: pt.fault_id })
    }

    /// Moves the slot of `pasid` (0: the RID) to `pt`.
    pub fn replace(&mut self, pasid: u32, pt: Pt, expect: Expect) -> Result<Outcome> {
        let (outcome, result) = Outcome::of(|| match pasid {
            0 => self.fd.mock_replace(self.stdev_id, pt.id),
            _ => self.fd.pasid_replace(self.stdev_id, pasid, pt.id),
        });
        let mut slot = self.slot(pasid, Some(pt), expect, outcome);
        if let Some(held) = Self::settle(&mut slot, pt, expect, &result) {
            match pasid {
                0 => self.rid = Some(held),
                _ => drop(self.pasids.insert(pasid, held)),
            }
        }
        self.fd.truth().tell(&Fact::Replace(slot));
        expect.check(result)?;
        Ok(outcome)
    }

    /// Attaches `pasid` to `pt`.
    pub fn pasid_attach(&mut self, pasid: u32, pt: Pt, expect: Expect) -> Result<()> {
        let (outcome, result) = Outcome::of(|| self.fd.pasid_attach(self.stdev_id, pasid, pt.id));
        let mut slot = self.slot(pasid, Some(pt), expect, outcome);
        if let Some(held) = Self::settle(&mut slot, pt, expect, &result) {
            self.pasids.insert(pasid, held);
        }
        self.fd.truth().tell(&Fact::Attach(slot));
        expect.check(result).map(drop)
    }

    /// Detaches `pasid`. The kernel takes a detach of an empty slot for a success that does nothing.
    pub fn pasid_detach(&mut self, pasid: u32) -> Result<Outcome> {
        let (outcome, result) = Outcome::of(|| self.fd.pasid_detach(self.stdev_id, pasid));
        let mut slot = self.slot(pasid, None, Expect::Success, outcome);
        slot.core = self.pasids.remove(&pasid).is_some();
        self.fd.truth().tell(&Fact::Detach(slot));
        result?;
        Ok(outcome)
    }

    /// Detaches the RID, unbinds and removes the device: for the test device these are one step. PASIDs
    /// must have been detached.
    pub fn detach(mut self) -> Result<Outcome> {
        self.detach_rid()
    }

    fn detach_rid(&mut self) -> Result<Outcome> {
        let (outcome, result) = Outcome::of(|| self.fd.destroy_quietly(self.stdev_id));
        self.tell_gone(outcome);
        result?;
        Ok(outcome)
    }

    fn tell_gone(&mut self, outcome: Outcome) {
        let slot = self.slot(0, None, Expect::Success, outcome);
        self.rid = None;
        self.fd.truth().tell(&Fact::Detach(slot));
        self.fd.truth().tell(&Fact::Unbind {
            via: Via::Mock,
            device: self.name.clone(),
            group: self.group,
            device_id: self.device_id,
            implicit: false,
            outcome,
        });
    }

    /// Lets go of the device without a call: its iommufd is about to be closed. Gives back what to tell
    /// once that has happened.
    pub fn forget(mut self) -> Gone {
        let mut slot = self.slot(0, None, Expect::Success, Outcome::default());
        slot.implicit = true;
        self.rid = None;
        Gone { slot, device_id: self.device_id }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // Only what an error left behind: the regular end empties the slots first.
        for pasid in self.pasids() {
            drop(self.pasid_detach(pasid));
        }
        if self.rid.is_some() {
            drop(self.detach_rid());
        }
    }
}

/// A device that went with its iommufd.
pub struct Gone {
    slot: Slot,
    device_id: u32,
}

impl Gone {
    /// Tells the end that the close brought.
    pub fn tell(mut self, truth: &crate::truth::Truth, outcome: Outcome) {
        self.slot.outcome = outcome;
        let unbind = Fact::Unbind {
            via: Via::Mock,
            device: self.slot.device.clone(),
            group: self.slot.group,
            device_id: self.device_id,
            implicit: true,
            outcome,
        };
        truth.tell(&Fact::Detach(self.slot));
        truth.tell(&unbind);
    }
}

/// Turns the one puzzling way in which making a device fails into words.
fn explain_create(failure: Failure) -> anyhow::Error {
    let other_iommu = fs::read_dir("/sys/class/iommu")
        .is_ok_and(|dir| dir.flatten().any(|e| !e.file_name().to_string_lossy().contains("selftest")));
    if failure.errno == libc::EINVAL && other_iommu {
        return NotApplicable(format!(
            "the test device does not work beside another IOMMU on this kernel ({failure}); \
             boot a machine without one"
        ))
        .into();
    }
    failure.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(errno: i32) -> Tried<()> {
        Err(Failure::new(errno, "attach"))
    }

    #[test]
    fn a_failure_that_was_due_is_no_error_and_another_one_is() {
        let due = Expect::Failed(libc::ENOMEM, "PASID 1024");
        assert!(due.check(failure(libc::ENOMEM)).is_ok_and(|v| v.is_none()));
        assert!(due.check(failure(libc::EINVAL)).is_err());
        assert!(due.check(Ok(())).is_err());
        assert!(Expect::Success.check(failure(libc::EINVAL)).is_err());
    }

    #[test]
    fn the_core_hears_of_changes_and_of_its_own_failures_only() {
        assert!(Expect::Success.reaches_core(true));
        assert!(!Expect::Success.reaches_core(false));
        assert!(!Expect::Refused(libc::EINVAL, "").reaches_core(true));
        assert!(Expect::Failed(libc::EINVAL, "").reaches_core(true));
    }
}
