//! iommufd: what a virtual machine monitor does with its devices, and the fault file.

use super::{Bug, Handle, Lock, PASIDS, Sim, core::EINVAL};
use crate::{
    event::{
        Body, Delivered, DomainType, FAULT_PAGE_REQ, FileOp, HandleRef, IommufdOp, ObjectOp, OwnerHint, Phase, ProbeId,
        Ptr,
    },
    model::testing::{BLOCKING, DEFAULT},
};

impl Sim {
    /// One thing that a virtual machine monitor does.
    pub fn vmm(&mut self, n: usize) {
        let device = self.below(self.devices.len());
        let pasid = PASIDS[self.below(PASIDS.len())];
        if !self.devices[device].bound {
            self.bind(n, device);
            return;
        }
        match self.below(20) {
            0 if self.devices[device].attached.is_empty() || self.bug == Some(Bug::UnbindAttached) => {
                self.unbind(n, device);
            }
            1 => self.destroy_queue(n),
            2..=6 => self.replace(n, device, pasid),
            7..=12 => self.detach(n, device, pasid),
            _ => self.attach(n, device, pasid),
        }
    }

    fn iommufd_op(&self, device: usize, pasid: u32) -> IommufdOp {
        let dev = &self.devices[device].dev;
        IommufdOp { idev: dev.idev, device: dev.device, ret: 0, id: Some(dev.id), pasid }
    }

    fn bind(&mut self, n: usize, device: usize) {
        let group = self.devices[device].group;
        let op = IommufdOp { device: self.devices[device].dev.device, ..IommufdOp::default() };
        self.lock(n, Lock::Igroup(group));
        self.enter(n, ProbeId::IommufdBind, Body::Iommufd(op));
        self.lock(n, Lock::Group(group));
        self.add(n, move |sim, n| {
            let first = sim.devices_of(group).iter().all(|&other| !sim.devices[other].bound);
            let again = sim.devices[device].bound;
            // SVA attaches to the group's PASIDs.
            let busy = first && sim.slots.range((group, 0)..=(group, u32::MAX)).any(|(_, slot)| slot.handle.is_some());
            if first && !busy && !again {
                sim.set_domain(n, group, BLOCKING, false, 0);
            }
            let ret = if busy || again { EINVAL } else { 0 };
            if ret == 0 {
                let id = sim.numbers as u32 + 50;
                sim.numbers += 1;
                let idev = sim.alloc();
                let bound = &mut sim.devices[device];
                (bound.bound, bound.dev.id, bound.dev.idev) = (true, id, idev);
            }
            sim.unlock(n, Lock::Group(group));
            sim.add(n, move |sim, n| {
                let op = if ret == 0 { sim.iommufd_op(device, 0) } else { IommufdOp { ret, ..op } };
                sim.event(n, ProbeId::IommufdBind, Phase::Exit, Body::Iommufd(op));
            });
        });
        self.unlock(n, Lock::Igroup(group));
    }

    fn unbind(&mut self, n: usize, device: usize) {
        let group = self.devices[device].group;
        self.lock(n, Lock::Igroup(group));
        self.add(n, move |sim, n| {
            // A group's handle has the device that was attached first, which may be detached by now. 7.3.4 lets that one
            // go; a kernel that follows the rules would not.
            let idev = sim.devices[device].dev.idev;
            let referred = sim.handles.values().any(|handle| handle.seen.idev == idev);
            let attached = referred || !sim.devices[device].attached.is_empty();
            if !sim.devices[device].bound || (attached && !(referred && sim.wrong(Bug::UnbindAttached))) {
                return;
            }
            let op = sim.iommufd_op(device, 0);
            sim.enter(n, ProbeId::IommufdUnbind, Body::Iommufd(op));
            sim.enter(n, ProbeId::IommufdDeviceDestroy, Body::Iommufd(op));
            sim.lock(n, Lock::Group(group));
            sim.add(n, move |sim, n| {
                sim.devices[device].bound = false;
                sim.devices[device].attached.clear();
                if sim.devices_of(group).iter().all(|&other| !sim.devices[other].bound) {
                    sim.set_domain(n, group, DEFAULT, false, 0);
                }
            });
            sim.unlock(n, Lock::Group(group));
            sim.ret(n, ProbeId::IommufdDeviceDestroy, 0);
            sim.add(n, move |sim, n| {
                if !attached {
                    sim.free(n, op.idev);
                }
            });
            sim.ret(n, ProbeId::IommufdUnbind, 0);
        });
        self.unlock(n, Lock::Igroup(group));
    }

