//! Invalidation, by IOMMU and by domain: summed up, or told one by one.

use iommu_trace_common::{
    Field, Phase, ProbeId,
    record::{Dma, Invalidate},
};

use crate::{
    dma::start::{Key, begin, end},
    out::{emit_often, set},
    probe::{Args, Ret, on_call_either, on_enter, on_exit},
    read::{self, setting},
    sum,
};

// int qi_submit_sync(struct intel_iommu *, struct qi_desc *desc, unsigned int count, unsigned long options)
#[inline(always)]
fn submit(ctx: &impl Args) {
    begin(ProbeId::QiSubmitSync, &Key::new(ProbeId::QiSubmitSync, ctx.arg(0), ctx.arg(1)));
}
#[inline(always)]
fn submitted(ctx: &(impl Args + Ret)) {
    let (iommu, desc) = (ctx.arg(0), ctx.arg(1));
    if let Some(duration) = end(&Key::new(ProbeId::QiSubmitSync, iommu, desc)) {
        let ret = ctx.ret() as i32 as i64;
        if setting!(sums) != 0 {
            let kind = (read::get::<u64>(desc, Field::QiDescQw0).unwrap_or(0) & 0xf) as u32;
            sum::add(ProbeId::QiSubmitSync, iommu, kind, ret < 0, ctx.arg(2) as u32 as u64, Some(duration));
            return;
        }
        emit_often(ctx, ProbeId::QiSubmitSync, Phase::Exit, |record: *mut Invalidate| {
            set!(record, {
                iommu: iommu,
                ret: ret,
                duration: duration,
                count: ctx.arg(2) as u32,
                options: ctx.arg(3) as u32,
            });
            // SAFETY: the place is this record's.
            read::copy(unsafe { &raw mut (*record).desc }, desc, Field::QiDescQw0);
        });
    }
}
on_enter!(qi_submit_sync_enter, submit);
on_exit!(qi_submit_sync_exit, submitted);

// static int iommu_completion_wait(struct amd_iommu *iommu)
#[inline(always)]
fn wait(ctx: &impl Args) {
    begin(ProbeId::AmdCompletionWait, &Key::new(ProbeId::AmdCompletionWait, ctx.arg(0), 0));
}
#[inline(always)]
fn waited(ctx: &(impl Args + Ret)) {
    let iommu = ctx.arg(0);
    if let Some(duration) = end(&Key::new(ProbeId::AmdCompletionWait, iommu, 0)) {
        let ret = if setting!(amd_wait_void) != 0 { 0 } else { ctx.ret() as i32 as i64 };
        if setting!(sums) != 0 {
            sum::add(ProbeId::AmdCompletionWait, iommu, 0, ret < 0, 1, Some(duration));
            return;
        }
        emit_often(ctx, ProbeId::AmdCompletionWait, Phase::Exit, |record: *mut Invalidate| {
            set!(record, { iommu: iommu, desc: 0, ret: ret, duration: duration, count: 1, options: 0 });
        });
    }
}
on_call_either!(
    AmdCompletionWait,
    (amd_completion_wait_enter, amd_completion_wait_kprobe, wait),
    (amd_completion_wait_exit, amd_completion_wait_kretprobe, waited)
);

/// The domain that a driver's own structure has within it.
#[inline(always)]
fn within(outer: u64, field: Field) -> u64 {
    outer.wrapping_add(read::offset(field).unwrap_or(0))
}

/// A flush of what the IOMMUs have cached of a domain, over when its function returns. Everything is `u64::MAX` bytes.
#[inline(always)]
fn flushed(ctx: &impl Args, key: &Key, probe: ProbeId, domain: u64, iova: u64, size: u64) {
    let Some(duration) = end(key) else { return };
    if setting!(sums) != 0 {
        sum::add(probe, domain, 0, false, 0, Some(duration));
        return;
    }
    emit_often(ctx, probe, Phase::Exit, |record: *mut Dma| {
        set!(record, { domain: domain, iova: iova, size: size, ret: 0, duration: duration });
    });
}

/// Bytes from the first to the last.
#[inline(always)]
fn bytes(first: u64, last: u64) -> u64 {
    let size = last.wrapping_sub(first);
    if size == u64::MAX { size } else { size + 1 }
}

// void cache_tag_flush_range(struct dmar_domain *domain, unsigned long start, unsigned long end, int ih)
#[inline(always)]
fn flush_range(ctx: &impl Args) {
    begin(ProbeId::CacheTagFlushRange, &Key::new(ProbeId::CacheTagFlushRange, ctx.arg(0), ctx.arg(1)));
}
#[inline(always)]
fn flushed_range(ctx: &impl Args) {
    let (domain, start) = (ctx.arg(0), ctx.arg(1));
    let key = Key::new(ProbeId::CacheTagFlushRange, domain, start);
    let domain = within(domain, Field::DmarDomainDomain);
    flushed(ctx, &key, ProbeId::CacheTagFlushRange, domain, start, bytes(start, ctx.arg(2)));
}
on_enter!(flush_range_enter, flush_range);
on_exit!(flush_range_exit, flushed_range);

// void cache_tag_flush_all(struct dmar_domain *domain)
#[inline(always)]
fn flush_all(ctx: &impl Args) {
    begin(ProbeId::CacheTagFlushAll, &Key::new(ProbeId::CacheTagFlushAll, ctx.arg(0), 0));
}
#[inline(always)]
fn flushed_all(ctx: &impl Args) {
    let key = Key::new(ProbeId::CacheTagFlushAll, ctx.arg(0), 0);
    let domain = within(ctx.arg(0), Field::DmarDomainDomain);
    flushed(ctx, &key, ProbeId::CacheTagFlushAll, domain, 0, u64::MAX);
}
on_enter!(flush_all_enter, flush_all);
on_exit!(flush_all_exit, flushed_all);

// void amd_iommu_domain_flush_pages(struct protection_domain *domain, u64 address, size_t size), or (…, u64 last, u32 flags)
#[inline(always)]
fn flush_pages(ctx: &impl Args) {
    begin(ProbeId::AmdFlushPages, &Key::new(ProbeId::AmdFlushPages, ctx.arg(0), ctx.arg(1)));
}
#[inline(always)]
fn flushed_pages(ctx: &impl Args) {
    let (domain, address, size) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let key = Key::new(ProbeId::AmdFlushPages, domain, address);
    let size = if setting!(amd_flush_last) != 0 { bytes(address, size) } else { size };
    flushed(ctx, &key, ProbeId::AmdFlushPages, within(domain, Field::ProtectionDomainDomain), address, size);
}
on_enter!(flush_pages_enter, flush_pages);
on_exit!(flush_pages_exit, flushed_pages);
