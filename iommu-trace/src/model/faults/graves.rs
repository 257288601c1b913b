//! Fault groups that were freed, remembered for a while in the order of their frees: each in one place, to which its address and what a
//! message of it would say lead. They are written for each page fault, so that it counts how many bytes they are.

use std::collections::VecDeque;

use super::Message;
use crate::{
    event::{Name, Ptr},
    model::Evidence,
};

/// A group that was freed.
#[derive(Clone, Debug)]
pub struct Grave {
    /// Its address.
    pub ptr: Ptr,
    /// Its last request's device.
    pub device: Name,
    /// That one's group.
    pub group_id: Option<u32>,
    /// Its PASID, 0 for the RID.
    pub pasid: u32,
    /// Its group index.
    pub grpid: u32,
    /// Its attach handle.
    pub handle: Option<Ptr>,
    /// iommufd's object id.
    pub device_id: Option<u32>,
    /// Its report.
    pub report: Evidence,
    /// Its response.
    pub response: Option<Evidence>,
    /// Its free.
    pub freed: Evidence,
    /// Since when its device's faults are known.
    pub known_since: Option<u64>,
    /// User space was told of it.
    pub delivered: bool,
    /// What happened after was told.
    pub told: bool,
}

/// Which freed group, of all that ever were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraveId(u64);

/// Freed groups.
#[derive(Debug, Default)]
pub struct Graves {
    /// With the message of each that user space may be told.
    list: VecDeque<(Grave, Option<Message>)>,
    /// The number of the oldest.
    first: u64,
}

impl Graves {
    /// One that is still remembered.
    pub fn get(&self, GraveId(number): GraveId) -> Option<&Grave> {
        self.list.get(usize::try_from(number.checked_sub(self.first)?).ok()?).map(|(grave, _)| grave)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, GraveId(number): GraveId) -> Option<&mut Grave> {
        self.list.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?).map(|(grave, _)| grave)
    }

    /// Remembers one.
    pub fn push(&mut self, grave: Grave, message: Option<Message>) -> GraveId {
        self.list.push_back((grave, message));
        GraveId(self.first + self.list.len() as u64 - 1)
    }

    /// Forgets the oldest where there are more than so many: it, its address, and its message.
    pub fn take_oldest_of(&mut self, most: usize) -> Option<(GraveId, Ptr, Option<Message>)> {
        if self.list.len() <= most {
            return None;
        }
        let (grave, message) = self.list.pop_front()?;
        let id = GraveId(self.first);
        self.first += 1;
        Some((id, grave.ptr, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Phase, ProbeId, Task};

    fn grave(ptr: u64) -> Grave {
        let seen = Evidence {
            ts: ptr,
            what: "free",
            probe: ProbeId::GroupFree,
            phase: Phase::Enter,
            task: Task::default(),
            stack: None,
        };
        Grave {
            ptr: Ptr(ptr),
            device: Name::default(),
            group_id: None,
            pasid: 0,
            grpid: 0,
            handle: None,
            device_id: None,
            report: seen,
            response: None,
            freed: seen,
            known_since: None,
            delivered: false,
            told: false,
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_the_others_stay_who_they_are() {
        let mut graves = Graves::default();
        let ids: Vec<_> = (1..=5).map(|ptr| graves.push(grave(ptr), None)).collect();
        assert_eq!(graves.take_oldest_of(4), Some((ids[0], Ptr(1), None)));
        assert_eq!(graves.take_oldest_of(4), None);
        assert!(graves.get(ids[0]).is_none());
        for (&id, ptr) in ids.iter().zip(1..).skip(1) {
            assert_eq!(graves.get(id).map(|grave| grave.ptr), Some(Ptr(ptr)));
        }
        graves.get_mut(ids[4]).unwrap().told = true;
        assert!(graves.get(ids[4]).unwrap().told && !graves.get(ids[3]).unwrap().told);
    }
}
