//! Hot functions summed up: no record for each call, but counts on each CPU, which user space looks at now and then.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, PerCpuHashMap},
};
use iommu_trace_common::{
    Phase, ProbeId, SUM_BOUNDS_NS,
    near::{self, Places},
    record::{Near, SumKey, SumValue},
};

use crate::out::lost;

/// What calls came to, by function, object and kind; user space sets the size.
#[map]
static SUMS: PerCpuHashMap<SumKey, SumValue> = PerCpuHashMap::with_max_entries(1, 0);

/// What calls of the hottest functions came to, by CPU; user space sets the number of CPUs, and has it in its own memory.
#[map]
static NEAR: Array<Places> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Adds a call for a domain to this CPU's sums: to its place, if it has one or can have one.
#[inline(always)]
pub fn count(probe: ProbeId, domain: u64, failed: bool, amount: u64) {
    let Some(near) = near_place(probe, domain) else {
        add(probe, domain, 0, failed, amount, None);
        return;
    };
    // SAFETY: this CPU's own place of this function, and a program does not interrupt itself on one CPU.
    unsafe {
        (*near).calls += 1;
        (*near).failed += failed as u64;
        (*near).amount += amount;
    }
}

#[inline(always)]
fn near_place(probe: ProbeId, domain: u64) -> Option<*mut Near> {
    let base = near::base(probe)?;
    // SAFETY: a helper without arguments.
    let places = NEAR.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })?.cast::<Near>();
    let place = near::place(domain);
    // SAFETY: both are within the CPU's places.
    let [first, second] = unsafe { [places.add(base + place), places.add(base + (place ^ 1))] };
    // SAFETY: user space writes to a place only what no program goes on with.
    unsafe {
        if (*first).object == domain {
            return Some(first);
        }
        if (*second).object == domain {
            return Some(second);
        }
        for free in [first, second] {
            if (*free).object == 0 {
                (*free).object = domain;
                return Some(free);
            }
        }
    }
    None
}

/// Adds a call to this CPU's sums in the hash map. A duration is sorted into its bucket, too.
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
