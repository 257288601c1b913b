//! I/O page faults, from report to free.
//!
//! A fault begins at the report's entry, on the reporter's thread; until a handler gives it a `struct iopf_group` the
//! thread is its key, from then on the group's address, on any thread. What is not yet joined waits in chains by what
//! it can be recognised by: partial requests, requests whose handler is not probed, messages not yet delivered.

mod delivery;
mod group;
mod record;
mod report;
mod response;

use std::collections::VecDeque;

use super::table::{Chains, Id, Linked, List, Map, Slab};
use crate::event::Ptr;

pub use record::Fault;
use record::{AGE, CHAIN, GROUP};

/// A fault's place in the table.
pub type FaultId = Id;

/// Faults that are outstanding at once; past it the oldest are told as they are and forgotten.
const MAX_FAULTS: usize = 1 << 16;
/// Freed groups that are remembered, to know a late visitor.
const MAX_FREED: usize = 1 << 12;
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
    /// A request that user space was not told of: PASID, group index, address.
    Undelivered(u32, u32, u64),
}

/// Where in its life a fault is, for what may take too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Age {
    /// Not answered.
    #[default]
    Waiting,
    /// Not answered in time.
    Overdue,
    /// Answered, not freed.
    Answered,
    /// Over; only a return or a message may still come.
    Limbo,
}

/// A `struct iopf_group`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultGroup {
    /// Its requests, in the kernel's order; the last one is answered.
    pub members: List,
    /// The last request.
    pub last: Option<FaultId>,
    /// The handle's domain, as the handler saw it.
    pub domain: Ptr,
    /// The fault queue that told user space of it.
    pub queue: Ptr,
    /// When `iopf_free_group` was entered.
    pub freed: Option<u64>,
}

/// Every fault that is not over.
#[derive(Debug, Default)]
pub struct Faults {
    slab: Slab<Fault>,
    groups: Map<Ptr, FaultGroup>,
    /// The fault queue of each domain, as deliveries tell.
    queues: Map<Ptr, Ptr>,
    waiting: Chains<Waiting>,
    ages: [List; 4],
    limbo: usize,
    freed: VecDeque<Ptr>,
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

    /// The fault that has waited longest.
    fn oldest(&self) -> Option<FaultId> {
        [Age::Limbo, Age::Overdue, Age::Answered, Age::Waiting]
            .into_iter()
            .find_map(|age| self.ages[age as usize].first())
    }

    fn remove(&mut self, id: FaultId) -> Option<Fault> {
        self.stop_waiting(id);
        let fault = self.slab.get(id)?;
        let (age, group) = (fault.age, fault.group);
        self.ages[age as usize].unlink(&mut self.slab, AGE, id);
        self.limbo -= usize::from(age == Age::Limbo);
        if let Some(group) = group.and_then(|group| self.groups.get_mut(&group)).filter(|group| group.freed.is_none()) {
            group.members.unlink(&mut self.slab, GROUP, id);
            if group.last == Some(id) {
                group.last = None;
            }
        }
        self.slab.remove(id)
    }

    fn set_age(&mut self, id: FaultId, age: Age) {
        let Some(fault) = self.slab.get_mut(id) else { return };
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

    fn first_waiting(&self, what: Waiting) -> Option<FaultId> {
        self.waiting.list(&what).first()
    }

    /// The group at an address, if it is not freed.
    fn live_group(&self, ptr: Ptr) -> Option<&FaultGroup> {
        self.groups.get(&ptr).filter(|group| group.freed.is_none())
    }

    fn join(&mut self, ptr: Ptr, id: FaultId) {
        let Some(fault) = self.slab.get_mut(id) else { return };
        fault.group = Some(ptr);
        if let Some(group) = self.groups.get_mut(&ptr) {
            group.members.push(&mut self.slab, GROUP, id);
        }
    }

    fn members(&self, list: List) -> Vec<FaultId> {
        list.iter(&self.slab, GROUP).collect()
    }

    /// Takes the members out of a group that is no more.
    fn part(&mut self, mut list: List) -> Vec<FaultId> {
        let members = self.members(list);
        for &id in &members {
            list.unlink(&mut self.slab, GROUP, id);
            if let Some(fault) = self.slab.get_mut(id) {
                fault.group = None;
            }
        }
        members
    }

    /// A domain is freed: its address may be used again.
    pub fn forget_domain(&mut self, domain: Ptr) {
        self.queues.remove(&domain);
    }

    /// Every fault that is not over, the oldest first.
    pub fn all(&self) -> Vec<FaultId> {
        let mut all: Vec<_> = self.slab.iter().map(|(id, fault)| (fault.ts, id)).collect();
        all.sort_by_key(|&(ts, _)| ts);
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Marks a group as freed and remembers it for a while.
    fn free_group(&mut self, ptr: Ptr, ts: u64) -> Option<FaultGroup> {
        let group = self.groups.get_mut(&ptr).filter(|group| group.freed.is_none())?;
        let left = *group;
        *group = FaultGroup { freed: Some(ts), members: List::default(), last: None, ..left };
        self.freed.push_back(ptr);
        if self.freed.len() > MAX_FREED
            && let Some(old) = self.freed.pop_front()
            && self.live_group(old).is_none()
        {
            self.groups.remove(&old);
        }
        Some(left)
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
