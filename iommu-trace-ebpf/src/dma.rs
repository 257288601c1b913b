//! Map and unmap: summed up, or told one by one.

use iommu_trace_common::{Phase, ProbeId, record::Dma};

use crate::{
    out::{emit_often, set},
    probe::{Args, Ret, on_call_either, on_enter, on_exit},
    read::setting,
    sum,
};

use self::start::{Key, begin_timed, end, running};

/// When a call of a hot function began.
pub mod start {
    use aya_ebpf::{macros::map, maps::HashMap};
    use iommu_trace_common::{Phase, ProbeId};

    use crate::{
        out::{lost, now, thread},
        read::setting,
    };

    /// One running call. The arguments are part of the key, because an interrupt may map on the same thread.
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct Key {
        pub thread: u64,
        pub probe: u64,
        pub a: u64,
        pub b: u64,
    }

    #[map]
    static STARTS: HashMap<Key, u64> = HashMap::with_max_entries(8192, 0);

    impl Key {
        /// The call of `probe` by this thread with these arguments.
        #[inline(always)]
        pub fn new(probe: ProbeId, a: u64, b: u64) -> Key {
            Key { thread: thread(), probe: probe as u64, a, b }
        }
    }

    /// Notes that a call begins, unless calls are summed up without their durations: their fentry programs are not there then,
    /// but the kprobes are, which keep the arguments.
    #[inline(always)]
    pub fn begin_timed(probe: ProbeId, key: &Key) {
        if setting!(sums) == 0 {
            begin(probe, key);
        }
    }

    /// Notes that a call begins.
    #[inline(always)]
    pub fn begin(probe: ProbeId, key: &Key) {
        if STARTS.insert(key, &now(), 0).is_err() {
            lost(probe, Phase::Exit);
        }
    }

    /// Whether a call is running.
    #[inline(always)]
    pub fn running(key: &Key) -> bool {
        STARTS.get_ptr(key).is_some()
    }

    /// The duration of a call that ends; `None` where its beginning was not noted.
    #[inline(always)]
    pub fn end(key: &Key) -> Option<u64> {
        let start = STARTS.get_ptr(key)?;
        // SAFETY: the entry belongs to this thread's call, which is here.
        let start = unsafe { *start };
        let _ = STARTS.remove(key);
        Some(now().saturating_sub(start))
    }
}

/// Bytes that were mapped or unmapped.
#[inline(always)]
fn done(probe: ProbeId, size: u64, ret: i64) -> u64 {
    match probe {
        ProbeId::Map | ProbeId::MapNosync if ret < 0 => 0,
        ProbeId::Map | ProbeId::MapNosync => size,
        // The others return it.
        _ if ret < 0 => 0,
        _ => ret as u64,
    }
}

/// A scatter-gather map calls the other map functions for its parts, at addresses of their own.
#[inline(always)]
fn sg_key() -> Key {
    Key::new(ProbeId::MapSg, 0, 0)
}

#[inline(always)]
fn finish(ctx: &(impl Args + Ret), probe: ProbeId, key: impl FnOnce() -> Key, size: u64, ret: i64) {
    if setting!(sums) != 0 {
        // No programs are at the entries then: nothing is known of the duration.
        sum::count(probe, ctx.number(0), ret < 0, done(probe, size, ret));
        return;
    }
    if let Some(duration) = end(&key()) {
        emit_often(ctx, probe, Phase::Exit, |record: *mut Dma| {
            set!(record, { domain: ctx.arg(0), iova: ctx.arg(1), size: size, ret: ret, duration: duration });
        });
    }
}

// int iommu_map(struct iommu_domain *, unsigned long iova, phys_addr_t, size_t size, int prot, gfp_t)
#[inline(always)]
fn map(ctx: &impl Args) {
    if !running(&sg_key()) {
        begin_timed(ProbeId::Map, &Key::new(ProbeId::Map, ctx.arg(0), ctx.arg(1)));
    }
}
#[inline(always)]
fn mapped(ctx: &(impl Args + Ret)) {
    let key = || Key::new(ProbeId::Map, ctx.arg(0), ctx.arg(1));
    finish(ctx, ProbeId::Map, key, ctx.arg(3), ctx.ret() as i32 as i64);
}
on_call_either!(Map, (map_enter, map_kprobe, map), (map_exit, map_kretprobe, mapped));

// int iommu_map_nosync(…): as iommu_map, which calls it
#[inline(always)]
fn map_nosync(ctx: &impl Args) {
    if !running(&sg_key()) && !running(&Key::new(ProbeId::Map, ctx.arg(0), ctx.arg(1))) {
        begin_timed(ProbeId::MapNosync, &Key::new(ProbeId::MapNosync, ctx.arg(0), ctx.arg(1)));
    }
}
#[inline(always)]
fn mapped_nosync(ctx: &(impl Args + Ret)) {
    let key = || Key::new(ProbeId::MapNosync, ctx.arg(0), ctx.arg(1));
    finish(ctx, ProbeId::MapNosync, key, ctx.arg(3), ctx.ret() as i32 as i64);
}
on_enter!(map_nosync_enter, map_nosync);
on_exit!(map_nosync_exit, mapped_nosync);

// ssize_t iommu_map_sg(struct iommu_domain *, unsigned long iova, struct scatterlist *, unsigned int nents, …)
#[inline(always)]
fn map_sg(_ctx: &impl Args) {
    begin_timed(ProbeId::MapSg, &sg_key());
}
#[inline(always)]
fn mapped_sg(ctx: &(impl Args + Ret)) {
    let ret = ctx.ret() as i64;
    finish(ctx, ProbeId::MapSg, sg_key, if ret > 0 { ret as u64 } else { 0 }, ret);
}
on_call_either!(MapSg, (map_sg_enter, map_sg_kprobe, map_sg), (map_sg_exit, map_sg_kretprobe, mapped_sg));

// size_t iommu_unmap(struct iommu_domain *, unsigned long iova, size_t size)
#[inline(always)]
fn unmap(ctx: &impl Args) {
    begin_timed(ProbeId::Unmap, &Key::new(ProbeId::Unmap, ctx.arg(0), ctx.arg(1)));
}
#[inline(always)]
fn unmapped(ctx: &(impl Args + Ret)) {
    let key = || Key::new(ProbeId::Unmap, ctx.arg(0), ctx.arg(1));
    finish(ctx, ProbeId::Unmap, key, ctx.arg(2), ctx.ret() as i64);
}
on_call_either!(Unmap, (unmap_enter, unmap_kprobe, unmap), (unmap_exit, unmap_kretprobe, unmapped));

// size_t iommu_unmap_fast(struct iommu_domain *, unsigned long iova, size_t size, struct iommu_iotlb_gather *)
#[inline(always)]
fn unmap_fast(ctx: &impl Args) {
    begin_timed(ProbeId::UnmapFast, &Key::new(ProbeId::UnmapFast, ctx.arg(0), ctx.arg(1)));
}
#[inline(always)]
fn unmapped_fast(ctx: &(impl Args + Ret)) {
    let key = || Key::new(ProbeId::UnmapFast, ctx.arg(0), ctx.arg(1));
    finish(ctx, ProbeId::UnmapFast, key, ctx.arg(2), ctx.ret() as i64);
}
on_call_either!(
    UnmapFast,
    (unmap_fast_enter, unmap_fast_kprobe, unmap_fast),
    (unmap_fast_exit, unmap_fast_kretprobe, unmapped_fast)
);
