//! Puts events of several CPUs in the order of time.

use std::mem;

use crate::event::Event;

/// Events that wait for older ones. Those of one thread never change places: equal times keep the ring's order.
///
/// They come nearly in order, as a record's time is taken just after its place in the ring: what is too late is put in its
/// place from behind, a few steps away. (A heap moves each event a dozen times.)
#[derive(Debug, Default)]
pub struct Reorder {
    held: Vec<Event>,
}

impl Reorder {
    /// Takes an event in.
    #[inline]
    pub fn push(&mut self, event: Event) {
        if self.held.last().is_none_or(|last| last.ts <= event.ts) {
            self.held.push(event);
            return;
        }
        let later = self.held.iter().rev().take_while(|held| held.ts > event.ts).count();
        self.held.insert(self.held.len() - later, event);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Gives out everything up to and with `upto`, oldest first.
    pub fn release(&mut self, upto: u64, out: &mut Vec<Event>) {
        let due = self.held.partition_point(|event| event.ts <= upto);
        if out.is_empty() {
            // Few are held back, and they are what is moved.
            out.extend(self.held.drain(due..));
            mem::swap(out, &mut self.held);
        } else {
            out.extend(self.held.drain(..due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Body, Phase, ProbeId, Task};
    use proptest::prelude::*;

    fn event(ts: u64, tid: u32) -> Event {
        Event {
            ts,
            task: Task { tid, ..Task::default() },
            probe: ProbeId::GroupFree,
            phase: Phase::Exit,
            stack: None,
            body: Body::Return { ret: 0 },
        }
    }

    #[test]
    fn an_older_event_of_another_cpu_overtakes() {
        let mut order = Reorder::default();
        order.push(event(20, 1));
        order.push(event(10, 2));
        let mut out = Vec::new();
        order.release(15, &mut out);
        assert_eq!(out.iter().map(|e| e.ts).collect::<Vec<_>>(), [10]);
        // To what is there already, the next is appended.
        order.release(20, &mut out);
        assert_eq!(out.iter().map(|e| e.ts).collect::<Vec<_>>(), [10, 20]);
        assert!(order.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_a_threads_own_order_is_kept(times in prop::collection::vec((0u64..50, 0u32..4), 0..200)) {
            let mut order = Reorder::default();
            let mut clocks = [0u64; 4];
            let mut pushed = Vec::new();
            for (step, tid) in times {
                let clock = &mut clocks[tid as usize];
                *clock += step;
                pushed.push((*clock, tid));
                order.push(event(*clock, tid));
            }
            let mut out = Vec::new();
            order.release(u64::MAX, &mut out);
            let got: Vec<(u64, u32)> = out.iter().map(|e| (e.ts, e.task.tid)).collect();
            prop_assert!(got.windows(2).all(|w| w[0].0 <= w[1].0));
            for tid in 0..4 {
                let of = |list: &[(u64, u32)]| list.iter().filter(|e| e.1 == tid).copied().collect::<Vec<_>>();
                prop_assert_eq!(of(&got), of(&pushed));
            }
        }
    }
}
