//! I/O page faults, from report to free.
//!
//! A fault begins at the report's entry, on the reporter's thread; until a handler gives it a `struct iopf_group` the
//! thread is its key, from then on the group's address, on any thread. What is not yet joined waits in chains by what
//! it can be recognised by: partial requests, requests whose handler is not probed, messages not yet delivered.

mod delivery;
mod end;
mod graves;
mod group;
mod record;
mod report;
mod response;

use std::collections::VecDeque;

use super::{
    Evidence,
    table::{Chains, Id, Linked, List, Map, Slab, stay},
};
use crate::event::Ptr;

use graves::{GraveId, Graves};
use record::{AGE, CHAIN, GROUP};

pub use graves::Grave;
pub use record::{Fault, Witness};

/// A fault's place in the table.
pub type FaultId = Id;

/// Faults that are outstanding at once; past it the oldest are told as they are and forgotten.
const MAX_FAULTS: usize = 1 << 16;
/// Fault groups. Those that have a fault, or are remembered, are fewer: past it the others are forgotten.
const MAX_GROUPS: usize = 2 * MAX_FAULTS;
/// Freed groups that are remembered, to know a late visitor; with some hundred that are not freed they [`stay`].
const MAX_FREED: usize = stay(13) - 256;
/// Faults that are over but for a return or a message that may still come.
const MAX_LIMBO: usize = 1 << 10;
/// How long that may take.
const LIMBO_NS: u64 = 1_000_000_000;

/// What a fault that is not yet joined can be recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waiting {
    /// A last request whose group was not seen: device, PASID, group index.
    Ungrouped(Ptr, u32, u32),
    /// A request that is not the last of its group: device, group index (as `fault_param->partial` is searched).
    Partial(Ptr, u32),
    /// A request that user space was not told of.
    Undelivered(Message),
}

/// What a message to user space can be recognised by: PASID, group index, address, flags.
pub type Message = (u32, u32, u64, u32);

/// Where in its life a fault is, for what may take too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Age {
    /// Not answered.
    #[default]
    Waiting,
    /// Not answered in time, or not freed in time.
    Overdue,
    /// Answered, not freed.
    Answered,
    /// Over; only a return or a message may still come.
    Limbo,
}

/// A `struct iopf_group`.
#[derive(Clone, Debug, Default)]
pub struct FaultGroup {
    /// The PASID and group index of its last request.
    pub name: (u32, u32),
    /// Its requests, in the kernel's order; the last one is answered.
    pub members: List,
    /// The last request.
    pub last: Option<FaultId>,
    /// Its attach handle, and the number of that one's life.
    pub handle: Option<(Ptr, u32)>,
    /// The fault queue that it is in, or that told user space of it.
    pub queue: Ptr,
    /// What is remembered of it after its free.
    pub grave: Option<GraveId>,
}

/// A message to user space of no request that is known to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    /// The id in it.
    pub device_id: u32,
    /// Its cookie.
    pub cookie: u32,
    /// The event.
    pub seen: Evidence,
}

/// Every fault that is not over.
#[derive(Debug, Default)]
pub struct Faults {
    slab: Slab<Fault>,
    groups: Map<Ptr, FaultGroup>,
    waiting: Chains<Waiting>,
    ages: [List; 4],
    limbo: usize,
    /// The last requests that user space was told of, by message and cookie.
    told: Map<(Message, u32), FaultId>,
    /// Messages of no request that is known, the latest few.
    stray: Map<(Message, u32), Stray>,
    strays: VecDeque<(Message, u32)>,
    graves: Graves,
    /// Freed groups by what a message of them would say.
    untold: Map<Message, GraveId>,
}

impl Faults {
    /// A fault.
    pub fn get(&self, id: FaultId) -> Option<&Fault> {
        self.slab.get(id)
    }

