//! The one way out: the ring, the stacks, and the count of what did not fit.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_FAST_STACK_CMP,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_comm, bpf_get_smp_processor_id, bpf_get_stackid, bpf_ktime_get_ns},
    },
    macros::map,
    maps::{PerCpuArray, RingBuf, StackTrace},
};
use iommu_trace_common::{COMM_LEN, LossCounters, Phase, ProbeId, record::Header, stacks};

use crate::read;

/// Records, for all CPUs; user space sets the size.
#[map]
static RING: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Records that found no room, by probe and phase ([`LossCounters`]): one value, so that one look tells all.
#[map]
static LOST: PerCpuArray<LossCounters> = PerCpuArray::with_max_entries(1, 0);

/// Kernel stacks by id.
#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(16384, 0);

/// A record as it lies in the ring.
#[repr(C)]
struct Framed<T> {
    header: Header,
    payload: T,
}

/// Writes members of the structure behind a raw pointer, each in its place: nothing is built on the stack first.
macro_rules! set {
    ($place:expr, { $($member:ident $([$index:literal])?: $value:expr),+ $(,)? }) => {{
        let place = $place;
        // SAFETY: the pointer is to a record's own, writable memory.
        unsafe { $((&raw mut (*place).$member $([$index])?).write($value);)+ }
    }};
}
pub(crate) use set;

/// The time on the events' clock.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The current thread, with its process in the upper half.
#[inline(always)]
pub fn thread() -> u64 {
    bpf_get_current_pid_tgid()
}

/// What the BPF side has to say of itself, through aya-log; nothing of it is left in a program unless `--verbose` asks.
macro_rules! diagnose {
    ($ctx:expr, $($message:tt)+) => { aya_log_ebpf::debug!($ctx, $($message)+) };
}
pub(crate) use diagnose;

/// Counts a record that was lost.
#[inline(always)]
pub fn lost(probe: ProbeId, phase: Phase) {
    lost_several(probe, phase, 1);
}

/// Counts records that were lost.
#[inline(always)]
pub fn lost_several(probe: ProbeId, phase: Phase, several: u32) {
    if let Some(counters) = LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own counters, indexed by constants within their length.
        unsafe {
            let count = (&raw mut (*counters)[probe as usize * 2 + phase as usize]).cast::<u64>();
            *count += u64::from(several);
        }
    }
}

/// Sends a record of what is rare, filled in place by `fill`, which must set every member.
#[inline(always)]
pub fn emit<T: 'static>(ctx: &impl EbpfContext, probe: ProbeId, phase: Phase, fill: impl FnOnce(*mut T)) {
    send(probe, phase, || stack(ctx, stacks::RARE), fill);
}

/// Sends a record of what may be many in a second.
#[inline(always)]
pub fn emit_often<T: 'static>(ctx: &impl EbpfContext, probe: ProbeId, phase: Phase, fill: impl FnOnce(*mut T)) {
    send(probe, phase, || stack(ctx, stacks::ALL), fill);
}

/// Sends a record without a stack.
#[inline(always)]
pub fn emit_plain<T: 'static>(probe: ProbeId, phase: Phase, fill: impl FnOnce(*mut T)) {
    send(probe, phase, || -1, fill);
}

#[inline(always)]
fn send<T: 'static>(probe: ProbeId, phase: Phase, stack: impl FnOnce() -> i32, fill: impl FnOnce(*mut T)) {
    let Some(mut entry) = RING.reserve::<Framed<T>>(0) else {
        lost(probe, phase);
        return;
    };
    // After the reservation, so that no later place in the ring can have an earlier time: the reader's order rests on it.
    let ts = now();
    let record = entry.as_mut_ptr();
    let thread = thread();
    // SAFETY: the reserved memory is this record's.
    let header = unsafe { &raw mut (*record).header };
    set!(header, {
        ts: ts,
        probe: probe as u16,
        phase: phase as u16,
        cpu: bpf_get_smp_processor_id(),
        pid: (thread >> 32) as u32,
        tid: thread as u32,
        stack: stack(),
        len: size_of::<T>() as u32,
    });
    // SAFETY: as above; the helper writes the whole array.
    unsafe {
        bpf_get_current_comm((&raw mut (*header).comm).cast(), COMM_LEN as u32);
        fill(&raw mut (*record).payload);
    }
    entry.submit(0);
}

#[inline(always)]
fn stack(ctx: &impl EbpfContext, least: u32) -> i32 {
    if read::setting!(stacks) < least {
        return -1;
    }
    // SAFETY: the map is a stack map, and the context is the program's own.
    let id =
        unsafe { bpf_get_stackid(ctx.as_ptr(), (&raw const STACKS).cast_mut().cast(), BPF_F_FAST_STACK_CMP as u64) };
    id as i32
}
