//! Places side by side for what overlaps in time.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Gives each interval the first lane that is free; intervals come in the order of their beginnings.
#[derive(Debug, Default)]
pub struct Lanes {
    /// Lanes in use, by when they become free.
    busy: BinaryHeap<Reverse<(u64, usize)>>,
    free: BinaryHeap<Reverse<usize>>,
    /// How many there are.
    pub count: usize,
}

impl Lanes {
    /// The lane of an interval.
    pub fn place(&mut self, begin: u64, end: u64) -> usize {
        while let Some(&Reverse((until, lane))) = self.busy.peek() {
            if until > begin {
                break;
            }
            self.busy.pop();
            self.free.push(Reverse(lane));
        }
        let lane = if let Some(Reverse(lane)) = self.free.pop() {
            lane
        } else {
            self.count += 1;
            self.count - 1
        };
        self.busy.push(Reverse((end.max(begin.saturating_add(1)), lane)));
        lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_lies_side_by_side_and_what_does_not_shares_a_lane() {
        let mut lanes = Lanes::default();
        let placed = [(0, 10), (5, 20), (10, 12), (12, 30), (13, 14), (14, 15)].map(|(b, e)| lanes.place(b, e));
        assert_eq!(placed, [0, 1, 0, 0, 2, 2]);
        assert_eq!(lanes.count, 3);
    }
}
