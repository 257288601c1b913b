//! The core: slots, attach, replace, detach, look-up; the driver's op with its fault queue.

use super::{Bug, Handle, Hardware, Lock, Sim};
use crate::{
    event::{Body, Change, DeviceRef, DomainType, HandleRef, Lookup, OwnerHint, Phase, ProbeId, Ptr, QueueOp},
    model::testing::{BLOCKING, DEFAULT, DMA_OWNER, IOPF_QUEUE},
};

/// `-ENOENT`, `-EBUSY`, `-EINVAL`.
pub const ENOENT: i64 = -2;
pub const EBUSY: i64 = -16;
pub const EINVAL: i64 = -22;

/// What becomes of a core call; its caller goes on with it.
pub type Then = Box<dyn FnOnce(&mut Sim, usize, i64)>;

impl Sim {
    fn change(&self, group: usize, pasid: u32, handle: Option<&HandleRef>, domain: Ptr) -> Change {
        let device = handle.and_then(|handle| {
            self.devices.iter().map(|device| device.dev.device).find(|device| device.ptr == handle.device)
        });
        let sva = handle.is_some_and(|handle| handle.owner == OwnerHint::Sva);
        Change {
            device: device.unwrap_or_else(|| DeviceRef { ..self.group_ref(group) }),
            handle: handle
                .map(|handle| HandleRef { domain: Ptr::NULL, domain_type: DomainType::default(), ..*handle })
                .unwrap_or_default(),
            domain,
            domain_type: if sva { DomainType::SVA } else { DomainType::UNMANAGED },
            domain_owner: handle.map(|handle| handle.owner).unwrap_or_default(),
            old_domain: if pasid == 0 { BLOCKING } else { Ptr::NULL },
            default_domain: DEFAULT,
            dma_owner: if sva { Ptr::NULL } else { DMA_OWNER },
            pasid,
            ..Change::default()
        }
    }

    /// The group's own domain changes, as a part of the op.
    pub fn set_domain(&mut self, n: usize, group: usize, domain: Ptr, owned: bool, ret: i64) {
        let change = Change {
            device: self.group_ref(group),
            domain,
            domain_type: if domain == BLOCKING { DomainType::BLOCKED } else { DomainType::UNMANAGED },
            old_domain: DEFAULT,
            default_domain: DEFAULT,
            dma_owner: if owned { DMA_OWNER } else { Ptr::NULL },
            ..Change::default()
        };
        self.enter(n, ProbeId::SetDomain, Body::Change(Box::new(change)));
        self.ret(n, ProbeId::SetDomain, ret);
    }

    fn op(&mut self, n: usize, group: usize, pasid: u32, domain: Ptr, ret: i64) {
        if pasid == 0 {
            self.set_domain(n, group, domain, true, ret);
        }
    }

    /// `iommu_attach_group_handle` or `iommu_attach_device_pasid`.
    pub fn core_attach(&mut self, n: usize, handle: Handle, then: Then) {
        let Handle { seen, group, pasid, .. } = handle;
        let probe = if pasid == 0 { ProbeId::AttachGroupHandle } else { ProbeId::AttachDevicePasid };
        let change = self.change(group, pasid, Some(&seen), seen.domain);
        self.enter(n, probe, Body::Change(Box::new(change)));
        self.lock(n, Lock::Group(group));
        self.add(n, move |sim, n| {
            let occupied = sim.slot(group, pasid).handle.is_some();
            let blocked = sim.blocked[group] > 0 && !sim.wrong(Bug::AttachBlocked);
            if blocked || (occupied && !sim.wrong(Bug::AttachOccupied)) {
                sim.unlock(n, Lock::Group(group));
                sim.ret(n, probe, EBUSY);
                sim.add(n, move |sim, n| then(sim, n, EBUSY));
                return;
            }
            // Requests that are on their way end before the driver changes anything.
            let was = std::mem::replace(&mut sim.slot(group, pasid).hardware, Hardware::Busy);
            sim.wait_for_reports(n, group, pasid);
            let fails = sim.chance(15);
            let early = !sim.features.store_after_op || (fails && sim.wrong(Bug::EarlyStore));
            if early {
                sim.add(n, move |sim, _| {
                    sim.slot(group, pasid).handle = Some(seen.ptr);
                    if sim.bug == Some(Bug::EarlyStore) {
                        sim.slot(group, pasid).hardware = Hardware::On;
                    }
                });
                if sim.bug == Some(Bug::EarlyStore) {
                    let reports = sim.numbers;
                    // Wide enough for a fault.
                    sim.wait(n, move |sim| {
                        sim.chance_of_waiting() || sim.reports.range(reports..).any(|(_, &at)| at == (group, pasid))
                    });
                    sim.wait_for_reports(n, group, pasid);
                }
            }
            let ret = if fails { EINVAL } else { 0 };
            sim.op(n, group, pasid, seen.domain, ret);
            if !fails && handle.faulting {
                sim.join_queue(n, group);
            }
            sim.add(n, move |sim, _| {
                let slot = sim.slot(group, pasid);
                slot.hardware = if fails { was } else { Hardware::On };
                if fails {
                    slot.handle = slot.handle.filter(|&ptr| ptr != seen.ptr);
                } else {
                    slot.before = slot.handle.filter(|&ptr| ptr != seen.ptr).or(slot.before);
                    slot.handle = Some(seen.ptr);
                }
            });
            sim.unlock(n, Lock::Group(group));
            sim.ret(n, probe, ret);
            sim.add(n, move |sim, n| then(sim, n, ret));
        });
    }

