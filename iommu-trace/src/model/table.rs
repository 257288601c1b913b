//! The tables that the mirror is made of: fast maps, a slab with generations, lists threaded through it. All are
//! bounded by their users: a recording from anyone is untrusted input.

use std::{collections::HashMap, hash::Hash};

/// A map with a fast, seeded hash: addresses in a recording are chosen by whoever made it.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// How many entries there may be in a map, while they come and go, so that it stays as large as it is: `1 << bits` places.
///
/// What left a map leaves a mark in its place. When every place (an eighth is kept free) was used, the map is put in order where it is if it
/// is no more than half full, and doubled if it is more: an hour later, maybe, and for nothing.
pub const fn stay(bits: u32) -> usize {
    7 << (bits - 4)
}

/// No element.
const NIL: u32 = u32::MAX;

/// A place in a [`Slab`], valid for one life of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    index: u32,
    generation: u32,
}

impl Id {
    /// No place that ever was.
    pub const NONE: Id = Id { index: NIL, generation: NIL };
}

/// Values at stable places that are used again.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: NIL, len: 0 }
    }
}

impl<T> Slab<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Puts a value in, at the place freed last.
    pub fn insert(&mut self, value: T) -> Id {
        self.len += 1;
        if self.free == NIL {
            let index = self.entries.len() as u32;
            self.entries.push(Entry { generation: 0, next_free: NIL, value: Some(value) });
            return Id { index, generation: 0 };
        }
        let index = self.free;
        let entry = &mut self.entries[index as usize];
        self.free = entry.next_free;
        entry.value = Some(value);
        Id { index, generation: entry.generation }
    }

    /// Takes a value out; its id is dead from then on.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        let entry = self.entries.get_mut(id.index as usize).filter(|entry| entry.generation == id.generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next_free = self.free;
        self.free = id.index;
        self.len -= 1;
        Some(value)
    }

    /// The value, if its life goes on.
    pub fn get(&self, id: Id) -> Option<&T> {
        self.entries.get(id.index as usize).filter(|entry| entry.generation == id.generation)?.value.as_ref()
    }

    /// The value, if its life goes on.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.entries.get_mut(id.index as usize).filter(|entry| entry.generation == id.generation)?.value.as_mut()
    }

    /// Every value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let id = Id { index: index as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (id, value))
        })
    }
}

/// An element's neighbours in one list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    prev: Option<Id>,
    next: Option<Id>,
}

/// Something with links for lists of several kinds, each list through its own.
pub trait Linked {
    /// The links of one kind of list.
    fn link(&mut self, kind: usize) -> &mut Link;
    /// The links of one kind of list, to look at.
    fn peek(&self, kind: usize) -> &Link;
}

/// The ends of a list that runs through a slab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    head: Option<Id>,
    tail: Option<Id>,
}

impl List {
    /// The oldest element.
    pub fn first(self) -> Option<Id> {
        self.head
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.head.is_none()
    }

    /// Appends an element that is in no list of this kind.
    pub fn push<T: Linked>(&mut self, slab: &mut Slab<T>, kind: usize, id: Id) {
        if let Some(value) = slab.get_mut(id) {
            *value.link(kind) = Link { prev: self.tail, next: None };
        } else {
            return;
        }
        match self.tail.and_then(|tail| slab.get_mut(tail)) {
            Some(tail) => tail.link(kind).next = Some(id),
            None => self.head = Some(id),
        }
        self.tail = Some(id);
    }

    /// Takes out an element that is in this list.
    pub fn unlink<T: Linked>(&mut self, slab: &mut Slab<T>, kind: usize, id: Id) {
        let Some(link) = slab.get_mut(id).map(|value| std::mem::take(value.link(kind))) else { return };
        match link.prev.and_then(|prev| slab.get_mut(prev)) {
            Some(prev) => prev.link(kind).next = link.next,
            None => self.head = link.next,
        }
        match link.next.and_then(|next| slab.get_mut(next)) {
            Some(next) => next.link(kind).prev = link.prev,
            None => self.tail = link.prev,
        }
    }

    /// The elements from the oldest on.
    pub fn iter<T: Linked>(self, slab: &Slab<T>, kind: usize) -> impl Iterator<Item = Id> {
        std::iter::successors(self.head, move |&id| slab.get(id).and_then(|value| value.peek(kind).next))
    }
}

/// Lists by key: what waits for the same thing, oldest first.
#[derive(Debug)]
pub struct Chains<K> {
    lists: Map<K, List>,
}

impl<K> Default for Chains<K> {
    fn default() -> Self {
        Chains { lists: Map::default() }
    }
}

impl<K: Eq + Hash> Chains<K> {
    /// Appends to the list of `key`.
    pub fn push<T: Linked>(&mut self, slab: &mut Slab<T>, kind: usize, key: K, id: Id) {
        self.lists.entry(key).or_default().push(slab, kind, id);
    }

    /// Takes out of the list of `key`.
    pub fn unlink<T: Linked>(&mut self, slab: &mut Slab<T>, kind: usize, key: &K, id: Id) {
        if let Some(list) = self.lists.get_mut(key) {
            list.unlink(slab, kind, id);
            if list.is_empty() {
                self.lists.remove(key);
            }
        }
    }

    /// The list of `key`.
    pub fn list(&self, key: &K) -> List {
        self.lists.get(key).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Node(Link, u32);

    impl Linked for Node {
        fn link(&mut self, _: usize) -> &mut Link {
            &mut self.0
        }
        fn peek(&self, _: usize) -> &Link {
            &self.0
        }
    }

    #[test]
    fn a_map_whose_entries_come_and_go_stays_as_large_as_it_is() {
        for bits in [6, 10, 13] {
            let mut map = Map::default();
            for key in 0..100u64 << bits {
                if map.len() == stay(bits) {
                    map.remove(&(key - stay(bits) as u64));
                }
                map.insert(key, key);
                // Of all that it may take, an eighth is kept free.
                assert!(map.capacity() <= (1 << bits) / 8 * 7, "{} in {key}, of 1 << {bits}", map.capacity());
            }
        }
    }

    #[test]
    fn a_place_used_again_has_another_id() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_chain_keeps_its_order_when_the_middle_leaves() {
        let mut slab = Slab::default();
        let mut chains = Chains::default();
        let ids: Vec<_> = (0..4).map(|n| slab.insert(Node(Link::default(), n))).collect();
        for &id in &ids {
            chains.push(&mut slab, 0, "key", id);
        }
        chains.unlink(&mut slab, 0, &"key", ids[1]);
        let left: Vec<_> = chains.list(&"key").iter(&slab, 0).map(|id| slab.get(id).map(|node| node.1)).collect();
        assert_eq!(left, [Some(0), Some(2), Some(3)]);
        for &id in [&ids[0], &ids[3], &ids[2]] {
            chains.unlink(&mut slab, 0, &"key", id);
        }
        assert!(chains.list(&"key").is_empty());
    }
}
