//! The places in shared memory where BPF sums up the hottest functions ([`iommu_trace_common::near`]): what was added since the
//! last look, read without a system call.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, bail};
use aya::maps::Map;
use iommu_trace_common::{
    near::{PLACES, PROBES, Places, RETIRED},
    record::{Near, SumValue},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::sums::{More, add};

/// A place that was idle for so many looks is freed.
const IDLE_LOOKS: u32 = 30;
/// Words of a place.
const WORDS: usize = size_of::<Near>() / size_of::<u64>();
/// Places of a CPU.
const EACH: usize = PROBES.len() * PLACES;

/// The places of all CPUs, and what of them was told already.
pub struct NearSums {
    words: Shared,
    known: BTreeMap<usize, Known>,
}

/// What is known of a place that is taken.
#[derive(Debug, Default)]
struct Known {
    domain: u64,
    told: [u64; 3],
    idle: u32,
    retired: bool,
}

impl NearSums {
    /// Those in this map.
    pub fn new(map: &Map, cpus: usize) -> anyhow::Result<Self> {
        let Map::Array(data) = map else { bail!("the map NEAR is no array") };
        let bytes = cpus * size_of::<Places>();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let words = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                data.fd().as_fd(),
                0,
            )
        };
        let words = words.context("cannot map the sums of map and unmap")?;
        let words = NonNull::new(words.cast()).context("mapped at address zero")?;
        Ok(NearSums { words: Shared { words, bytes }, known: BTreeMap::new() })
    }

    /// Adds what came since the last look.
    pub fn take(&mut self, sums: &mut More) {
        take(self.words.places(), &mut self.known, sums);
    }
}

