//! Unrecoverable faults: DMAs that the IOMMU refused, read where the hardware leaves them.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_kernel, generated::bpf_get_smp_processor_id},
    macros::map,
    maps::LruHashMap,
};
use iommu_trace_common::{
    Field, MAX_DMA_FAULTS, MAX_LOGGED_FAULTS, NO_ID, Phase, ProbeId,
    record::{DmaFault, IoPageFault},
};

use crate::{
    out::{diagnose, emit_often, lost, lost_several, set, thread},
    probe::{Args, on_enter, on_enter_either, on_exit, on_exit_either},
    read::{self, get, offset, ptr, setting},
};

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
    let iommu = ctx.arg(1);
    let (Some(reg), Some(cap)) = (get::<u64>(iommu, Field::IntelReg), get::<u64>(iommu, Field::IntelCap)) else {
        return;
    };
    let Some(status) = read::at::<u32>(reg + FSTS_REG) else {
        diagnose!(ctx, "the fault status register at {:x} cannot be read", reg + FSTS_REG);
        return;
    };
    if status & FSTS_PPF == 0 {
        return;
    }
    let records = ((cap >> 40) & 0xff) as u32 + 1;
    let base = reg + ((cap >> 24) & 0x3ff) * 16;
    let mut index = (status >> 8) & 0xff;
    let seq_id: u32 = get(iommu, Field::IntelSeqId).unwrap_or(NO_ID);
    for turn in 0..MAX_DMA_FAULTS {
        // None is cleared before the handler runs: after one round they are known.
        if turn >= records {
            return;
        }
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
        emit_often(ctx, ProbeId::DmarFault, Phase::Enter, |place: *mut DmaFault| {
            set!(place, {
                iommu: iommu,
                addr: (u64::from(record[1]) << 32 | u64::from(record[0])) & !0xfff,
                seq_id: seq_id,
                source: record[2] & 0xffff,
                reason: record[3] & 0xff,
                read: (record[3] & FRCD_READ != 0) as u32,
                pasid: if record[2] & FRCD_PASID_PRESENT != 0 { (record[3] >> 8) & 0xfffff } else { NO_ID },
                status: status,
            });
        });
        index += 1;
    }
}
on_enter!(dmar_fault_enter, dmar_fault);

// TRACE_EVENT io_page_fault: (struct device *dev, unsigned long iova, int flags)
#[aya_ebpf::macros::btf_tracepoint]
pub fn io_page_fault_enter(ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
    emit_often(&ctx, ProbeId::IoPageFault, Phase::Enter, |record: *mut IoPageFault| {
        set!(record, { iova: Args::arg(&ctx, 1), flags: Args::arg(&ctx, 2) as u32, pad: 0 });
        // SAFETY: the place is this record's.
        read::device_into(unsafe { &raw mut (*record).device }, Args::arg(&ctx, 0));
    });
    0
}

/// AMD-Vi's registers: base and size of the event log, where the driver has read up to, where the hardware has written to
/// (AMD I/O Virtualization Technology specification, 3.4.1 and 3.4.5). Reads have no side effects.
const MMIO_EVT_BUF: u64 = 0x10;
const MMIO_EVT_HEAD: u64 = 0x2010;
const MMIO_EVT_TAIL: u64 = 0x2018;
const EVT_ENTRY_SIZE: u32 = 16;
/// The types of event that are about a device's request (the same specification, 2.5).
const EVT_ILLEGAL_DEVICE_ENTRY: u32 = 1;
const EVT_PAGE_TABLE_ERROR: u32 = 4;
const EVT_INVALID_DEVICE_REQUEST: u32 = 8;
const EVT_RMP_FAULT: u32 = 13;

/// Up to where an IOMMU's event log was told at the entry of a call that runs.
#[map]
static AMD_TOLD: LruHashMap<u64, u32> = LruHashMap::with_max_entries(256, 0);

