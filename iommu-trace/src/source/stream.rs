//! A source on its own thread, and the channel that its batches come through.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{Batch, Cost, Progress, Source, SourceInfo, Stacks, Waits};
use crate::{
    event::Event,
    sandbox::{self, Needs},
};

/// How many batches may wait. When a consumer falls further behind, the reader waits, the ring fills, and what is lost
/// there is counted by the BPF side.
const BACKLOG: usize = 64;
/// How often the reader looks whether it was asked to stop.
const POLL: Duration = Duration::from_millis(50);
/// Room for so many events is kept to be used again: hardly more are given out together by a live source.
const ROOM: usize = 4096;
/// How old the cost of the source may be.
const COST_AGE: Duration = Duration::from_secs(1);

/// Batches from a source that runs on another thread.
pub struct Stream {
    info: Arc<SourceInfo>,
    stacks: Arc<dyn Stacks>,
    waits: Option<Arc<dyn Waits>>,
    batches: mpsc::Receiver<anyhow::Result<Batch>>,
    control: StreamControl,
    needs: Needs,
    thread: Option<JoinHandle<()>>,
    is_live: bool,
}

/// Asks a source to stop, or what it costs, from any task.
#[derive(Clone, Default)]
pub struct StreamControl {
    shared: Arc<Shared>,
}

/// What the reader and those who ask share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Whether anybody asks: to find out is not free.
    cost_asked: AtomicBool,
    cost: Mutex<Option<Cost>>,
    /// Room that the last batch has left: to ask the system for it each time costs more than to move the events.
    room: Mutex<Vec<Event>>,
}

impl Shared {
    fn room(&self) -> Vec<Event> {
        std::mem::take(&mut *self.room.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, mut room: Vec<Event>) {
        room.clear();
        let mut kept = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if (kept.capacity()..=ROOM).contains(&room.capacity()) {
            *kept = room;
        }
    }
}

impl StreamControl {
    /// What the source had cost a second ago at most. The first call only has it be watched: `None` until it was told.
    #[must_use]
    pub fn cost(&self) -> Option<Cost> {
        self.shared.cost_asked.store(true, Ordering::Release);
        self.shared.cost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the source to stop. What it has still to give comes through the stream, which then ends.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

impl Stream {
    /// What is known of the source.
    #[must_use]
    pub fn info(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    /// Where stacks are resolved.
    #[must_use]
    pub fn stacks(&self) -> &Arc<dyn Stacks> {
        &self.stacks
    }

    /// What who consumes it needs: to read stacks.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs.clone()
    }

    /// What is waited for the sake of the trace.
    #[must_use]
    pub fn waits(&self) -> Option<&Arc<dyn Waits>> {
        self.waits.as_ref()
    }

    /// Asks the source to stop.
    #[must_use]
    pub fn control(&self) -> StreamControl {
        self.control.clone()
    }

    /// What the source has cost, as [`StreamControl::cost`] has it.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.control.cost().unwrap_or_default()
    }

    /// Whether what is not taken in time is lost.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// The next batch, `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<anyhow::Result<Batch>> {
        self.batches.recv().await
    }

    /// Gives the room of a batch back to the reader.
    pub fn give_back(&self, batch: Batch) {
        self.control.shared.keep(batch.events);
    }

    /// As [`Stream::next`], for code without a runtime.
    pub fn next_blocking(&mut self) -> Option<anyhow::Result<Batch>> {
        self.batches.blocking_recv()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.control.stop();
        // The reader may wait for room: closing the channel lets it go.
        self.batches.close();
        while self.batches.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            // A panic of the reader has been printed by its own hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Runs `source` on a thread of its own.
pub fn spawn(source: Box<dyn Source>) -> anyhow::Result<Stream> {
    let info = Arc::new(source.info().clone());
    let (stacks, waits) = (source.stacks(), source.waits());
    let needs = stacks.needs();
    let is_live = source.is_live();
    let (sender, batches) = mpsc::channel(BACKLOG);
    let control = StreamControl::default();
    let shared = Arc::clone(&control.shared);
    let thread = std::thread::Builder::new()
        .name("iommu-trace-src".into())
        .spawn(move || read(source, &sender, &shared))
        .context("cannot start the thread that reads events")?;
    Ok(Stream { info, stacks, waits, batches, control, needs, is_live, thread: Some(thread) })
}

fn read(mut source: Box<dyn Source>, sender: &mpsc::Sender<anyhow::Result<Batch>>, shared: &Shared) {
    let mut stopped = false;
    let mut asked_at: Option<Instant> = None;
    source.on_reader_thread();
    if let Err(error) = sandbox::enter(&source.needs()) {
        // Not with privileges.
        let _ = sender.blocking_send(Err(error));
        return;
    }
    loop {
        if !stopped && (shared.stop.load(Ordering::Acquire) || sender.is_closed()) {
            stopped = true;
            if let Err(error) = source.stop() {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        }
        if shared.cost_asked.load(Ordering::Acquire) && asked_at.is_none_or(|at| at.elapsed() >= COST_AGE) {
            asked_at = Some(Instant::now());
            *shared.cost.lock().unwrap_or_else(PoisonError::into_inner) = Some(source.cost());
        }
        let mut batch = Batch { events: shared.room(), upto: 0 };
        match source.poll(POLL, &mut batch) {
            Ok(progress) => {
                // The receiver may be gone; then the source still has to be stopped and drained.
                let _ = sender.blocking_send(Ok(batch));
                if progress == Progress::End {
                    return;
                }
            }
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        }
    }
}
