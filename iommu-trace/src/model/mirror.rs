//! What the kernel holds, as far as the events tell: groups, devices, slots, handles, iommufd's devices.

use super::{
    span::Owner,
    table::{Id, Map, Slab},
};
use crate::event::{DeviceRef, DomainType, Name, Ptr};

/// Slots, and handles in them.
const MAX_SLOTS: usize = 1 << 21;
/// Groups, and devices.
const MAX_DEVICES: usize = 1 << 16;

/// A (group, PASID) pair: a place in a group's `pasid_array`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    /// The `struct iommu_group`.
    pub group: Ptr,
    /// 0 is the RID.
    pub pasid: u32,
}

/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// When it was attached; 0 when that was before the trace.
    pub since: u64,
}

/// A slot.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Where it is.
    pub key: SlotKey,
    /// What is in it, `None` when it is known to be empty.
    pub attachment: Option<Attachment>,
}

/// A group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// Its number.
    pub id: Option<u32>,
    /// Its current domain, `NULL` when unknown.
    pub domain: Ptr,
    /// Its default domain, `NULL` when unknown.
    pub default_domain: Ptr,
    /// Slots with something in them.
    pub slots: u32,
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
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: Id,
    /// The attachment's, kept here so that the one question asked for every fault touches one place.
    device_id: Option<u32>,
}

/// The mirror. See [`Mirror::device_id`] for the question it is made for.
#[derive(Debug, Default)]
pub struct Mirror {
    index: Map<SlotKey, Entry>,
    slots: Slab<Slot>,
    groups: Map<Ptr, Group>,
    devices: Map<Ptr, Device>,
    names: Map<Name, Ptr>,
    forgotten: u64,
}

impl Mirror {
    /// iommufd's object id of the device behind a slot, as a fault handler needs it.
    #[must_use]
    pub fn device_id(&self, group: Ptr, pasid: u32) -> Option<u32> {
        self.index.get(&SlotKey { group, pasid })?.device_id
    }

    /// A slot, `None` when nothing is known of it.
    #[must_use]
    pub fn slot(&self, group: Ptr, pasid: u32) -> Option<&Slot> {
        self.slots.get(self.index.get(&SlotKey { group, pasid })?.slot)
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

    /// Things that found no room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Takes note of a device and its group, as an event tells them.
    pub(super) fn learn(&mut self, device: &DeviceRef) {
        if !device.group.is_null() {
            self.learn_group(device.group, device.group_id);
        }
        if device.ptr.is_null() || device.name.is_empty() {
            return;
        }
        if let Some(known) = self.devices.get_mut(&device.ptr) {
            if known.name == device.name {
                if !device.group.is_null() {
                    known.group = device.group;
                }
                known.group_id = device.group_id.or(known.group_id);
                return;
            }
            // The memory was used again for another device.
            self.names.remove(&known.name);
        } else if self.devices.len() >= MAX_DEVICES {
            self.forgotten += 1;
            return;
        }
        self.devices.insert(device.ptr, Device { group: device.group, group_id: device.group_id, name: device.name });
        self.names.insert(device.name, device.ptr);
    }

    fn learn_group(&mut self, group: Ptr, id: Option<u32>) {
        if let Some(known) = self.groups.get_mut(&group) {
            if known.id == id || id.is_none() || known.id.is_none() {
                known.id = id.or(known.id);
            } else {
                // The memory was used again for another group.
                *known = Group { id, ..Group::default() };
                self.slots_of(group).into_iter().for_each(|key| self.forget(key));
            }
        } else if self.groups.len() < MAX_DEVICES {
            self.groups.insert(group, Group { id, ..Group::default() });
        } else {
            self.forgotten += 1;
        }
    }

    fn slots_of(&self, group: Ptr) -> Vec<SlotKey> {
        self.slots.iter().filter(|(_, slot)| slot.key.group == group).map(|(_, slot)| slot.key).collect()
    }

    /// A group's number, as far as it is known.
    pub(super) fn group_id(&self, device: &DeviceRef) -> Option<u32> {
        device.group_id.or_else(|| self.groups.get(&device.group)?.id)
    }

    /// The name of a device, empty when it is unknown.
    pub(super) fn name(&self, device: Ptr) -> Name {
        self.devices.get(&device).map(|device| device.name).unwrap_or_default()
    }

    pub(super) fn group_mut(&mut self, group: Ptr) -> Option<&mut Group> {
        self.groups.get_mut(&group)
    }

    /// A device left its group.
    pub(super) fn remove_device(&mut self, device: &DeviceRef) {
        if let Some(known) = self.devices.remove(&device.ptr) {
            self.names.remove(&known.name);
        }
    }

    /// A slot's content is what it is now.
    pub(super) fn set(&mut self, key: SlotKey, attachment: Option<Attachment>) {
        let device_id = attachment.and_then(|attachment| attachment.device_id);
        if let Some(entry) = self.index.get_mut(&key) {
            entry.device_id = device_id;
            if let Some(slot) = self.slots.get_mut(entry.slot) {
                slot.attachment = attachment;
            }
            return;
        }
        if self.slots.len() >= MAX_SLOTS {
            self.forgotten += 1;
            return;
        }
        let slot = self.slots.insert(Slot { key, attachment });
        self.index.insert(key, Entry { slot, device_id });
    }

    fn forget(&mut self, key: SlotKey) {
        if let Some(entry) = self.index.remove(&key) {
            self.slots.remove(entry.slot);
        }
    }
}
