//! The reader's process: `record`, from a source that is the live one but for the kernel.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use iommu_trace::{
    cli::RecordArgs,
    event::{Body, Event, Phase, ProbeId, Task},
    model::testing::kernel_7_3,
    source::{
        Batch, NoStacks, Progress, Source, SourceInfo, Stacks,
        live::{Intake, Mark, hurry, monotonic_ns},
    },
};

use super::shared::{COUNTERS, Reader, Shared};

#[derive(Parser)]
struct Record {
    #[command(flatten)]
    arguments: RecordArgs,
}

/// Records what comes through the ring until a signal ends it.
pub fn record(shared: Shared, file: &Path) -> Result<()> {
    let words = [Path::new("record"), Path::new("--no-stacks"), Path::new("--output"), file];
    let record = Record::try_parse_from(words)?;
    record.arguments.record(Box::new(Simulated::new(shared)))?;
    Ok(())
}

/// As `source::live::Live`: what is left out is what it asks the kernel besides.
struct Simulated {
    info: SourceInfo,
    shared: Arc<Shared>,
    intake: Intake<Reader<Arc<Shared>>>,
    /// Losses that were told.
    told: [u64; COUNTERS],
    stopped: Option<Mark>,
}

impl Simulated {
    fn new(shared: Shared) -> Self {
        let (shared, now) = (Arc::new(shared), monotonic_ns());
        let intake = Intake::new(Reader(Arc::clone(&shared)), shared.size() as u32, now);
        let info = SourceInfo {
            kernel: "none".into(),
            host: "ring".into(),
            features: kernel_7_3(),
            started_ns: now,
            ..SourceInfo::default()
        };
        Simulated { info, shared, intake, told: [0; COUNTERS], stopped: None }
    }

    fn losses(&mut self) -> Vec<Event> {
        let mut losses = Vec::new();
        let ts = monotonic_ns();
        for (index, told) in self.told.iter_mut().enumerate() {
            let count = self.shared.lost(index).load(Ordering::Relaxed);
            if count > *told {
                losses.push(Event {
                    ts,
                    task: Task::default(),
                    probe: ProbeId::ALL[index / 2],
                    phase: if index % 2 == 0 { Phase::Enter } else { Phase::Exit },
                    stack: None,
                    body: Body::Lost { count: count - *told },
                });
                *told = count;
            }
        }
        losses
    }
}

impl Source for Simulated {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn is_live(&self) -> bool {
        true
    }

    fn on_reader_thread(&mut self) {
        hurry();
        self.shared.is_read().store(1, Ordering::Release);
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> Result<Progress> {
        if let Some(stopped) = self.stopped {
            self.intake.read_to(stopped);
            let losses = self.losses();
            self.intake.release(stopped.ts, losses, batch);
            return Ok(Progress::End);
        }
        if let Some(upto) = self.intake.read(timeout)? {
            let losses = self.losses();
            self.intake.release(upto, losses, batch);
        }
        Ok(Progress::More)
    }

    fn stop(&mut self) -> Result<()> {
        self.stopped = Some(self.intake.end());
        Ok(())
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::new(NoStacks)
    }
}
