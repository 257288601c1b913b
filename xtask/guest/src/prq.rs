//! VT-d's page request queue, fed by edu in the place of the IOMMU's hardware.
//!
//! No device that QEMU emulates makes page requests. But edu in an identity domain reads and writes wherever it is told: the
//! queue in memory, the IOMMU's registers, and the address whose write is the interrupt. For the kernel the requests are
//! as real as any: its interrupt thread takes them out of the queue and has them answered by an invalidation descriptor.
//!
//! Layouts: VT-d specification, 7.4.1.1 (page request descriptor) and 11.4 (registers).

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::NotApplicable;
use crate::edu::Edu;
use crate::group::Group;
use crate::page::Page;
use crate::pci::Pci;
use crate::sys::{Failure, Tried};
use crate::truth::Truth;

/// Registers: extended capabilities; head, tail and address of the queue; its interrupt's data and address.
const ECAP: u64 = 0x10;
const PQH: u64 = 0xc0;
const PQT: u64 = 0xc8;
const PQA: u64 = 0xd0;
const PEDATA: u64 = 0xe4;
const PEADDR: u64 = 0xe8;
/// The queue lies on whole pages, and the low bits of its address give its size: 4096 bytes to the power of so many.
const PQA_ADDRESS: u64 = !0xfff;
const PQA_ORDER: u64 = 0x7;
/// `ECAP`: page requests are supported.
const ECAP_PRS: u64 = 1 << 29;
const DESCRIPTOR: u64 = 32;
/// A descriptor's type.
const TYPE_REQUEST: u64 = 1;

/// Where the parts of a batch lie in edu's buffer.
const TAIL_AT: usize = 0xf00;
const DATA_AT: usize = 0xf08;
/// How many descriptors come before them.
pub const BATCH: usize = 64;

/// One page request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The requester: bus, device, function.
    pub rid: u16,
    /// The PASID, none for a request without.
    pub pasid: Option<u32>,
    /// The page request group index, 9 bits.
    pub grpid: u32,
    /// Whether it wants to read, and to write.
    pub read: bool,
    /// Whether it wants to write.
    pub write: bool,
    /// Whether it is the last of its group.
    pub last: bool,
    /// The address.
    pub addr: u64,
}

impl Request {
    /// The first two words of its descriptor; the others are a private payload.
    fn words(&self) -> [u64; 2] {
        let pasid = self.pasid.map_or(0, |pasid| 1 << 8 | u64::from(pasid & 0xf_ffff) << 32);
        [
            TYPE_REQUEST | pasid | u64::from(self.rid) << 16,
            u64::from(self.read)
                | u64::from(self.write) << 1
                | u64::from(self.last) << 2
                | u64::from(self.grpid & 0x1ff) << 3
                | self.addr & PQA_ADDRESS,
        ]
    }
}

/// The queue of one IOMMU.
pub struct Queue {
    edu: Edu,
    page: Page,
    registers: u64,
    memory: u64,
    size: u64,
    tail: u64,
    interrupt: u64,
}

impl Queue {
    /// Finds the queue that the kernel has set up. edu is moved to an identity domain.
    pub fn open(truth: &Truth) -> Result<Self> {
        let unit = Path::new("/sys/class/iommu/dmar0/intel-iommu/address");
        let Ok(address) = fs::read_to_string(unit) else {
            bail!(NotApplicable("this machine has no VT-d".to_owned()));
        };
        let registers = u64::from_str_radix(address.trim(), 16)?;
        let pci = Pci::edu(None)?;
        let Some(group) = pci.group().map(Group) else { bail!(NotApplicable("edu is behind no IOMMU".to_owned())) };
        if group.default_domain() != "identity" {
            group.set_default_domain(truth, "identity")?;
        }
        let edu = Edu::open(pci)?;
        let mut queue = Self { edu, page: Page::new()?, registers, memory: 0, size: 0, tail: 0, interrupt: 0 };
        let [ecap, address] = [queue.register(ECAP, 8)?, queue.register(PQA, 8)?];
        if ecap & ECAP_PRS == 0 {
            bail!(NotApplicable(format!("VT-d takes no page requests here (extended capabilities {ecap:#x})")));
        }
        if address & PQA_ADDRESS == 0 {
            bail!(NotApplicable("the kernel has set no page request queue up (intel_iommu=on,sm_on)".to_owned()));
        }
        queue.memory = address & PQA_ADDRESS;
        queue.size = 4096 << (address & PQA_ORDER);
        queue.tail = queue.register(PQT, 8)?;
        queue.interrupt = queue.register(PEADDR, 4)?;
        let data = queue.register(PEDATA, 4)?;
        queue.page.put(DATA_AT, &data.to_le_bytes());
        Ok(queue)
    }

