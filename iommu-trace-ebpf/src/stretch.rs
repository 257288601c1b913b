//! Waits that widen the windows in which lifetime races happen: `check --stretch`. Nothing here is loaded without it.
//!
//! A wait is a busy one, for programs at functions' entries and returns may not sleep. It is bounded three times: user space
//! refuses what is longer than [`stretch::MAX_NS`], the program cuts it to that, and the loop has an end of its own.

use aya_ebpf::{
    helpers::generated::bpf_loop,
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray},
};
use iommu_trace_common::stretch::{self, Waited};

use crate::{
    out::{now, thread},
    probe::{Args, Ret, on_enter, on_exit},
};

/// Turns of a wait at the most: what the kernel's own loop allows. Each reads the clock, so that a wait of
/// [`stretch::MAX_NS`] takes a part of them.
const MAX_TURNS: u32 = 1 << 23;
/// What a thread is inside of.
const REPORTING: u64 = 1;
const REPLACING_RID: u64 = 2;
const REPLACING_PASID: u64 = 3;
/// Pointers from here on are errors (`IS_ERR`).
const ERRORS: u64 = -4095_i64 as u64;

/// How long to wait at each step, nanoseconds. User space sets it, and sets it to nothing the moment the run ends.
#[map]
static STRETCH_NS: Array<[u64; stretch::STEPS]> = Array::with_max_entries(1, 0);

/// How often and how long each step was waited at.
#[map]
static STRETCHED: PerCpuArray<[Waited; stretch::STEPS]> = PerCpuArray::with_max_entries(1, 0);

/// Threads inside a report or a replace.
#[map]
static STRETCH_INSIDE: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

#[inline(always)]
fn inside() -> u64 {
    // SAFETY: copied out at once; the entry is this thread's.
    unsafe { STRETCH_INSIDE.get(&thread()) }.copied().unwrap_or(0)
}

#[inline(always)]
fn enter(what: u64) {
    let _ = STRETCH_INSIDE.insert(&thread(), &what, 0);
}

#[inline(always)]
fn leave(_ctx: &impl Args) {
    let _ = STRETCH_INSIDE.remove(&thread());
}

/// Waits as long as is asked for at a step.
#[inline(always)]
fn wait(step: usize) {
    let Some(ns) = STRETCH_NS.get(0) else { return };
    let ns = ns[step].min(stretch::MAX_NS);
    if ns == 0 {
        return;
    }
    let begun = now();
    let mut until = begun + ns;
    // SAFETY: the callback has the form that the helper calls, and `until` outlives the call.
    unsafe { bpf_loop(MAX_TURNS, turn as *mut _, (&raw mut until).cast(), 0) };
    if let Some(waited) = STRETCHED.get_ptr_mut(0) {
        // SAFETY: this CPU's own counters, indexed by a constant within their length.
        unsafe {
            let waited = &raw mut (*waited)[step];
            (*waited).waits += 1;
            (*waited).ns += now() - begun;
        }
    }
}

/// Whether it is time: ends the loop.
unsafe extern "C" fn turn(_index: u32, until: *mut u64) -> i64 {
    // SAFETY: the helper hands on what it was given, a number that lives in the caller.
    i64::from(now() >= unsafe { *until })
}

// int iommu_report_device_fault(struct device *dev, struct iopf_fault *evt)
#[inline(always)]
fn report(_ctx: &impl Args) {
    enter(REPORTING);
}
on_enter!(stretch_report_enter, report);
on_exit!(stretch_report_exit, leave);

// struct iommu_attach_handle *iommu_attach_handle_get(struct iommu_group *group, ioasid_t pasid, unsigned int type)
//
// Detach, replace and bind look up, too: only a report's counts, and only one that has found a handle.
#[inline(always)]
fn lookup(ctx: &impl Ret) {
    let found = ctx.ret() != 0 && ctx.ret() < ERRORS;
    if found && inside() == REPORTING {
        wait(stretch::LOOKUP);
    }
}
on_exit!(stretch_lookup_exit, lookup);

// int iommufd_fault_iopf_handler(struct iopf_group *group), static int iommu_sva_iopf_handler(struct iopf_group *group)
#[inline(always)]
fn handler(_ctx: &impl Args) {
    wait(stretch::HANDLER);
}
on_enter!(stretch_handler_enter, handler);
on_enter!(stretch_sva_handler_enter, handler);

// int iommu_replace_group_handle(struct iommu_group *group, struct iommu_domain *new_domain, struct iommu_attach_handle *handle)
#[inline(always)]
fn replace_rid(_ctx: &impl Args) {
    enter(REPLACING_RID);
}
on_enter!(stretch_replace_rid_enter, replace_rid);
on_exit!(stretch_replace_rid_exit, leave);

// int iommu_replace_device_pasid(struct iommu_domain *domain, struct device *dev, ioasid_t pasid, struct iommu_attach_handle *handle)
#[inline(always)]
fn replace_pasid(_ctx: &impl Args) {
    enter(REPLACING_PASID);
}
on_enter!(stretch_replace_pasid_enter, replace_pasid);
on_exit!(stretch_replace_pasid_exit, leave);

/// The last thing before the store, `xa_store()`, whose file the kernel builds without a place for a program (lib/Makefile).
#[inline(always)]
fn op_done(ctx: &impl Ret, inside_of: u64) {
    if ctx.ret() as i32 == 0 && inside() == inside_of {
        wait(stretch::REPLACE);
    }
}

// static int __iommu_group_set_domain_internal(struct iommu_group *group, struct iommu_domain *new_domain, unsigned int flags)
#[inline(always)]
fn rid_op_done(ctx: &impl Ret) {
    op_done(ctx, REPLACING_RID);
}
on_exit!(stretch_rid_op_exit, rid_op_done);

// static int __iommu_set_group_pasid(struct iommu_domain *domain, struct iommu_group *group, ioasid_t pasid, struct iommu_domain *old)
#[inline(always)]
fn pasid_op_done(ctx: &impl Ret) {
    op_done(ctx, REPLACING_PASID);
}
on_exit!(stretch_pasid_op_exit, pasid_op_done);