// static void iommu_poll_events(struct amd_iommu *iommu)
//
// Handles the entries of the event log from head to tail, prints a rate-limited few, and raises `io_page_fault` for
// those of devices in a domain only. What the hardware adds between this look at the tail and the function's own is told at
// its return.
#[inline(always)]
fn amd_poll(ctx: &impl Args) {
    let iommu = ctx.arg(0);
    let Some(base) = get::<u64>(iommu, Field::AmdMmioBase) else { return };
    let (Some(head), Some(tail)) = (read::at::<u32>(base + MMIO_EVT_HEAD), read::at::<u32>(base + MMIO_EVT_TAIL))
    else {
        diagnose!(ctx, "the registers of the event log at {:x} cannot be read", base);
        return;
    };
    if AMD_TOLD.insert(&iommu, &tail, 0).is_err() {
        lost(ProbeId::AmdPollEvents, Phase::Exit);
    }
    amd_entries(ctx, iommu, base, head, tail, Phase::Enter);
}
#[inline(always)]
fn amd_polled(ctx: &impl Args) {
    let iommu = ctx.arg(0);
    // SAFETY: the value is copied out at once, and only this IOMMU's interrupt thread writes it.
    let Some(told) = (unsafe { AMD_TOLD.get(&iommu) }).copied() else { return };
    let _ = AMD_TOLD.remove(&iommu);
    let Some(base) = get::<u64>(iommu, Field::AmdMmioBase) else { return };
    let Some(head) = read::at::<u32>(base + MMIO_EVT_HEAD) else { return };
    amd_entries(ctx, iommu, base, told, head, Phase::Exit);
}
on_enter!(amd_poll_events_enter, amd_poll);
on_exit!(amd_poll_events_exit, amd_polled);

// static void iommu_print_event(struct amd_iommu *iommu, void *__evt)
#[inline(always)]
fn amd_print(ctx: &impl Args) {
    let iommu = ctx.arg(0);
    let index: u32 = get(iommu, Field::AmdIndex).unwrap_or(NO_ID);
    match read::at::<[u32; 4]>(ctx.arg(1)) {
        Some(entry) => amd_entry(ctx, ProbeId::AmdPrintEvent, Phase::Enter, iommu, index, entry),
        None => lost(ProbeId::AmdPrintEvent, Phase::Enter),
    }
}
on_enter!(amd_print_event_enter, amd_print);

/// Tells an entry of the event log, if it is about a device's request.
#[inline(always)]
fn amd_entry(ctx: &impl EbpfContext, probe: ProbeId, phase: Phase, iommu: u64, index: u32, entry: [u32; 4]) {
    let kind = entry[1] >> 28;
    match kind {
        EVT_ILLEGAL_DEVICE_ENTRY..=EVT_PAGE_TABLE_ERROR | EVT_INVALID_DEVICE_REQUEST | EVT_RMP_FAULT => {}
        // The hardware has announced it and not written it yet, or the driver has wiped it already.
        0 => return lost(probe, phase),
        // Of the IOMMU's own commands and page requests.
        _ => return,
    }
    emit_often(ctx, probe, phase, |place: *mut DmaFault| {
        set!(place, {
            iommu: iommu,
            addr: u64::from(entry[3]) << 32 | u64::from(entry[2]),
            seq_id: index,
            source: entry[0] & 0xffff,
            reason: kind,
            read: 0,
            pasid: NO_ID,
            status: (entry[1] >> 16) & 0xfff,
        });
    });
}

/// Tells the entries of the event log between two of its offsets.
#[inline(always)]
fn amd_entries(ctx: &impl EbpfContext, iommu: u64, base: u64, from: u32, to: u32, phase: Phase) {
    if from == to {
        return;
    }
    // The logarithm of the number of entries.
    let Some(log) = read::at::<u64>(base + MMIO_EVT_BUF) else { return };
    let size = EVT_ENTRY_SIZE << ((log >> 56) & 0xf);
    let buffer = ptr(iommu, Field::AmdEvtBuf);
    let index: u32 = get(iommu, Field::AmdIndex).unwrap_or(NO_ID);
    let mut at = from & (size - 1);
    for _ in 0..MAX_LOGGED_FAULTS {
        if at == to {
            return;
        }
        let Some(entry) = read::at::<[u32; 4]>(buffer + u64::from(at)) else {
            lost(ProbeId::AmdPollEvents, phase);
            return;
        };
        at = (at + EVT_ENTRY_SIZE) & (size - 1);
        amd_entry(ctx, ProbeId::AmdPollEvents, phase, iommu, index, entry);
    }
    lost_several(ProbeId::AmdPollEvents, phase, (to.wrapping_sub(at) & (size - 1)) / EVT_ENTRY_SIZE);
}

/// The call of `viommu_event_handler` that runs: its queue, and where it stood in the used ring.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handling {
    queue: u64,
    used: u32,
    pad: u32,
}

