//! Reports, fault groups and their answers.

use super::{Bug, FaultGroup, Hardware, PASIDS, SVA_PASIDS, Sim, core::EINVAL};
use crate::{
    event::{self, Body, FAULT_PAGE_REQ, HandleRef, OwnerHint, PageResponse, ProbeId, Ptr, Report},
    model::testing::{By, Req},
};

impl Sim {
    /// A device asks for a page, or for several of one group.
    pub fn reporter(&mut self, n: usize) {
        let device = self.below(self.devices.len());
        let group = self.devices[device].group;
        let sva = self.chance(25);
        let pasid = if sva { SVA_PASIDS[self.below(SVA_PASIDS.len())] } else { PASIDS[self.below(PASIDS.len())] };
        let hardware = self.slot(group, pasid).hardware;
        match hardware {
            Hardware::Busy => return,
            Hardware::Off if !self.chance(10) => return,
            Hardware::Off | Hardware::On => {}
        }
        let grpid = self.below(4) as u32;
        let addr = (self.below(8) * 0x1000) as u64;
        let last = self.chance(80);
        let req = Req { pasid: (pasid != 0).then_some(pasid), grpid, addr, last };
        self.numbers += 1;
        let number = self.numbers;
        self.reports.insert(number, (group, pasid));
        self.report(n, device, req, number);
    }

    fn report(&mut self, n: usize, device: usize, req: Req, number: u64) {
        let group = self.devices[device].group;
        let pasid = req.raw_pasid();
        let tid = self.threads[n].task.tid;
        let report = Report {
            device: self.devices[device].dev.device,
            evt: By::evt(tid),
            kind: FAULT_PAGE_REQ,
            flags: req.flags(),
            pasid,
            grpid: req.grpid,
            perm: 1,
            addr: req.addr,
        };
        self.enter(n, ProbeId::ReportDeviceFault, Body::Report(report));
        self.add(n, move |sim, n| {
            let searched = if sim.wrong(Bug::WrongGroup) { (group + 1) % super::GROUPS } else { group };
            sim.look_up(n, searched, pasid, true, move |sim, n, found| sim.looked_up(n, device, req, found));
        });
        self.add(n, move |sim, _| {
            sim.reports.remove(&number);
        });
    }

    fn reported(&mut self, n: usize, ret: i64) {
        self.ret(n, ProbeId::ReportDeviceFault, ret);
    }

    fn looked_up(&mut self, n: usize, device: usize, req: Req, found: Option<HandleRef>) {
        let tid = self.threads[n].task.tid;
        if self.chance(5) {
            // Held up.
            let until = self.now + 100 * self.pace;
            self.wait(n, move |sim| sim.now > until || sim.is_settling());
        }
        // A handle that is wrong may be of no one; then its memory happens to look like a faulting one's.
        let handles = |found: &HandleRef| self.handles.get(&found.ptr).is_none_or(|handle| handle.faulting);
        let joined = self.devices[device].faulting > 0;
        let Some(handle) = found.filter(handles).filter(|_| joined) else {
            if !self.wrong(Bug::NoErrorResponse) || !req.last {
                let code = u32::from(!self.wrong(Bug::WrongErrorCode));
                self.page_response(n, By::evt(tid), device, req, code);
            }
            self.reported(n, EINVAL);
            return;
        };
        if !req.last {
            self.add(n, move |sim, _| {
                // The queue may have been left since.
                if sim.devices[device].faulting > 0 {
                    sim.devices[device].partial.push(req);
                }
            });
            self.reported(n, 0);
            return;
        }
        self.add(n, move |sim, n| sim.fault_group(n, device, req, handle));
    }

    fn fault_group(&mut self, n: usize, device: usize, req: Req, handle: HandleRef) {
        let partial = std::mem::take(&mut self.devices[device].partial);
        let (mut requests, others): (Vec<Req>, Vec<Req>) = partial.into_iter().partition(|r| r.grpid == req.grpid);
        self.devices[device].partial = others;
        if !requests.is_empty() && self.wrong(Bug::LosePartial) {
            requests.clear();
        }
        requests.push(req);
        let sva = handle.owner == OwnerHint::Sva;
        if self.chance(3) {
            // No memory: the core aborts with a group on the stack.
            let stack = Ptr(0xffff_c900_0000_0000 + n as u64 * 0x4000);
            self.groups.insert(stack, FaultGroup { device, requests, handle: handle.ptr, seen: handle, cookie: 0 });
            self.respond(n, stack, 2);
            self.add(n, move |sim, _| {
                sim.groups.remove(&stack);
            });
            self.reported(n, 0);
            return;
        }
        let group = self.alloc();
        self.groups.insert(group, FaultGroup { device, requests, handle: handle.ptr, seen: handle, cookie: 0 });
        let domain = if self.wrong(Bug::WrongDomain) { Ptr(0xbad0) } else { handle.domain };
        let probe = if sva { ProbeId::SvaIopfHandler } else { ProbeId::IommufdIopfHandler };
        self.group_event(n, probe, group, domain, 0);
        if sva {
            self.add(n, move |sim, _| sim.work.push_back(group));
        } else {
            self.group_event(n, ProbeId::GroupDequeue, group, Ptr::NULL, 0);
            self.add(n, move |sim, _| {
                if !sim.wrong(Bug::LoseFault) {
                    sim.deliver.push_back(group);
                }
            });
        }
        self.reported(n, 0);
    }

