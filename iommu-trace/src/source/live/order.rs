//! Puts events of several CPUs in the order of time.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::event::Event;

/// Events that wait for older ones. Those of one thread never change places: equal times keep the ring's order.
#[derive(Debug, Default)]
pub struct Reorder {
    heap: BinaryHeap<Reverse<Held>>,
    sequence: u64,
}

#[derive(Debug)]
struct Held {
    ts: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.ts, self.sequence) == (other.ts, other.sequence)
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.ts, self.sequence).cmp(&(other.ts, other.sequence))
    }
}

impl Reorder {
    /// Takes an event in.
    pub fn push(&mut self, event: Event) {
        self.heap.push(Reverse(Held { ts: event.ts, sequence: self.sequence, event }));
        self.sequence += 1;
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Gives out everything up to and with `upto`, oldest first.
    pub fn release(&mut self, upto: u64, out: &mut Vec<Event>) {
        while let Some(Reverse(held)) = self.heap.peek() {
            if held.ts > upto {
                break;
            }
            if let Some(Reverse(held)) = self.heap.pop() {
                out.push(held.event);
            }
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
