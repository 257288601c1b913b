//! Writes a recording: the header, frames as they become due, the index at the end.

use std::io::{self, Write};

use super::{
    format::{END_MAGIC, FrameHeader, Kind},
    frame::{Frame, Framer},
    header::Header,
    index::{Entry, Index},
};
use crate::{
    event::Event,
    source::{Batch, Stacks},
};

/// Writes frames to anything. Each frame is one write, so that what a kill leaves is whole frames but for the last.
pub struct FrameWriter<W: Write> {
    out: W,
    written: u64,
    index: Index,
}

impl<W: Write> FrameWriter<W> {
    /// Begins with the header.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        let written = header.write(&mut out)?;
        Ok(FrameWriter { out, written, index: Index::default() })
    }

    /// Writes a frame.
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        self.out.write_all(&frame.bytes)?;
        if frame.header.kind == Kind::Events {
            let FrameHeader { first, last, count, .. } = frame.header;
            self.index.push(Entry { at: self.written, first, last, count });
        }
        self.written += frame.bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Hands on what waits in a buffer of `out`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes the index and the trailer. Tells how many bytes there are.
    pub fn close(mut self, framer: &mut Framer) -> io::Result<u64> {
        let header = FrameHeader {
            kind: Kind::Index,
            stored: 0,
            unpacked: 0,
            count: self.index.0.len() as u32,
            first: 0,
            last: 0,
            upto: 0,
        };
        let frame = framer.pack(header, &self.index.to_payload())?;
        let mut end = frame.bytes;
        end.extend_from_slice(&self.written.to_le_bytes());
        end.extend_from_slice(&END_MAGIC);
        self.out.write_all(&end)?;
        self.out.flush()?;
        Ok(self.written + end.len() as u64)
    }
}

/// Writes a recording from batches.
pub struct Writer<W: Write> {
    framer: Framer,
    frames: FrameWriter<W>,
}

impl<W: Write> Writer<W> {
    /// Begins with the header.
    pub fn new(out: W, header: &Header) -> io::Result<Self> {
        Ok(Writer { framer: Framer::new()?, frames: FrameWriter::new(out, header)? })
    }

    /// Takes an event in.
    pub fn event(&mut self, event: &Event, stacks: Option<&dyn Stacks>) -> io::Result<()> {
        self.framer.event(event, stacks);
        if self.framer.is_full() { self.cut() } else { Ok(()) }
    }

    /// A batch of the source ends.
    pub fn batch_end(&mut self, upto: u64) -> io::Result<()> {
        self.framer.batch_end(upto);
        if self.framer.is_full() { self.cut() } else { Ok(()) }
    }

    /// Takes a whole batch in.
    pub fn batch(&mut self, batch: &Batch, stacks: Option<&dyn Stacks>) -> io::Result<()> {
        for event in &batch.events {
            self.event(event, stacks)?;
        }
        self.batch_end(batch.upto)
    }

    /// Events that no frame holds yet.
    pub fn waiting(&self) -> u32 {
        self.framer.waiting()
    }

    /// Bytes so far, without what waits.
    pub fn written(&self) -> u64 {
        self.frames.written()
    }

    /// Writes what waits as a frame.
    pub fn flush(&mut self) -> io::Result<()> {
        self.cut()?;
        self.frames.flush()
    }

    fn cut(&mut self) -> io::Result<()> {
        // What the events refer to comes before them.
        if let Some(frame) = self.framer.take_stacks()? {
            self.frames.frame(&frame)?;
        }
        if let Some(frame) = self.framer.take_events()? {
            self.frames.frame(&frame)?;
        }
        Ok(())
    }

    /// Writes what waits, the index and the trailer. Tells how many bytes there are.
    pub fn close(mut self) -> io::Result<u64> {
        self.cut()?;
        self.frames.close(&mut self.framer)
    }
}
