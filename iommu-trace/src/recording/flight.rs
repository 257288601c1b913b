//! The flight recorder: keeps the newest frames in memory, and writes a recording of them when something happened.
//!
//! What is dropped goes through a model of its own, so that a recording begins with what was attached when its oldest frame
//! began.

use std::{
    collections::VecDeque,
    io::{self, Write},
    time::Duration,
};

use zstd::bulk::Decompressor;

use super::{
    Frame, FrameWriter, Framer, Header, create,
    events::{Decoder, Item},
    files,
    format::FRAME_HEADER,
    frame,
};
use crate::{
    event::Event,
    model::{Effects, Model, snapshot_events},
    output::Target,
    source::Stacks,
};

/// How much of the events' time one frame holds: what is kept is as exact as this.
const FRAME_NS: u64 = 250_000_000;

/// Keeps the newest of what happens.
pub struct Flight {
    target: Target,
    header: Header,
    /// How much of the past is kept.
    last: Duration,
    /// Bytes of frames that are kept at most.
    max_size: u64,
    /// How many recordings stay.
    keep: u32,
    framer: Framer,
    /// When the frame that is filled was begun, on the events' clock.
    begun: u64,
    frames: VecDeque<Frame>,
    size: u64,
    /// Every stack so far; the kernel's table bounds them.
    stacks: Vec<Frame>,
    /// Has seen what was dropped.
    trailing: Model,
    /// The clock when it had seen the last of that.
    dropped_upto: Option<u64>,
    decompressor: Decompressor<'static>,
    decoder: Decoder,
    /// Recordings written.
    pub written: u64,
}

impl Flight {
    /// Keeps `last` of what happens; `trailing` is a model that has seen nothing.
    pub fn new(
        target: Target,
        header: Header,
        last: Duration,
        max_size: u64,
        keep: u32,
        trailing: Model,
    ) -> io::Result<Self> {
        Ok(Flight {
            target,
            header,
            last,
            max_size,
            keep,
            framer: Framer::new()?,
            begun: 0,
            frames: VecDeque::new(),
            size: 0,
            stacks: Vec::new(),
            trailing,
            dropped_upto: None,
            decompressor: Decompressor::new()?,
            decoder: Decoder::default(),
            written: 0,
        })
    }

    /// Takes an event in.
    pub fn event(&mut self, event: &Event, stacks: Option<&dyn Stacks>) -> anyhow::Result<()> {
        self.framer.event(event, stacks);
        if self.framer.is_full() { self.cut() } else { Ok(()) }
    }

    /// A batch of the source ends. Drops what is too old.
    pub fn batch_end(&mut self, upto: u64) -> anyhow::Result<()> {
        self.framer.batch_end(upto);
        if upto.saturating_sub(self.begun) >= FRAME_NS {
            self.begun = upto;
            self.cut()?;
        }
        let oldest = upto.saturating_sub(u64::try_from(self.last.as_nanos()).unwrap_or(u64::MAX));
        // A frame goes when all of it is too old.
        while self.frames.front().is_some_and(|frame| frame.header.upto.max(frame.header.last) < oldest)
            || self.size > self.max_size
        {
            self.drop_oldest()?;
        }
        Ok(())
    }

    fn cut(&mut self) -> anyhow::Result<()> {
        self.stacks.extend(self.framer.take_stacks()?);
        if let Some(frame) = self.framer.take_events()? {
            self.size += frame.bytes.len() as u64;
            self.frames.push_back(frame);
        }
        Ok(())
    }

    fn drop_oldest(&mut self) -> anyhow::Result<()> {
        let Some(frame) = self.frames.pop_front() else { return Ok(()) };
        self.size = self.size.saturating_sub(frame.bytes.len() as u64);
        let mut payload = self.decoder.reclaim();
        frame::unpack(&mut self.decompressor, &frame.header, &frame.bytes[FRAME_HEADER..], &mut payload, 0)?;
        self.decoder.begin(payload, frame.header.first);
        let mut effects = Effects::default();
        while let Some(item) = self.decoder.next_item().map_err(anyhow::Error::msg)? {
            match item {
                Item::Event(event) => self.trailing.apply(&event, &mut effects),
                Item::BatchEnd(upto) => self.trailing.advance(upto, &mut effects),
            }
            effects.clear();
        }
        self.dropped_upto = Some(frame.header.upto.max(frame.header.last));
        Ok(())
    }

    /// Writes a recording of what is kept.
    pub fn write(&mut self) -> anyhow::Result<()> {
        self.cut()?;
        if let Target::File(path) = &self.target {
            files::shift(path, self.keep)?;
        }
        let mut header = self.header.clone();
        let mut before = Framer::new()?;
        if let Some(upto) = self.dropped_upto {
            header.continued = true;
            header.source.started_ns = upto;
            for event in snapshot_events(self.trailing.mirror(), upto.saturating_sub(1)) {
                before.event(&event, None);
                if before.is_full() {
                    break;
                }
            }
            before.batch_end(upto);
        }
        let state = before.take_events()?;
        let (stacks, frames) = (&self.stacks, &self.frames);
        create::write(&self.target, &mut |out: &mut dyn Write| {
            let mut writer = FrameWriter::new(out, &header)?;
            for frame in state.iter().chain(stacks).chain(frames) {
                writer.frame(frame)?;
            }
            writer.close(&mut before).map(|_| ())
        })?;
        self.written += 1;
        Ok(())
    }
}