    fn handle(&mut self, device: usize, pasid: u32) -> Handle {
        let ptr = self.alloc();
        let dev = self.devices[device].dev;
        self.numbers += 1;
        let seen = HandleRef {
            ptr,
            domain: Ptr(0xe000_0000_0000 + self.numbers * 0x1000),
            domain_type: DomainType::UNMANAGED,
            device: dev.device.ptr,
            idev: dev.idev,
            device_id: Some(dev.id),
            owner: OwnerHint::Iommufd,
        };
        let handle = Handle { seen, group: self.devices[device].group, pasid, faulting: self.chance(80) };
        self.handles.insert(ptr, handle);
        handle
    }

    fn drop_handle(&mut self, n: usize, ptr: Ptr) {
        self.handles.remove(&ptr);
        self.free(n, ptr);
    }

    fn held(&mut self, group: usize, pasid: u32) -> Option<Handle> {
        let ptr = self.slot(group, pasid).handle?;
        self.handles.get(&ptr).copied()
    }

    /// A call of iommufd on a device, with the device's group locked.
    fn iommufd_call(
        &mut self,
        n: usize,
        probe: ProbeId,
        device: usize,
        pasid: u32,
        body: impl FnOnce(&mut Sim, usize) + 'static,
    ) {
        let group = self.devices[device].group;
        self.lock(n, Lock::Igroup(group));
        self.add(n, move |sim, n| {
            if !sim.devices[device].bound {
                sim.unlock(n, Lock::Igroup(group));
                return;
            }
            let op = sim.iommufd_op(device, pasid);
            sim.enter(n, probe, Body::Iommufd(op));
            sim.add(n, body);
        });
    }

    fn iommufd_done(&mut self, n: usize, probe: ProbeId, group: usize, ret: i64) {
        self.ret(n, probe, ret);
        self.unlock(n, Lock::Igroup(group));
    }

    fn attach(&mut self, n: usize, device: usize, pasid: u32) {
        let group = self.devices[device].group;
        let probe = ProbeId::IommufdAttach;
        self.iommufd_call(n, probe, device, pasid, move |sim, n| {
            let held = sim.held(group, pasid);
            if sim.devices[device].attached.contains(&pasid) && sim.bug != Some(Bug::AttachOccupied) {
                sim.iommufd_done(n, probe, group, EINVAL);
                return;
            }
            // Its siblings' attachment is the device's, too.
            if held.is_some() && sim.bug != Some(Bug::AttachOccupied) {
                sim.devices[device].attached.insert(pasid);
                sim.iommufd_done(n, probe, group, 0);
                return;
            }
            let other = sim.slots.iter().find(|(key, slot)| key.0 == group && slot.handle.is_some());
            let other = other.and_then(|(_, slot)| sim.handles.get(&slot.handle?)).copied();
            let reused = other.filter(|other| other.pasid != pasid && other.seen.owner == OwnerHint::Iommufd);
            let handle = match reused {
                Some(other) if sim.wrong(Bug::ReuseHandle) => Handle { pasid, ..other },
                _ => sim.handle(device, pasid),
            };
            let ours = reused.is_none_or(|other| other.seen.ptr != handle.seen.ptr);
            let then = move |sim: &mut Sim, n: usize, ret: i64| {
                if ret == 0 {
                    sim.devices[device].attached.insert(pasid);
                } else if ours {
                    sim.drop_handle(n, handle.seen.ptr);
                }
                sim.iommufd_done(n, probe, group, ret);
            };
            sim.core_attach(n, handle, Box::new(then));
        });
    }

