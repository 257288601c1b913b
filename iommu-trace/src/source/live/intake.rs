//! What is read from the ring, put in the order of time, and when it may be given out.
//!
//! All that a live source does with records before anybody sees them, over any ring: the kernel's, and the simulated one of
//! `benches/ring.rs`, where this is tried against producers that are faster than any kernel's.

use std::time::{Duration, Instant};

use super::{order::Reorder, ring::Mark};
use crate::{
    event::{Event, decode},
    source::Batch,
};

/// How long to wait for more while events are held back.
const HOLD_BACK: Duration = Duration::from_millis(5);
/// How often the ring is read at most.
const DRAIN_EVERY: Duration = Duration::from_millis(10);
/// How often events are given out at most: before that, each program is asked for the runs that it missed, so that no rule
/// takes what was not seen for what did not happen. Asking all of them takes as long as some fifty faults do.
const RELEASE_EVERY: Duration = Duration::from_millis(10);
/// The same when there are many events.
const RELEASE_MANY_EVERY: Duration = Duration::from_millis(50);
/// How many are many.
const MANY: usize = 500;
/// So many are given out at once, that they take no more memory.
const TOO_MANY: usize = 2048;
/// The clock that BPF programs read is not quite in step with ours while the kernel adjusts it.
const CLOCK_SLACK_NS: u64 = 100_000;
/// How long a record that was begun before the end of the trace is waited for.
const LAST_RECORDS: Duration = Duration::from_millis(200);
/// The fastest that a ring is filled, bytes a nanosecond: how long it may be left alone follows from its size.
const FASTEST: f64 = 0.4;
/// Events taken from the ring in one poll, so that batches stay bounded in a storm.
const MAX_BATCH: usize = 8192;

/// A ring of records.
pub trait Records {
    /// Shows the next record, if it is complete, and takes it out of the ring. Tells whether there was one.
    fn next(&mut self, look: impl FnOnce(&[u8])) -> bool;
    /// Marks the present moment.
    fn mark(&self) -> Mark;
    /// Whether everything was read whose time is before the mark's.
    fn has_passed(&self, mark: Mark) -> bool;
    /// Waits until there is something to read, or the time is over.
    fn wait(&self, timeout: Duration) -> anyhow::Result<()>;
}

/// The reader of a ring.
pub struct Intake<R> {
    ring: R,
    order: Reorder,
    /// What the next release waits for.
    mark: Option<Mark>,
    /// When the ring was read last, and for how long it is left alone then. Otherwise the kernel would wake the reader for
    /// each record, which costs a hundred times what the record does.
    drained_at: Instant,
    pace: Duration,
    /// Whether the ring was emptied then. What is left is not waited for.
    emptied: bool,
    /// When events were given out last.
    released_at: Instant,
    /// Everything older than this was given out.
    released: u64,
}

impl<R: Records> Intake<R> {
    /// The reader of a ring of `bytes`; `now` is when the trace begins.
    pub fn new(ring: R, bytes: u32, now: u64) -> Self {
        Intake {
            ring,
            order: Reorder::default(),
            mark: None,
            drained_at: Instant::now(),
            pace: pace(bytes),
            emptied: true,
            released_at: Instant::now(),
            released: now,
        }
    }

    /// Takes in an event that came in another way.
    pub fn push(&mut self, event: Event) {
        self.order.push(event);
    }

    /// Takes what is in the ring, up to a bound. Tells whether it was emptied.
    pub fn drain(&mut self) -> bool {
        let Intake { ring, order, .. } = self;
        for _ in 0..MAX_BATCH {
            let there = ring.next(|record| match decode(record) {
                Ok(event) => order.push(event),
                // The programs and this decoder are built together, so this is a defect, not input.
                Err(error) => tracing::error!(%error, "a record could not be decoded"),
            });
            if !there {
                return true;
            }
        }
        false
    }

