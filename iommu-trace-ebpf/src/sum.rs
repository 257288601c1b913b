//! Hot functions summed up: no record for each call, but counts on each CPU, which user space looks at now and then.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::PerCpuHashMap};
use iommu_trace_common::{
    Phase, ProbeId, SUM_BOUNDS_NS,
    record::{SumKey, SumValue},
};

use crate::out::lost;

/// What calls came to, by function, object and kind; user space sets the size.
#[map]
static SUMS: PerCpuHashMap<SumKey, SumValue> = PerCpuHashMap::with_max_entries(1, 0);

/// Adds a call to this CPU's sums. A duration is sorted into its bucket, too.
#[inline(always)]
pub fn add(probe: ProbeId, object: u64, kind: u32, failed: bool, amount: u64, duration: Option<u64>) {
    let key = SumKey { object, probe: probe as u32, kind };
    let Some(value) = place(&key) else {
        lost(probe, Phase::Exit);
        return;
    };
    // SAFETY: this CPU's own value. A program does not interrupt itself on one CPU, and each has keys of its own.
    unsafe {
        (*value).calls += 1;
        (*value).failed += failed as u64;
        (*value).amount += amount;
        if let Some(duration) = duration {
            (*value).duration += duration;
            let mut bucket = 0;
            while bucket < SUM_BOUNDS_NS.len() && duration > SUM_BOUNDS_NS[bucket] {
                bucket += 1;
            }
            if bucket < (*value).within.len() {
                let count = (&raw mut (*value).within).cast::<u32>().add(bucket);
                *count += 1;
            }
        }
    }
}

#[inline(always)]
fn place(key: &SumKey) -> Option<*mut SumValue> {
    if let Some(value) = SUMS.get_ptr_mut(key) {
        return Some(value);
    }
    // Another CPU may be as quick: what counts is that it is there.
    let _ = SUMS.insert(key, &SumValue::ZERO, u64::from(BPF_NOEXIST));
    SUMS.get_ptr_mut(key)
}
