//! The kernel's ring buffer (kernel/bpf/ringbuf.c) in memory that two processes share: producers on the one side, the reader on
//! the other.
//!
//! As in the kernel, the reader's position has a page, the producers' another, and the data is mapped twice in a row, so that
//! a record never breaks. A page of loss counters stands in for the BPF side's map.

use std::{
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    ptr::NonNull,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use iommu_trace::source::live::{Mark, Records, monotonic_ns};
use iommu_trace_common::ProbeId;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::{read, write},
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};

/// Before a record: its length with two flags, and four bytes that the kernel needs for itself.
const HEADER: usize = 8;
/// `BPF_RINGBUF_BUSY_BIT`: the record is being filled.
const BUSY: u32 = 1 << 31;
/// Loss counters: by probe and phase.
pub const COUNTERS: usize = 2 * ProbeId::ALL.len();

/// The memory.
pub struct Shared {
    base: NonNull<u8>,
    /// Bytes of data, a power of two.
    size: usize,
    page: usize,
    memory: OwnedFd,
    wake: OwnedFd,
}

// SAFETY: what is in the memory is read and written by atomics, and by the one that a record belongs to at the time.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// New memory for a ring of `size` bytes.
    pub fn new(size: usize) -> Result<Self> {
        assert!(size.is_power_of_two(), "the kernel takes powers of two only");
        // The reader's process inherits both.
        let memory = memfd_create("ring", MemfdFlags::empty()).context("cannot make shared memory")?;
        ftruncate(&memory, (3 * rustix::param::page_size() + size) as u64)?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK).context("cannot make an eventfd")?;
        Self::map(size, memory, wake)
    }

    /// What another process has made, by the descriptors that it left open.
    pub fn inherited(size: usize, memory: RawFd, wake: RawFd) -> Result<Self> {
        // SAFETY: both were left open for this process, which uses them here alone.
        let (memory, wake) = unsafe { (OwnedFd::from_raw_fd(memory), OwnedFd::from_raw_fd(wake)) };
        Self::map(size, memory, wake)
    }

    fn map(size: usize, memory: OwnedFd, wake: OwnedFd) -> Result<Self> {
        let page = rustix::param::page_size();
        let (all, access) = (3 * page + 2 * size, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a place of the kernel's choice, and then two mappings that lie within it.
        let base = unsafe {
            let base = mmap_anonymous(std::ptr::null_mut(), all, ProtFlags::empty(), MapFlags::PRIVATE)?;
            let fixed = MapFlags::SHARED | MapFlags::FIXED;
            mmap(base, 3 * page + size, access, fixed, &memory, 0)?;
            mmap(base.cast::<u8>().add(3 * page + size).cast(), size, access, fixed, &memory, 3 * page as u64)?;
            base
        };
        let base = NonNull::new(base.cast()).context("mapped at address zero")?;
        Ok(Shared { base, size, page, memory, wake })
    }

    /// The descriptors, for a process that inherits them.
    pub fn descriptors(&self) -> (RawFd, RawFd) {
        (self.memory.as_raw_fd(), self.wake.as_raw_fd())
    }

    /// Bytes of data.
    pub fn size(&self) -> usize {
        self.size
    }

    fn at<T>(&self, offset: usize) -> &T {
        // SAFETY: only called for aligned atomics that lie within the mapping, which is there as long as `self`.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    fn consumer(&self) -> &AtomicUsize {
        self.at(0)
    }

    fn producer(&self) -> &AtomicUsize {
        self.at(self.page)
    }

    /// A loss counter.
    pub fn lost(&self, index: usize) -> &AtomicU64 {
        assert!(index < COUNTERS, "there is no such counter");
        self.at(2 * self.page + index * size_of::<u64>())
    }

    /// Set by the reader when it polls.
    pub fn is_read(&self) -> &AtomicU32 {
        self.at(2 * self.page + COUNTERS * size_of::<u64>())
    }

    fn offset(&self, position: usize) -> usize {
        3 * self.page + (position & (self.size - 1))
    }

    fn header(&self, position: usize) -> &AtomicU32 {
        self.at(self.offset(position))
    }

    /// Whether the reader has taken everything.
    pub fn is_empty(&self) -> bool {
        self.consumer().load(Ordering::Acquire) == self.producer().load(Ordering::Acquire)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this size, and not referred to any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), 3 * self.page + 2 * self.size) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// What a record takes in the ring (`round_up(size + BPF_RINGBUF_HDR_SZ, 8)`).
