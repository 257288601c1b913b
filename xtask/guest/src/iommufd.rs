//! `/dev/iommu`: a typed handle over its ioctls, and the fault file.
//!
//! Every method that changes something writes a line of ground truth, whether it succeeds or not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::abi::iommufd::{
    Destroy, FaultAlloc, HWPT_FAULT_ID_VALID, HWPT_NEST_PARENT, HWPT_PASID, HwptAlloc, IoasAlloc, IoasMap, IoasUnmap,
    MAP_FIXED_IOVA, MAP_READABLE, MAP_WRITEABLE, PageFault, PageResponse,
};
use crate::abi::iommufd_test::{HWPT_DATA_SELFTEST, NESTED_DATA_FORMS, OP_PASID_ATTACH, OP_PASID_REPLACE, TestCmd};
use crate::abi::{iommufd_test::MockDomainOut, size_u32};
use crate::sys::{Failure, Tried, ioctl};
use crate::truth::{Fact, Hex, Outcome, PtKind, Truth};

/// Something that a device can be attached to.
#[derive(Clone, Copy, Debug)]
pub struct Pt {
    /// The object's id.
    pub id: u32,
    /// What it is.
    pub kind: PtKind,
    /// The fault queue of a fault-capable page table.
    pub fault_id: Option<u32>,
}

impl Pt {
    /// An I/O address space.
    pub fn ioas(id: u32) -> Self {
        Self { id, kind: PtKind::Ioas, fault_id: None }
    }

    /// An object that is no page table.
    pub fn wrong(id: u32) -> Self {
        Self { id, kind: PtKind::Wrong, fault_id: None }
    }

    /// An id that no object has.
    pub fn missing() -> Self {
        Self { id: 0x7fff_ffff, kind: PtKind::Missing, fault_id: None }
    }
}

/// An open `/dev/iommu`.
pub struct Iommufd {
    fd: OwnedFd,
    truth: Arc<Truth>,
}

