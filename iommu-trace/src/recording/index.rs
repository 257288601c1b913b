//! Where the frames of events are, and what times they hold: written at the end of a recording, and made anew by looking at
//! every frame's header when it is missing.

use super::varint::{self, Bytes};

/// Frames that an index may have: those of a day at ten a second.
const MAX_ENTRIES: usize = 1 << 20;

/// One frame of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins.
    pub at: u64,
    /// The time of its first event.
    pub first: u64,
    /// The latest time in it.
    pub last: u64,
    /// How many events.
    pub count: u32,
}

/// The frames of a recording, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(pub Vec<Entry>);

impl Index {
    /// Takes note of a frame. Past a bound they are left out, and found by reading on from the last that is there.
    pub fn push(&mut self, entry: Entry) {
        if self.0.len() < MAX_ENTRIES {
            self.0.push(entry);
        }
    }

    /// As the payload of a frame.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut at, mut time) = (0, 0);
        for entry in &self.0 {
            varint::put_delta(&mut out, at, entry.at);
            varint::put_delta(&mut out, time, entry.first);
            varint::put_delta(&mut out, entry.first, entry.last);
            varint::put(&mut out, entry.count.into());
            (at, time) = (entry.at, entry.last);
        }
        out
    }

    /// From the payload of a frame; `None` when it makes no sense.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(payload);
        let mut index = Index::default();
        let (mut at, mut time) = (0, 0);
        while !bytes.is_empty() {
            at = bytes.delta(at)?;
            let first = bytes.delta(time)?;
            let last = bytes.delta(first)?;
            time = last;
            index.push(Entry { at, first, last, count: bytes.small()? });
        }
        Some(index)
    }

    /// All events in it.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.iter().map(|entry| u64::from(entry.count)).sum()
    }

    /// The earliest and the latest time in it.
    #[must_use]
    pub fn times(&self) -> Option<(u64, u64)> {
        let with_events = || self.0.iter().filter(|entry| entry.count > 0);
        Some((with_events().map(|entry| entry.first).min()?, with_events().map(|entry| entry.last).max()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_index_comes_back(entries in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>()), 0..50)) {
            let index = Index(entries.into_iter().map(|(at, first, last, count)| Entry { at, first, last, count }).collect());
            prop_assert_eq!(Index::from_payload(&index.to_payload()), Some(index));
        }

        #[test]
        fn any_bytes_are_an_index_or_none(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Index::from_payload(&payload);
        }
    }
}