    /// `iommu_detach_group_handle` or `iommu_detach_device_pasid`.
    pub fn core_detach(&mut self, n: usize, handle: Handle, then: Then) {
        let Handle { seen, group, pasid, .. } = handle;
        let probe = if pasid == 0 { ProbeId::DetachGroupHandle } else { ProbeId::DetachDevicePasid };
        let mut change = self.change(group, pasid, Some(&seen), seen.domain);
        change.handle = HandleRef::default();
        self.enter(n, probe, Body::Change(Box::new(change)));
        self.lock(n, Lock::Group(group));
        self.add(n, move |sim, n| {
            sim.slot(group, pasid).hardware = Hardware::Busy;
            if !sim.wrong(Bug::NoDrain) {
                sim.wait_for_reports(n, group, pasid);
            }
            // SVA's work is flushed, too.
            sim.wait(n, move |sim| {
                sim.handles.get(&seen.ptr).is_none_or(|handle| handle.seen.owner != OwnerHint::Sva)
                    || !sim.groups.values().any(|group| group.handle == seen.ptr)
            });
            sim.op(n, group, pasid, BLOCKING, 0);
            if handle.faulting {
                sim.leave_queue(n, group);
            }
            sim.add(n, move |sim, _| {
                let slot = sim.slot(group, pasid);
                slot.before = slot.handle.take().or(slot.before);
                slot.hardware = Hardware::Off;
            });
            sim.unlock(n, Lock::Group(group));
            sim.ret(n, probe, 0);
            sim.add(n, move |sim, n| then(sim, n, 0));
        });
    }

    /// `iommu_replace_group_handle` or `iommu_replace_device_pasid`. Requests go on all the time.
    pub fn core_replace(&mut self, n: usize, old: Option<Handle>, handle: Handle, then: Then) {
        let Handle { seen, group, pasid, .. } = handle;
        let probe = if pasid == 0 { ProbeId::ReplaceGroupHandle } else { ProbeId::ReplaceDevicePasid };
        let mut change = self.change(group, pasid, Some(&seen), seen.domain);
        change.old_domain = old.map(|old| old.seen.domain).unwrap_or_default();
        self.enter(n, probe, Body::Change(Box::new(change)));
        self.lock(n, Lock::Group(group));
        self.add(n, move |sim, n| {
            let blocked = sim.blocked[group] > 0 && !sim.wrong(Bug::AttachBlocked);
            let fails = blocked || sim.chance(15);
            let ret = if fails { EINVAL } else { 0 };
            sim.op(n, group, pasid, seen.domain, ret);
            if !fails && handle.faulting {
                sim.join_queue(n, group);
            }
            if !fails && old.is_some_and(|old| old.faulting) {
                sim.leave_queue(n, group);
            }
            sim.add(n, move |sim, _| {
                if !fails {
                    let slot = sim.slot(group, pasid);
                    slot.before = slot.handle.or(slot.before);
                    slot.handle = Some(seen.ptr);
                    slot.hardware = Hardware::On;
                }
            });
            sim.unlock(n, Lock::Group(group));
            sim.ret(n, probe, ret);
            sim.add(n, move |sim, n| {
                // Whoever found the old handle is through before its faults are answered.
                if !sim.wrong(Bug::NoDrain) {
                    sim.wait_for_reports(n, group, pasid);
                }
                sim.add(n, move |sim, n| then(sim, n, ret));
            });
        });
    }

