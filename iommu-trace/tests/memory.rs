//! Millions of handles, bounded memory: what one live handle costs, and that what is over costs nothing for long.
//! `IOMMU_TRACE_HANDLES=1000000 cargo test --release -p iommu-trace --test memory -- --nocapture` gives the figures of
//! docs/performance.md.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use iommu_trace::{
    event::ProbeId,
    model::{
        Effects, Model, ModelOptions,
        testing::{Dev, Req, Script, dev_in, group, hnd, kernel_7_3},
    },
};

/// Counts what is allocated.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A model, and the script that it is given piece by piece.
struct Mirror {
    model: Model,
    effects: Effects,
    script: Script,
    used_before: usize,
}

impl Mirror {
    fn new() -> Self {
        Mirror {
            used_before: USED.load(Relaxed),
            model: Model::new(kernel_7_3(), ModelOptions::default()),
            effects: Effects::default(),
            script: Script::new(),
        }
    }

    /// Bytes that it uses.
    fn used(&self) -> usize {
        USED.load(Relaxed) - self.used_before
    }

    fn apply(&mut self, write: impl FnOnce(&mut Script)) {
        write(&mut self.script);
        for event in self.script.events.drain(..) {
            self.model.apply(&event, &mut self.effects);
            assert_eq!(self.effects.violations, [], "a lawful stream");
            self.effects.clear();
        }
    }

    /// Binds devices and attaches `n` handles.
    fn attach(&mut self, n: u32) {
        for at in 0..n {
            let (device, pasid) = place(at);
            self.apply(|script| {
                if pasid == 1 {
                    script.by(10).bind(&device).queue_add(&device, 0);
                }
                script.by(10).attach(&device, pasid, &hnd(at, &device));
            });
        }
    }

    /// `count` page requests, each read, answered and freed, of `n` handles in turn.
    fn faults(&mut self, n: u32, count: u32) {
        for number in 0..count {
            let (device, pasid) = place(number % n);
            let (handle, req) =
                (hnd(number % n, &device), Req::new(Some(pasid), number % 512, u64::from(number) << 12));
            self.apply(|script| {
                let fault_group = group(number);
                script.by(20).fault(fault_group, &device, &req, &handle);
                script.by(30).read(device.id, &req, number + 1);
                let from = script.events.len();
                script.by(30).write(fault_group, &device, &req, &handle, 0);
                script.answer_with_cookie(from, number + 1);
            });
        }
    }

    /// Groups of which nothing is seen but the handler, as a recording from anyone may have them.
    fn groups_without_a_report(&mut self, numbers: Range<u32>) {
        let (device, pasid) = place(0);
        let (handle, req) = (hnd(0, &device), Req::new(Some(pasid), 1, 0x1000));
        for number in numbers {
            self.apply(|script| {
                let fault_group = group(1_000_000 + number);
                script.by(20).group(ProbeId::IommufdIopfHandler, fault_group, &device, &req, &handle, 1);
            });
        }
    }
}

/// Where the handle `at` is attached.
fn place(at: u32) -> (Dev, u32) {
    (dev_in(at / 100, at / 100), at % 100 + 1)
}

fn handles() -> u32 {
    std::env::var("IOMMU_TRACE_HANDLES").ok().map_or(50_000, |n| n.parse().unwrap())
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_live_handle_costs_little_and_what_is_over_costs_nothing() {
    let n = handles();
    let mut mirror = Mirror::new();
    mirror.attach(n);
    let live = mirror.used();
    let each = live / n as usize;
    println!("{n} live handles: {each} bytes each, {} MiB in all", live >> 20);
    assert_eq!(mirror.model.mirror().slots().filter(|slot| slot.attachment().is_some()).count(), n as usize);
    assert!(each < 1200, "{each} bytes for each live handle");

    // Each fault leaves nothing behind, but the few that are remembered for a while.
    mirror.faults(n, 10_000);
    let some = mirror.used();
    assert!(some < live + (16 << 20), "{} bytes for the faults that are remembered", some - live);
    mirror.faults(n, 100_000);
    let more = mirror.used();
    let kib = |used: usize| used.saturating_sub(live) >> 10;
    println!("after 10000 and 110000 faults: {} and {} KiB more", kib(some), kib(more));
    // A table may double meanwhile; kept faults would be more than that.
    assert!(more < live + (16 << 20), "faults that are over are kept: {} bytes", more - live);

    // Handles are replaced again and again: old lives are kept for a while only.
    let replaced = n.min(40_000);
    let mut used = Vec::new();
    for round in 0..3 {
        for at in 0..replaced {
            let (device, pasid) = place(at);
            let number = |round: u32| if round == 0 { at } else { n + (round - 1) * replaced + at };
            let (old, new) = (hnd(number(round), &device), hnd(number(round + 1), &device));
            mirror.apply(|script| {
                script.by(10).replace(&device, pasid, &old, &new);
            });
        }
        used.push(mirror.used());
        println!("after {} replaces: {} KiB more", (round + 1) * replaced, mirror.used().saturating_sub(more) >> 10);
    }
    assert!(used[2] <= used[1] + (1 << 20), "old lives are kept: {used:?}");
    assert_eq!(mirror.model.counts().forgotten, 0);
    assert_eq!(mirror.model.outstanding(), 0);

    small_host();

    mirror.groups_without_a_report(0..300_000);
    let bare = mirror.used();
    mirror.groups_without_a_report(300_000..900_000);
    assert!(mirror.used() <= bare + (1 << 20), "groups without a fault are kept: {} bytes", mirror.used() - bare);
    assert!(mirror.model.counts().forgotten > 0);
}

/// Few handles, replaced and with faults on them for as long as a long trace takes: a map that is more than half full grows once more
/// when its places have all been used, which may be an hour later.
fn small_host() {
    let n = 10;
    let mut mirror = Mirror::new();
    mirror.attach(n);
    let mut used = Vec::new();
    for round in 0..40u32 {
        for number in 0..20_000 {
            let (at, number) = (number % n, round * 2_000 + number / n);
            let (device, pasid) = place(at);
            let (old, new) = (hnd(number * n + at, &device), hnd((number + 1) * n + at, &device));
            mirror.apply(|script| {
                script.by(10).replace(&device, pasid, &old, &new);
            });
            let req = Req::new(Some(pasid), number % 512, u64::from(number) << 12);
            mirror.apply(|script| {
                let fault_group = group(number * n + at);
                script.by(20).fault(fault_group, &device, &req, &new);
                script.by(30).read(device.id, &req, number * n + at + 1);
                let from = script.events.len();
                script.by(30).write(fault_group, &device, &req, &new, 0);
                script.answer_with_cookie(from, number * n + at + 1);
            });
        }
        used.push(mirror.used() >> 10);
    }
    println!("a small host, after each 20000 replaces and faults: {used:?} KiB");
    // What is kept for a while is full within the first round. Its maps double once more as soon as a thousand places were left for good,
    // which takes some thousand replaces, by the seed of their hash: in the first round mostly, in the second at times.
    assert!(used[4..].iter().all(|&later| later <= used[3] + 256), "it goes on growing: {used:?} KiB");
}