impl Iommufd {
    /// Opens the device; `ENOENT` means that the kernel has no iommufd (or devtmpfs is not mounted).
    pub fn open(truth: &Arc<Truth>) -> Tried<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/iommu")
            .map_err(|e| Failure::from_io(&e, "open /dev/iommu"))?;
        Ok(Self { fd: file.into(), truth: Arc::clone(truth) })
    }

    /// The ground truth that this handle writes to.
    pub fn truth(&self) -> &Arc<Truth> {
        &self.truth
    }

    /// The descriptor's number, as VFIO wants it.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn told_alloc(
        &self,
        kind: &'static str,
        parent: Option<u32>,
        fault_id: Option<u32>,
        call: impl FnOnce() -> Tried<u32>,
    ) -> Tried<u32> {
        let (outcome, result) = Outcome::of(call);
        let id = result.as_ref().ok().copied();
        self.truth.tell(&Fact::Alloc { kind, id, parent, fault_id, outcome });
        result
    }

    /// `IOMMU_IOAS_ALLOC`.
    pub fn ioas_alloc(&self) -> Tried<Pt> {
        let id = self.told_alloc("ioas", None, None, || {
            let mut cmd = IoasAlloc { size: size_u32::<IoasAlloc>(), ..IoasAlloc::default() };
            ioctl(self.fd(), &mut cmd, || "new ioas".to_owned())?;
            Ok(cmd.out_ioas_id)
        })?;
        Ok(Pt::ioas(id))
    }

    /// `IOMMU_HWPT_ALLOC` of a paging page table of `device_id` on an IOAS.
    pub fn hwpt_paging(&self, device_id: u32, ioas: Pt, flags: u32, fault_id: Option<u32>) -> Tried<Pt> {
        let kind = match flags & HWPT_NEST_PARENT {
            0 => "hwpt_paging",
            _ => "hwpt_nest_parent",
        };
        let id = self.told_alloc(kind, Some(ioas.id), fault_id, || {
            self.hwpt_alloc(device_id, ioas.id, flags, fault_id, 0, &[])
        })?;
        Ok(Pt { id, kind: PtKind::Paging, fault_id })
    }

    /// `IOMMU_HWPT_ALLOC` of a nested page table of the test device. Its data is tried in each form that
    /// kernels had; only the form that was taken (or the last one) is told.
    pub fn hwpt_nested(&self, device_id: u32, parent: Pt, fault_id: Option<u32>, pasid: bool) -> Tried<Pt> {
        let flags = if pasid { HWPT_PASID } else { 0 };
        let id = self.told_alloc("hwpt_nested", Some(parent.id), fault_id, || {
            let mut result = Err(Failure::new(libc::EINVAL, "no form of the nested data"));
            for form in NESTED_DATA_FORMS {
                result = self.hwpt_alloc(device_id, parent.id, flags, fault_id, HWPT_DATA_SELFTEST, form);
                if !matches!(&result, Err(f) if [libc::EINVAL, libc::E2BIG].contains(&f.errno)) {
                    break;
                }
            }
            result
        })?;
        Ok(Pt { id, kind: PtKind::Nested, fault_id })
    }

    fn hwpt_alloc(
        &self,
        device_id: u32,
        pt_id: u32,
        flags: u32,
        fault_id: Option<u32>,
        data_type: u32,
        data: &[u32],
    ) -> Tried<u32> {
        let mut cmd = HwptAlloc {
            flags: flags | fault_id.map_or(0, |_| HWPT_FAULT_ID_VALID),
            dev_id: device_id,
            pt_id,
            data_type,
            data_len: size_of_val(data) as u32,
            data_uptr: data.as_ptr() as u64,
            fault_id: fault_id.unwrap_or(0),
            ..HwptAlloc::sized()
        };
        let flags = cmd.flags;
        ioctl(self.fd(), &mut cmd, || format!("page table on {pt_id} for device {device_id}, flags {flags:#x}"))?;
        Ok(cmd.out_hwpt_id)
    }

    /// `IOMMU_FAULT_QUEUE_ALLOC`.
    pub fn fault_queue_alloc(&self) -> Tried<FaultQueue> {
        let mut fd = None;
        let id = self.told_alloc("fault_queue", None, None, || {
            let mut cmd = FaultAlloc { size: size_u32::<FaultAlloc>(), ..FaultAlloc::default() };
            ioctl(self.fd(), &mut cmd, || "new fault queue".to_owned())?;
            fd = Some(cmd.out_fault_fd as RawFd);
            Ok(cmd.out_fault_id)
        })?;
        let Some(fd) = fd else {
            return Err(Failure::new(libc::EBADF, "IOMMU_FAULT_QUEUE_ALLOC gave no descriptor"));
        };
        // SAFETY: the kernel has just installed this descriptor for us; nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(FaultQueue { id, file: File::from(fd), truth: Arc::clone(&self.truth) })
    }

    /// `IOMMU_DESTROY`. `kind` is only for the ground truth.
    pub fn destroy(&self, kind: &'static str, id: u32) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| self.destroy_quietly(id));
        self.truth.tell(&Fact::Destroy { kind, id, outcome });
        result
    }

    /// `IOMMU_DESTROY` without a line of its own: for devices, whose end is a `detach`.
    pub fn destroy_quietly(&self, id: u32) -> Tried<()> {
        let mut cmd = Destroy { size: size_u32::<Destroy>(), id };
        ioctl(self.fd(), &mut cmd, || format!("object {id}")).map(drop)
    }

    /// `IOMMU_IOAS_MAP` at a fixed IOVA, readable and writable.
    pub fn map(&self, ioas_id: u32, iova: u64, user_va: u64, length: u64) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = IoasMap {
                size: size_u32::<IoasMap>(),
                flags: MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE,
                ioas_id,
                reserved: 0,
                user_va,
                length,
                iova,
            };
            ioctl(self.fd(), &mut cmd, || format!("ioas {ioas_id}, {iova:#x}+{length:#x}")).map(drop)
        });
        self.truth.tell(&Fact::Map { ioas_id: Some(ioas_id), iova: Hex(iova), length, outcome });
        result
    }

    /// `IOMMU_IOAS_UNMAP`; gives back how many bytes went.
    pub fn unmap(&self, ioas_id: u32, iova: u64, length: u64) -> Tried<u64> {
        let mut unmapped = 0;
        let (outcome, result) = Outcome::of(|| {
            let mut cmd = IoasUnmap { size: size_u32::<IoasUnmap>(), ioas_id, iova, length };
            ioctl(self.fd(), &mut cmd, || format!("ioas {ioas_id}, {iova:#x}+{length:#x}"))?;
            unmapped = cmd.length;
            Ok(unmapped)
        });
        self.truth.tell(&Fact::Unmap { ioas_id: Some(ioas_id), iova: Hex(iova), length, unmapped, outcome });
        result
    }

    /// Closes the descriptor: the kernel destroys every object that is left.
    pub fn close(self) -> Outcome {
        let Self { fd, truth } = self;
        let (outcome, _) = Outcome::of(|| {
            drop(fd);
            Ok(())
        });
        truth.tell(&Fact::Close { what: "iommufd", id: None, outcome });
        outcome
    }

    /// The same for one that was shared; an error if somebody else still holds it.
    pub fn close_shared(self: Arc<Self>) -> Result<Outcome> {
        Ok(Arc::into_inner(self).context("iommufd is still in use at its close")?.close())
    }

    fn test(&self, cmd: &mut TestCmd, context: impl FnOnce() -> String) -> Tried<()> {
        ioctl(self.fd(), cmd, context).map(drop)
    }

    /// Whether this kernel has the test device at all.
    pub fn has_test_device(&self) -> bool {
        // A known request with an unknown operation gives EOPNOTSUPP; an unknown request, ENOTTY.
        matches!(self.test(&mut TestCmd::nop(), String::new), Err(f) if f.errno == libc::EOPNOTSUPP)
    }

    /// Whether the test device attaches by PASID.
    pub fn has_test_pasid(&self) -> bool {
        // Object 0 never exists: a kernel that knows the operation says ENOENT.
        let mut cmd = TestCmd::pasid_detach(0, 1);
        matches!(self.test(&mut cmd, String::new), Err(f) if f.errno == libc::ENOENT)
    }

    /// Makes a mock device with `flags` and attaches its RID to `pt`.
    pub fn mock_domain(&self, pt_id: u32, flags: u32) -> Tried<MockDomainOut> {
        let mut cmd = TestCmd::mock_domain(pt_id, flags);
        self.test(&mut cmd, || format!("new mock device on {pt_id}"))?;
        Ok(cmd.mock_domain_out())
    }

    /// Moves a mock device's RID; gives back the page table that it ended up on.
    pub fn mock_replace(&self, stdev_id: u32, pt_id: u32) -> Tried<u32> {
        let mut cmd = TestCmd::replace(stdev_id, pt_id);
        self.test(&mut cmd, || format!("replace mock device {stdev_id} onto {pt_id}"))?;
        Ok(cmd.replace_out())
    }

    /// Attaches a PASID of a mock device; gives back the page table that it ended up on.
    pub fn pasid_attach(&self, stdev_id: u32, pasid: u32, pt_id: u32) -> Tried<u32> {
        let mut cmd = TestCmd::pasid_set(OP_PASID_ATTACH, stdev_id, pasid, pt_id);
        self.test(&mut cmd, || format!("attach pasid {pasid} of {stdev_id} to {pt_id}"))?;
        Ok(cmd.pasid_set_out())
    }

    /// Moves a PASID of a mock device; gives back the page table that it ended up on.
    pub fn pasid_replace(&self, stdev_id: u32, pasid: u32, pt_id: u32) -> Tried<u32> {
        let mut cmd = TestCmd::pasid_set(OP_PASID_REPLACE, stdev_id, pasid, pt_id);
        self.test(&mut cmd, || format!("replace pasid {pasid} of {stdev_id} onto {pt_id}"))?;
        Ok(cmd.pasid_set_out())
    }

    /// Detaches a PASID of a mock device.
    pub fn pasid_detach(&self, stdev_id: u32, pasid: u32) -> Tried<()> {
        let mut cmd = TestCmd::pasid_detach(stdev_id, pasid);
        self.test(&mut cmd, || format!("detach pasid {pasid} of {stdev_id}"))
    }

    /// Lets a mock device report a page request. Succeeds whatever becomes of the request.
    pub fn trigger_iopf(&self, device_id: u32, pasid: u32, grpid: u32, perm: u32, addr: u64) -> Tried<()> {
        let mut cmd = TestCmd::trigger_iopf(device_id, pasid, grpid, perm, addr);
        self.test(&mut cmd, || format!("fault of device {device_id} at {addr:#x}"))
    }
}

