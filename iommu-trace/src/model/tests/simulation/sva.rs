//! Shared virtual addressing: drivers bind and unbind address spaces. And resets.

use super::{Bond, Bug, Handle, Lock, SVA_PASIDS, Sim};
use crate::event::{Body, DomainType, HandleRef, OwnerHint, Phase, ProbeId, Ptr, SvaOp};

impl Sim {
    fn sva_op(&self, device: usize, handle: Option<Ptr>, pasid: u32, users: u32, ret: i64) -> SvaOp {
        let known = handle.and_then(|handle| self.handles.get(&handle)).map(|handle| handle.seen);
        SvaOp {
            device: self.devices[device].dev.device,
            handle: known.unwrap_or_default(),
            mm: Ptr(0x3333_0000 + u64::from(pasid)),
            ret,
            pasid: Some(pasid),
            users,
        }
    }

    /// A driver binds or unbinds one of its address spaces.
    pub fn binder(&mut self, n: usize) {
        let device = self.devices.len() - 1;
        let pasid = SVA_PASIDS[self.below(SVA_PASIDS.len())];
        if self.chance(50) {
            self.sva_bind(n, device, pasid);
        } else {
            self.sva_unbind(n, device, pasid);
        }
    }

    fn users(&self, pasid: u32) -> u32 {
        self.bonds.get(&pasid).map_or(0, |bond| bond.users)
    }

    fn sva_bind(&mut self, n: usize, device: usize, pasid: u32) {
        let group = self.devices[device].group;
        let op = self.sva_op(device, None, pasid, 0, 0);
        self.enter(n, ProbeId::SvaBind, Body::Sva(Box::new(op)));
        self.lock(n, Lock::Sva);
        self.look_up(n, group, pasid, false, move |sim, n, _| {
            if let Some(&Bond { handle, users }) = sim.bonds.get(&pasid) {
                let more = u32::from(!sim.wrong(Bug::NoReference));
                sim.bonds.insert(pasid, Bond { handle, users: users + more });
                sim.sva_bound(n, device, pasid, 0);
                return;
            }
            let seen = HandleRef {
                ptr: sim.alloc(),
                domain: Ptr(0x5a_0000_0000 + u64::from(pasid) * 0x1000),
                domain_type: DomainType::SVA,
                device: sim.devices[device].dev.device.ptr,
                owner: OwnerHint::Sva,
                ..HandleRef::default()
            };
            let handle = Handle { seen, group, pasid, faulting: true };
            sim.handles.insert(seen.ptr, handle);
            let then = move |sim: &mut Sim, n: usize, ret: i64| {
                if ret == 0 {
                    sim.bonds.insert(pasid, Bond { handle: seen.ptr, users: 1 });
                } else {
                    sim.handles.remove(&seen.ptr);
                    sim.free(n, seen.ptr);
                }
                sim.sva_bound(n, device, pasid, ret);
            };
            sim.core_attach(n, handle, Box::new(then));
        });
    }

    fn sva_bound(&mut self, n: usize, device: usize, pasid: u32, ret: i64) {
        let handle = self.bonds.get(&pasid).map(|bond| bond.handle).filter(|_| ret == 0);
        self.unlock(n, Lock::Sva);
        self.add(n, move |sim, n| {
            // Read at the return, as the probe does; the bond may have more users by then, or be gone.
            let alive = handle.filter(|handle| sim.handles.contains_key(handle));
            let users = if sim.bonds.get(&pasid).map(|bond| bond.handle) == handle { sim.users(pasid) } else { 0 };
            let mut op = sim.sva_op(device, alive, pasid, users, ret);
            op.handle.ptr = handle.unwrap_or_default();
            if ret == 0 && sim.wrong(Bug::Incomplete) {
                op.handle.device = Ptr::NULL;
            }
            sim.event(n, ProbeId::SvaBind, Phase::Exit, Body::Sva(Box::new(op)));
            if ret == 0 {
                sim.held.push(pasid);
            }
        });
    }

    fn sva_unbind(&mut self, n: usize, device: usize, pasid: u32) {
        // Only who has bound unbinds.
        let Some(at) = self.held.iter().position(|&held| held == pasid) else { return };
        self.held.swap_remove(at);
        let Some(&Bond { handle, .. }) = self.bonds.get(&pasid) else { return };
        let group = self.devices[device].group;
        self.add(n, move |sim, n| {
            let op = sim.sva_op(device, Some(handle), pasid, sim.users(pasid), 0);
            sim.event(n, ProbeId::SvaUnbind, Phase::Enter, Body::Sva(Box::new(op)));
        });
        self.lock(n, Lock::Sva);
        self.add(n, move |sim, n| {
            let users = sim.users(pasid).saturating_sub(1);
            sim.bonds.insert(pasid, Bond { handle, users });
            // A bond that was detached too early is gone; its memory may be another handle's by now.
            let known = sim.handles.get(&handle).copied();
            let Some(known) = known.filter(|known| (known.group, known.pasid) == (group, pasid)) else {
                sim.unlock(n, Lock::Sva);
                sim.ret(n, ProbeId::SvaUnbind, 0);
                return;
            };
            let early = users > 0 && sim.wrong(Bug::EarlyDetach);
            let late = users == 0 && sim.wrong(Bug::LateDetach);
            if (users > 0 && !early) || late {
                sim.unlock(n, Lock::Sva);
                sim.ret(n, ProbeId::SvaUnbind, 0);
                return;
            }
            let then = move |sim: &mut Sim, n: usize, _| {
                let body =
                    Body::Domain { domain: known.seen.domain, domain_type: DomainType::SVA, owner: OwnerHint::Sva };
                sim.enter(n, ProbeId::DomainFree, body);
                sim.add(n, move |sim, _| {
                    sim.bonds.remove(&pasid);
                    if early {
                        sim.held.retain(|&held| held != pasid);
                    }
                });
                sim.unlock(n, Lock::Sva);
                sim.add(n, move |sim, n| {
                    sim.handles.remove(&handle);
                    sim.free(n, handle);
                });
                sim.ret(n, ProbeId::SvaUnbind, 0);
            };
            sim.core_detach(n, known, Box::new(then));
        });
    }

    /// A device is reset.
    pub fn resetter(&mut self, n: usize) {
        let device = self.below(self.devices.len());
        let dev = self.devices[device].dev.device;
        if self.chance(90) {
            return;
        }
        self.enter(n, ProbeId::ResetPrepare, Body::Device(dev));
        let fails = self.chance(10);
        let group = self.devices[device].group;
        // The second device has no ATS, and is left alone.
        let blocks = device != 1 && !fails;
        self.lock(n, Lock::Group(group));
        self.add(n, move |sim, _| sim.blocked[group] += u32::from(blocks));
        self.unlock(n, Lock::Group(group));
        self.add(n, move |sim, n| {
            let body = Body::Prepared { ret: if fails { -12 } else { 0 }, recovering: Some(sim.blocked[group]) };
            sim.event(n, ProbeId::ResetPrepare, Phase::Exit, body);
        });
        if fails {
            return;
        }
        let until = self.now + 100 * self.pace;
        self.wait(n, move |sim| sim.now > until || sim.settling);
        self.enter(n, ProbeId::ResetDone, Body::Device(dev));
        self.lock(n, Lock::Group(group));
        self.add(n, move |sim, _| sim.blocked[group] -= u32::from(blocks));
        self.unlock(n, Lock::Group(group));
        if self.wrong(Bug::DoneTwice) {
            self.enter(n, ProbeId::ResetDone, Body::Device(dev));
        }
    }
}