#[map]
static HANDLING: LruHashMap<u64, Handling> = LruHashMap::with_max_entries(256, 0);

/// Whose call it is. It runs in an interrupt, which hits any task and keeps its CPU until it returns; the idle task is on
/// every CPU at once.
#[inline(always)]
fn interrupted() -> u64 {
    let thread = thread();
    // SAFETY: a helper without arguments.
    if thread == 0 { 1 << 63 | u64::from(unsafe { bpf_get_smp_processor_id() }) } else { thread }
}

/// The `struct vring_virtqueue` around a `struct virtqueue`, 0 for none.
#[inline(always)]
fn vring(queue: u64) -> u64 {
    offset(Field::VringQueue).map_or(0, |offset| queue - offset)
}

// static void viommu_event_handler(struct virtqueue *vq)
//
// Takes each event from the queue, prints a rate-limited few and gives the buffer back. At its return every event that it
// took still lies in its buffer, and its buffer is still that of the descriptor it came by.
#[inline(always)]
fn virtio_events_begin(ctx: &impl Args) {
    let queue = ctx.arg(0);
    let Some(used) = get::<u16>(vring(queue), Field::VringLastUsed) else { return };
    let handling = Handling { queue, used: u32::from(used), pad: 0 };
    if HANDLING.insert(&interrupted(), &handling, 0).is_err() {
        lost(ProbeId::VirtioEvents, Phase::Exit);
    }
}
#[inline(always)]
fn virtio_events_end(ctx: &impl EbpfContext) {
    let key = interrupted();
    // SAFETY: the value is copied out at once, and only this call has this key.
    let Some(handling) = (unsafe { HANDLING.get(&key) }).copied() else { return };
    let _ = HANDLING.remove(&key);
    let ring = vring(handling.queue);
    // A packed ring keeps no list of what was used; one in order, and from 7.x on a layout tells, need not fill it.
    let other =
        get::<u8>(ring, Field::VringPacked).unwrap_or(0) != 0 || get::<u32>(ring, Field::VringLayout).unwrap_or(0) != 0;
    let (Some(to), Some(num)) = (get::<u16>(ring, Field::VringLastUsed), get::<u32>(ring, Field::VringNum)) else {
        return;
    };
    let size = u64::from(setting!(desc_state_size));
    let (elements, states) = (ptr(ring, Field::VringUsed), ptr(ring, Field::VringDescState));
    let mut at = handling.used as u16;
    if at == to {
        return;
    }
    // A split ring's size is a power of two.
    if other || size == 0 || elements == 0 || states == 0 || num & num.wrapping_sub(1) != 0 {
        diagnose!(ctx, "the event queue's ring is of a kind that cannot be read");
        lost(ProbeId::VirtioEvents, Phase::Exit);
        return;
    }
    let device: u32 = get(ptr(handling.queue, Field::VirtqueueVdev), Field::VirtioDeviceIndex).unwrap_or(NO_ID);
    for _ in 0..MAX_LOGGED_FAULTS {
        if at == to {
            return;
        }
        // struct vring_used: two half words, then pairs of descriptor and length.
        let place = elements + 4 + u64::from(u32::from(at) & (num - 1)) * 8;
        at = at.wrapping_add(1);
        let event = read::at::<u32>(place)
            .filter(|&descriptor| descriptor < num)
            .map(|descriptor| ptr(states + u64::from(descriptor) * size, Field::DescStateData))
            // struct virtio_iommu_fault: reason, flags, endpoint, nothing, address.
            .and_then(read::at::<[u32; 6]>);
        let Some(event) = event else {
            lost(ProbeId::VirtioEvents, Phase::Exit);
            continue;
        };
        emit_often(ctx, ProbeId::VirtioEvents, Phase::Exit, |record: *mut DmaFault| {
            set!(record, {
                iommu: handling.queue,
                addr: u64::from(event[5]) << 32 | u64::from(event[4]),
                seq_id: device,
                source: event[2],
                reason: event[0] & 0xff,
                read: 0,
                pasid: NO_ID,
                status: event[1],
            });
        });
    }
    lost_several(ProbeId::VirtioEvents, Phase::Exit, u32::from(to.wrapping_sub(at)));
}
on_enter_either!(virtio_events_enter, virtio_events_kprobe, virtio_events_begin);
on_exit_either!(virtio_events_exit, virtio_events_kretprobe, virtio_events_end);