    fn group_event(&mut self, n: usize, probe: ProbeId, group: Ptr, domain: Ptr, code: u32) {
        let Some(known) = self.groups.get(&group) else { return };
        let Some(last) = known.requests.last() else { return };
        let seen = event::FaultGroup {
            group,
            handle: known.handle,
            domain,
            queue: if probe == ProbeId::IommufdIopfHandler { self.queue } else { Ptr::NULL },
            device: self.devices[known.device].dev.device.ptr,
            addr: last.addr,
            count: known.requests.len() as u32,
            pasid: last.raw_pasid(),
            grpid: last.grpid,
            flags: last.flags(),
            cookie: known.cookie,
            code,
        };
        self.enter(n, probe, Body::FaultGroup(seen));
    }

    fn page_response(&mut self, n: usize, evt: Ptr, device: usize, req: Req, code: u32) {
        let response = PageResponse {
            device: self.devices[device].dev.device.ptr,
            evt,
            pasid: req.raw_pasid(),
            grpid: req.grpid,
            code,
        };
        self.enter(n, ProbeId::MockPageResponse, Body::PageResponse(response));
    }

    /// `iopf_group_response`.
    fn respond(&mut self, n: usize, group: Ptr, code: u32) {
        let Some(known) = self.groups.get(&group) else { return };
        let (device, Some(&last)) = (known.device, known.requests.last()) else { return };
        self.group_event(n, ProbeId::GroupResponse, group, Ptr::NULL, code);
        let grpid = last.grpid ^ u32::from(self.wrong(Bug::AnswerOther));
        self.page_response(n, group, device, Req { grpid, ..last }, code);
    }

    /// A group is answered and freed.
    pub fn answer(&mut self, n: usize, group: Ptr, code: u32) {
        if !self.wrong(Bug::DropAnswer) {
            self.respond(n, group, code);
        }
        if self.wrong(Bug::AnswerTwice) {
            self.respond(n, group, code);
        }
        if self.wrong(Bug::LeakGroup) {
            return;
        }
        self.group_event(n, ProbeId::GroupFree, group, Ptr::NULL, 0);
        if self.wrong(Bug::FreeGroupTwice) {
            self.group_event(n, ProbeId::GroupFree, group, Ptr::NULL, 0);
        }
        if self.wrong(Bug::AnswerFreed) {
            self.respond(n, group, code);
        }
        if self.wrong(Bug::AnswerNothing) {
            let device = self.groups.get(&group).map_or(0, |group| group.device);
            let req = Req { pasid: Some(77), grpid: 99, addr: 0, last: true };
            self.page_response(n, Ptr(0x7777), device, req, code);
        }
        self.add(n, move |sim, n| {
            if sim.bug == Some(Bug::DeliverFreed) {
                sim.remember(group);
            }
            sim.groups.remove(&group);
            sim.free(n, group);
        });
    }

    /// A group that user space was told of goes, and stays on the list of those to be told.
    fn remember(&mut self, group: Ptr) {
        if self.groups.get(&group).is_some_and(|group| group.cookie != 0) {
            self.numbers += 1;
            self.ghosts = self.messages(group, self.numbers as u32);
        }
    }

    /// The work queue of SVA's faults.
    pub fn worker(&mut self, n: usize) {
        if let Some(group) = self.work.pop_front() {
            let code = u32::from(self.chance(20));
            self.add(n, move |sim, n| sim.answer(n, group, code));
        }
    }

    /// Whether nothing new is begun.
    fn is_settling(&self) -> bool {
        self.settling
    }

    /// The time goes on, without anything happening.
    pub fn pass(&mut self, ns: u64) -> u64 {
        self.now += ns;
        self.now
    }

    /// User space closes everything: what is left is answered.
    pub fn close(&mut self, n: usize) {
        let left: Vec<Ptr> = self.deliver.drain(..).collect();
        let read: Vec<Ptr> = std::mem::take(&mut self.response).into_values().collect();
        let work: Vec<Ptr> = self.work.drain(..).collect();
        for group in left.into_iter().chain(read).chain(work) {
            self.answer(n, group, 1);
        }
        self.put_added(n);
    }
}
