//! One page of memory whose physical address is known: what a device reads and writes past the IOMMU.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::sys::{Failure, Tried};

/// The page's size, which is that of edu's own buffer, too.
pub const SIZE: usize = 4096;

/// In an entry of `/proc/self/pagemap` (Documentation/admin-guide/mm/pagemap.rst): the page is in memory; its number.
const PRESENT: u64 = 1 << 63;
const NUMBER: u64 = (1 << 55) - 1;

/// A page that stays where it is.
#[derive(Debug)]
pub struct Page {
    memory: *mut u8,
    /// Where it is.
    pub physical: u64,
}

impl Page {
    /// Gets one, and asks the kernel where it is: root's privilege.
    pub fn new() -> Tried<Self> {
        let failed = |what: &str| Failure::from_io(&io::Error::last_os_error(), what);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | libc::MAP_LOCKED,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(failed("mmap of a locked page"));
        }
        let mut page = Self { memory: memory.cast(), physical: 0 };
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")
            .and_then(|map| map.read_exact_at(&mut entry, memory as u64 / SIZE as u64 * 8))
            .map_err(|e| Failure::from_io(&e, "read of /proc/self/pagemap"))?;
        let entry = u64::from_ne_bytes(entry);
        if entry & PRESENT == 0 || entry & NUMBER == 0 {
            return Err(Failure::new(libc::EPERM, "/proc/self/pagemap does not tell a page's physical address"));
        }
        page.physical = (entry & NUMBER) * SIZE as u64;
        Ok(page)
    }

    /// Puts bytes into it; what would go beyond its end is left out.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        for (offset, &byte) in (at..SIZE).zip(bytes) {
            // SAFETY: the offset is below `SIZE`, and the mapping lives as long as `self`. A device may write there,
            // hence volatile.
            unsafe { self.memory.add(offset).write_volatile(byte) };
        }
    }

    /// Eight of its bytes, as a number.
    pub fn number(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        for (byte, offset) in bytes.iter_mut().zip(at..SIZE) {
            // SAFETY: as above.
            *byte = unsafe { self.memory.add(offset).read_volatile() };
        }
        u64::from_le_bytes(bytes)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it exists.
        unsafe { libc::munmap(self.memory.cast(), SIZE) };
    }
}