    /// `iommu_attach_handle_get`: the handle found now is told later. The caller is given what was found.
    pub fn look_up(
        &mut self,
        n: usize,
        group: usize,
        pasid: u32,
        fault: bool,
        then: impl FnOnce(&mut Sim, usize, Option<HandleRef>) + 'static,
    ) {
        self.add(n, move |sim, n| {
            let slot = *sim.slot(group, pasid);
            let mut found = slot.handle.and_then(|ptr| sim.handles.get(&ptr)).map(|handle| handle.seen);
            if fault && slot.hardware == Hardware::On {
                if found.is_some() && sim.wrong(Bug::MissingLookup) {
                    found = None;
                }
                let stale =
                    slot.before.filter(|before| Some(*before) != slot.handle && !sim.handles.contains_key(before));
                if let (Some(before), Some(now)) = (stale, found)
                    && sim.wrong(Bug::StaleLookup)
                {
                    found = Some(HandleRef { ptr: before, ..now });
                }
            }
            let device = sim.group_ref(group);
            let ret = if found.is_some() { 0 } else { ENOENT };
            let handle = found.unwrap_or_default();
            sim.add(n, move |sim, n| {
                let lookup = Lookup {
                    group: device.group,
                    group_id: device.group_id,
                    pasid,
                    wanted_type: 0,
                    ret,
                    handle,
                    id_ts: sim.now + 30,
                };
                sim.event(n, ProbeId::AttachHandleGet, Phase::Exit, Body::Lookup(lookup));
                then(sim, n, found);
            });
        });
    }

    /// Waits until every report of a slot that runs now is through.
    pub fn wait_for_reports(&mut self, n: usize, group: usize, pasid: u32) {
        self.add(n, move |sim, n| {
            let upto = sim.numbers;
            sim.wait(n, move |sim| !sim.reports.range(..=upto).any(|(_, &at)| at == (group, pasid)));
        });
    }

    /// The driver's op takes a reference of the fault queue for each device.
    pub fn join_queue(&mut self, n: usize, group: usize) {
        for device in self.devices_of(group) {
            self.add(n, move |sim, n| {
                sim.devices[device].faulting += 1;
                if sim.devices[device].faulting == 1 || sim.wrong(Bug::JoinTwice) {
                    let op = QueueOp { queue: IOPF_QUEUE, device: sim.devices[device].dev.device, ret: 0 };
                    sim.event(n, ProbeId::QueueAddDevice, Phase::Exit, Body::Queue(op));
                }
            });
        }
    }

    /// … and puts it. What is left of partial requests is dropped.
    pub fn leave_queue(&mut self, n: usize, group: usize) {
        for device in self.devices_of(group) {
            self.add(n, move |sim, n| {
                let op = QueueOp { queue: IOPF_QUEUE, device: sim.devices[device].dev.device, ret: 0 };
                sim.devices[device].faulting -= 1;
                if sim.devices[device].faulting > 0 {
                    return;
                }
                let times = if sim.wrong(Bug::LeaveTwice) { 2 } else { 1 };
                for _ in 0..times {
                    sim.enter(n, ProbeId::QueueRemoveDevice, Body::Queue(op));
                    sim.add(n, move |sim, _| sim.devices[device].partial.clear());
                    sim.emit(n, ProbeId::QueueRemoveDevice, Phase::Exit, Body::Queue(op));
                }
            });
        }
    }

    /// Whether a step that waits for something unlikely should stop waiting.
    fn chance_of_waiting(&self) -> bool {
        self.now.is_multiple_of(16) || self.threads.iter().all(|thread| thread.role != super::Role::Reporter)
    }
}
