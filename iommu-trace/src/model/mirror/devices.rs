//! Groups, their devices, and iommufd's devices.

use super::{Device, Group, MAX_DEVICES, MAX_SLOTS, Mirror, SlotKey};
use crate::{
    event::{DeviceRef, IommufdOp, Name, Ptr},
    model::Evidence,
};

/// Whether a device is in a fault queue.
#[derive(Clone, Copy, Debug, Default)]
pub enum Membership {
    /// Not known.
    #[default]
    Unknown,
    /// It is, since this.
    In(Evidence),
    /// It is not, since this.
    Out(Evidence),
}

/// A device's PCI reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reset {
    /// Since when `depth` is known.
    pub known_since: Option<u64>,
    /// How often it was prepared and not done.
    pub depth: u32,
    /// The return of the outermost prepare.
    pub prepared: Option<Evidence>,
    /// Whether that blocked the device, where the kernel tells: one without ATS is left alone.
    pub blocks: Option<bool>,
    /// The last done.
    pub done: Option<Evidence>,
}

/// A device of iommufd.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idev {
    /// Its object id.
    pub id: Option<u32>,
    /// Its device.
    pub device: Ptr,
    /// The return of its bind, when that was seen.
    pub bound: Option<Evidence>,
    /// How many slots hold a handle of it.
    pub handles: u32,
    /// One of them.
    pub slot: SlotKey,
    /// Its unbind, when a handle outlived that and it was told.
    pub told: bool,
}

impl Mirror {
    /// Takes note of a device and its group, as an event tells them.
    pub(in crate::model) fn learn(&mut self, device: &DeviceRef) {
        if !device.group.is_null() {
            self.learn_group(device.group, device.group_id);
        }
        if device.ptr.is_null() || device.name.is_empty() {
            return;
        }
        if let Some(known) = self.devices.get_mut(&device.ptr) {
            if known.name == device.name && (known.group == device.group || device.group.is_null()) {
                known.group_id = device.group_id.or(known.group_id);
                return;
            }
            if known.name == device.name && known.group.is_null() {
                known.group = device.group;
                known.group_id = device.group_id.or(known.group_id);
                self.count_device(device.group);
                return;
            }
            // The memory was used again for another device, or the device has another group now.
            self.drop_device(device.ptr);
        } else if self.devices.len() >= MAX_DEVICES {
            self.full = true;
            return;
        }
        let new = Device { group: device.group, group_id: device.group_id, name: device.name, ..Device::default() };
        self.devices.insert(device.ptr, new);
        self.names.insert(device.name, device.ptr);
        self.count_device(device.group);
    }