    /// Reads a register of the IOMMU.
    fn register(&self, register: u64, length: u32) -> Tried<u64> {
        const AT: usize = 0xf80;
        self.page.put(AT, &[0; 8]);
        self.edu.load(self.registers + register, 0, length)?;
        self.edu.store(0, self.page.physical + AT as u64, length)?;
        Ok(self.page.number(AT))
    }

    /// Puts requests into the queue and raises one interrupt for all.
    pub fn raise(&mut self, requests: &[Request]) -> Result<()> {
        self.put(requests)?;
        Ok(self.interrupt()?)
    }

    /// Raises the interrupt.
    pub fn interrupt(&self) -> Tried<()> {
        self.edu.load(self.page.physical, 0, 0xf80)?;
        self.edu.store(DATA_AT as u64, self.interrupt, 4)
    }

    /// Puts requests into the queue, of which the kernel does not hear yet.
    pub fn put(&mut self, requests: &[Request]) -> Result<()> {
        ensure!(requests.len() <= BATCH, "{} requests at once, where {BATCH} fit", requests.len());
        let length = requests.len() as u64 * DESCRIPTOR;
        if self.tail + length > self.size {
            // A batch is written in one piece: those before the queue's end come first.
            let (before, after) = requests.split_at(((self.size - self.tail) / DESCRIPTOR) as usize);
            self.put(before)?;
            return self.put(after);
        }
        if requests.is_empty() {
            return Ok(());
        }
        for (index, request) in requests.iter().enumerate() {
            let at = index * DESCRIPTOR as usize;
            let [one, two] = request.words();
            for (word, at) in [one, two, 0, 0].iter().zip((at..).step_by(8)) {
                self.page.put(at, &word.to_le_bytes());
            }
        }
        let tail = (self.tail + length) % self.size;
        self.page.put(TAIL_AT, &tail.to_le_bytes());
        self.edu.load(self.page.physical, 0, 0xf80)?;
        self.edu.store(0, self.memory + self.tail, length as u32)?;
        self.edu.store(TAIL_AT as u64, self.registers + PQT, 8)?;
        self.tail = tail;
        Ok(())
    }

    /// Waits until the kernel has taken every request out of the queue.
    pub fn wait(&self) -> Tried<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.register(PQH, 8)? != self.tail {
            if Instant::now() > deadline {
                return Err(Failure::new(libc::ETIMEDOUT, "waiting for the kernel to empty the page request queue"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request =
        Request { rid: 0x0100, pasid: None, grpid: 5, read: true, write: false, last: true, addr: 0x1234_5678 };

    #[test]
    fn a_descriptor_has_each_field_where_the_specification_puts_it() {
        let [one, two] = REQUEST.words();
        assert_eq!(one, 0x0100_0001);
        assert_eq!(two, 0x1234_5000 | 5 << 3 | 0b101);
        let [one, two] = Request { pasid: Some(7), write: true, last: false, ..REQUEST }.words();
        assert_eq!(one, 7 << 32 | 0x0100_0101);
        assert_eq!(two & 0b111, 0b011);
    }

    #[test]
    fn what_does_not_fit_a_field_is_cut_and_spills_nowhere() {
        let [one, two] = Request { pasid: Some(u32::MAX), grpid: u32::MAX, addr: 0, ..REQUEST }.words();
        assert_eq!(one >> 52, 0);
        assert_eq!(two, 0x1ff << 3 | 0b101);
    }
}
