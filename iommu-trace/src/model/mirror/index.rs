//! Where each (group, PASID) is: the one question that is asked for every fault, answered from one place in memory.
//!
//! Open addressing with linear probing, all of an entry side by side: with a million handles a look-up waits for memory
//! once, where a general map, which keeps its marks apart from its entries, waits twice. The hash is seeded: addresses
//! in a recording are chosen by whoever made it.

use std::hash::BuildHasher;

use iommu_trace_common::NO_ID;

use super::{Id, SlotKey};
use crate::event::Ptr;

/// Places at first.
const AT_FIRST: usize = 16;

/// A slot's place in the mirror, and iommufd's id of the device behind it.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// `NULL` for a free place: no slot is in no group.
    group: Ptr,
    pasid: u32,
    /// [`NO_ID`] for none.
    device_id: u32,
    slot: Id,
}

const FREE: Place = Place { group: Ptr::NULL, pasid: 0, device_id: NO_ID, slot: Id::NONE };

/// Slots by (group, PASID).
#[derive(Debug, Default)]
pub struct Index {
    /// A power of two, or none at all.
    places: Vec<Place>,
    used: usize,
    hasher: foldhash::fast::RandomState,
}

impl Index {
    /// The slot of a key.
    pub fn slot(&self, key: SlotKey) -> Option<Id> {
        Some(self.places[self.find(key)?].slot)
    }

    /// iommufd's id of the device behind a slot.
    pub fn device_id(&self, key: SlotKey) -> Option<u32> {
        Some(self.places[self.find(key)?].device_id).filter(|&id| id != NO_ID)
    }

    /// Sets the id of the device behind a slot that is there.
    pub fn set_device_id(&mut self, key: SlotKey, device_id: Option<u32>) {
        if let Some(at) = self.find(key) {
            self.places[at].device_id = device_id.unwrap_or(NO_ID);
        }
    }

    /// Puts a slot in, which is not there yet. The group is not `NULL`.
    pub fn insert(&mut self, key: SlotKey, slot: Id) {
        if self.places.len() / 4 * 3 <= self.used {
            self.grow();
        }
        self.put(Place { group: key.group, pasid: key.pasid, device_id: NO_ID, slot });
        self.used += 1;
    }

    /// Takes a slot out.
    pub fn remove(&mut self, key: SlotKey) -> Option<Id> {
        let mut hole = self.find(key)?;
        let slot = self.places[hole].slot;
        self.used -= 1;
        // What follows without a gap moves up, unless that would put it before its own place.
        let mask = self.places.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let place = self.places[at];
            if place.group.is_null() {
                break;
            }
            let first = self.first(place.group, place.pasid);
            if (at.wrapping_sub(first) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places[hole] = place;
                hole = at;
            }
        }
        self.places[hole] = FREE;
        Some(slot)
    }

    /// Where the search for a key begins. There are places.
    fn first(&self, group: Ptr, pasid: u32) -> usize {
        self.hasher.hash_one((group.0, pasid)) as usize & (self.places.len() - 1)
    }

    fn find(&self, key: SlotKey) -> Option<usize> {
        if self.places.is_empty() || key.group.is_null() {
            return None;
        }
        let mask = self.places.len() - 1;
        let mut at = self.first(key.group, key.pasid);
        // A quarter of the places is free.
        loop {
            let place = &self.places[at];
            if place.group == key.group && place.pasid == key.pasid {
                return Some(at);
            }
            if place.group.is_null() {
                return None;
            }
            at = (at + 1) & mask;
        }
    }

    fn put(&mut self, new: Place) {
        let mask = self.places.len() - 1;
        let mut at = self.first(new.group, new.pasid);
        while !self.places[at].group.is_null() {
            at = (at + 1) & mask;
        }
        self.places[at] = new;
    }

    fn grow(&mut self) {
        let more = (self.places.len() * 2).max(AT_FIRST);
        for place in std::mem::replace(&mut self.places, vec![FREE; more]) {
            if !place.group.is_null() {
                self.put(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::table::Slab;

    proptest! {
        /// Few keys, so that they come and go again and again.
        #[test]
        fn it_holds_what_a_map_holds(steps in proptest::collection::vec((1_u64..8, 0_u32..32, 0_u32..4), 0..600)) {
            let (mut index, mut map, mut slab) = (Index::default(), HashMap::new(), Slab::default());
            for (group, pasid, deed) in steps {
                let key = SlotKey { group: Ptr(group << 12), pasid };
                match (map.get(&key).copied(), deed) {
                    (None, 0 | 1) => {
                        let slot = slab.insert(());
                        index.insert(key, slot);
                        map.insert(key, (slot, None));
                    }
                    (Some((slot, _)), 0) => {
                        prop_assert_eq!(index.remove(key), Some(slot));
                        map.remove(&key);
                    }
                    (Some((slot, _)), 1 | 2) => {
                        let id = (deed == 2).then_some(pasid + 7);
                        index.set_device_id(key, id);
                        map.insert(key, (slot, id));
                    }
                    (None, _) => prop_assert_eq!(index.remove(key), None),
                    (Some(_), _) => {}
                }
                prop_assert_eq!(index.used, map.len());
            }
            for group in 1..8 {
                for pasid in 0..32 {
                    let key = SlotKey { group: Ptr(group << 12), pasid };
                    prop_assert_eq!(index.slot(key), map.get(&key).map(|known| known.0));
                    prop_assert_eq!(index.device_id(key), map.get(&key).and_then(|known| known.1));
                }
            }
        }
    }

    #[test]
    fn nothing_is_found_in_an_empty_one_or_in_no_group() {
        let mut index = Index::default();
        let key = SlotKey { group: Ptr(0x1000), pasid: 0 };
        assert_eq!((index.slot(key), index.device_id(key), index.remove(key)), (None, None, None));
        index.insert(key, Slab::default().insert(()));
        assert_eq!(index.slot(SlotKey { group: Ptr::NULL, pasid: 0 }), None);
    }
}
