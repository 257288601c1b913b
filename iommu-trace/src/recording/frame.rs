//! Makes whole frames: packs and checks what the encoders gave.

use std::{collections::HashSet, io};

use zstd::bulk::{Compressor, Decompressor};

use super::{
    events::Encoder,
    format::{Damage, FRAME_HEADER, FrameHeader, Kind, MAX_FRAME},
    stacks,
};
use crate::{event::Event, source::Stacks};

/// zstd's level: what an event costs in time counts more than its last byte. One level up takes a quarter more time, and a twelfth less room.
const LEVEL: i32 = -1;
/// Events in one frame: enough to pack well, few enough to seek among.
pub const MAX_EVENTS: u32 = 32 * 1024;
/// Bytes of stacks in one frame.
const MAX_STACKS: usize = 1 << 20;

/// A frame, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it begins with.
    pub header: FrameHeader,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Makes frames of events and of the stacks that they refer to.
pub struct Framer {
    events: Encoder,
    stacks: Vec<u8>,
    stack_count: u32,
    known: HashSet<u32>,
    compressor: Compressor<'static>,
}

impl Framer {
    /// Nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Framer {
            events: Encoder::default(),
            stacks: Vec::new(),
            stack_count: 0,
            known: HashSet::default(),
            compressor: Compressor::new(LEVEL)?,
        })
    }

    /// Takes an event in, with the names of its stack when it is the first with it.
    pub fn event(&mut self, event: &Event, stacks: Option<&dyn Stacks>) {
        if let (Some(id), Some(table)) = (event.stack, stacks)
            && self.known.insert(id)
        {
            let frames = table.frames(id);
            if !frames.is_empty() {
                stacks::put(&mut self.stacks, id, &frames);
                self.stack_count += 1;
            }
        }
        self.events.event(event);
    }

    /// A batch of the source ends.
    pub fn batch_end(&mut self, upto: u64) {
        self.events.batch_end(upto);
    }

    /// Events that wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.events.count
    }

    /// Whether nothing waits, not even the end of a batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether it is time for a frame.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.events.count >= MAX_EVENTS
            || self.stacks.len() >= MAX_STACKS
            || self.events.len() >= MAX_FRAME as usize / 4
    }

    /// The frame of the stacks that came first in what waits, if any did.
    pub fn take_stacks(&mut self) -> io::Result<Option<Frame>> {
        if self.stack_count == 0 {
            return Ok(None);
        }
        let header = FrameHeader {
            kind: Kind::Stacks,
            stored: 0,
            unpacked: 0,
            count: std::mem::take(&mut self.stack_count),
            first: 0,
            last: 0,
            upto: 0,
        };
        let payload = std::mem::take(&mut self.stacks);
        self.pack(header, &payload).map(Some)
    }

    /// The frame of what waits. The stacks that it refers to must come before it: see [`Framer::take_stacks`].
    pub fn take_events(&mut self) -> io::Result<Option<Frame>> {
        if self.events.is_empty() {
            return Ok(None);
        }
        let header = FrameHeader {
            kind: Kind::Events,
            stored: 0,
            unpacked: 0,
            count: self.events.count,
            first: self.events.first,
            last: self.events.last,
            upto: self.events.upto,
        };
        let payload = self.events.take();
        self.pack(header, &payload).map(Some)
    }

    /// A frame of any kind.
    pub fn pack(&mut self, header: FrameHeader, payload: &[u8]) -> io::Result<Frame> {
        let packed = self.compressor.compress(payload)?;
        if payload.len().max(packed.len()) > MAX_FRAME as usize {
            return Err(io::Error::other(format!("a frame would take {} bytes", payload.len())));
        }
        let header = FrameHeader { stored: packed.len() as u32, unpacked: payload.len() as u32, ..header };
        let mut bytes = Vec::with_capacity(FRAME_HEADER + packed.len());
        bytes.extend_from_slice(&header.to_bytes(&packed));
        bytes.extend_from_slice(&packed);
        Ok(Frame { header, bytes })
    }
}

/// Unpacks the payload of a frame whose checksum was right, into `into`.
pub fn unpack(
    decompressor: &mut Decompressor<'static>,
    header: &FrameHeader,
    packed: &[u8],
    into: &mut Vec<u8>,
    at: u64,
) -> Result<(), Damage> {
    into.clear();
    // Bounded by `FrameHeader::from_bytes`; zstd writes no further than the room there is.
    into.reserve(header.unpacked as usize);
    let wrong = |why: String| Damage::Frame { at, why };
    let len = decompressor
        .decompress_to_buffer(packed, into)
        .map_err(|error| wrong(format!("its payload cannot be unpacked: {error}")))?;
    if len != header.unpacked as usize {
        return Err(wrong(format!("its payload has {len} bytes and not {}", header.unpacked)));
    }
    Ok(())
}
