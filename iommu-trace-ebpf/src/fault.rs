//! I/O page faults from report to free, fault queues, and the hardware's unrecoverable faults.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use iommu_trace_common::{
    Field, MAX_DMA_FAULTS, NO_ID, Phase, ProbeId,
    record::{DmaFault, Group, IoPageFault, PageResponse, Queue, Report, Return},
};

use crate::{
    out::{emit, emit_at, now},
    probe::{Args, Ret, on_enter, on_enter_either, on_exit},
    read::{self, get, ptr},
};

// int iommu_report_device_fault(struct device *dev, struct iopf_fault *evt)
#[inline(always)]
fn report(ctx: &impl Args) {
    let ts = now();
    let evt = ctx.arg(1);
    emit_at(
        ctx,
        ProbeId::ReportDeviceFault,
        Phase::Enter,
        ts,
        Report {
            device: read::device(ctx.arg(0)),
            evt,
            addr: get(evt, Field::FaultAddr).unwrap_or(0),
            kind: get(evt, Field::FaultType).unwrap_or(0),
            flags: get(evt, Field::FaultFlags).unwrap_or(0),
            pasid: get(evt, Field::FaultPasid).unwrap_or(0),
            grpid: get(evt, Field::FaultGrpid).unwrap_or(0),
            perm: get(evt, Field::FaultPerm).unwrap_or(0),
            pad: 0,
        },
    );
}
#[inline(always)]
fn reported(ctx: &impl Ret) {
    emit(ctx, ProbeId::ReportDeviceFault, Phase::Exit, Return { ret: ctx.ret() as i32 as i64 });
}
on_enter!(report_device_fault_enter, report);
on_exit!(report_device_fault_exit, reported);

