//! The ring, and up to which moment it is known to be read.
//!
//! A record's time is taken once it has its place in the ring, and places are given out in order, under a lock. So what
//! is not in the ring at a moment will have a later time than that moment, however long a CPU is held up in between: once
//! everything up to the place that was next at the moment is read, nothing older can come.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{Map, MapData, RingBuf};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{intake::Records, monotonic_ns};

/// A moment, and the place in the ring that was next to be given out then or a little later.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    place: usize,
}

impl Mark {
    /// The moment `ts`, which is now; the place is asked for afterwards.
    pub fn new(ts: u64, place: impl FnOnce() -> usize) -> Self {
        Mark { ts, place: place() }
    }

    /// Whether a reader that has come to this place has read everything whose time is before the mark's.
    #[must_use]
    pub fn is_passed_by(&self, consumer: usize) -> bool {
        // Positions count bytes and may wrap around.
        consumer.wrapping_sub(self.place).cast_signed() >= 0
    }
}

/// The ring.
pub struct Ring {
    map: RingBuf<MapData>,
    consumer: Position,
    producer: Position,
}

impl Ring {
    /// The ring in this map.
    pub fn new(map: Map) -> anyhow::Result<Self> {
        let map = RingBuf::try_from(map).context("the map RING is no ring buffer")?;
        // The kernel's layout: a page of the consumer, one of the producer, the data.
        let page = rustix::param::page_size();
        let position = |offset| Position::map(&map, offset, page).context("cannot map the ring buffer's positions");
        Ok(Ring { consumer: position(0)?, producer: position(page as u64)?, map })
    }
}

impl Records for Ring {
    fn next(&mut self, look: impl FnOnce(&[u8])) -> bool {
        self.map.next().map(|record| look(&record)).is_some()
    }

    fn mark(&self) -> Mark {
        Mark::new(monotonic_ns(), || self.producer.load())
    }

    fn has_passed(&self, mark: Mark) -> bool {
        mark.is_passed_by(self.consumer.load())
    }

    fn wait(&self, timeout: Duration) -> anyhow::Result<()> {
        let mut fd = libc::pollfd { fd: self.map.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid descriptor, and the count says one.
        let ready = unsafe { libc::poll(&raw mut fd, 1, millis) };
        if ready < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("cannot wait for the ring buffer");
            }
        }
        Ok(())
    }
}

/// One of the ring's positions, in a page that the kernel shares.
struct Position {
    page: NonNull<AtomicUsize>,
    size: usize,
}

// SAFETY: the page is only read, atomically, and unmapped once.
unsafe impl Send for Position {}

impl Position {
    fn map(ring: &RingBuf<MapData>, offset: u64, size: usize) -> anyhow::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page =
            unsafe { mmap(std::ptr::null_mut(), size, ProtFlags::READ, MapFlags::SHARED, ring.as_fd(), offset) }?;
        let page = NonNull::new(page.cast()).context("mapped at address zero")?;
        Ok(Position { page, size })
    }

    fn load(&self) -> usize {
        // SAFETY: the page is mapped as long as this is, and begins with the position, an aligned word.
        unsafe { self.page.as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this size, and not referred to any more.
        let unmapped = unsafe { munmap(self.page.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
