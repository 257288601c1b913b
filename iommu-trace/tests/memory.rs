//! Millions of handles, bounded memory: what one live handle costs, and that what is over costs nothing for long.
//! `IOMMU_TRACE_HANDLES=1000000 cargo test --release -p iommu-trace --test memory -- --nocapture` gives the figures of
//! docs/performance.md.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use iommu_trace::{
    event::Event,
    model::{
        Effects, Model, ModelOptions,
        testing::{Req, Script, dev_in, group, hnd, kernel_7_3},
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

struct Mirror {
    model: Model,
    effects: Effects,
}

impl Mirror {
    fn apply(&mut self, script: &mut Script) {
        for event in script.events.drain(..) {
            self.one(&event);
        }
    }

    fn one(&mut self, event: &Event) {
        self.model.apply(event, &mut self.effects);
        assert_eq!(self.effects.violations, [], "a lawful stream");
        self.effects.clear();
    }
}

fn handles() -> u32 {
    std::env::var("IOMMU_TRACE_HANDLES").ok().map_or(50_000, |n| n.parse().unwrap())
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_live_handle_costs_little_and_what_is_over_costs_nothing() {
    let n = handles();
    let before = USED.load(Relaxed);
    let used = || USED.load(Relaxed) - before;
    let mut mirror = Mirror { model: Model::new(kernel_7_3(), ModelOptions::default()), effects: Effects::default() };
    let mut script = Script::new();
    let mut apply = |mirror: &mut Mirror, write: &mut dyn FnMut(&mut Script)| {
        write(&mut script);
        mirror.apply(&mut script);
    };
    let place = |at: u32| (dev_in(at / 100, at / 100), at % 100 + 1);

    for at in 0..n {
        let (device, pasid) = place(at);
        apply(&mut mirror, &mut |script| {
            if pasid == 1 {
                script.by(10).bind(&device).queue_add(&device, 0);
            }
            script.by(10).attach(&device, pasid, &hnd(at, &device));
        });
    }
    let live = used();
    let each = live / n as usize;
    println!("{n} live handles: {each} bytes each, {} MiB in all", live >> 20);
    assert_eq!(mirror.model.mirror().slots().filter(|slot| slot.attachment().is_some()).count(), n as usize);
    assert!(each < 1200, "{each} bytes for each live handle");

    // Faults come and go by the thousand; each leaves nothing behind but the few that are remembered for a while.
    let faults = |mirror: &mut Mirror, apply: &mut dyn FnMut(&mut Mirror, &mut dyn FnMut(&mut Script)), count: u32| {
        for number in 0..count {
            let at = number % n;
            let (device, pasid) = place(at);
            let (handle, req) = (hnd(at, &device), Req::new(Some(pasid), number % 512, u64::from(number) << 12));
            apply(mirror, &mut |script| {
                let fault_group = group(number);
                script.by(20).fault(fault_group, &device, &req, &handle);
                script.by(30).read(device.id, &req, number + 1);
                let from = script.events.len();
                script.by(30).write(fault_group, &device, &req, &handle, 0);
                script.answer_with_cookie(from, number + 1);
            });
        }
    };
    faults(&mut mirror, &mut apply, 20_000);
    let some = used();
    faults(&mut mirror, &mut apply, 60_000);
    let more = used();
    println!(
        "after 20000 faults: {} KiB more; after 60000 others: {} KiB more",
        (some - live) >> 10,
        more.saturating_sub(some) >> 10
    );
    assert!(more <= some + (1 << 20), "faults that are over are kept: {} bytes", more - some);
    assert!(some < live + (16 << 20), "{} bytes for the faults that are remembered", some - live);

    // All are replaced again and again: old lives are kept for a while only.
    let mut fresh = n;
    let mut before_last = 0;
    for round in 0..3 {
        for at in 0..n.min(40_000) {
            let (device, pasid) = place(at);
            let old = if round == 0 { at } else { fresh - n.min(40_000) };
            apply(&mut mirror, &mut |script| {
                script.by(10).replace(&device, pasid, &hnd(old, &device), &hnd(fresh, &device));
            });
            fresh += 1;
        }
        println!("after {} replaces: {} KiB more", (round + 1) * n.min(40_000), used().saturating_sub(more) >> 10);
        if round == 1 {
            before_last = used();
        }
    }
    assert!(used() <= before_last + (1 << 20), "old lives are kept: {} bytes", used() - before_last);
    assert_eq!(mirror.model.counts().forgotten, 0);
    assert_eq!(mirror.model.outstanding(), 0);
}
