//! A source that is recorded while it is consumed.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{Header, Writer, create};
use crate::{
    output::Target,
    sandbox::Needs,
    source::{Batch, Cost, Progress, Source, SourceInfo, Stacks, Waits},
};

/// How long events wait until they are written.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Gives what another source gives, and writes it.
pub struct Tee {
    source: Box<dyn Source>,
    stacks: Arc<dyn Stacks>,
    name: String,
    /// `None` once it is closed.
    writer: Option<Writer<File>>,
    flushed: Instant,
}

impl Tee {
    /// Records `source` to `target`.
    pub fn new(source: Box<dyn Source>, target: &Target, header: &Header) -> anyhow::Result<Self> {
        let name = target.name();
        let writer = Writer::new(create::open(target)?, header)
            .with_context(|| format!("cannot write to the recording {name}"))?;
        Ok(Tee { stacks: source.stacks(), source, name, writer: Some(writer), flushed: Instant::now() })
    }

    fn write(&mut self, batch: &Batch, progress: Progress) -> std::io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.batch(batch, Some(self.stacks.as_ref()))?;
        if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flushed = Instant::now();
            writer.flush()?;
        }
        if progress == Progress::End
            && let Some(writer) = self.writer.take()
        {
            writer.close()?;
        }
        Ok(())
    }
}

impl Source for Tee {
    fn info(&self) -> &SourceInfo {
        self.source.info()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }

    fn needs(&self) -> Needs {
        self.source.needs()
    }

    fn on_reader_thread(&mut self) {
        self.source.on_reader_thread();
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        let progress = self.source.poll(timeout, batch)?;
        self.write(batch, progress).with_context(|| format!("cannot write to the recording {}", self.name))?;
        Ok(progress)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.source.stop()
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::clone(&self.stacks)
    }

    fn waits(&self) -> Option<Arc<dyn Waits>> {
        self.source.waits()
    }

    fn cost(&self) -> Cost {
        self.source.cost()
    }
}
