//! What the kernel holds, as far as the events tell: groups, devices, slots, handles, domains, iommufd's devices, bonds.

mod bonds;
mod devices;
mod handles;
mod index;
mod pieces;
mod slots;

use std::collections::VecDeque;

use super::{
    Evidence,
    span::Owner,
    table::{Id, Link, Linked, List, Map, Slab, stay},
};
use crate::event::{DomainType, Name, Ptr};

pub(super) use bonds::Bond;
pub(super) use devices::{Idev, Membership, Reset};
pub(super) use handles::{Handle, Life};
use index::Index;
pub use pieces::snapshot_events;

/// Slots, and handles in them.
const MAX_SLOTS: usize = 1 << 21;
/// Groups, and devices.
const MAX_DEVICES: usize = 1 << 16;
/// Slots that are known to be empty and remembered for it, and lives of handles that are over: so many that with a thousand that are
/// live they [`stay`].
const MAX_PAST: usize = stay(15) - 1024;

/// A (group, PASID) pair: a place in a group's `pasid_array`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    /// The `struct iommu_group`.
    pub group: Ptr,
    /// 0 is the RID.
    pub pasid: u32,
}

/// What is in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The handle; `None` for a domain that was attached without one.
    pub handle: Option<Ptr>,
    /// The domain.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
    /// Who attached it.
    pub owner: Owner,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// The `struct iommufd_device` behind the handle.
    pub idev: Ptr,
    /// The device behind the handle, or the one attached.
    pub device: Ptr,
    /// When its attach was entered; 0 when that was before the trace.
    pub since: u64,
}

/// What a slot holds, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Not known.
    #[default]
    Unknown,
    /// Nothing.
    Empty,
    /// This.
    Held(Attachment),
}

/// A slot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    /// Where it is.
    pub key: SlotKey,
    /// What is in it.
    pub content: Content,
    /// Everything that happened to it since then was seen, if nothing was lost.
    pub known_since: u64,
    /// When the call that made the content what it is returned.
    pub changed: u64,
    /// Changes that have not returned.
    pub(super) open: u16,
    /// Whether several of them ran at once.
    pub(super) overlap: bool,
    link: Link,
}

impl Slot {
    /// What is attached there.
    #[must_use]
    pub fn attachment(&self) -> Option<&Attachment> {
        match &self.content {
            Content::Held(attachment) => Some(attachment),
            Content::Unknown | Content::Empty => None,
        }
    }

    /// Whether a look-up finds this handle now.
    pub(super) fn holds(&self, handle: Ptr) -> bool {
        self.attachment().is_some_and(|attachment| attachment.handle == Some(handle))
    }
}

/// A group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// Its number.
    pub id: Option<u32>,
    /// Its current domain, `NULL` when unknown.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
    /// Its default domain, `NULL` when unknown.
    pub default_domain: Ptr,
    /// Its type.
    pub default_domain_type: DomainType,
    /// Since when a slot that is not in the mirror is empty.
    pub(super) known_since: Option<u64>,
    /// When it was last known that no fault of its devices is outstanding.
    pub(super) drained: Option<u64>,
    /// When the snapshot of it began.
    pub(super) snapshot: Option<u64>,
    /// A device whose reset is prepared and not done.
    pub(super) blocked: Option<Ptr>,
    /// When no reset was known to be running.
    pub(super) unblocked: Option<u64>,
    devices: u32,
    slots: List,
}

/// A device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Device {
    /// Its group, `NULL` when unknown.
    pub group: Ptr,
    /// The group's number.
    pub group_id: Option<u32>,
    /// `dev_name()`.
    pub name: Name,
    pub(super) queue: Membership,
    /// When it was added, if that was seen.
    pub(super) added: Option<Evidence>,
    /// Calls that take it out of its queue and have not returned.
    pub(super) leaving: u16,
    pub(super) reset: Reset,
    /// iommufd's device of it; `NULL` when it has none, or may have several.
    pub(super) idev: Ptr,
}

/// The mirror. See [`Mirror::device_id`] for the question it is made for.
#[derive(Debug, Default)]
pub struct Mirror {
    index: Index,
    slots: Slab<Slot>,
    /// Slots that became empty, and when.
    emptied: VecDeque<(SlotKey, u64)>,
    groups: Map<Ptr, Group>,
    devices: Map<Ptr, Device>,
    names: Map<Name, Ptr>,
    pub(super) handles: Map<Ptr, Handle>,
    /// Handles whose life is over, with that life's number.
    past: VecDeque<(Ptr, u32)>,
    lives: u32,
    /// How many slots each domain is in, and one of them.
    domains: Map<Ptr, (u32, SlotKey)>,
    pub(super) idevs: Map<Ptr, Idev>,
    /// Where iommufd's devices are attached, and by which attach.
    attached: Map<(Ptr, u32), Evidence>,
    pub(super) bonds: Map<Ptr, Bond>,
    past_bonds: VecDeque<Ptr>,
    /// Whether something found no room since this was last asked.
    full: bool,
}

impl Linked for Slot {
    fn link(&mut self, _: usize) -> &mut Link {
        &mut self.link
    }

    fn peek(&self, _: usize) -> &Link {
        &self.link
    }
}

impl Mirror {
    /// iommufd's object id of the device behind a slot, as a fault handler needs it.
    #[must_use]
    pub fn device_id(&self, group: Ptr, pasid: u32) -> Option<u32> {
        self.index.device_id(SlotKey { group, pasid })
    }

    /// A slot, `None` when it never held anything, as far as was seen.
    #[must_use]
    pub fn slot(&self, group: Ptr, pasid: u32) -> Option<&Slot> {
        self.slots.get(self.index.slot(SlotKey { group, pasid })?)
    }

    /// Every slot of which something is known, in no order.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|(_, slot)| slot)
    }

    /// Every group, in no order.
    pub fn groups(&self) -> impl Iterator<Item = (Ptr, &Group)> {
        self.groups.iter().map(|(&ptr, group)| (ptr, group))
    }

    /// A group.
    #[must_use]
    pub fn group(&self, group: Ptr) -> Option<&Group> {
        self.groups.get(&group)
    }

    /// Every device, in no order.
    pub fn devices(&self) -> impl Iterator<Item = (Ptr, &Device)> {
        self.devices.iter().map(|(&ptr, device)| (ptr, device))
    }

    /// A device.
    #[must_use]
    pub fn device(&self, device: Ptr) -> Option<&Device> {
        self.devices.get(&device)
    }

    /// A device by its name.
    #[must_use]
    pub fn device_by_name(&self, name: Name) -> Option<&Device> {
        self.devices.get(self.names.get(&name)?)
    }

    /// Whether something found no room since this was last asked.
    pub(super) fn take_full(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }
}
