//! QEMU's edu device: a PCI device that does DMA to any address it is told.
//!
//! Register layout: QEMU's `docs/specs/edu`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::pci::{self, Pci};
use crate::sys::{Failure, Tried};
use crate::truth::{Fact, Hex, Outcome, Truth};

const BAR_SIZE: usize = 1 << 20;
const DMA_SRC: usize = 0x80;
const DMA_DST: usize = 0x88;
const DMA_COUNT: usize = 0x90;
const DMA_CMD: usize = 0x98;
/// Start; without it the command register only says whether a transfer runs.
const CMD_START: u64 = 1;
/// From the device to memory.
const CMD_TO_MEMORY: u64 = 2;
/// The device's own buffer, as the DMA registers address it.
const DEVICE_BUFFER: u64 = 0x40000;
/// Memory space and bus master of `PCI_COMMAND`.
const COMMAND_MEMORY_MASTER: u16 = 0x6;
const PCI_COMMAND: u64 = 4;

/// An edu device, switched on, its registers mapped.
pub struct Edu {
    pci: Pci,
    group: Option<u32>,
    registers: *mut u64,
    _bar: File,
}

impl Edu {
    /// Enables memory space and bus mastering, and maps the registers.
    pub fn open(pci: Pci) -> Tried<Self> {
        let address = pci.address.clone();
        let failed = |what: &str| {
            let tried = format!("{what} of {address}");
            move |e: io::Error| Failure::from_io(&e, tried)
        };
        if pci.driver().is_none() {
            pci::write(&pci.path("enable"), "1")?;
        }
        let config = OpenOptions::new()
            .read(true)
            .write(true)
            .open(pci.path("config"))
            .map_err(failed("open of the configuration space"))?;
        let mut command = [0; 2];
        config.read_exact_at(&mut command, PCI_COMMAND).map_err(failed("read of PCI_COMMAND"))?;
        let command = u16::from_le_bytes(command) | COMMAND_MEMORY_MASTER;
        config.write_all_at(&command.to_le_bytes(), PCI_COMMAND).map_err(failed("write of PCI_COMMAND"))?;
        let bar = OpenOptions::new()
            .read(true)
            .write(true)
            .open(pci.path("resource0"))
            .map_err(failed("open of resource0"))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice; the BAR is `BAR_SIZE` long by the
        // device's specification, and the kernel refuses a mapping beyond it.
        let registers = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BAR_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                bar.as_raw_fd(),
                0,
            )
        };
        if registers == libc::MAP_FAILED {
            return Err(failed("mmap of resource0")(io::Error::last_os_error()));
        }
        let group = pci.group();
        Ok(Self { pci, group, registers: registers.cast(), _bar: bar })
    }

    fn write(&self, register: usize, value: u64) {
        // SAFETY: every register above is 8-byte aligned and inside the mapping, which lives as long as
        // `self`.
        unsafe { self.registers.byte_add(register).write_volatile(value) };
    }

    fn read(&self, register: usize) -> u64 {
        // SAFETY: as for `write`.
        unsafe { self.registers.byte_add(register).read_volatile() }
    }

    /// Lets the device read `length` bytes at `from` into its own buffer, and waits until it is done.
    pub fn load(&self, from: u64, at: u64, length: u32) -> Tried<()> {
        self.transfer(from, DEVICE_BUFFER + at, length, 0, from)
    }

    /// Lets the device write `length` bytes of its own buffer to `to`, and waits until it is done.
    pub fn store(&self, at: u64, to: u64, length: u32) -> Tried<()> {
        self.transfer(DEVICE_BUFFER + at, to, length, CMD_TO_MEMORY, to)
    }

    fn transfer(&self, source: u64, target: u64, length: u32, direction: u64, iova: u64) -> Tried<()> {
        self.write(DMA_SRC, source);
        self.write(DMA_DST, target);
        self.write(DMA_COUNT, u64::from(length));
        self.write(DMA_CMD, CMD_START | direction);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.read(DMA_CMD) & CMD_START != 0 {
            if Instant::now() > deadline {
                return Err(Failure::new(libc::ETIMEDOUT, format!("DMA of {} at {iova:#x}", self.pci.address)));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets the device write `length` bytes to `iova` or read them from it, waits until it is done, and
    /// tells. Whether the IOMMU let it through, the device does not say.
    pub fn dma(&self, truth: &Truth, iova: u64, length: u32, write: bool) -> Tried<()> {
        let (outcome, result) =
            Outcome::of(|| if write { self.store(0, iova, length) } else { self.load(iova, 0, length) });
        truth.tell(&Fact::DmaFault {
            device: self.pci.address.clone(),
            group: self.group,
            iova: Hex(iova),
            write,
            length,
            outcome,
        });
        result
    }
}

impl Drop for Edu {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it exists.
        unsafe { libc::munmap(self.registers.cast(), BAR_SIZE) };
    }
}
