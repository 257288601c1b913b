//! Frees of handles and fault groups, for `check --track-frees`.
//!
//! Every `kfree()` of the kernel passes here; all but those of watched addresses leave after one look-up.

use aya_ebpf::{macros::map, maps::HashMap};
use iommu_trace_common::{MAX_WATCHED, Phase, ProbeId, record::Free};

use crate::{
    out::{emit, lost, set},
    read::setting,
};

/// Addresses of handles and fault groups that were seen and not freed yet.
#[map]
static WATCHED: HashMap<u64, u8> = HashMap::with_max_entries(MAX_WATCHED, 0);

/// Watches an address from here to its free.
#[inline(always)]
pub fn watch(addr: u64) {
    if setting!(track_frees) != 0 && addr != 0 && WATCHED.insert(&addr, &1, 0).is_err() {
        lost(ProbeId::Kfree, Phase::Enter);
    }
}

// TRACE_EVENT kfree: (unsigned long call_site, const void *ptr)
//
// A raw tracepoint: up to 6.12 the verifier refuses a typed one's `const void *`.
#[aya_ebpf::macros::raw_tracepoint]
pub fn kfree_enter(ctx: aya_ebpf::programs::RawTracePointContext) -> i32 {
    let addr = ctx.arg::<u64>(1);
    if WATCHED.remove(&addr).is_ok() {
        emit(&ctx, ProbeId::Kfree, Phase::Enter, |record: *mut Free| set!(record, { ptr: addr }));
    }
    0
}