#[inline(always)]
fn group(ctx: &impl Args, probe: ProbeId, follow: bool, code: u32) {
    let ts = now();
    let group = ctx.arg(0);
    let handle = ptr(group, Field::IopfGroupHandle);
    emit_at(
        ctx,
        probe,
        Phase::Enter,
        ts,
        Group {
            group,
            handle,
            // Past the handler the handle may be gone: only there is it followed.
            domain: if follow { ptr(handle, Field::HandleDomain) } else { 0 },
            device: ptr(ptr(group, Field::IopfGroupParam), Field::FaultParamDev),
            // The group's first member is its last fault.
            addr: get(group, Field::FaultAddr).unwrap_or(0),
            count: get::<u64>(group, Field::IopfGroupCount).unwrap_or(0) as u32,
            pasid: get(group, Field::FaultPasid).unwrap_or(0),
            grpid: get(group, Field::FaultGrpid).unwrap_or(0),
            flags: get(group, Field::FaultFlags).unwrap_or(0),
            cookie: get(group, Field::IopfGroupCookie).unwrap_or(0),
            code,
        },
    );
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
    let ts = now();
    let device = ctx.arg(0);
    let response = ctx.arg(2);
    emit_at(
        ctx,
        probe,
        Phase::Enter,
        ts,
        PageResponse {
            device,
            evt: ctx.arg(1),
            pasid: get(response, Field::ResponsePasid).unwrap_or(0),
            grpid: get(response, Field::ResponseGrpid).unwrap_or(0),
            code: get(response, Field::ResponseCode).unwrap_or(u32::MAX),
            group_id: get(ptr(device, Field::DeviceIommuGroup), Field::GroupId).unwrap_or(-1),
        },
    );
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
fn queue(ctx: &impl Args, probe: ProbeId, phase: Phase, has_device: bool, ret: i64) {
    let device = if has_device { read::device(ctx.arg(1)) } else { read::group(0) };
    emit(ctx, probe, phase, Queue { queue: ctx.arg(0), device, ret });
}

// int iopf_queue_add_device(struct iopf_queue *queue, struct device *dev)
#[inline(always)]
fn queue_added(ctx: &(impl Args + Ret)) {
    queue(ctx, ProbeId::QueueAddDevice, Phase::Exit, true, ctx.ret() as i32 as i64);
}
on_exit!(queue_add_device_exit, queue_added);

// void iopf_queue_remove_device(struct iopf_queue *queue, struct device *dev): int before 6.11
#[inline(always)]
fn queue_remove(ctx: &impl Args) {
    queue(ctx, ProbeId::QueueRemoveDevice, Phase::Enter, true, 0);
}
#[inline(always)]
fn queue_removed(ctx: &impl Args) {
    queue(ctx, ProbeId::QueueRemoveDevice, Phase::Exit, true, 0);
}
on_enter!(queue_remove_device_enter, queue_remove);
on_exit!(queue_remove_device_exit, queue_removed);

// int iopf_queue_flush_dev(struct device *dev)
#[inline(always)]
fn queue_flushed(ctx: &(impl Args + Ret)) {
    emit(
        ctx,
        ProbeId::QueueFlushDev,
        Phase::Exit,
        Queue { queue: 0, device: read::device(ctx.arg(0)), ret: ctx.ret() as i32 as i64 },
    );
}
on_exit!(queue_flush_dev_exit, queue_flushed);

// int iopf_queue_discard_partial(struct iopf_queue *queue)
#[inline(always)]
fn queue_discarded(ctx: &(impl Args + Ret)) {
    queue(ctx, ProbeId::QueueDiscardPartial, Phase::Exit, false, ctx.ret() as i32 as i64);
}
on_exit!(queue_discard_partial_exit, queue_discarded);

// void iopf_queue_free(struct iopf_queue *queue)
#[inline(always)]
fn queue_free(ctx: &impl Args) {
    queue(ctx, ProbeId::QueueFree, Phase::Enter, false, 0);
}
on_enter!(queue_free_enter, queue_free);

/// VT-d's fault status register, and in it: a primary fault is pending, and the index of its record.
const FSTS_REG: u64 = 0x34;
const FSTS_PPF: u32 = 1 << 1;
/// In the last word of a fault record: it is valid; the request was a read; the PASID is valid.
const FRCD_F: u32 = 1 << 31;
const FRCD_READ: u32 = 1 << 30;
const FRCD_PASID_PRESENT: u32 = 1 << 31;

// irqreturn_t dmar_fault(int irq, void *dev_id)
//
// The handler prints a rate-limited few of the records and clears them all, so they are read here, from the registers,
// before it does. Reads of these registers have no side effects (VT-d specification, 11.4.9 and 11.4.14).
#[inline(always)]
fn dmar_fault(ctx: &impl Args) {
    let ts = now();
    let iommu = ctx.arg(1);
    let (Some(reg), Some(cap)) = (get::<u64>(iommu, Field::IntelReg), get::<u64>(iommu, Field::IntelCap)) else {
        return;
    };
    let Some(status) = read::at::<u32>(reg + FSTS_REG) else { return };
    if status & FSTS_PPF == 0 {
        return;
    }
    let records = ((cap >> 40) & 0xff) as u32 + 1;
    let base = reg + ((cap >> 24) & 0x3ff) * 16;
    let mut index = (status >> 8) & 0xff;
    let seq_id: u32 = get(iommu, Field::IntelSeqId).unwrap_or(NO_ID);
    for _ in 0..MAX_DMA_FAULTS {
        if index >= records {
            index = 0;
        }
        // SAFETY: the helper checks the address.
        let Ok(record) = (unsafe { bpf_probe_read_kernel((base + u64::from(index) * 16) as *const [u32; 4]) }) else {
            return;
        };
        if record[3] & FRCD_F == 0 {
            return;
        }
        emit_at(
            ctx,
            ProbeId::DmarFault,
            Phase::Enter,
            ts,
            DmaFault {
                iommu,
                addr: (u64::from(record[1]) << 32 | u64::from(record[0])) & !0xfff,
                seq_id,
                source: record[2] & 0xffff,
                reason: record[3] & 0xff,
                read: (record[3] & FRCD_READ != 0) as u32,
                pasid: if record[2] & FRCD_PASID_PRESENT != 0 { (record[3] >> 8) & 0xfffff } else { NO_ID },
                status,
            },
        );
        index += 1;
    }
}
on_enter!(dmar_fault_enter, dmar_fault);

// TRACE_EVENT io_page_fault: (struct device *dev, unsigned long iova, int flags)
#[aya_ebpf::macros::btf_tracepoint]
pub fn io_page_fault_enter(ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
    emit(
        &ctx,
        ProbeId::IoPageFault,
        Phase::Enter,
        IoPageFault { device: read::device(Args::arg(&ctx, 0)), iova: Args::arg(&ctx, 1), flags: Args::arg(&ctx, 2) as u32, pad: 0 },
    );
    0
}