    fn detach(&mut self, n: usize, device: usize, pasid: u32) {
        let group = self.devices[device].group;
        let probe = ProbeId::IommufdDetach;
        self.iommufd_call(n, probe, device, pasid, move |sim, n| {
            let attached = sim.devices[device].attached.remove(&pasid);
            let last = sim.devices_of(group).iter().all(|&other| !sim.devices[other].attached.contains(&pasid));
            let Some(handle) = sim.held(group, pasid) else {
                if !attached && sim.wrong(Bug::DetachEmpty) {
                    let none = Handle { seen: HandleRef::default(), group, pasid, faulting: false };
                    sim.core_detach(n, none, Box::new(move |sim, n, _| sim.iommufd_done(n, probe, group, 0)));
                } else {
                    sim.iommufd_done(n, probe, group, 0);
                }
                return;
            };
            if !attached || !last {
                sim.iommufd_done(n, probe, group, 0);
                return;
            }
            sim.look_up(n, group, pasid, false, |_, _, _| {});
            if sim.wrong(Bug::EarlyDomainFree) {
                sim.domain_free(n, handle.seen.domain);
            }
            if sim.wrong(Bug::FreeAttached) {
                sim.add(n, move |sim, n| {
                    sim.event(n, ProbeId::Kfree, Phase::Enter, Body::Free { ptr: handle.seen.ptr });
                });
            }
            sim.core_detach(
                n,
                handle,
                Box::new(move |sim, n, _| {
                    sim.clean_up(n, handle);
                    let domain_goes = sim.chance(50);
                    if domain_goes {
                        sim.domain_free(n, handle.seen.domain);
                    }
                    sim.iommufd_done(n, probe, group, 0);
                }),
            );
        });
    }

    fn replace(&mut self, n: usize, device: usize, pasid: u32) {
        let group = self.devices[device].group;
        let probe = ProbeId::IommufdReplace;
        self.iommufd_call(n, probe, device, pasid, move |sim, n| {
            let attached = sim.devices[device].attached.contains(&pasid);
            let old = sim.held(group, pasid);
            let lawful = attached && old.is_some();
            let empty = pasid != 0 && old.is_none() && sim.wrong(Bug::ReplaceEmpty);
            let for_other = !attached && old.is_some() && sim.wrong(Bug::ReplaceForOther);
            if !lawful && !empty && !for_other {
                sim.iommufd_done(n, probe, group, EINVAL);
                return;
            }
            sim.look_up(n, group, pasid, false, |_, _, _| {});
            let handle = sim.handle(device, pasid);
            let then = move |sim: &mut Sim, n: usize, ret: i64| {
                if ret != 0 {
                    sim.drop_handle(n, handle.seen.ptr);
                } else if let Some(old) = old {
                    sim.clean_up(n, old);
                }
                if ret == 0 && empty {
                    sim.devices[device].attached.insert(pasid);
                }
                sim.iommufd_done(n, probe, group, ret);
            };
            sim.core_replace(n, old, handle, Box::new(then));
        });
    }

    fn domain_free(&mut self, n: usize, domain: Ptr) {
        let body = Body::Domain { domain, domain_type: DomainType::UNMANAGED, owner: OwnerHint::Iommufd };
        self.enter(n, ProbeId::DomainFree, body);
    }

    /// `iommufd_auto_response_faults`, and the handle's free.
    fn clean_up(&mut self, n: usize, handle: Handle) {
        let ptr = handle.seen.ptr;
        let early = self.wrong(Bug::EarlyFree);
        if early {
            self.add(n, move |sim, n| sim.event(n, ProbeId::Kfree, Phase::Enter, Body::Free { ptr }));
        }
        // Without a fault queue there is nothing to answer, and 6.12 does not even ask.
        if handle.faulting || self.features.store_after_op {
            let op = ObjectOp { object: Ptr(0x4b17), other: ptr, id: Some(9), kind: 3 };
            self.enter(n, ProbeId::AutoResponse, Body::Object(op));
            self.lock(n, Lock::Queue);
            self.add(n, move |sim, n| {
                if sim.wrong(Bug::NoAutoResponse) {
                    return;
                }
                let all = sim.wrong(Bug::AnswerOthers);
                let mine =
                    |sim: &Sim, group: &Ptr| sim.groups.get(group).is_some_and(|group| all || group.handle == ptr);
                let mut left: Vec<Ptr> = sim.deliver.iter().copied().filter(|group| mine(sim, group)).collect();
                sim.deliver.retain(|group| !left.contains(group));
                let cookies: Vec<u32> =
                    sim.response.iter().filter(|(_, group)| mine(sim, group)).map(|(&cookie, _)| cookie).collect();
                left.extend(cookies.iter().filter_map(|cookie| sim.response.remove(cookie)));
                for group in left {
                    sim.answer(n, group, 1);
                }
            });
            self.unlock(n, Lock::Queue);
            self.ret(n, ProbeId::AutoResponse, 0);
        }
        self.add(n, move |sim, n| {
            sim.handles.remove(&ptr);
            if early {
                sim.heap.push(ptr);
            } else {
                sim.free(n, ptr);
            }
        });
    }