/// The memory that the kernel shares.
struct Shared {
    words: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: the memory is read and written atomically, and unmapped once.
unsafe impl Send for Shared {}

impl Shared {
    fn places(&self) -> &[[AtomicU64; WORDS]] {
        let places = self.words.as_ptr().cast::<[AtomicU64; WORDS]>();
        // SAFETY: mapped as long as this is; a place is so many words, and everybody else writes whole words, too.
        unsafe { std::slice::from_raw_parts(places, self.bytes / size_of::<Near>()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this size, and not referred to any more.
        let unmapped = unsafe { munmap(self.words.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// Looks at every place; see [`NearSums::take`].
fn take(places: &[[AtomicU64; WORDS]], known: &mut BTreeMap<usize, Known>, sums: &mut More) {
    for (index, [object, counts @ ..]) in places.iter().enumerate() {
        let domain = object.load(Ordering::Acquire);
        if domain == 0 {
            continue;
        }
        let place = known.entry(index).or_default();
        if domain != RETIRED {
            place.domain = domain;
        }
        let counts_now: [u64; 3] = std::array::from_fn(|at| counts[at].load(Ordering::Relaxed));
        let [calls, failed, amount]: [u64; 3] = std::array::from_fn(|at| counts_now[at].wrapping_sub(place.told[at]));
        place.told = counts_now;
        let probe = PROBES[index % EACH / PLACES] as u32;
        add(sums, (place.domain, probe, 0), &SumValue { calls, failed, amount, ..SumValue::ZERO });
        if place.retired {
            // A look has passed since no program could begin to add to it.
            known.remove(&index);
            for count in counts {
                count.store(0, Ordering::Relaxed);
            }
            object.store(0, Ordering::Release);
            continue;
        }
        place.idle = if calls == 0 { place.idle + 1 } else { 0 };
        if place.idle >= IDLE_LOOKS {
            place.retired = true;
            object.store(RETIRED, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_trace_common::{ProbeId, near};

    /// Adds as the BPF program does; tells whether there was a place.
    fn count(places: &[[AtomicU64; WORDS]], cpu: usize, probe: ProbeId, domain: u64, amount: u64) -> bool {
        let base = cpu * EACH + near::base(probe).unwrap();
        let [first, second] = [near::place(domain), near::place(domain) ^ 1].map(|place| &places[base + place]);
        let is = |place: &&&[AtomicU64; WORDS], object| place[0].load(Ordering::Relaxed) == object;
        let both = [first, second];
        let Some(place) =
            both.iter().find(|place| is(place, domain)).or_else(|| both.iter().find(|place| is(place, 0)))
        else {
            return false;
        };
        place[0].store(domain, Ordering::Relaxed);
        place[1].fetch_add(1, Ordering::Relaxed);
        place[3].fetch_add(amount, Ordering::Relaxed);
        true
    }

    struct Table {
        places: Vec<[AtomicU64; WORDS]>,
        known: BTreeMap<usize, Known>,
    }

    impl Table {
        fn of(cpus: usize) -> Self {
            let empty = || [const { AtomicU64::new(0) }; WORDS];
            Table { places: std::iter::repeat_with(empty).take(cpus * EACH).collect(), known: BTreeMap::new() }
        }

        fn look(&mut self) -> Vec<(u64, u32, u64, u64)> {
            let mut sums = BTreeMap::new();
            take(&self.places, &mut self.known, &mut sums);
            sums.into_iter().map(|((domain, probe, _), sum)| (domain, probe, sum.calls, sum.amount)).collect()
        }
    }

    const DOMAIN: u64 = 0xffff_8880_1234_0000;

    #[test]
    fn what_came_on_all_cpus_is_told_once() {
        let mut table = Table::of(2);
        for cpu in [0, 1, 1] {
            assert!(count(&table.places, cpu, ProbeId::Unmap, DOMAIN, 4096));
        }
        assert!(count(&table.places, 0, ProbeId::MapNosync, DOMAIN, 100));
        let unmap = ProbeId::Unmap as u32;
        let mut expected = vec![(DOMAIN, unmap, 3, 3 * 4096), (DOMAIN, ProbeId::MapNosync as u32, 1, 100)];
        expected.sort_unstable();
        assert_eq!(table.look(), expected);
        assert_eq!(table.look(), []);
        count(&table.places, 1, ProbeId::Unmap, DOMAIN, 4096);
        assert_eq!(table.look(), [(DOMAIN, unmap, 1, 4096)]);
    }

    #[test]
    fn two_domains_with_the_same_places_both_have_one_and_a_third_has_none() {
        let mut table = Table::of(1);
        let mut same = (1u64..).map(|n| DOMAIN + n * 64).filter(|&domain| near::place(domain) >> 1 == 7);
        let [a, b, c] = [same.next().unwrap(), same.next().unwrap(), same.next().unwrap()];
        for _ in 0..2 {
            assert!(count(&table.places, 0, ProbeId::Map, a, 1) && count(&table.places, 0, ProbeId::Map, b, 1));
            assert!(!count(&table.places, 0, ProbeId::Map, c, 1));
        }
        let map = ProbeId::Map as u32;
        assert_eq!(table.look(), [(a, map, 2, 2), (b, map, 2, 2)]);
    }

    #[test]
    fn an_idle_place_is_freed_and_nothing_that_comes_meanwhile_is_missed() {
        let mut table = Table::of(1);
        count(&table.places, 0, ProbeId::Unmap, DOMAIN, 1);
        let mut calls = 0;
        let index = near::base(ProbeId::Unmap).unwrap() + near::place(DOMAIN);
        let object = |table: &Table| table.places[index][0].load(Ordering::Relaxed);
        for _ in 0..=IDLE_LOOKS {
            calls += table.look().iter().map(|sum| sum.2).sum::<u64>();
        }
        assert_eq!((object(&table), calls), (RETIRED, 1));
        // A program that had found the place before adds to it still; one that comes now takes the neighbour.
        table.places[index][1].fetch_add(1, Ordering::Relaxed);
        assert!(count(&table.places, 0, ProbeId::Unmap, DOMAIN, 1));
        assert_eq!(table.look().iter().map(|sum| sum.2).sum::<u64>(), 2);
        assert_eq!((object(&table), table.look().len()), (0, 0));
        // The place is as new.
        let other =
            (1u64..1 << 20).map(|n| DOMAIN + n * 64).find(|&other| near::place(other) == near::place(DOMAIN)).unwrap();
        assert!(count(&table.places, 0, ProbeId::Unmap, other, 8));
        assert_eq!(table.look(), [(other, ProbeId::Unmap as u32, 1, 8)]);
    }
}
