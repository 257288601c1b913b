//! The ring, and up to which moment it is known to be read.
//!
//! A record's time is taken once it has its place in the ring, and places are given out in order, under a lock. So what
//! is not in the ring at a moment will have a later time than that moment, however long a CPU is held up in between: once
//! everything up to the place that was next at the moment is read, nothing older can come.

use std::{
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
    time::Duration,
};

use anyhow::{Context as _, bail};
use aya::maps::{Map, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{intake::Records, monotonic_ns};

/// Before a record: its length with two flags, and four bytes that the kernel needs for itself.
const HEADER: usize = 8;
/// `BPF_RINGBUF_BUSY_BIT`: the record is being filled.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`: the record was given up.
const DISCARDED: u32 = 1 << 30;

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

/// The ring, as the kernel lays it out (`kernel/bpf/ringbuf.c`): a page with the reader's position, one with the producers', the
/// data, and the data once more, so that no record is in two pieces.
///
/// Of what comes twice one page is mapped: a record is shorter than that. All of it would count as resident.
pub struct Ring<F = RingMap> {
    map: F,
    reader: Pages,
    producers: Pages,
    /// Bytes of a page.
    page: usize,
    /// Bytes of data, a power of two.
    size: usize,
    /// Where the reader is.
    at: usize,
    /// How far the producers were when they were asked last.
    known: usize,
    /// Whether the reader has moved since: a producer that has not seen that would wake nobody.
    moved: bool,
}

/// The map of a [`Ring`].
pub struct RingMap(MapData);

impl AsFd for RingMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd().as_fd()
    }
}

impl Ring {
    /// The ring in this map.
    pub fn new(map: Map) -> anyhow::Result<Self> {
        let Map::RingBuf(data) = map else { bail!("the map RING is no ring buffer") };
        let size = data.info().context("cannot ask for the ring buffer's size")?.max_entries() as usize;
        Ring::over(RingMap(data), size)
    }
}

impl<F: AsFd> Ring<F> {
    fn over(map: F, size: usize) -> anyhow::Result<Self> {
        let page = rustix::param::page_size();
        let pages = |offset: usize, len, protection| {
            Pages::map(map.as_fd(), offset, len, protection).context("cannot map the ring buffer")
        };
        let reader = pages(0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let producers = pages(page, page + size + page, ProtFlags::READ)?;
        let at = reader.position().load(Ordering::Acquire);
        Ok(Ring { map, reader, producers, page, size, at, known: at, moved: false })
    }

    /// Where the next record is in the mapping, and how long it is.
    fn next_record(&mut self) -> Option<(usize, usize)> {
        loop {
            if self.at == self.known {
                self.is_seen_to_have_moved();
                self.known = self.producers.position().load(Ordering::Acquire);
                if self.at == self.known {
                    return None;
                }
            }
            let offset = self.page + (self.at & (self.size - 1));
            let header = self.producers.header(offset);
            let len = (header & !DISCARDED) as usize;
            if header & BUSY != 0 {
                if !self.is_seen_to_have_moved() {
                    return None;
                }
            } else if header & DISCARDED != 0 {
                self.pass(len);
            } else {
                return Some((offset + HEADER, len));
            }
        }
    }

    /// Gives a record's room back to the producers.
    fn pass(&mut self, len: usize) {
        self.at = self.at.wrapping_add((HEADER + len).next_multiple_of(HEADER));
        self.reader.position().store(self.at, Ordering::Release);
        self.moved = true;
    }

    /// After the reader has moved, a producer either sees that, and wakes it, or what it has written is seen from here on.
    fn is_seen_to_have_moved(&mut self) -> bool {
        let moved = std::mem::take(&mut self.moved);
        if moved {
            fence(Ordering::SeqCst);
        }
        moved
    }
}

impl<F: AsFd> Records for Ring<F> {
    fn next(&mut self, look: impl FnOnce(&[u8])) -> bool {
        let Some((offset, len)) = self.next_record() else { return false };
        look(self.producers.bytes(offset, len));
        self.pass(len);
        true
    }

    fn mark(&self) -> Mark {
        Mark::new(monotonic_ns(), || self.producers.position().load(Ordering::Acquire))
    }

    fn has_passed(&self, mark: Mark) -> bool {
        mark.is_passed_by(self.at)
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

/// Pages that the kernel shares.
struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages belong to one owner and are unmapped once.
unsafe impl Send for Pages {}

impl Pages {
    fn map(ring: BorrowedFd<'_>, offset: usize, len: usize, protection: ProtFlags) -> anyhow::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, ring, offset as u64) }?;
        let start = NonNull::new(start.cast()).context("mapped at address zero")?;
        Ok(Pages { start, len })
    }

    /// The position that the first page begins with.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: the page is mapped as long as this is, and begins with the position, an aligned word.
        unsafe { self.start.cast().as_ref() }
    }

    /// What is before the record at an offset.
    fn header(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(HEADER) && offset + HEADER <= self.len, "no record begins at {offset}");
        // SAFETY: it is in the mapping, and aligned. What the producer has written before the busy bit was cleared is seen.
        unsafe { self.start.add(offset).cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire)
    }

