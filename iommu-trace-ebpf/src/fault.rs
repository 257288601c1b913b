//! I/O page faults from report to free, and fault queues.

use aya_ebpf::EbpfContext;
use iommu_trace_common::{
    FAULT_PAGE_REQ, Field, Phase, ProbeId,
    record::{Group, Interrupt, PageResponse, Queue, Report, Return},
};

use crate::{
    filter,
    free::watch,
    out::{emit, emit_often, set},
    probe::{Args, Ret, on_call_either, on_enter, on_enter_either, on_exit, on_return_either},
    read::{self, get, offset, ptr, setting},
};

/// Whether what is reported is a page request. Before 6.8 unrecoverable faults could be, too, which SMMUv3's driver did: its
/// event queue tells them. What is reported begins with its `struct iommu_fault` in every kernel.
#[inline(always)]
fn is_request(ctx: &impl Args) -> bool {
    offset(Field::FaultKind).is_none() || ctx.member::<u32>(ctx.arg(1), Field::FaultKind) == setting!(page_request)
}

// int iommu_report_device_fault(struct device *dev, struct iopf_fault *evt)
#[inline(always)]
fn report(ctx: &impl Args) {
    let evt = ctx.arg(1);
    if !is_request(ctx) || filter::is_unwanted_device(ctx, || ctx.arg(0)) {
        return;
    }
    emit_often(ctx, ProbeId::ReportDeviceFault, Phase::Enter, |record: *mut Report| {
        set!(record, { evt: evt });
        // SAFETY: the places are this record's.
        let (device, request) = unsafe { (&raw mut (*record).device, &raw mut (*record).request) };
        read::device_by(ctx.direct(), device, ctx.arg(0));
        read::request_into(ctx.direct(), request, evt);
        if offset(Field::FaultType).is_some() {
            set!(request, { kind: FAULT_PAGE_REQ });
        }
    });
}
#[inline(always)]
fn reported(ctx: &(impl Args + Ret)) {
    // The caller's event is still there.
    if is_request(ctx) && !filter::is_unwanted_device(ctx, || ctx.arg(0)) {
        let ret = ctx.ret() as i32 as i64;
        emit_often(ctx, ProbeId::ReportDeviceFault, Phase::Exit, |record: *mut Return| set!(record, { ret: ret }));
    }
}
on_call_either!(
    ReportDeviceFault,
    (report_device_fault_enter, report_device_fault_kprobe, report),
    (report_device_fault_exit, report_device_fault_kretprobe, reported)
);

#[inline(always)]
fn group(ctx: &impl Args, probe: ProbeId, follow: bool, code: u32) {
    let group = ctx.arg(0);
    if filter::is_unwanted_device(ctx, || ctx.member(ctx.member(group, Field::IopfGroupParam), Field::FaultParamDev)) {
        return;
    }
    if matches!(probe, ProbeId::IommufdIopfHandler) && setting!(filter) != 0 {
        let handle = ctx.member(group, Field::IopfGroupHandle);
        let queue = fault_queue(ctx, ctx.member(handle, Field::HandleDomain));
        filter::will_be_told(queue, || get(ptr(handle, Field::IommufdHandleIdev), Field::IdevId).unwrap_or(0));
    }
    emit_often(ctx, probe, Phase::Enter, |record: *mut Group| {
        if follow {
            watch(group);
        }
        let handle = ctx.member(group, Field::IopfGroupHandle);
        // Past the handler the handle may be gone: only there is it followed.
        let domain = if follow { ctx.member(handle, Field::HandleDomain) } else { 0 };
        set!(record, {
            group: group,
            handle: handle,
            domain: domain,
            queue: if matches!(probe, ProbeId::IommufdIopfHandler) { fault_queue(ctx, domain) } else { 0 },
            code: code,
            device: ctx.member(ctx.member(group, Field::IopfGroupParam), Field::FaultParamDev),
            count: ctx.member(group, Field::IopfGroupCount),
            cookie: ctx.member(group, Field::IopfGroupCookie),
        });
        // SAFETY: the place is this record's. The group's first member is its last fault.
        read::request_into(ctx.direct(), unsafe { &raw mut (*record).request }, group);
    });
}

/// The `struct iommufd_fault` of the page table behind one of iommufd's domains. Where there is a `fault_data`, that leads
/// to it, else `iommufd_hwpt`.
#[inline(always)]
fn fault_queue(ctx: &impl Args, domain: u64) -> u64 {
    let data = if offset(Field::DomainFaultData).is_some() { Field::DomainFaultData } else { Field::DomainIommufdHwpt };
    let hwpt = ctx.member(domain, data);
    ptr(hwpt, Field::HwptFault)
}

// int iommufd_fault_iopf_handler(struct iopf_group *group)
#[inline(always)]
fn iommufd_handler(ctx: &impl Args) {
    group(ctx, ProbeId::IommufdIopfHandler, true, 0);
}
on_enter_either!(iommufd_handler_enter, iommufd_handler_kprobe, iommufd_handler);

// static int iommu_sva_iopf_handler(struct iopf_group *group)
#[inline(always)]
fn sva_handler(ctx: &impl Args) {
    group(ctx, ProbeId::SvaIopfHandler, true, 0);
}
on_enter!(sva_handler_enter, sva_handler);

// void iopf_group_response(struct iopf_group *group, enum iommu_page_response_code status)
#[inline(always)]
fn group_response(ctx: &impl Args) {
    group(ctx, ProbeId::GroupResponse, false, ctx.arg(1) as u32);
}
on_enter!(group_response_enter, group_response);