fn room(len: usize) -> usize {
    (len + HEADER).next_multiple_of(8)
}

/// The producers' side.
pub struct Ring {
    pub shared: Shared,
    /// `rb->spinlock`, and what it guards besides the producers' position: `rb->pending_pos`, the oldest record that is not complete.
    pending: Mutex<usize>,
}

impl Ring {
    pub fn new(size: usize) -> Result<Self> {
        Ok(Ring { shared: Shared::new(size)?, pending: Mutex::new(0) })
    }

    /// `__bpf_ringbuf_reserve()`: the record's position, or nothing where there is no room.
    fn reserve(&self, len: usize) -> Option<usize> {
        let shared = &self.shared;
        let consumer = shared.consumer().load(Ordering::Acquire);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let producer = shared.producer().load(Ordering::Relaxed);
        while *pending < producer {
            let header = shared.header(*pending).load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            *pending += room(header as usize);
        }
        let next = producer + room(len);
        let most = shared.size - 1;
        if next - consumer > most || next - *pending > most {
            return None;
        }
        shared.header(producer).store(len as u32 | BUSY, Ordering::Relaxed);
        shared.producer().store(next, Ordering::Release);
        Some(producer)
    }

    /// `bpf_ringbuf_commit()`: whoever reads is woken if it has read everything before.
    fn commit(&self, position: usize, len: usize) {
        let shared = &self.shared;
        shared.header(position).swap(len as u32, Ordering::SeqCst);
        let mask = shared.size - 1;
        if shared.consumer().load(Ordering::SeqCst) & mask == position & mask {
            // It only fails where the reader was woken very often already.
            let _ = write(&shared.wake, &1u64.to_ne_bytes());
        }
    }

    /// What a BPF program does: a place, the time, the record, done. Tells whether there was a place; if not, nothing is counted.
    pub fn send(&self, record: &[u8]) -> bool {
        let Some(position) = self.reserve(record.len()) else { return false };
        // After the reservation, so that no later place in the ring can have an earlier time.
        let ts = monotonic_ns().to_ne_bytes();
        let offset = self.shared.offset(position) + HEADER;
        // SAFETY: the place is this record's until it is committed, and lies in one piece: the data is mapped twice.
        let place = unsafe { std::slice::from_raw_parts_mut(self.shared.base.add(offset).as_ptr(), record.len()) };
        // The time is a header's first member.
        place[..8].copy_from_slice(&ts);
        place[8..].copy_from_slice(&record[8..]);
        self.commit(position, record.len());
        true
    }
}

/// The reader's side, as aya's `RingBuf` has it.
pub struct Reader<S>(pub S);

impl<S: AsRef<Shared>> Records for Reader<S> {
    fn next(&mut self, look: impl FnOnce(&[u8])) -> bool {
        let shared = self.0.as_ref();
        let consumer = shared.consumer().load(Ordering::Relaxed);
        if consumer == shared.producer().load(Ordering::Acquire) {
            return false;
        }
        let header = shared.header(consumer).load(Ordering::Acquire);
        if header & BUSY != 0 {
            return false;
        }
        let len = header as usize;
        let from = shared.offset(consumer) + HEADER;
        // SAFETY: the record is complete, nobody writes to it until it is given back below, and it lies in one piece.
        look(unsafe { std::slice::from_raw_parts(shared.base.add(from).as_ptr(), len) });
        shared.consumer().store(consumer + room(len), Ordering::SeqCst);
        true
    }

    fn mark(&self) -> Mark {
        Mark::new(monotonic_ns(), || self.0.as_ref().producer().load(Ordering::Acquire))
    }

    fn has_passed(&self, mark: Mark) -> bool {
        mark.is_passed_by(self.0.as_ref().consumer().load(Ordering::Acquire))
    }

    fn wait(&self, timeout: Duration) -> Result<()> {
        let shared = self.0.as_ref();
        if !shared.is_empty() {
            return Ok(());
        }
        let wake: BorrowedFd<'_> = shared.wake.as_fd();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut [PollFd::new(&wake, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => drop(read(wake, &mut [0; 8])),
            Err(error) => return Err(error).context("cannot wait for the ring"),
        }
        Ok(())
    }
}