/// A fault queue and its file.
pub struct FaultQueue {
    /// The object's id.
    pub id: u32,
    file: File,
    truth: Arc<Truth>,
}

const FAULT_SIZE: usize = size_of::<PageFault>();

impl FaultQueue {
    /// Reads up to `max` faults. The file never blocks: none waiting gives an empty vector.
    pub fn read(&self, max: usize) -> Tried<Vec<PageFault>> {
        let mut bytes = vec![0; max * FAULT_SIZE];
        let len = (&self.file)
            .read(&mut bytes)
            .map_err(|e| Failure::from_io(&e, format!("read of fault queue {}", self.id)))?;
        Ok(bytes[..len].chunks_exact(FAULT_SIZE).map(parse_fault).collect())
    }

    /// Answers in one write; the kernel takes them in order and stops at the first bad one.
    pub fn answer(&self, responses: &[PageResponse]) -> Tried<()> {
        let mut bytes = Vec::with_capacity(size_of_val(responses));
        for response in responses {
            bytes.extend_from_slice(&response.cookie.to_ne_bytes());
            bytes.extend_from_slice(&response.code.to_ne_bytes());
        }
        let tried = || format!("answer to fault queue {}", self.id);
        let len = (&self.file).write(&bytes).map_err(|e| Failure::from_io(&e, tried()))?;
        if len != bytes.len() {
            return Err(Failure::new(libc::EIO, format!("{}: {len} bytes taken", tried())));
        }
        Ok(())
    }