// void iopf_free_group(struct iopf_group *group)
#[inline(always)]
fn group_free(ctx: &impl Args) {
    group(ctx, ProbeId::GroupFree, false, 0);
}
on_enter!(group_free_enter, group_free);

// void iopf_group_dequeue(struct iopf_group *group)
#[inline(always)]
fn group_dequeue(ctx: &impl Args) {
    group(ctx, ProbeId::GroupDequeue, false, 0);
}
on_enter!(group_dequeue_enter, group_dequeue);

#[inline(always)]
fn page_response(ctx: &impl Args, probe: ProbeId) {
    if filter::is_unwanted_device(ctx, || ctx.arg(0)) {
        return;
    }
    emit_often(ctx, probe, Phase::Enter, |record: *mut PageResponse| {
        set!(record, { device: ctx.arg(0), evt: ctx.arg(1), pad: 0 });
        // SAFETY: the place is this record's.
        read::copy(unsafe { &raw mut (*record).answer }, ctx.arg(2), Field::ResponsePasid);
    });
}

// (*page_response)(struct device *dev, struct iopf_fault *evt, struct iommu_page_response *msg)
#[inline(always)]
fn mock_page_response(ctx: &impl Args) {
    page_response(ctx, ProbeId::MockPageResponse);
}
on_enter_either!(mock_page_response_enter, mock_page_response_kprobe, mock_page_response);
#[inline(always)]
fn intel_page_response(ctx: &impl Args) {
    page_response(ctx, ProbeId::IntelPageResponse);
}
on_enter!(intel_page_response_enter, intel_page_response);
#[inline(always)]
fn amd_page_response(ctx: &impl Args) {
    page_response(ctx, ProbeId::AmdPageResponse);
}
on_enter!(amd_page_response_enter, amd_page_response);
#[inline(always)]
fn smmu_page_response(ctx: &impl Args) {
    page_response(ctx, ProbeId::SmmuPageResponse);
}
on_enter_either!(smmu_page_response_enter, smmu_page_response_kprobe, smmu_page_response);

#[inline(always)]
fn queue(ctx: &impl EbpfContext, probe: ProbeId, phase: Phase, queue: u64, dev: u64, ret: i64) {
    emit(ctx, probe, phase, |record: *mut Queue| {
        set!(record, { queue: queue, ret: ret });
        // SAFETY: the place is this record's.
        read::device_into(unsafe { &raw mut (*record).device }, dev);
    });
}

// int iopf_queue_add_device(struct iopf_queue *queue, struct device *dev)
#[inline(always)]
fn queue_added(ctx: &(impl Args + Ret)) {
    queue(ctx, ProbeId::QueueAddDevice, Phase::Exit, ctx.arg(0), ctx.arg(1), ctx.ret() as i32 as i64);
}
on_return_either!(
    QueueAddDevice,
    queue_add_device_kprobe,
    (queue_add_device_exit, queue_add_device_kretprobe, queue_added)
);

// void iopf_queue_remove_device(struct iopf_queue *queue, struct device *dev): int before 6.11
#[inline(always)]
fn queue_remove(ctx: &impl Args) {
    queue(ctx, ProbeId::QueueRemoveDevice, Phase::Enter, ctx.arg(0), ctx.arg(1), 0);
}
#[inline(always)]
fn queue_removed(ctx: &impl Args) {
    queue(ctx, ProbeId::QueueRemoveDevice, Phase::Exit, ctx.arg(0), ctx.arg(1), 0);
}
on_call_either!(
    QueueRemoveDevice,
    (queue_remove_device_enter, queue_remove_device_kprobe, queue_remove),
    (queue_remove_device_exit, queue_remove_device_kretprobe, queue_removed)
);

// int iopf_queue_flush_dev(struct device *dev)
#[inline(always)]
fn queue_flushed(ctx: &(impl Args + Ret)) {
    queue(ctx, ProbeId::QueueFlushDev, Phase::Exit, 0, ctx.arg(0), ctx.ret() as i32 as i64);
}
on_return_either!(
    QueueFlushDev,
    queue_flush_dev_kprobe,
    (queue_flush_dev_exit, queue_flush_dev_kretprobe, queue_flushed)
);

// int iopf_queue_discard_partial(struct iopf_queue *queue)
#[inline(always)]
fn queue_discarded(ctx: &(impl Args + Ret)) {
    queue(ctx, ProbeId::QueueDiscardPartial, Phase::Exit, ctx.arg(0), 0, ctx.ret() as i32 as i64);
}
on_return_either!(
    QueueDiscardPartial,
    queue_discard_partial_kprobe,
    (queue_discard_partial_exit, queue_discard_partial_kretprobe, queue_discarded)
);

// void iopf_queue_free(struct iopf_queue *queue)
#[inline(always)]
fn queue_free(ctx: &impl Args) {
    queue(ctx, ProbeId::QueueFree, Phase::Enter, ctx.arg(0), 0, 0);
}
on_enter_either!(queue_free_enter, queue_free_kprobe, queue_free);

// static irqreturn_t prq_event_thread(int irq, void *d)
#[inline(always)]
fn prq_event(ctx: &impl Args) {
    emit_often(
        ctx,
        ProbeId::PrqEventThread,
        Phase::Enter,
        |record: *mut Interrupt| set!(record, { iommu: ctx.arg(1) }),
    );
}
#[inline(always)]
fn prq_event_over(ctx: &impl Args) {
    emit_often(ctx, ProbeId::PrqEventThread, Phase::Exit, |record: *mut Interrupt| set!(record, { iommu: ctx.arg(1) }));
}
on_enter!(prq_event_thread_enter, prq_event);
on_exit!(prq_event_thread_exit, prq_event_over);
