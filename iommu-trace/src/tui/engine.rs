//! Feeds the state on a thread of its own: neither the screen nor a key ever waits for a storm, and the reader waits
//! for neither.
//!
//! The state is behind a lock that is fair: who asks for it gets it after one chunk of events at the most.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Context as _;
use tokio::sync::Mutex;

use super::state::World;
use crate::source::{Stream, StreamControl};

/// Events that are applied before the lock is given away: well below a millisecond of work.
const CHUNK: usize = 256;

/// A source that feeds a state.
pub struct Engine {
    world: Arc<Mutex<World>>,
    control: StreamControl,
    dropped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Begins. What the source gives goes into `world`, until it ends or the engine is dropped.
    pub fn start(stream: Stream, world: Arc<Mutex<World>>) -> anyhow::Result<Engine> {
        let (control, dropped) = (stream.control(), Arc::new(AtomicBool::new(false)));
        let (fed, stop) = (Arc::clone(&world), Arc::clone(&dropped));
        let thread = std::thread::Builder::new()
            .name("iommu-trace-top".into())
            .spawn(move || feed(stream, &fed, &stop))
            .context("cannot start the thread that applies events")?;
        Ok(Engine { world, control, dropped, thread: Some(thread) })
    }

    /// The state.
    #[must_use]
    pub fn world(&self) -> &Arc<Mutex<World>> {
        &self.world
    }

    /// The source.
    #[must_use]
    pub fn control(&self) -> &StreamControl {
        &self.control
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
        self.control.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed by its own hook.
            let _ = thread.join();
        }
    }
}

fn feed(mut stream: Stream, world: &Mutex<World>, dropped: &AtomicBool) {
    let stacks = Arc::clone(stream.stacks());
    while let Some(batch) = stream.next_blocking() {
        if dropped.load(Ordering::Acquire) {
            return;
        }
        match batch {
            Ok(batch) => {
                for chunk in batch.events.chunks(CHUNK) {
                    world.blocking_lock().apply(chunk);
                }
                let mut world = world.blocking_lock();
                world.advance(batch.upto);
                if world.wants_stacks() {
                    world.learn_stacks(stacks.as_ref());
                }
                drop(world);
                stream.give_back(batch);
            }
            Err(error) => {
                world.blocking_lock().end(format!("{error:#}"));
                return;
            }
        }
    }
    let mut world = world.blocking_lock();
    world.learn_stacks(stacks.as_ref());
    if world.ended.is_none() {
        world.end("the source has ended".to_owned());
    }
}
