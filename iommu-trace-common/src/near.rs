//! Where the hottest functions are summed up first: an array of places for each CPU, each function with some of its own, and each
//! domain with two of these that its address leads to.
//!
//! A program adds to a place without looking anything up. Only the function's own program on the CPU takes a free place, so that
//! two never take the same. User space reads the places in shared memory, and frees those that have long been idle: it marks a
//! place [`RETIRED`], which no program adds to any more, tells the rest of it at its next look, and frees it then. What finds both
//! its places taken is summed up in the hash map.

#![allow(clippy::inline_always, reason = "BPF programs want every call inlined")]

use crate::{ProbeId, record::Near};

/// The functions that have places, in their order.
pub const PROBES: [ProbeId; 5] = [ProbeId::Map, ProbeId::MapSg, ProbeId::MapNosync, ProbeId::Unmap, ProbeId::UnmapFast];
/// Places that each of them has, a power of two.
pub const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 8;
/// The places of one CPU: those of the first function first. A whole number of pages of 4 KiB.
pub type Places = [Near; PROBES.len() * PLACES];
/// No domain's address: the place is about to be free.
pub const RETIRED: u64 = 1;

/// Where a function's places begin.
#[must_use]
#[inline(always)]
pub const fn base(probe: ProbeId) -> Option<usize> {
    let mut at = 0;
    while at < PROBES.len() {
        if PROBES[at] as u16 == probe as u16 {
            return Some(at * PLACES);
        }
        at += 1;
    }
    None
}

/// The first of a domain's two places among those of a function; the other is its neighbour, one bit apart.
#[must_use]
#[inline(always)]
pub const fn place(domain: u64) -> usize {
    (domain.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACE_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_its_own_places_and_neighbours_stay_among_them() {
        for (at, probe) in PROBES.into_iter().enumerate() {
            assert_eq!(base(probe), Some(at * PLACES));
        }
        assert_eq!(base(ProbeId::QiSubmitSync), None);
        for domain in (0..100_000u64).map(|n| 0xffff_8880_0000_0000 + n * 512) {
            assert!(place(domain) < PLACES && place(domain) ^ 1 < PLACES);
        }
        assert!(size_of::<Places>().is_multiple_of(4096));
    }

    #[test]
    fn domains_of_one_slab_cache_are_spread() {
        let mut taken = [0; PLACES];
        for n in 0..64u64 {
            taken[place(0xffff_8880_0123_0000 + n * 512)] += 1;
        }
        assert!(taken.iter().all(|&domains| domains <= 2), "{taken:?}");
    }
}