    /// A record that is not busy; no more of it than is mapped, which is all of ours.
    fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let len = len.min(self.len.saturating_sub(offset));
        // SAFETY: it is in the mapping, and no producer touches it until the reader's position has passed it.
        unsafe { std::slice::from_raw_parts(self.start.add(offset).as_ptr(), len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this size, and not referred to any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::OwnedFd, unix::fs::FileExt as _};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// The producers' side, in a file of the same layout. What the kernel maps twice is written twice.
    struct Producer {
        file: std::fs::File,
        size: usize,
        at: usize,
    }

    impl Producer {
        fn page() -> usize {
            rustix::param::page_size()
        }

        fn put(&self, at: usize, byte: u8) {
            let offset = at & (self.size - 1);
            let data = 2 * Self::page();
            for place in [offset, offset + self.size] {
                self.file.write_all_at(&[byte], (data + place) as u64).unwrap();
            }
        }

        /// Reserves a record and fills it; its header says what it is told to.
        fn send(&mut self, record: &[u8], flags: u32) -> usize {
            let begun = self.at;
            self.header(begun, record.len() as u32 | flags);
            for (index, byte) in record.iter().enumerate() {
                self.put(begun.wrapping_add(HEADER + index), *byte);
            }
            self.at = self.at.wrapping_add((HEADER + record.len()).next_multiple_of(HEADER));
            self.file.write_all_at(&self.at.to_ne_bytes(), Self::page() as u64).unwrap();
            begun
        }

        fn header(&self, at: usize, header: u32) {
            for (index, byte) in header.to_ne_bytes().into_iter().enumerate() {
                self.put(at + index, byte);
            }
        }

        fn consumed(&self) -> usize {
            let mut position = [0; size_of::<usize>()];
            self.file.read_exact_at(&mut position, 0).unwrap();
            usize::from_ne_bytes(position)
        }
    }

    fn ring(begin: usize) -> (Producer, Ring<OwnedFd>) {
        let (page, size) = (Producer::page(), Producer::page());
        let memory = memfd_create("ring", MemfdFlags::empty()).unwrap();
        ftruncate(&memory, (2 * page + 2 * size) as u64).unwrap();
        let file = std::fs::File::from(memory.try_clone().unwrap());
        file.write_all_at(&begin.to_ne_bytes(), 0).unwrap();
        file.write_all_at(&begin.to_ne_bytes(), page as u64).unwrap();
        (Producer { file, size, at: begin }, Ring::over(memory, size).unwrap())
    }

    fn read(ring: &mut Ring<OwnedFd>) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        while ring.next(|record| seen.push(record.to_vec())) {}
        seen
    }

    #[test]
    fn records_come_whole_also_around_the_end_and_their_room_is_given_back() {
        let (mut producer, mut ring) = ring(0);
        let mut sent = Vec::new();
        for number in 0..500u32 {
            let record: Vec<u8> = (0..number % 97).map(|byte| byte as u8 ^ number as u8).collect();
            producer.send(&record, 0);
            sent.push(record);
            if number % 7 == 0 {
                assert_eq!(read(&mut ring), std::mem::take(&mut sent));
                assert_eq!(producer.consumed(), producer.at);
            }
        }
        assert!(producer.at > 4 * producer.size, "it has not gone around");
        assert_eq!(read(&mut ring), sent);
        let before = ring.mark();
        producer.send(b"later", 0);
        assert!(ring.has_passed(before) && !ring.has_passed(ring.mark()));
    }

    #[test]
    fn a_record_that_is_being_filled_holds_up_what_follows_and_one_given_up_does_not() {
        let (mut producer, mut ring) = ring(0);
        producer.send(b"first", 0);
        producer.send(b"given up", DISCARDED);
        let begun = producer.send(b"slow", BUSY);
        producer.send(b"last", 0);
        assert_eq!(read(&mut ring), [b"first"]);
        assert_eq!(producer.consumed(), begun);
        assert!(read(&mut ring).is_empty());
        producer.header(begun, 4);
        assert_eq!(read(&mut ring), [b"slow", b"last"]);
    }

    #[test]
    fn positions_wrap_around() {
        let (mut producer, mut ring) = ring(usize::MAX - 15);
        producer.send(b"12345678", 0);
        producer.send(b"after", 0);
        assert_eq!(producer.at, 16);
        assert_eq!(read(&mut ring), [&b"12345678"[..], b"after"]);
    }

    #[test]
    fn a_length_that_no_record_has_ends_with_what_is_mapped() {
        let (mut producer, mut ring) = ring(0);
        let begun = producer.send(b"record", 0);
        producer.header(begun, 1 << 20);
        let mut seen = 0;
        ring.next(|record| seen = record.len());
        assert_eq!(seen, 2 * Producer::page() - HEADER);
    }
}
