//! Reads a recording frame by frame: the header, stacks and events, whatever is damaged told and never trusted.

use std::{fs::File, sync::Arc, time::Duration};

use zstd::bulk::Decompressor;

use super::{
    events::{Decoder, Item},
    format::{Damage, END_MAGIC, FRAME_HEADER, FrameHeader, Kind, PREFIX, TRAILER},
    frame,
    header::Header,
    index::{Entry, Index},
    input::{Filled, Input},
    stacks::Table,
};

/// What reading on came to.
#[derive(Debug, PartialEq)]
pub enum Read {
    /// An event, or the end of a batch.
    Item(Item),
    /// A pipe has nothing now.
    NotYet,
    /// The recording is over, as it was closed.
    End,
}

/// Reads a recording.
pub struct Reader {
    header: Header,
    input: Input,
    /// Where the first frame is.
    begin: u64,
    decoder: Decoder,
    decompressor: Decompressor<'static>,
    /// Where the frame that is decoded begins.
    frame_at: u64,
    stacks: Arc<Table>,
    closed: bool,
    /// Whole frames of events that were read.
    pub frames: u64,
}

impl Reader {
    /// Reads the header. Waits for a pipe.
    pub fn new(file: File) -> Result<Self, Damage> {
        let mut input = Input::new(file);
        let short = |filled| filled != Filled::Yes;
        if short(input.fill(PREFIX, None)?) {
            return Err(match input.bytes() {
                [] => Damage::Empty,
                bytes if bytes.starts_with(&super::format::MAGIC) => Damage::CutHeader,
                _ => Damage::NoRecording,
            });
        }
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&input.bytes()[..PREFIX]);
        let rest = Header::rest(&prefix)?;
        if short(input.fill(PREFIX + rest, None)?) {
            return Err(Damage::CutHeader);
        }
        let header = Header::parse(&prefix, &input.bytes()[PREFIX..PREFIX + rest])?;
        input.consume(PREFIX + rest);
        Ok(Reader {
            header,
            begin: input.position(),
            input,
            decoder: Decoder::default(),
            decompressor: Decompressor::new()?,
            frame_at: 0,
            stacks: Arc::default(),
            closed: false,
            frames: 0,
        })
    }

    /// What is known of it.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The stacks read so far.
    #[must_use]
    pub fn stacks(&self) -> Arc<Table> {
        Arc::clone(&self.stacks)
    }

    /// Whether one can go back and forth in it.
    #[must_use]
    pub fn is_seekable(&self) -> bool {
        self.input.is_regular()
    }

    /// Reads on, waiting at most `timeout` for a pipe.
    pub fn read(&mut self, timeout: Duration) -> Result<Read, Damage> {
        loop {
            match self.decoder.next_item() {
                Ok(Some(item)) => return Ok(Read::Item(item)),
                Ok(None) => {}
                // Its checksum is right, so it was written like that.
                Err(why) => return Err(Damage::Frame { at: self.frame_at, why: why.to_owned() }),
            }
            if let Some(end) = self.next_frame(timeout)? {
                return Ok(end);
            }
        }
    }

    /// Goes on to the next frame; tells when there is none.
    fn next_frame(&mut self, timeout: Duration) -> Result<Option<Read>, Damage> {
        let need = if self.closed { TRAILER } else { FRAME_HEADER };
        match self.input.fill(need, Some(timeout))? {
            Filled::Yes => {}
            Filled::NotYet => return Ok(Some(Read::NotYet)),
            Filled::Ended if self.closed || !self.input.bytes().is_empty() => return Err(Damage::Cut),
            Filled::Ended => return Err(Damage::Unclosed),
        }
        let at = self.input.position();
        if self.closed {
            if self.input.bytes()[TRAILER - 8..TRAILER] != END_MAGIC {
                return Err(Damage::Frame { at, why: "it should be the recording's end".into() });
            }
            return Ok(Some(Read::End));
        }
        let (bytes, header) = self.peek(at)?;
        let whole = FRAME_HEADER + header.stored as usize;
        match self.input.fill(whole, Some(timeout))? {
            Filled::Yes => {}
            Filled::NotYet => return Ok(Some(Read::NotYet)),
            Filled::Ended => return Err(Damage::Cut),
        }
        let payload = &self.input.bytes()[FRAME_HEADER..whole];
        FrameHeader::verify(&bytes, payload, at)?;
        self.frame_at = at;
        let mut unpacked = self.decoder.reclaim();
        match header.kind {
            Kind::Events => {
                frame::unpack(&mut self.decompressor, &header, payload, &mut unpacked, at)?;
                self.frames += 1;
            }
            Kind::Stacks => {
                frame::unpack(&mut self.decompressor, &header, payload, &mut unpacked, at)?;
                self.stacks.read(&unpacked).map_err(|why| Damage::Frame { at, why: why.to_owned() })?;
                unpacked.clear();
            }
            Kind::Index => {
                self.closed = true;
                unpacked.clear();
            }
            Kind::Other(_) => unpacked.clear(),
        }
        self.decoder.begin(unpacked, header.first);
        self.input.consume(whole);
        Ok(None)
    }

    /// The header of the frame at the input's place, which is there.
    fn peek(&self, at: u64) -> Result<([u8; FRAME_HEADER], FrameHeader), Damage> {
        let mut bytes = [0; FRAME_HEADER];
        bytes.copy_from_slice(&self.input.bytes()[..FRAME_HEADER]);
        let header = FrameHeader::from_bytes(&bytes, at)?;
        Ok((bytes, header))
    }

    /// Begins again.
    pub fn rewind(&mut self) {
        self.input.seek(self.begin);
        self.decoder.begin(Vec::new(), 0);
        self.closed = false;
        self.frames = 0;
    }

    /// Where the frames of events are: as the recording's end says, or found by looking at each. Begins again.
    pub fn index(&mut self) -> Result<Index, Damage> {
        let index = match self.stored_index()? {
            Some(index) => index,
            None => self.scan()?,
        };
        self.rewind();
        Ok(index)
    }

    fn stored_index(&mut self) -> Result<Option<Index>, Damage> {
        let len = self.input.len()?;
        let Some(trailer) = len.checked_sub(TRAILER as u64).filter(|&at| at >= self.begin) else { return Ok(None) };
        self.input.seek(trailer);
        if self.input.fill(TRAILER, None)? != Filled::Yes || self.input.bytes()[8..TRAILER] != END_MAGIC {
            return Ok(None);
        }
        let mut at = [0; 8];
        at.copy_from_slice(&self.input.bytes()[..8]);
        let at = u64::from_le_bytes(at);
        if at < self.begin || at >= trailer {
            return Ok(None);
        }
        self.input.seek(at);
        if self.input.fill(FRAME_HEADER, None)? != Filled::Yes {
            return Ok(None);
        }
        let Ok((bytes, header)) = self.peek(at) else { return Ok(None) };
        let whole = FRAME_HEADER + header.stored as usize;
        if header.kind != Kind::Index || self.input.fill(whole, None)? != Filled::Yes {
            return Ok(None);
        }
        let payload = &self.input.bytes()[FRAME_HEADER..whole];
        let mut unpacked = Vec::new();
        let good = FrameHeader::verify(&bytes, payload, at).is_ok()
            && frame::unpack(&mut self.decompressor, &header, payload, &mut unpacked, at).is_ok();
        Ok(Index::from_payload(&unpacked).filter(|_| good))
    }

    fn scan(&mut self) -> Result<Index, Damage> {
        let mut index = Index::default();
        let len = self.input.len()?;
        let mut at = self.begin;
        while at < len {
            self.input.seek(at);
            if self.input.fill(FRAME_HEADER, None)? != Filled::Yes {
                break;
            }
            let Ok((_, header)) = self.peek(at) else { break };
            let next = at + FRAME_HEADER as u64 + u64::from(header.stored);
            if next > len {
                break;
            }
            if header.kind == Kind::Events {
                index.push(Entry { at, first: header.first, last: header.last, count: header.count });
            }
            at = next;
        }
        Ok(index)
    }
}