    /// How many are not over.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    fn insert(&mut self, fault: Fault) -> FaultId {
        let id = self.slab.insert(fault);
        self.ages[Age::Waiting as usize].push(&mut self.slab, AGE, id);
        id
    }

    /// The first fault of an age: the one that reached it first.
    fn first(&self, age: Age) -> Option<FaultId> {
        self.ages[age as usize].first()
    }

    /// The fault that has waited longest.
    fn oldest(&self) -> Option<FaultId> {
        [Age::Limbo, Age::Overdue, Age::Answered, Age::Waiting].into_iter().find_map(|age| self.first(age))
    }

    fn remove(&mut self, id: FaultId) -> Option<Fault> {
        self.stop_waiting(id);
        let fault = self.slab.get(id)?;
        if let Some(told) = fault.told() {
            self.told.remove(&told);
        }
        let (age, group) = (fault.age, fault.group);
        self.ages[age as usize].unlink(&mut self.slab, AGE, id);
        self.limbo -= usize::from(age == Age::Limbo);
        if let Some(group) = group.and_then(|group| self.groups.get_mut(&group)) {
            group.members.unlink(&mut self.slab, GROUP, id);
            if group.last == Some(id) {
                group.last = None;
            }
        }
        self.slab.remove(id)
    }

    fn set_age(&mut self, id: FaultId, age: Age, ts: u64) {
        let Some(fault) = self.slab.get_mut(id) else { return };
        fault.age_since = ts;
        let old = std::mem::replace(&mut fault.age, age);
        self.ages[old as usize].unlink(&mut self.slab, AGE, id);
        self.ages[age as usize].push(&mut self.slab, AGE, id);
        self.limbo -= usize::from(old == Age::Limbo);
        self.limbo += usize::from(age == Age::Limbo);
    }

    /// Puts a fault among those that wait for `what`, after taking it from where it waited before.
    fn wait(&mut self, id: FaultId, what: Waiting) {
        self.stop_waiting(id);
        if let Some(fault) = self.slab.get_mut(id) {
            fault.waiting = Some(what);
            self.waiting.push(&mut self.slab, CHAIN, what, id);
        }
    }

    fn stop_waiting(&mut self, id: FaultId) {
        if let Some(what) = self.slab.get_mut(id).and_then(|fault| fault.waiting.take()) {
            self.waiting.unlink(&mut self.slab, CHAIN, &what, id);
        }
    }

    /// The group at an address, if it is not freed.
    fn live_group(&self, ptr: Ptr) -> Option<&FaultGroup> {
        self.groups.get(&ptr).filter(|group| group.grave.is_none())
    }

    fn join(&mut self, ptr: Ptr, id: FaultId) {
        let Some(fault) = self.slab.get_mut(id) else { return };
        fault.group = Some(ptr);
        if let Some(group) = self.groups.get_mut(&ptr) {
            group.members.push(&mut self.slab, GROUP, id);
        }
    }

    /// Takes the members out of a group that is no more.
    fn part(&mut self, mut list: List) -> Vec<FaultId> {
        let members: Vec<_> = list.iter(&self.slab, GROUP).collect();
        for &id in &members {
            list.unlink(&mut self.slab, GROUP, id);
            if let Some(fault) = self.slab.get_mut(id) {
                fault.group = None;
            }
        }
        members
    }

    /// Keeps a message until a group comes back with its cookie.
    fn keep_stray(&mut self, message: Message, stray: Stray) {
        let key = (message, stray.cookie);
        self.stray.insert(key, stray);
        self.strays.push_back(key);
        if self.strays.len() > MAX_LIMBO
            && let Some(old) = self.strays.pop_front()
        {
            self.stray.remove(&old);
        }
    }

    /// Every fault that is not over, the oldest first.
    pub fn all(&self) -> Vec<FaultId> {
        let mut all: Vec<_> = self.slab.iter().map(|(id, fault)| (fault.ts, id)).collect();
        all.sort_by_key(|&(ts, _)| ts);
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Faults that are not over, those that have waited longest first.
    pub fn under_way(&self) -> impl Iterator<Item = &Fault> {
        [Age::Overdue, Age::Waiting, Age::Answered]
            .into_iter()
            .flat_map(|age| self.ages[age as usize].iter(&self.slab, AGE))
            .filter_map(|id| self.slab.get(id))
    }

    /// Marks a group as freed, and remembers it for a while.
    fn bury(&mut self, grave: Grave, untold: Option<Message>) {
        let ptr = grave.ptr;
        let id = self.graves.push(grave, untold);
        self.groups.insert(ptr, FaultGroup { grave: Some(id), ..FaultGroup::default() });
        if let Some(message) = untold {
            self.untold.insert(message, id);
        }
        let Some((id, old, message)) = self.graves.take_oldest_of(MAX_FREED) else { return };
        // The address, or the message, may have been used again since.
        if self.groups.get(&old).is_some_and(|group| group.grave == Some(id)) {
            self.groups.remove(&old);
        }
        if let Some(message) = message
            && self.untold.get(&message) == Some(&id)
        {
            self.untold.remove(&message);
        }
    }
}

impl Linked for Fault {
    fn link(&mut self, kind: usize) -> &mut super::table::Link {
        &mut self.links[kind]
    }

    fn peek(&self, kind: usize) -> &super::table::Link {
        &self.links[kind]
    }
}
