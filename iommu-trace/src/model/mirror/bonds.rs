//! SVA bonds and their users.

use super::{MAX_PAST, MAX_SLOTS, Mirror};
use crate::{event::Ptr, model::Evidence};

/// A bond, counted by its binds and unbinds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bond {
    /// Binds that returned, less unbinds that returned.
    pub users: u32,
    /// Unbinds that have not returned.
    pub leaving: u32,
    /// Since when the count is certain; 0 when it is not known.
    pub known_since: u64,
    /// The first bind's return, when it was seen.
    pub bound: Option<Evidence>,
    /// The return of the last unbind.
    pub unbound: Option<Evidence>,
    /// Whether a wrong count of it was told.
    pub told: bool,
}

impl Mirror {
    /// The bond at an address, a new one where none is known. `None` without room.
    pub(in crate::model) fn bond_mut(&mut self, ptr: Ptr) -> Option<&mut Bond> {
        if ptr.is_null() {
            return None;
        }
        if self.bonds.len() >= MAX_SLOTS && !self.bonds.contains_key(&ptr) {
            self.full = true;
            return None;
        }
        Some(self.bonds.entry(ptr).or_default())
    }

    /// A bond has no users any more; it is remembered for a while.
    pub(in crate::model) fn bond_gone(&mut self, ptr: Ptr) {
        self.past_bonds.push_back(ptr);
        if self.past_bonds.len() > MAX_PAST
            && let Some(old) = self.past_bonds.pop_front()
            && self.bonds.get(&old).is_some_and(|bond| bond.users == 0)
        {
            self.bonds.remove(&old);
        }
    }
}
