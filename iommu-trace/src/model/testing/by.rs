//! What one thread does, event by event.

use super::{BLOCKING, DEFAULT, DMA_OWNER, Dev, Hnd, IOPF_QUEUE, QUEUE, Req, Script};
use crate::event::{
    Body, Change, Delivered, DeviceRef, DomainType, Event, FAULT_PAGE_REQ, FaultGroup, FileOp, HandleRef, IommufdOp,
    Lookup, Name, ObjectOp, OwnerHint, PageResponse, Phase, ProbeId, Ptr, QueueOp, Report, SlotState, SlotWhat, SvaOp,
    Task,
};

/// Writes what one thread does.
#[derive(Debug)]
pub struct By<'a> {
    pub(super) script: &'a mut Script,
    pub(super) task: Task,
}

impl By<'_> {
    /// Any event.
    pub fn event(&mut self, probe: ProbeId, phase: Phase, body: Body) -> &mut Self {
        let ts = self.script.now;
        self.script.now += self.script.step;
        let stack = Some(self.script.events.len() as u32);
        self.script.events.push(Event { ts, task: self.task, probe, phase, stack, body });
        self
    }

    fn enter(&mut self, probe: ProbeId, body: Body) -> &mut Self {
        self.event(probe, Phase::Enter, body)
    }

    /// A function returns.
    pub fn ret(&mut self, probe: ProbeId, ret: i64) -> &mut Self {
        self.event(probe, Phase::Exit, Body::Return { ret })
    }

    /// Lets time pass.
    pub fn pass(&mut self, ns: u64) -> &mut Self {
        self.script.pass(ns);
        self
    }

    /// Entry of a change.
    pub fn change(&mut self, probe: ProbeId, change: Change) -> &mut Self {
        self.enter(probe, Body::Change(Box::new(change)))
    }

    /// The group's domain changes, inside another change or by itself.
    pub fn set_domain(&mut self, dev: &Dev, from: Ptr, to: Ptr, ret: i64) -> &mut Self {
        let change = Change {
            device: DeviceRef { ptr: Ptr::NULL, name: Name::default(), ..dev.device },
            domain: to,
            domain_type: if to == BLOCKING { DomainType::BLOCKED } else { DomainType::UNMANAGED },
            old_domain: from,
            ..Change::default()
        };
        self.change(ProbeId::SetDomain, change).ret(ProbeId::SetDomain, ret)
    }

    /// A change with a handle, as the core's entry sees it.
    #[must_use]
    pub fn handle_change(dev: &Dev, pasid: u32, handle: &Hnd) -> Change {
        Change {
            device: dev.device,
            handle: HandleRef { domain: Ptr::NULL, domain_type: DomainType::default(), ..handle.handle },
            domain: handle.handle.domain,
            domain_type: handle.handle.domain_type,
            domain_owner: handle.handle.owner,
            old_domain: if pasid == 0 { BLOCKING } else { Ptr::NULL },
            default_domain: DEFAULT,
            dma_owner: DMA_OWNER,
            pasid,
            ..Change::default()
        }
    }

    /// Entry of a call of iommufd.
    pub fn iommufd(&mut self, probe: ProbeId, dev: &Dev, pasid: u32) -> &mut Self {
        let op = IommufdOp { idev: dev.idev, device: dev.device, ret: 0, id: Some(dev.id), pasid };
        self.enter(probe, Body::Iommufd(op))
    }

    /// Return of a call of iommufd.
    pub fn iommufd_ret(&mut self, probe: ProbeId, ret: i64) -> &mut Self {
        self.event(probe, Phase::Exit, Body::Iommufd(IommufdOp { ret, ..IommufdOp::default() }))
    }

    /// iommufd binds a device, and takes DMA ownership of its group.
    pub fn bind(&mut self, dev: &Dev) -> &mut Self {
        self.enter(ProbeId::IommufdBind, Body::Iommufd(IommufdOp { device: dev.device, ..IommufdOp::default() }));
        self.set_domain(dev, DEFAULT, BLOCKING, 0);
        let op = IommufdOp { idev: dev.idev, device: dev.device, ret: 0, id: Some(dev.id), pasid: 0 };
        self.event(ProbeId::IommufdBind, Phase::Exit, Body::Iommufd(op))
    }

    /// iommufd lets a device go.
    pub fn unbind(&mut self, dev: &Dev) -> &mut Self {
        self.iommufd(ProbeId::IommufdUnbind, dev, 0).iommufd(ProbeId::IommufdDeviceDestroy, dev, 0);
        self.set_domain(dev, BLOCKING, DEFAULT, 0);
        self.iommufd_ret(ProbeId::IommufdDeviceDestroy, 0).iommufd_ret(ProbeId::IommufdUnbind, 0)
    }

    /// The core's attach with a handle, undisturbed.
    pub fn core_attach(&mut self, dev: &Dev, pasid: u32, handle: &Hnd, ret: i64) -> &mut Self {
        let change = Self::handle_change(dev, pasid, handle);
        if pasid != 0 {
            return self.change(ProbeId::AttachDevicePasid, change).ret(ProbeId::AttachDevicePasid, ret);
        }
        self.change(ProbeId::AttachGroupHandle, change);
        self.set_domain(dev, BLOCKING, handle.handle.domain, ret);
        self.ret(ProbeId::AttachGroupHandle, ret)
    }

    /// The core's detach of a slot with a handle, undisturbed.
    pub fn core_detach(&mut self, dev: &Dev, pasid: u32, handle: &Hnd) -> &mut Self {
        let change = Change { handle: HandleRef::default(), ..Self::handle_change(dev, pasid, handle) };
        if pasid != 0 {
            return self.change(ProbeId::DetachDevicePasid, change).ret(ProbeId::DetachDevicePasid, 0);
        }
        self.change(ProbeId::DetachGroupHandle, change);
        self.set_domain(dev, handle.handle.domain, BLOCKING, 0);
        self.ret(ProbeId::DetachGroupHandle, 0)
    }

    /// The core's replace, undisturbed.
    pub fn core_replace(&mut self, dev: &Dev, pasid: u32, old: Ptr, handle: &Hnd, ret: i64) -> &mut Self {
        let change = Change { old_domain: old, ..Self::handle_change(dev, pasid, handle) };
        if pasid != 0 {
            return self.change(ProbeId::ReplaceDevicePasid, change).ret(ProbeId::ReplaceDevicePasid, ret);
        }
        self.change(ProbeId::ReplaceGroupHandle, change);
        self.set_domain(dev, old, handle.handle.domain, ret);
        self.ret(ProbeId::ReplaceGroupHandle, ret)
    }

    /// iommufd attaches a device.
    pub fn attach(&mut self, dev: &Dev, pasid: u32, handle: &Hnd) -> &mut Self {
        self.iommufd(ProbeId::IommufdAttach, dev, pasid)
            .core_attach(dev, pasid, handle, 0)
            .iommufd_ret(ProbeId::IommufdAttach, 0)
    }

    /// iommufd detaches a device, and answers what is left of its faults.
    pub fn detach(&mut self, dev: &Dev, pasid: u32, handle: &Hnd) -> &mut Self {
        self.iommufd(ProbeId::IommufdDetach, dev, pasid)
            .lookup(dev, pasid, handle)
            .core_detach(dev, pasid, handle)
            .auto_response(handle)
            .auto_responded()
            .iommufd_ret(ProbeId::IommufdDetach, 0)
    }

    /// iommufd puts another page table under a device, and answers what is left of the old one's faults.
    pub fn replace(&mut self, dev: &Dev, pasid: u32, old: &Hnd, handle: &Hnd) -> &mut Self {
        self.iommufd(ProbeId::IommufdReplace, dev, pasid)
            .lookup(dev, pasid, old)
            .core_replace(dev, pasid, old.handle.domain, handle, 0)
            .auto_response(old)
            .auto_responded()
            .iommufd_ret(ProbeId::IommufdReplace, 0)
    }

    /// `iommufd_auto_response_faults` is entered.
    pub fn auto_response(&mut self, handle: &Hnd) -> &mut Self {
        let op = ObjectOp { object: Ptr(0x4b17), other: handle.handle.ptr, id: Some(9), kind: 3 };
        self.enter(ProbeId::AutoResponse, Body::Object(op))
    }

    /// `iommufd_auto_response_faults` returns.
    pub fn auto_responded(&mut self) -> &mut Self {
        self.ret(ProbeId::AutoResponse, 0)
    }

    /// A look-up that finds `handle`.
    pub fn lookup(&mut self, dev: &Dev, pasid: u32, handle: &Hnd) -> &mut Self {
        let lookup = Lookup {
            group: dev.device.group,
            group_id: dev.device.group_id,
            pasid,
            handle: handle.handle,
            id_ts: self.script.now + 40,
            ..Lookup::default()
        };
        self.event(ProbeId::AttachHandleGet, Phase::Exit, Body::Lookup(lookup))
    }

    /// A look-up that finds nothing.
    pub fn lookup_fails(&mut self, dev: &Dev, pasid: u32, ret: i64) -> &mut Self {
        let lookup = Lookup { group: dev.device.group, group_id: dev.device.group_id, pasid, ret, ..Lookup::default() };
        self.event(ProbeId::AttachHandleGet, Phase::Exit, Body::Lookup(lookup))
    }

    /// Entry of `iommu_report_device_fault`.
    pub fn report(&mut self, dev: &Dev, req: &Req) -> &mut Self {
        let report = Report {
            device: dev.device,
            evt: Self::evt(self.task.tid),
            kind: FAULT_PAGE_REQ,
            flags: req.flags(),
            pasid: req.raw_pasid(),
            grpid: req.grpid,
            perm: 3,
            addr: req.addr,
        };
        self.enter(ProbeId::ReportDeviceFault, Body::Report(report))
    }

    /// The `struct iopf_fault` that a thread reports.
    #[must_use]
    pub fn evt(tid: u32) -> Ptr {
        Ptr(0x5ac0_0000 + u64::from(tid) * 0x1000)
    }

    /// The report returns.
    pub fn reported(&mut self, ret: i64) -> &mut Self {
        self.ret(ProbeId::ReportDeviceFault, ret)
    }

    /// A fault group of `count` requests, the last of them `req`, passes `probe`.
    pub fn group(&mut self, probe: ProbeId, group: Ptr, dev: &Dev, req: &Req, handle: &Hnd, count: u32) -> &mut Self {
        let handler = matches!(probe, ProbeId::IommufdIopfHandler | ProbeId::SvaIopfHandler);
        let seen = FaultGroup {
            group,
            handle: handle.handle.ptr,
            domain: if handler { handle.handle.domain } else { Ptr::NULL },
            queue: if probe == ProbeId::IommufdIopfHandler { QUEUE } else { Ptr::NULL },
            device: dev.device.ptr,
            addr: req.addr,
            count,
            pasid: req.raw_pasid(),
            grpid: req.grpid,
            flags: req.flags(),
            cookie: 0,
            code: 0,
        };
        self.enter(probe, Body::FaultGroup(seen))
    }

    /// A response with `code` on its way through the core and the driver.
    pub fn respond(&mut self, group: Ptr, dev: &Dev, req: &Req, handle: &Hnd, code: u32) -> &mut Self {
        let mut by = By { script: &mut *self.script, task: self.task };
        by.group(ProbeId::GroupResponse, group, dev, req, handle, 1);
        if let Some(Event { body: Body::FaultGroup(seen), .. }) = self.script.events.last_mut() {
            seen.code = code;
        }
        self.page_response(group, dev, req, code)
    }

    /// The driver answers its device.
    pub fn page_response(&mut self, evt: Ptr, dev: &Dev, req: &Req, code: u32) -> &mut Self {
        let response = PageResponse { device: dev.device.ptr, evt, pasid: req.raw_pasid(), grpid: req.grpid, code };
        self.enter(ProbeId::MockPageResponse, Body::PageResponse(response))
    }

    /// The group is freed.
    pub fn free(&mut self, group: Ptr, dev: &Dev, req: &Req, handle: &Hnd) -> &mut Self {
        self.group(ProbeId::GroupFree, group, dev, req, handle, 1)
    }

    /// A page request reaches iommufd's fault queue: report, look-up, handler, return.
    pub fn fault(&mut self, group: Ptr, dev: &Dev, req: &Req, handle: &Hnd) -> &mut Self {
        self.report(dev, req)
            .lookup(dev, req.raw_pasid(), handle)
            .group(ProbeId::IommufdIopfHandler, group, dev, req, handle, 1)
            .reported(0)
    }

    /// Entry of `read` or `write` on a fault file.
    pub fn file(&mut self, probe: ProbeId) -> &mut Self {
        self.enter(probe, Body::File(FileOp { file: Ptr(0xf11e), fault: QUEUE, count: 4096, ret: 0 }))
    }

    /// Return of `read` or `write` on a fault file.
    pub fn file_ret(&mut self, probe: ProbeId, ret: i64) -> &mut Self {
        self.event(probe, Phase::Exit, Body::File(FileOp { file: Ptr(0xf11e), fault: QUEUE, count: 4096, ret }))
    }

    /// What was just seen was of another fault queue.
    pub fn in_queue(&mut self, queue: Ptr) -> &mut Self {
        match self.script.events.last_mut().map(|event| &mut event.body) {
            Some(Body::FaultGroup(seen)) => seen.queue = queue,
            Some(Body::Delivered(seen)) => seen.fault = queue,
            _ => {}
        }
        self
    }

    /// A message that a read gave to user space.
    pub fn message(&mut self, id: u32, req: &Req, cookie: u32) -> &mut Self {
        let message = Delivered {
            fault: QUEUE,
            index: 0,
            device_id: id,
            pasid: req.raw_pasid(),
            grpid: req.grpid,
            perm: 3,
            flags: req.flags(),
            cookie,
            addr: req.addr,
        };
        self.event(ProbeId::FaultRead, Phase::Exit, Body::Delivered(message))
    }

    /// User space reads one message.
    pub fn read(&mut self, id: u32, req: &Req, cookie: u32) -> &mut Self {
        self.file(ProbeId::FaultRead).message(id, req, cookie).file_ret(ProbeId::FaultRead, 40)
    }

    /// User space answers one group, which is freed.
    pub fn write(&mut self, group: Ptr, dev: &Dev, req: &Req, handle: &Hnd, code: u32) -> &mut Self {
        self.file(ProbeId::FaultWrite)
            .respond(group, dev, req, handle, code)
            .free(group, dev, req, handle)
            .file_ret(ProbeId::FaultWrite, 8)
    }

    /// A device joins a fault queue.
    pub fn queue_add(&mut self, dev: &Dev, ret: i64) -> &mut Self {
        let op = QueueOp { queue: IOPF_QUEUE, device: dev.device, ret };
        self.event(ProbeId::QueueAddDevice, Phase::Exit, Body::Queue(op))
    }

    /// A device begins to leave its fault queue.
    pub fn queue_remove(&mut self, dev: &Dev) -> &mut Self {
        self.enter(ProbeId::QueueRemoveDevice, Body::Queue(QueueOp { queue: IOPF_QUEUE, device: dev.device, ret: 0 }))
    }

    /// A device has left its fault queue.
    pub fn queue_removed(&mut self, dev: &Dev) -> &mut Self {
        let op = QueueOp { queue: IOPF_QUEUE, device: dev.device, ret: 0 };
        self.event(ProbeId::QueueRemoveDevice, Phase::Exit, Body::Queue(op))
    }

    /// An iommufd fault queue object begins to go.
    pub fn fault_destroy(&mut self) -> &mut Self {
        self.enter(
            ProbeId::FaultDestroy,
            Body::Object(ObjectOp { object: QUEUE, other: Ptr::NULL, id: Some(7), kind: 5 }),
        )
    }

    /// It is gone.
    pub fn fault_destroyed(&mut self) -> &mut Self {
        self.ret(ProbeId::FaultDestroy, 0)
    }

    /// Entry of `iommu_sva_bind_device` or `iommu_sva_unbind_device`.
    pub fn sva(&mut self, probe: ProbeId, dev: &Dev, bond: Option<&Hnd>, pasid: u32, users: u32) -> &mut Self {
        self.enter(probe, Body::Sva(Box::new(Self::sva_op(dev, bond, pasid, users, 0))))
    }

    /// Return of `iommu_sva_bind_device`.
    pub fn sva_bound(&mut self, dev: &Dev, bond: Option<&Hnd>, pasid: u32, users: u32, ret: i64) -> &mut Self {
        self.event(ProbeId::SvaBind, Phase::Exit, Body::Sva(Box::new(Self::sva_op(dev, bond, pasid, users, ret))))
    }

    fn sva_op(dev: &Dev, bond: Option<&Hnd>, pasid: u32, users: u32, ret: i64) -> SvaOp {
        SvaOp {
            device: dev.device,
            handle: bond.map(|bond| bond.handle).unwrap_or_default(),
            mm: Ptr(0x3333_0000),
            ret,
            pasid: Some(pasid),
            users,
        }
    }

    /// A device joins or leaves its group, or begins or ends a reset.
    pub fn device(&mut self, probe: ProbeId, dev: &Dev) -> &mut Self {
        self.enter(probe, Body::Device(dev.device))
    }

    /// A reset's prepare returns, with so many devices of the group blocked where the kernel tells.
    pub fn prepared(&mut self, ret: i64, recovering: Option<u32>) -> &mut Self {
        self.event(ProbeId::ResetPrepare, Phase::Exit, Body::Prepared { ret, recovering })
    }

    /// A domain is freed.
    pub fn domain_free(&mut self, domain: Ptr) -> &mut Self {
        let body = Body::Domain { domain, domain_type: DomainType::UNMANAGED, owner: OwnerHint::Iommufd };
        self.enter(ProbeId::DomainFree, body)
    }

    /// The snapshot of a group begins: its current domain is `domain`.
    pub fn snapshot_begin(&mut self, dev: &Dev, domain: Ptr) -> &mut Self {
        let domain_type = if domain == BLOCKING { DomainType::BLOCKED } else { DomainType::DMA };
        let state =
            SlotState { what: SlotWhat::Group, device: dev.device, domain, domain_type, ..SlotState::default() };
        self.enter(ProbeId::GroupShowType, Body::Slot(Box::new(state)));
        let state = SlotState { what: SlotWhat::DefaultDomain, domain: DEFAULT, domain_type: DomainType::DMA, ..state };
        self.enter(ProbeId::GroupShowType, Body::Slot(Box::new(state)))
    }

    /// A piece of the snapshot: a handle that was attached before the trace.
    pub fn snapshot_entry(&mut self, dev: &Dev, pasid: u32, handle: &Hnd) -> &mut Self {
        let state = SlotState {
            what: SlotWhat::Entry,
            device: dev.device,
            handle: handle.handle,
            domain: handle.handle.domain,
            domain_type: handle.handle.domain_type,
            domain_owner: handle.handle.owner,
            pasid,
            users: 1,
        };
        self.enter(ProbeId::GroupShowType, Body::Slot(Box::new(state)))
    }

    /// The snapshot of a group is complete.
    pub fn snapshot_end(&mut self, dev: &Dev) -> &mut Self {
        let state = SlotState { what: SlotWhat::End, device: dev.device, ..SlotState::default() };
        self.enter(ProbeId::GroupShowType, Body::Slot(Box::new(state)))
    }

    /// Watched memory is freed.
    pub fn kfree(&mut self, ptr: Ptr) -> &mut Self {
        self.enter(ProbeId::Kfree, Body::Free { ptr })
    }

    /// Records of `probe` were lost before now.
    pub fn lost(&mut self, probe: ProbeId, phase: Phase, count: u64) -> &mut Self {
        self.event(probe, phase, Body::Lost { count })
    }
}
