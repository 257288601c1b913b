//! Attach handles through their lives.

use super::{Attachment, MAX_PAST, MAX_SLOTS, Mirror, SlotKey};
use crate::{
    event::Ptr,
    model::{Evidence, span::Owner},
};

/// Where a handle is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its attach (or the replace that puts it in) is running.
    Attaching,
    /// It is in its slot.
    Live,
    /// It has left its slot, and iommufd has yet to answer what is left of its faults.
    Draining,
    /// Nothing may use it any more.
    Gone,
}

/// An attach handle, in one life: its memory may be used again for another.
#[derive(Clone, Debug)]
pub struct Handle {
    /// This life's number.
    pub number: u32,
    /// Where it is in it.
    pub life: Life,
    /// Its slot.
    pub key: SlotKey,
    /// Its domain.
    pub domain: Ptr,
    /// Who attached it.
    pub owner: Owner,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// The device behind it.
    pub device: Ptr,
    /// The entry of its attach.
    pub attach: Option<Evidence>,
    /// Since when everything that happened to it was seen.
    pub known_since: u64,
    /// A replace brings it, which keeps the old one until its op is done.
    pub by_replace: bool,
    /// The attach op is done, though the attach has not returned.
    pub op_done: bool,
    /// Whether its attach failed.
    pub failed: bool,
    /// iommufd is answering its faults.
    pub cleaning: bool,
    /// Fault groups that refer to it.
    pub groups: u32,
    /// What most handles do not have.
    rare: Option<Box<Rare>>,
}

/// The marks of the end of a life, and of a bad beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rare {
    /// A look-up found it while its attach was running.
    pub early: Option<Evidence>,
    /// The return of the detach or replace that took it out of its slot, or of the attach that failed.
    pub left: Option<Evidence>,
    /// What ended its life: the end of iommufd's clean-up, or its detach.
    pub end: Option<Evidence>,
    /// Its memory was freed.
    pub freed: Option<Evidence>,
}

impl Handle {
    /// What comes into being with this attachment.
    pub fn new(life: Life, key: SlotKey, made: &Attachment, attach: Option<Evidence>, known_since: u64) -> Self {
        Handle {
            number: 0,
            life,
            key,
            domain: made.domain,
            owner: made.owner,
            device_id: made.device_id,
            device: made.device,
            attach,
            known_since,
            by_replace: false,
            op_done: false,
            failed: false,
            cleaning: false,
            groups: 0,
            rare: None,
        }
    }

    /// The marks it has.
    pub fn marks(&self) -> Rare {
        self.rare.as_deref().copied().unwrap_or_default()
    }

    /// The marks it has, to set one.
    pub fn marks_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl Mirror {
    /// Begins a life, unless one goes on there: its number, `None` without room.
    pub(in crate::model) fn begin_life(&mut self, ptr: Ptr, handle: Handle) -> Option<u32> {
        if let Some(known) = self.handles.get(&ptr) {
            let goes_on = matches!(known.life, Life::Attaching | Life::Live) || known.cleaning;
            // Where its detach was not seen, its free tells that it is over.
            if goes_on && known.marks().freed.is_none() {
                return Some(known.number);
            }
        } else if self.handles.len() >= MAX_SLOTS + MAX_PAST {
            self.full = true;
            return None;
        }
        self.lives = self.lives.wrapping_add(1);
        self.handles.insert(ptr, Handle { number: self.lives, ..handle });
        Some(self.lives)
    }

    /// A handle leaves its slot.
    pub(in crate::model) fn handle_left(&mut self, ptr: Ptr, life: Life, left: Evidence) {
        let Some(handle) = self.handles.get_mut(&ptr) else { return };
        handle.marks_mut().left = Some(left);
        handle.life = life;
        if life == Life::Gone {
            self.handle_gone(ptr, left);
        }
    }

    /// A handle's life is over.
    pub(in crate::model) fn handle_gone(&mut self, ptr: Ptr, end: Evidence) {
        let Some(handle) = self.handles.get_mut(&ptr) else { return };
        handle.life = Life::Gone;
        handle.cleaning = false;
        handle.marks_mut().end = Some(end);
        self.past.push_back((ptr, handle.number));
        if self.past.len() > MAX_PAST
            && let Some((old, number)) = self.past.pop_front()
            && self.handles.get(&old).is_some_and(|old| old.number == number && old.life == Life::Gone)
        {
            self.handles.remove(&old);
        }
    }

    /// One more, or one less, fault group refers to a handle.
    pub(in crate::model) fn handle_referred(&mut self, ptr: Ptr, number: u32, more: bool) {
        if let Some(handle) = self.handles.get_mut(&ptr).filter(|handle| handle.number == number) {
            handle.groups = if more { handle.groups.saturating_add(1) } else { handle.groups.saturating_sub(1) };
        }
    }
}