    /// The fault queue object goes, with what is left in it; user space makes another.
    fn destroy_queue(&mut self, n: usize) {
        self.lock(n, Lock::Queue);
        self.add(n, |sim, n| {
            // Page tables hold the object, and so do reads and writes of its file.
            let wanted = sim.handles.values().any(|h| h.faulting && h.seen.owner == OwnerHint::Iommufd);
            if (wanted || sim.users > 0) && sim.bug != Some(Bug::DestroyAround) {
                return;
            }
            let op = ObjectOp { object: sim.queue, other: Ptr::NULL, id: Some(7), kind: 5 };
            sim.enter(n, ProbeId::FaultDestroy, Body::Object(op));
            sim.add(n, |sim, n| {
                let left: Vec<Ptr> = sim.deliver.drain(..).collect();
                let read: Vec<Ptr> = std::mem::take(&mut sim.response).into_values().collect();
                if !read.is_empty() && sim.wrong(Bug::DestroyAround) {
                    return;
                }
                for group in left.into_iter().chain(read) {
                    sim.answer(n, group, 1);
                }
            });
            sim.ret(n, ProbeId::FaultDestroy, 0);
            sim.add(n, |sim, _| {
                sim.numbers += 1;
                if sim.chance(50) {
                    sim.queue = Ptr(0xf0f0_0000 + sim.numbers * 0x100);
                }
            });
        });
        self.unlock(n, Lock::Queue);
    }

    /// User space reads its fault file, or answers.
    pub fn reader(&mut self, n: usize) {
        self.users += 1;
        let file = FileOp { file: Ptr(0xf11e), fault: self.queue, count: 4096, ret: 0 };
        if self.chance(50) {
            self.enter(n, ProbeId::FaultRead, Body::File(file));
            self.lock(n, Lock::Queue);
            self.add(n, move |sim, n| {
                let most = sim.below(3) + 1;
                let mut messages = Vec::new();
                for _ in 0..most {
                    let Some(group) = sim.deliver.pop_front() else { break };
                    sim.numbers += 1;
                    let cookie = sim.numbers as u32;
                    sim.response.insert(cookie, group);
                    messages.extend(sim.messages(group, cookie));
                }
                if !sim.ghosts.is_empty() && sim.wrong(Bug::DeliverFreed) {
                    messages.append(&mut sim.ghosts);
                }
                sim.unlock(n, Lock::Queue);
                let ret = 40 * messages.len() as i64;
                for message in messages {
                    sim.emit(n, ProbeId::FaultRead, Phase::Exit, Body::Delivered(message));
                }
                sim.emit(n, ProbeId::FaultRead, Phase::Exit, Body::File(FileOp { ret, ..file }));
                sim.add(n, |sim, _| sim.users -= 1);
            });
            return;
        }
        self.enter(n, ProbeId::FaultWrite, Body::File(file));
        self.lock(n, Lock::Queue);
        self.add(n, move |sim, n| {
            let cookies: Vec<u32> = sim.response.keys().copied().collect();
            if !cookies.is_empty() {
                let at = sim.below(cookies.len());
                if let Some(group) = sim.response.remove(&cookies[at]) {
                    let code = u32::from(sim.chance(30));
                    sim.answer(n, group, code);
                }
            }
            sim.unlock(n, Lock::Queue);
            sim.emit(n, ProbeId::FaultWrite, Phase::Exit, Body::File(FileOp { ret: 8, ..file }));
            sim.add(n, |sim, _| sim.users -= 1);
        });
    }

    pub fn messages(&mut self, group: Ptr, cookie: u32) -> Vec<Delivered> {
        let fault = self.queue;
        let wrong = self.wrong(Bug::WrongId);
        let Some(group) = self.groups.get_mut(&group) else { return Vec::new() };
        group.cookie = cookie;
        // Of the device that was attached first, as 7.3.4 has it, whichever of the group it was that faulted.
        let id = group.seen.device_id.unwrap_or_default() + if wrong { 1000 } else { 0 };
        let message = |(index, req): (usize, &crate::model::testing::Req)| Delivered {
            fault,
            addr: req.addr,
            index: index as u32,
            device_id: id,
            pasid: req.raw_pasid(),
            grpid: req.grpid,
            perm: FAULT_PAGE_REQ,
            flags: req.flags(),
            cookie,
        };
        group.requests.iter().enumerate().map(message).collect()
    }
}