    /// Waits for records, for this time at most, and takes them in at the ring's pace. Gives the time up to which all were read, if
    /// events are to be given out now.
    pub fn read(&mut self, timeout: Duration) -> anyhow::Result<Option<u64>> {
        self.ring.wait(if self.order.is_empty() { timeout } else { timeout.min(HOLD_BACK) })?;
        std::thread::sleep(self.pause());
        let mark = self.mark.take().unwrap_or_else(|| self.ring.mark());
        self.emptied = self.drain();
        self.drained_at = Instant::now();
        if self.ring.has_passed(mark) && self.released_at.elapsed() >= self.release_every() {
            self.released_at = Instant::now();
            Ok(Some(mark.ts.saturating_sub(CLOCK_SLACK_NS)))
        } else {
            self.mark = Some(mark);
            Ok(None)
        }
    }

    /// Marks the present moment, as the end of the trace.
    pub fn end(&self) -> Mark {
        self.ring.mark()
    }

    /// Takes in what was begun before the end of the trace; it is waited for a little.
    pub fn read_to(&mut self, end: Mark) {
        let since = Instant::now();
        while !self.ring.has_passed(end) && since.elapsed() < LAST_RECORDS {
            self.drain();
        }
    }

    /// For how long the ring is still left alone.
    fn pause(&self) -> Duration {
        if self.emptied { self.pace.saturating_sub(self.drained_at.elapsed()) } else { Duration::ZERO }
    }

    fn release_every(&self) -> Duration {
        match self.order.len() {
            0..MANY | TOO_MANY.. => RELEASE_EVERY,
            _ => RELEASE_MANY_EVERY,
        }
    }

    /// Gives out everything up to a time. What was lost was lost after everything that is out already, and maybe before all that is
    /// still held.
    pub fn release(&mut self, upto: u64, lost: impl IntoIterator<Item = Event>, batch: &mut Batch) {
        batch.events.extend(lost);
        self.order.release(upto, &mut batch.events);
        self.released = self.released.max(upto);
        batch.upto = self.released;
    }

    /// Up to when everything was given out.
    pub fn released(&self) -> u64 {
        self.released
    }
}

/// For how long a ring of this size can be left alone.
fn pace(ring: u32) -> Duration {
    DRAIN_EVERY.min(Duration::from_nanos((f64::from(ring) / FASTEST / 2.0) as u64))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{super::MAX_RING, *};
    use crate::event::{Body, Phase, ProbeId, Task, encode};

    /// A ring whose records are all complete.
    #[derive(Default)]
    struct Full {
        records: VecDeque<Vec<u8>>,
        taken: usize,
    }

    impl Records for Full {
        fn next(&mut self, look: impl FnOnce(&[u8])) -> bool {
            let Some(record) = self.records.pop_front() else { return false };
            look(&record);
            self.taken += 1;
            true
        }

        fn mark(&self) -> Mark {
            Mark::new(u64::MAX, || self.taken + self.records.len())
        }

        fn has_passed(&self, mark: Mark) -> bool {
            mark.is_passed_by(self.taken)
        }

        fn wait(&self, _timeout: Duration) -> anyhow::Result<()> {
            Ok(())
        }
    }

    fn full(records: usize) -> Full {
        let mut bytes = Vec::new();
        let event = Event {
            ts: 1,
            task: Task::default(),
            probe: ProbeId::GroupFree,
            phase: Phase::Exit,
            stack: None,
            body: Body::Return { ret: 0 },
        };
        encode(&event, &mut bytes).unwrap();
        Full { records: vec![bytes; records].into(), taken: 0 }
    }

    #[test]
    fn a_ring_that_was_not_emptied_is_not_left_alone() {
        let mut intake = Intake::new(full(2 * MAX_BATCH - 1), MAX_RING, 0);
        assert_eq!(intake.read(Duration::ZERO).unwrap(), None, "there is more that was there already");
        assert_eq!(intake.pause(), Duration::ZERO);
        while intake.read(Duration::ZERO).unwrap().is_none() {}
        assert!(intake.ring.records.is_empty() && intake.emptied);
        assert!(intake.pace == DRAIN_EVERY && intake.pause() <= DRAIN_EVERY);
    }
}
