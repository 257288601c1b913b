//! SMMUv3's event queue: each transaction that it refused, read where the hardware has written it.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_loop, macros::map, maps::LruHashMap};
use iommu_trace_common::{Field, MAX_QUEUED_FAULTS, NAME_LEN, NO_ID, Phase, ProbeId, record::SmmuFault};

use crate::{
    out::{diagnose, emit_plain, lost, lost_several, set, thread},
    probe::{Args, on_enter_either, on_exit_either},
    read::{self, get, offset, ptr},
};

/// Bytes of a record: four words of eight.
const EVENT_SIZE: u64 = 32;
/// In the `prod` and `cons` of a queue: records were dropped since the two were last the same.
const OVERFLOW: u32 = 1 << 31;
/// In a record's first and second word: it has a substream id; the transaction waits for an answer.
const SSV: u64 = 1 << 11;
const STALL: u64 = 1 << 31;
/// Events (Arm SMMUv3 specification, 7.3). Those up to the walk's abort are of the configuration of a stream; `E_PAGE_REQUEST`
/// among the others is a hint of the hardware, and no fault.
const F_UUT: u32 = 0x01;
const F_WALK_EABT: u32 = 0x0b;
const F_TRANSLATION: u32 = 0x10;
const F_PERMISSION: u32 = 0x13;
const F_TLB_CONFLICT: u32 = 0x20;
const F_CFG_CONFLICT: u32 = 0x21;
const F_VMS_FETCH: u32 = 0x25;
/// How deep a red-black tree of streams can be.
const MAX_DEPTH: u32 = 40;

/// The walk through a queue by one call of `arm_smmu_evtq_thread`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Walk {
    smmu: u64,
    base: u64,
    /// Where it is, and up to where it goes: indices with their wrap bit.
    at: u32,
    to: u32,
    /// The logarithm of the number of records.
    shift: u32,
    phase: u32,
}

/// The walks that run, by thread.
#[map]
static SMMU_WALKS: LruHashMap<u64, Walk> = LruHashMap::with_max_entries(64, 0);

#[inline(always)]
fn current() -> Option<&'static mut Walk> {
    // SAFETY: a thread's walk is touched by that thread alone.
    SMMU_WALKS.get_ptr_mut(&thread()).map(|walk| unsafe { &mut *walk })
}

// static irqreturn_t arm_smmu_evtq_thread(int irq, void *dev)
//
// Takes each record between the queue's two indices and gives its place back, prints a rate-limited few, and tells the stalled
// ones (6.1: those of translation, too) to `iommu_report_device_fault`. What is there is told before it runs; what the
// hardware adds meanwhile at its return, when it still lies where it was.
#[inline(always)]
fn events_begin(ctx: &impl Args) {
    let smmu = ctx.arg(1);
    let (Some(cons), Some(shift)) = (get::<u32>(smmu, Field::SmmuEvtqCons), get::<u32>(smmu, Field::SmmuEvtqShift))
    else {
        return;
    };
    // The queue's own `prod` is where the driver looked last. A read of the register has no side effect.
    let Some(prod) = read::at::<u32>(ptr(smmu, Field::SmmuEvtqProdReg)) else {
        diagnose!(ctx, "the register of the event queue of {:x} cannot be read", smmu);
        lost(ProbeId::SmmuEvents, Phase::Enter);
        return;
    };
    if (prod ^ cons) & OVERFLOW != 0 {
        // The hardware does not say how many it has dropped.
        lost(ProbeId::SmmuEvents, Phase::Enter);
    }
    let base = ptr(smmu, Field::SmmuEvtqBase);
    let walk = Walk { smmu, base, at: cons, to: prod, shift: shift & 31, phase: Phase::Enter as u32 };
    if SMMU_WALKS.insert(&thread(), &walk, 0).is_err() {
        lost(ProbeId::SmmuEvents, Phase::Exit);
        return;
    }
    tell();
}
#[inline(always)]
fn events_end(_ctx: &impl EbpfContext) {
    let Some(walk) = current() else { return };
    if let Some(cons) = get::<u32>(walk.smmu, Field::SmmuEvtqCons) {
        walk.to = cons;
        walk.phase = Phase::Exit as u32;
        tell();
    }
    let _ = SMMU_WALKS.remove(&thread());
}
on_enter_either!(smmu_events_enter, smmu_events_kprobe, events_begin);
on_exit_either!(smmu_events_exit, smmu_events_kretprobe, events_end);