    fn count_device(&mut self, group: Ptr) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.devices += 1;
        }
    }

    fn learn_group(&mut self, group: Ptr, id: Option<u32>) {
        if let Some(known) = self.groups.get_mut(&group) {
            if known.id == id || id.is_none() || known.id.is_none() {
                known.id = id.or(known.id);
                return;
            }
            // The memory was used again for another group.
            self.drop_group(group);
        } else if self.groups.len() >= MAX_DEVICES {
            self.full = true;
            return;
        }
        self.groups.insert(group, Group { id, ..Group::default() });
    }

    fn drop_group(&mut self, group: Ptr) {
        for key in self.slots_of(group) {
            self.forget_slot(key);
        }
        self.groups.remove(&group);
    }

    fn drop_device(&mut self, device: Ptr) -> Option<Device> {
        let known = self.devices.remove(&device)?;
        if self.names.get(&known.name) == Some(&device) {
            self.names.remove(&known.name);
        }
        if let Some(group) = self.groups.get_mut(&known.group) {
            group.devices = group.devices.saturating_sub(1);
        }
        Some(known)
    }

    /// A device left its group; a group without devices is freed.
    pub(in crate::model) fn remove_device(&mut self, device: &DeviceRef) {
        let Some(known) = self.drop_device(device.ptr) else { return };
        if self.groups.get(&known.group).is_some_and(|group| group.devices == 0) {
            self.drop_group(known.group);
        }
    }

    /// Since when every fault of a device was seen, if nothing was lost: since the device came, or since its group was
    /// without any attachment (what is detached has its faults answered).
    pub(in crate::model) fn faults_known_since(&self, device: Ptr) -> Option<u64> {
        let device = self.devices.get(&device)?;
        let drained = self.groups.get(&device.group).and_then(|group| group.drained);
        device.added.map(|added| added.ts).max(drained)
    }

    /// Nothing is known any more of whether a device is in a fault queue.
    pub(in crate::model) fn queue_unknown(&mut self, device: Ptr) {
        if let Some(device) = self.devices.get_mut(&device) {
            device.leaving = device.leaving.saturating_sub(1);
            device.queue = Membership::Unknown;
        }
    }

    /// A group's number, as far as it is known.
    pub(in crate::model) fn group_id(&self, device: &DeviceRef) -> Option<u32> {
        device.group_id.or_else(|| self.groups.get(&device.group)?.id)
    }

    /// The name of a device, empty when it is unknown.
    pub(in crate::model) fn name(&self, device: Ptr) -> Name {
        self.devices.get(&device).map(|device| device.name).unwrap_or_default()
    }

    pub(in crate::model) fn group_mut(&mut self, group: Ptr) -> Option<&mut Group> {
        self.groups.get_mut(&group)
    }

    pub(in crate::model) fn device_mut(&mut self, device: Ptr) -> Option<&mut Device> {
        self.devices.get_mut(&device)
    }

    /// A device of iommufd, made known by what an event tells of it.
    pub(in crate::model) fn idev_mut(&mut self, op: &IommufdOp) -> Option<&mut Idev> {
        if op.idev.is_null() {
            return None;
        }
        if self.idevs.len() >= MAX_DEVICES && !self.idevs.contains_key(&op.idev) {
            self.full = true;
            return None;
        }
        let idev = self.idevs.entry(op.idev).or_default();
        idev.id = op.id.or(idev.id);
        idev.device = op.device.ptr.some().unwrap_or(idev.device);
        Some(idev)
    }

    /// iommufd has bound a device. Where it has another already, or that one's end was not seen, neither is the device's.
    pub(in crate::model) fn idev_bound(&mut self, op: &IommufdOp, by: Evidence) {
        self.idevs.remove(&op.idev);
        if let Some(idev) = self.idev_mut(op) {
            idev.bound = Some(by);
        }
        let Some(device) = self.devices.get(&op.device.ptr) else { return };
        let other = device.idev != op.idev && self.idevs.contains_key(&device.idev);
        if let Some(device) = self.devices.get_mut(&op.device.ptr) {
            device.idev = if other { Ptr::NULL } else { op.idev };
        }
    }

    /// iommufd's device of a device.
    pub(in crate::model) fn idev_of(&self, device: Ptr) -> Option<&Idev> {
        let idev = self.devices.get(&device)?.idev;
        self.idevs.get(&idev).filter(|idev| idev.device == device)
    }

    /// An iommufd device is attached to a PASID, or no longer.
    pub(in crate::model) fn idev_attached(&mut self, op: &IommufdOp, by: Option<Evidence>) {
        if self.idev_mut(op).is_none() {
            return;
        }
        match by {
            Some(by) if self.attached.len() < MAX_SLOTS => {
                self.attached.insert((op.idev, op.pasid), by);
            }
            Some(_) => self.full = true,
            None => {
                self.attached.remove(&(op.idev, op.pasid));
            }
        }
    }

    /// The return of the attach by which an iommufd device is attached to a PASID.
    pub(in crate::model) fn attached(&self, idev: Ptr, pasid: u32) -> Option<Evidence> {
        let bound = self.idevs.get(&idev)?.bound;
        let attach = self.attached.get(&(idev, pasid)).copied()?;
        (attach.ts >= bound.map_or(0, |bound| bound.ts)).then_some(attach)
    }

    pub(super) fn use_idev(&mut self, idev: Ptr, key: SlotKey) {
        if idev.is_null() || (self.idevs.len() >= MAX_DEVICES && !self.idevs.contains_key(&idev)) {
            return;
        }
        let idev = self.idevs.entry(idev).or_default();
        idev.handles = idev.handles.saturating_add(1);
        idev.slot = key;
    }

    pub(super) fn leave_idev(&mut self, idev: Ptr) {
        if let Some(idev) = self.idevs.get_mut(&idev) {
            idev.handles = idev.handles.saturating_sub(1);
        }
    }
}