    /// A read or write that the kernel must refuse, told as such. `Ok` is the error number it gave.
    pub fn refused(&self, case: &'static str, wanted: i32, io: Refused<'_>) -> Tried<()> {
        let (outcome, result) = Outcome::of(|| {
            let result: io::Result<usize> = match io {
                Refused::Write(bytes) => (&self.file).write(bytes),
                Refused::Read(len) => (&self.file).read(&mut vec![0; len]),
            };
            result.map(drop).map_err(|e| Failure::from_io(&e, case))
        });
        self.truth.tell(&Fact::BadAnswer { case, fault_id: self.id, outcome });
        match result {
            Err(failure) if failure.errno == wanted => Ok(()),
            Err(failure) => Err(failure),
            Ok(()) => Err(Failure::new(libc::EIO, format!("{case}: not refused"))),
        }
    }

    /// Closes the file, not the object.
    pub fn close(self) -> Outcome {
        let Self { id, file, truth } = self;
        let (outcome, _) = Outcome::of(|| {
            drop(file);
            Ok(())
        });
        truth.tell(&Fact::Close { what: "fault_fd", id: Some(id), outcome });
        outcome
    }
}

/// What to try with a fault file in vain.
#[derive(Clone, Copy, Debug)]
pub enum Refused<'a> {
    /// Write these bytes.
    Write(&'a [u8]),
    /// Read so many bytes.
    Read(usize),
}

/// Reads one `struct iommu_hwpt_pgfault` field by field, which wants no alignment.
fn parse_fault(bytes: &[u8]) -> PageFault {
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    let mut addr = [0; 8];
    addr.copy_from_slice(&bytes[24..32]);
    PageFault {
        flags: word(0),
        dev_id: word(4),
        pasid: word(8),
        grpid: word(12),
        perm: word(16),
        reserved: word(20),
        addr: u64::from_ne_bytes(addr),
        length: word(32),
        cookie: word(36),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_record_is_read_at_the_offsets_of_the_c_struct() {
        let mut bytes = [0_u8; FAULT_SIZE];
        for (i, at) in [0, 4, 8, 12, 16, 20, 32, 36].into_iter().enumerate() {
            bytes[at..at + 4].copy_from_slice(&(i as u32 + 1).to_ne_bytes());
        }
        bytes[24..32].copy_from_slice(&0x1_0000_2000_u64.to_ne_bytes());
        let fault = parse_fault(&bytes);
        assert_eq!((fault.flags, fault.dev_id, fault.pasid, fault.grpid), (1, 2, 3, 4));
        assert_eq!((fault.perm, fault.reserved, fault.length, fault.cookie), (5, 6, 7, 8));
        assert_eq!(fault.addr, 0x1_0000_2000);
    }
}