/// Tells the records of this thread's walk.
#[inline(always)]
fn tell() {
    let Some(walk) = current() else { return };
    let left = walk.to.wrapping_sub(walk.at) & (2u32 << walk.shift).wrapping_sub(1);
    // More than there is room for: the register was not the queue's.
    if left > 1 << walk.shift {
        return lost(ProbeId::SmmuEvents, Phase::Enter);
    }
    let turns = if left < MAX_QUEUED_FAULTS { left } else { MAX_QUEUED_FAULTS };
    // SAFETY: the callback has the form that the helper calls.
    unsafe { bpf_loop(turns, event as *mut _, core::ptr::null_mut(), 0) };
    if turns < left {
        lost_several(ProbeId::SmmuEvents, Phase::Enter, left - turns);
        walk.at = walk.to;
    }
}

/// Tells the record that the walk is at, and goes on.
unsafe extern "C" fn event(_index: u32, _ctx: *mut core::ffi::c_void) -> i64 {
    let Some(walk) = current() else { return 1 };
    let index = u64::from(walk.at & (1u32 << (walk.shift & 31)).wrapping_sub(1));
    walk.at = walk.at.wrapping_add(1);
    let phase = if walk.phase == Phase::Enter as u32 { Phase::Enter } else { Phase::Exit };
    let Some(event) = read::at::<[u64; 3]>(walk.base + index * EVENT_SIZE) else {
        lost(ProbeId::SmmuEvents, Phase::Enter);
        return 0;
    };
    let kind = (event[0] & 0xff) as u32;
    match kind {
        // A stalled one is a page request: the core is told of it, and so are we.
        F_TRANSLATION..=F_PERMISSION if event[1] & STALL != 0 => return 0,
        F_UUT..=F_WALK_EABT | F_TRANSLATION..=F_PERMISSION | F_TLB_CONFLICT | F_CFG_CONFLICT | F_VMS_FETCH => {}
        _ => return 0,
    }
    let (smmu, stream) = (walk.smmu, (event[0] >> 32) as u32);
    let dev = device_of(smmu, stream);
    emit_plain(ProbeId::SmmuEvents, phase, |record: *mut SmmuFault| {
        set!(record, {
            smmu: smmu,
            addr: event[2],
            stream: stream,
            kind: kind,
            pasid: if event[0] & SSV != 0 { (event[0] >> 12) as u32 & 0xf_ffff } else { NO_ID },
            flags: (event[1] >> 32) as u32,
        });
        // SAFETY: the places are this record's; the unit's is `NAME_LEN` bytes.
        unsafe {
            read::device_into(&raw mut (*record).device, dev);
            read::name_into(false, (&raw mut (*record).unit).cast(), ptr(smmu, Field::SmmuIommuDev));
        }
    });
    0
}

/// The device that has a stream, as `arm_smmu_find_master` looks it up: the driver's tree of streams, by their ids. It may
/// change while it is read, without the driver's lock: 0 then, as where there is none.
#[inline(always)]
fn device_of(smmu: u64, stream: u32) -> u64 {
    let Some(within) = offset(Field::SmmuStreamNode) else { return 0 };
    let mut node = ptr(smmu, Field::SmmuStreams);
    for _ in 0..MAX_DEPTH {
        if node == 0 {
            return 0;
        }
        let at = node - within;
        let Some(id) = get::<u32>(at, Field::SmmuStreamId) else { return 0 };
        if id == stream {
            return ptr(ptr(at, Field::SmmuStreamMaster), Field::SmmuMasterDev);
        }
        // struct rb_node: the parent with the colour, then the right child, then the left one.
        node = read::at(node + if stream < id { 16 } else { 8 }).unwrap_or(0);
    }
    0
}

const _: () = assert!(NAME_LEN >= "smmu3.0x0000000009050000".len() + 1);
