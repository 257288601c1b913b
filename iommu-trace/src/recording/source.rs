//! A recording as a source of events: what was live is given again, batch by batch.

use std::{collections::VecDeque, fs::File, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};

use super::{
    events::Item,
    format::Damage,
    header::Header,
    index::Index,
    reader::{Read, Reader},
    stacks::Table,
};
use crate::{
    event::Event,
    model::{Effects, Model, ModelOptions, RuleSet, snapshot_events},
    output::quoted,
    source::{Batch, Progress, Source, SourceInfo, Stacks},
};

/// Events in one batch at most. Those of a live source are smaller, unless a storm outruns the machine.
pub const MAX_BATCH: usize = 32 * 1024;

/// A file that is open, of which nothing was read.
#[derive(Debug)]
pub struct Opened {
    file: File,
    name: String,
}

impl Opened {
    /// Opens a file; `-` is standard input.
    pub fn at(path: &Path) -> anyhow::Result<Opened> {
        let (file, name) = if path == Path::new("-") {
            use std::os::fd::AsFd as _;
            let stdin = std::io::stdin();
            if rustix::termios::isatty(&stdin) {
                bail!("cannot read a recording from standard input: it is a terminal");
            }
            let fd = stdin.as_fd().try_clone_to_owned().context("cannot read standard input")?;
            (File::from(fd), "standard input".to_owned())
        } else {
            let name = quoted(path);
            let file = File::open(path).with_context(|| format!("cannot open the recording {name}"))?;
            if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
                bail!("cannot read the recording {name}: it is a directory");
            }
            (file, name)
        };
        Ok(Opened { file, name })
    }

    /// The same file once more. Of a pipe, both would have a part.
    pub fn again(&self) -> anyhow::Result<Opened> {
        let file = self.file.try_clone().with_context(|| format!("cannot open the recording {} again", self.name))?;
        Ok(Opened { file, name: self.name.clone() })
    }

    /// Reads its header, and then what follows as it is asked for.
    pub fn read(self) -> anyhow::Result<Recording> {
        Recording::from_file(self.file, self.name)
    }
}

/// A recording that is read.
pub struct Recording {
    reader: Reader,
    name: String,
    stacks: Arc<Table>,
    /// Given before what is read: the state at the place that was gone to.
    before: VecDeque<Event>,
    /// As the last batch had it.
    upto: u64,
    /// Events given out.
    events: u64,
    /// What the next poll has to tell.
    damage: Option<Damage>,
    ended: bool,
}

impl Recording {
    /// Opens a file; `-` is standard input.
    pub fn open(path: &Path) -> anyhow::Result<Recording> {
        Opened::at(path)?.read()
    }

    /// Reads from a file that is open; messages call it `name`.
    pub fn from_file(file: File, name: String) -> anyhow::Result<Recording> {
        let reader = Reader::new(file).with_context(|| format!("cannot read the recording {name}"))?;
        let stacks = reader.stacks();
        Ok(Recording { reader, name, stacks, before: VecDeque::new(), upto: 0, events: 0, damage: None, ended: false })
    }

    /// What it says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// Whether one can go back and forth in it: in a file, not in a pipe.
    #[must_use]
    pub fn is_seekable(&self) -> bool {
        self.reader.is_seekable()
    }

    /// Where its frames are and what times they hold. Begins again.
    pub fn index(&mut self) -> anyhow::Result<Index> {
        self.seekable()?;
        let index = self.reader.index().with_context(|| format!("cannot read the recording {}", self.name))?;
        self.begin_again();
        Ok(index)
    }

    /// Begins again.
    pub fn rewind(&mut self) -> anyhow::Result<()> {
        self.seekable()?;
        self.begin_again();
        Ok(())
    }

    /// Goes to a time on the events' clock. The next batch begins with what is attached then, as the pieces of a snapshot;
    /// the events from then on follow. Everything before is read for that; who wants more than the mirror at that time
    /// (counts, latencies, faults under way) rewinds, and gives its own model what comes until then.
    pub fn seek(&mut self, ts: u64) -> anyhow::Result<()> {
        self.rewind()?;
        let options = ModelOptions { rules: RuleSet::NONE, ..ModelOptions::default() };
        let mut model = Model::new(self.info().features.clone(), options);
        let mut effects = Effects::default();
        let first = loop {
            match self.reader.read(Duration::ZERO) {
                Ok(Read::Item(Item::Event(event))) if event.ts >= ts => break Some(event),
                Ok(Read::Item(Item::Event(event))) => {
                    model.apply(&event, &mut effects);
                    effects.clear();
                }
                Ok(Read::Item(Item::BatchEnd(upto))) => self.upto = upto,
                Ok(Read::End | Read::NotYet) => break None,
                Err(damage) => {
                    self.damage = Some(damage);
                    break None;
                }
            }
        };
        // The pieces come before whatever follows, and the last of them a nanosecond after the others.
        self.before = snapshot_events(model.mirror(), ts.saturating_sub(2)).into();
        self.before.extend(first);
        Ok(())
    }

    fn seekable(&self) -> anyhow::Result<()> {
        if !self.is_seekable() {
            bail!("cannot go back in the recording {}: it is no file", self.name);
        }
        Ok(())
    }

    fn begin_again(&mut self) {
        self.reader.rewind();
        self.before.clear();
        (self.upto, self.events, self.damage, self.ended) = (0, 0, None, false);
    }

    fn end(&mut self, batch: &mut Batch) -> Progress {
        self.ended = true;
        batch.upto = self.upto;
        Progress::End
    }

    /// What was read before the damage is good, and was given out.
    fn told(&self, damage: &Damage) -> String {
        format!(
            "the recording {} is not whole: {damage}. What is before that was read: {} events in {} frames",
            self.name, self.events, self.reader.frames
        )
    }

    fn read(&mut self, timeout: Duration, batch: &mut Batch) -> Result<Progress, Damage> {
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        batch.events.extend(self.before.drain(..));
        loop {
            match self.reader.read(timeout) {
                Ok(Read::Item(Item::Event(event))) => {
                    batch.events.push(event);
                    if batch.events.len() >= MAX_BATCH {
                        break;
                    }
                }
                Ok(Read::Item(Item::BatchEnd(upto))) => {
                    self.upto = upto;
                    break;
                }
                Ok(Read::NotYet) => break,
                Ok(Read::End) => {
                    return Ok(self.end(batch));
                }
                Err(damage) => {
                    self.damage = Some(damage);
                    break;
                }
            }
        }
        batch.upto = self.upto;
        Ok(Progress::More)
    }
}

impl Source for Recording {
    fn info(&self) -> &SourceInfo {
        &self.reader.header().source
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        if self.ended {
            return Ok(self.end(batch));
        }
        match self.read(timeout, batch) {
            Ok(progress) => {
                self.events += batch.events.len() as u64;
                Ok(progress)
            }
            // What a crash or a kill leaves is as good as it can be: worth a word, and no failure.
            Err(damage) if damage.is_cut() => {
                tracing::warn!("{}", self.told(&damage));
                Ok(self.end(batch))
            }
            Err(damage) => {
                self.ended = true;
                bail!("{}", self.told(&damage));
            }
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.ended = true;
        Ok(())
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::clone(&self.stacks) as Arc<dyn Stacks>
    }
}
