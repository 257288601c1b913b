//! A recording as it is written to a file, and to the next one when that is large enough.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::Context as _;

use super::{Header, Writer, create, numbered};
use crate::{
    event::Event,
    model::{IN_FLIGHT_NS, Mirror, snapshot_events},
    output::{Target, quoted},
    source::Stacks,
};

/// How large files may become, and how many stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file, about: it ends with the frame that reaches it.
    pub max_size: Option<u64>,
    /// Files that stay, the one that is written among them; `None` ends the recording with the first.
    pub keep: Option<u32>,
}

/// Writes a recording into files.
pub struct Files {
    target: Target,
    header: Header,
    limits: Limits,
    /// `None` once it is closed.
    writer: Option<Writer<File>>,
    /// Bytes of files that are closed.
    before: u64,
    /// The latest time seen.
    now: u64,
    /// Files so far.
    pub count: u64,
}

impl Files {
    /// Creates the first.
    pub fn new(target: Target, header: Header, limits: Limits) -> anyhow::Result<Self> {
        let writer = open(&target, &header)?;
        Ok(Files { target, header, limits, writer: Some(writer), before: 0, now: 0, count: 1 })
    }

    /// Takes an event in.
    pub fn event(&mut self, event: &Event, stacks: Option<&dyn Stacks>) -> anyhow::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        self.now = self.now.max(event.ts);
        writer.event(event, stacks).with_context(|| failed(&self.target))
    }

    /// A batch of the source ends, after which the mirror is what is given. Goes on to the next file when it is time.
    pub fn batch_end(&mut self, upto: u64, mirror: &Mirror) -> anyhow::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.batch_end(upto).with_context(|| failed(&self.target))?;
        // A call that is cut in two leaves its slot unknown in the second file; it may take a while, but not for ever.
        self.now = self.now.max(upto);
        if self.limits.keep.is_some() && self.reached(1) && (mirror.is_settled() || self.reached(2)) {
            self.next(self.now, mirror)?;
        }
        Ok(())
    }

    fn reached(&self, times: u64) -> bool {
        self.limits
            .max_size
            .map(|max| max.saturating_mul(times))
            .is_some_and(|max| self.writer.as_ref().is_some_and(|writer| writer.written() >= max))
    }

    /// Whether the recording is as large as it may become.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.limits.keep.is_none() && self.reached(1)
    }

    /// Events that no frame holds yet.
    pub fn waiting(&self) -> u32 {
        self.writer.as_ref().map_or(0, Writer::waiting)
    }

    /// Bytes written, to all files.
    pub fn written(&self) -> u64 {
        self.before + self.writer.as_ref().map_or(0, Writer::written)
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.flush().with_context(|| failed(&self.target))
    }

    fn next(&mut self, upto: u64, mirror: &Mirror) -> anyhow::Result<()> {
        let Target::File(path) = &self.target else { return Ok(()) };
        shift(path, self.limits.keep.unwrap_or(1))?;
        self.close()?;
        let source = &mut self.header.source;
        // What was under way when we began is over by now.
        let known = source.settled || upto.saturating_sub(source.started_ns) >= IN_FLIGHT_NS;
        source.settled = known && mirror.is_settled();
        source.started_ns = upto;
        self.header.continued = true;
        let mut writer = open(&self.target, &self.header)?;
        let mut begin = || {
            for event in snapshot_events(mirror, upto.saturating_sub(1)) {
                writer.event(&event, None)?;
            }
            writer.batch_end(upto)
        };
        begin().with_context(|| failed(&self.target))?;
        self.writer = Some(writer);
        self.count += 1;
        Ok(())
    }

    /// Writes what waits and the end. Tells how many bytes there are in all.
    pub fn close(&mut self) -> anyhow::Result<u64> {
        if let Some(writer) = self.writer.take() {
            self.before += writer.close().with_context(|| failed(&self.target))?;
        }
        Ok(self.before)
    }
}

fn open(target: &Target, header: &Header) -> anyhow::Result<Writer<File>> {
    Writer::new(create::open(target)?, header).with_context(|| failed(target))
}

fn failed(target: &Target) -> String {
    format!("cannot write to the recording {}, so it ends early", target.name())
}

/// Makes room for a new file: each older part becomes one older, the oldest goes.
pub fn shift(path: &Path, keep: u32) -> anyhow::Result<()> {
    if keep <= 1 {
        return Ok(());
    }
    for n in (1..keep).rev() {
        let (from, to) = (if n == 1 { path.to_owned() } else { numbered(path, n - 1) }, numbered(path, n));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot rename {} to {}", quoted(&from), quoted(&to)));
            }
            _ => {}
        }
    }
    Ok(())
}
