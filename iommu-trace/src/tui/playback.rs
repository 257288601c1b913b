//! Gives a recording the pace of time: speed, pause, and playing from another time on.
//!
//! A recording is a source that gives everything at once. [`Player`] opens it, as often as it is played from another time,
//! and hands out its events when their time has come.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::state::Played;
use crate::{
    event::Event,
    source::{Batch, Cost, Progress, Source, SourceInfo, Stacks},
};

/// Opens the recording from its beginning.
pub type Opener = Box<dyn Fn() -> anyhow::Result<Box<dyn Source>> + Send + Sync>;

/// Events handed out at once.
const MAX_BATCH: usize = 8192;
/// How long a recording that stands still, or is far from its next event, sleeps at most.
const NAP: Duration = Duration::from_millis(20);

/// What time it is in a recording.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// It was this time,
    ts: u64,
    /// at this moment.
    at: Instant,
    speed: f64,
    held: bool,
}

impl Clock {
    fn now(&self) -> u64 {
        if self.held {
            return self.ts;
        }
        self.ts.saturating_add((self.at.elapsed().as_nanos() as f64 * self.speed) as u64)
    }

    /// Goes on from now.
    fn anchor(&mut self) {
        (self.ts, self.at) = (self.now(), Instant::now());
    }
}

/// Plays a recording.
pub struct Player {
    open: Opener,
    clock: Arc<Mutex<Clock>>,
    from: u64,
    to: Option<u64>,
}

impl Player {
    /// A player that stands at the beginning. `from` and `to` are the recording's ends, on the events' clock.
    #[must_use]
    pub fn new(open: Opener, from: u64, to: Option<u64>, speed: f64) -> Self {
        let clock = Clock { ts: from, at: Instant::now(), speed, held: false };
        Player { open, clock: Arc::new(Mutex::new(clock)), from, to }
    }

    /// A source that gives everything before `ts` at once, and what follows in its time.
    pub fn play_from(&self, ts: u64) -> anyhow::Result<Box<dyn Source>> {
        let inner = (self.open)()?;
        {
            let mut clock = self.lock();
            (clock.ts, clock.at) = (ts.max(self.from), Instant::now());
        }
        let known = inner.info().started_ns;
        let clock = Arc::clone(&self.clock);
        Ok(Box::new(Paced { inner, clock, waiting: VecDeque::new(), known, ended: false, stopped: false }))
    }

    /// Plays at this many times real time.
    pub fn set_speed(&self, speed: f64) {
        let mut clock = self.lock();
        clock.anchor();
        clock.speed = speed;
    }

    /// Stands still, or goes on.
    pub fn hold(&self, held: bool) {
        let mut clock = self.lock();
        clock.anchor();
        clock.held = held;
    }

    /// How it is played.
    #[must_use]
    pub fn played(&self) -> Played {
        let clock = self.lock();
        Played { speed: clock.speed, paused: clock.held, from: self.from, to: self.to }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source that gives its events when their time has come.
struct Paced {
    inner: Box<dyn Source>,
    clock: Arc<Mutex<Clock>>,
    /// Events that were read and whose time has not come.
    waiting: VecDeque<Event>,
    /// No event that was not read is older than this.
    known: u64,
    ended: bool,
    stopped: bool,
}

impl Paced {
    fn now(&self) -> u64 {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).now()
    }
}

impl Source for Paced {
    fn info(&self) -> &SourceInfo {
        self.inner.info()
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        if self.stopped {
            batch.upto = self.known;
            return Ok(Progress::End);
        }
        let now = self.now();
        while !self.ended && self.known <= now && self.waiting.len() < MAX_BATCH {
            let mut read = Batch::default();
            self.ended = self.inner.poll(Duration::ZERO, &mut read)? == Progress::End;
            let newest = read.events.last().map_or(0, |event| event.ts);
            // A source that has nothing yet does not go on.
            let idle = read.events.is_empty() && read.upto <= self.known;
            self.known = self.known.max(read.upto).max(newest);
            self.waiting.extend(read.events);
            if idle {
                break;
            }
        }
        // A loss may stand before an older event: what was read first goes out first.
        let is_due = |waiting: &VecDeque<Event>| waiting.front().is_some_and(|event| event.ts <= now);
        while batch.events.len() < MAX_BATCH && is_due(&self.waiting) {
            batch.events.extend(self.waiting.pop_front());
        }
        let due = is_due(&self.waiting);
        let newest = batch.events.last().map_or(0, |event| event.ts);
        batch.upto = if due { newest } else { now.min(self.known) };
        if self.ended && self.waiting.is_empty() {
            return Ok(Progress::End);
        }
        if batch.events.is_empty() {
            std::thread::sleep(timeout.min(NAP));
        }
        Ok(Progress::More)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.stopped = true;
        self.inner.stop()
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        self.inner.stacks()
    }

    fn cost(&self) -> Cost {
        self.inner.cost()
    }
}
