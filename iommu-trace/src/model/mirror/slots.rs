//! Slots and what is in them, and the domains that are used by them.

use super::{Content, MAX_PAST, MAX_SLOTS, Mirror, Slot, SlotKey};
use crate::event::Ptr;

/// Slots that are searched for a user of a domain, when the one that came last has left.
const MAX_SEARCH: usize = 1 << 16;

impl Mirror {
    /// A slot as it is known; one that is not in the mirror is empty where its group is known.
    pub(in crate::model) fn view(&self, key: SlotKey) -> Slot {
        if let Some(slot) = self.index.slot(key).and_then(|slot| self.slots.get(slot)) {
            return *slot;
        }
        match self.groups.get(&key.group).and_then(|group| group.known_since) {
            Some(since) => Slot { key, content: Content::Empty, known_since: since, changed: since, ..Slot::default() },
            None => Slot { key, ..Slot::default() },
        }
    }

    /// A change of a slot begins.
    pub(in crate::model) fn open(&mut self, key: SlotKey) {
        let view = self.view(key);
        if let Some(slot) = self.slot_mut(key, view) {
            slot.overlap |= slot.open > 0;
            slot.open = slot.open.saturating_add(1);
        }
    }

    /// A change of a slot is over: what it made of the slot, `None` when it made nothing of it.
    pub(in crate::model) fn close(&mut self, key: SlotKey, ts: u64, made: Option<(u64, Content)>) {
        let Some(slot) = self.index.slot(key).and_then(|slot| self.slots.get_mut(slot)) else { return };
        let overlap = slot.overlap;
        slot.open = slot.open.saturating_sub(1);
        slot.overlap &= slot.open > 0;
        match made {
            // Several at once: which was last is not known.
            Some(_) if overlap => self.set(key, Content::Unknown, ts, ts),
            Some((since, content)) => self.set(key, content, since, ts),
            None => {}
        }
    }

    /// A slot's content is what it is from now on.
    pub(in crate::model) fn set(&mut self, key: SlotKey, content: Content, known_since: u64, changed: u64) {
        let view = self.view(key);
        let Some(slot) = self.slot_mut(key, view) else { return };
        let before = std::mem::replace(&mut slot.content, content);
        (slot.known_since, slot.changed) = (known_since, changed);
        let device_id = slot.attachment().and_then(|attachment| attachment.device_id);
        self.index.set_device_id(key, device_id);
        if let Content::Held(before) = before {
            self.leave_domain(before.domain);
            self.leave_idev(before.idev);
        }
        match content {
            Content::Held(now) => {
                self.use_domain(now.domain, key);
                self.use_idev(now.idev, key);
            }
            Content::Empty => self.emptied(key, changed),
            Content::Unknown => {}
        }
    }

    fn slot_mut(&mut self, key: SlotKey, initial: Slot) -> Option<&mut Slot> {
        if let Some(slot) = self.index.slot(key) {
            return self.slots.get_mut(slot);
        }
        if self.slots.len() >= MAX_SLOTS || key.group.is_null() {
            self.full = true;
            return None;
        }
        let slot = self.slots.insert(initial);
        self.index.insert(key, slot);
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.slots.push(&mut self.slots, 0, slot);
        }
        self.slots.get_mut(slot)
    }

    /// Remembers an empty slot for a while. In a group that is known it is empty without being remembered, too.
    fn emptied(&mut self, key: SlotKey, changed: u64) {
        self.emptied.push_back((key, changed));
        if self.emptied.len() > MAX_PAST
            && let Some((old, changed)) = self.emptied.pop_front()
            && let Some(slot) = self.slot(old.group, old.pasid)
            && slot.content == Content::Empty
            && slot.changed == changed
            && slot.open == 0
        {
            self.forget_slot(old);
        }
    }

    pub(super) fn forget_slot(&mut self, key: SlotKey) {
        let Some(slot) = self.index.remove(key) else { return };
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.slots.unlink(&mut self.slots, 0, slot);
        }
        if let Some(Content::Held(held)) = self.slots.remove(slot).map(|slot| slot.content) {
            self.leave_domain(held.domain);
            self.leave_idev(held.idev);
        }
    }

    /// Every slot of a group that is in the mirror.
    pub(in crate::model) fn slots_of(&self, group: Ptr) -> Vec<SlotKey> {
        let Some(group) = self.groups.get(&group) else { return Vec::new() };
        group.slots.iter(&self.slots, 0).filter_map(|id| self.slots.get(id)).map(|slot| slot.key).collect()
    }

    /// The group's `pasid_array` is empty: what the mirror does not know of is empty, too.
    pub(in crate::model) fn group_is_empty(&mut self, group: Ptr, since: u64) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.known_since = Some(since);
            // What is detached has its faults answered.
            group.drained = Some(since);
        }
        for key in self.slots_of(group) {
            let slot = self.view(key);
            if slot.open == 0 && slot.attachment().is_none() {
                self.set(key, Content::Empty, since, slot.changed);
            }
        }
    }

    fn use_domain(&mut self, domain: Ptr, key: SlotKey) {
        if domain.is_null() {
            return;
        }
        let uses = self.domains.entry(domain).or_insert((0, key));
        uses.0 += 1;
        uses.1 = key;
    }

    fn leave_domain(&mut self, domain: Ptr) {
        if let Some(uses) = self.domains.get_mut(&domain) {
            uses.0 = uses.0.saturating_sub(1);
            if uses.0 == 0 {
                self.domains.remove(&domain);
            }
        }
    }

    /// A slot that uses a domain, and in how many it is.
    pub(in crate::model) fn user_of(&self, domain: Ptr) -> Option<(Slot, u32)> {
        let &(uses, last) = self.domains.get(&domain)?;
        let uses_it = |slot: &Slot| slot.attachment().is_some_and(|attachment| attachment.domain == domain);
        let slot = self.view(last);
        if uses_it(&slot) {
            return Some((slot, uses));
        }
        // The one that came last has left.
        self.slots().take(MAX_SEARCH).find(|slot| uses_it(slot)).map(|slot| (*slot, uses))
    }

    /// A domain is gone: no slot uses it any more, whatever was seen.
    pub(in crate::model) fn forget_domain(&mut self, domain: Ptr) {
        self.domains.remove(&domain);
    }
}
