//! The ring as it lies in memory: what is complete is given out as one stretch, headers included.

use std::{
    os::fd::AsFd as _,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// Bytes of the data, as the BPF side has them.
const SIZE: usize = 16 << 20;
/// `BPF_RINGBUF_BUSY_BIT` and `BPF_RINGBUF_DISCARD_BIT` of a record's length.
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
/// The length and a page offset in front of each record.
const HEADER: u64 = 8;

/// The mapped ring: a page of the consumer, one of the producer, the data twice in a row.
pub struct Ring {
    consumer: *const AtomicU64,
    producer: *const AtomicU64,
    /// In words, which every record begins at one of.
    data: *const u64,
    _map: RingBuf<MapData>,
}

impl Ring {
    /// Maps it.
    pub fn new(map: RingBuf<MapData>) -> Result<Ring> {
        let page = rustix::param::page_size();
        let at = |offset: usize, len: usize, how: ProtFlags| {
            // SAFETY: a new mapping at an address of the kernel's choice, kept until the program ends.
            unsafe { mmap(std::ptr::null_mut(), len, how, MapFlags::SHARED, map.as_fd(), offset as u64) }
                .context("cannot map the ring")
        };
        let consumer = at(0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let rest = at(page, page + 2 * SIZE, ProtFlags::READ)?;
        Ok(Ring {
            consumer: consumer.cast(),
            producer: rest.cast(),
            data: rest.cast::<u64>().wrapping_add(page / size_of::<u64>()),
            _map: map,
        })
    }

    /// What is complete, and of how many records it is.
    pub fn readable(&self) -> (&[u8], u64) {
        // SAFETY: both pages are mapped as long as this is, and begin with a position.
        let (start, end) =
            unsafe { ((*self.consumer).load(Ordering::Relaxed), (*self.producer).load(Ordering::Acquire)) };
        let (mut at, mut count) = (start, 0);
        while at < end {
            let header = self.at(at).cast::<AtomicU32>();
            // SAFETY: a record's header lies there, aligned to 8 bytes.
            let len = unsafe { (*header).load(Ordering::Acquire) };
            if len & BUSY != 0 {
                break;
            }
            at += (u64::from(len & !DISCARD) + HEADER).next_multiple_of(8);
            count += 1;
        }
        let first = self.at(start).cast::<u8>();
        // SAFETY: the data is mapped twice in a row, so that a stretch is never broken; what is complete is not written to.
        (unsafe { std::slice::from_raw_parts(first, (at - start) as usize) }, count)
    }

    /// Where a position is in memory.
    fn at(&self, position: u64) -> *const u64 {
        self.data.wrapping_add((position as usize & (SIZE - 1)) / size_of::<u64>())
    }

    /// Gives room back.
    pub fn consume(&mut self, len: usize) {
        // SAFETY: as above; only the consumer writes here.
        let consumer = unsafe { &*self.consumer };
        consumer.store(consumer.load(Ordering::Relaxed) + len as u64, Ordering::Release);
    }
}
