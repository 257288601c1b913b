//! Queued invalidation, streamed on demand.

use iommu_trace_common::{Field, Phase, ProbeId, record::Invalidate};

use crate::{
    dma::start::{Key, begin, end},
    out::{emit, set},
    probe::{Args, Ret, on_enter, on_exit},
    read,
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
        emit(ctx, ProbeId::QiSubmitSync, Phase::Exit, |record: *mut Invalidate| {
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
        let ret = ctx.ret() as i32 as i64;
        emit(ctx, ProbeId::AmdCompletionWait, Phase::Exit, |record: *mut Invalidate| {
            set!(record, { iommu: iommu, desc: 0, ret: ret, duration: duration, count: 1, options: 0 });
        });
    }
}
on_enter!(amd_completion_wait_enter, wait);
on_exit!(amd_completion_wait_exit, waited);
