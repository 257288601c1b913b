//! Shared virtual addressing: bonds between a device and an address space.

use iommu_trace_common::{
    Field, NO_ID, Phase, ProbeId,
    record::{Return, Sva},
};

use crate::{
    out::{emit, emit_at, now},
    probe::{Args, Ret, on_enter, on_exit},
    read::{self, get, ptr},
};

/// The PASID of an address space: in `mm->iommu_mm` from 6.8 on, in `mm` itself before.
#[inline(always)]
fn pasid_of(mm: u64) -> u32 {
    match get::<u64>(mm, Field::MmIommuMm) {
        Some(data) => get(data, Field::IommuMmPasid).unwrap_or(NO_ID),
        None => get(mm, Field::MmPasid).unwrap_or(NO_ID),
    }
}

// struct iommu_sva *iommu_sva_bind_device(struct device *dev, struct mm_struct *mm)
#[inline(always)]
fn bind(ctx: &impl Args) {
    let mm = ctx.arg(1);
    emit(
        ctx,
        ProbeId::SvaBind,
        Phase::Enter,
        Sva {
            device: read::device(ctx.arg(0)),
            handle: read::handle(0, 0),
            mm,
            ret: 0,
            pasid: pasid_of(mm),
            users: 0,
        },
    );
}

#[inline(always)]
fn bound(ctx: &(impl Args + Ret)) {
    let ts = now();
    let mm = ctx.arg(1);
    let bond = ctx.ret();
    let ret = read::error_of(bond);
    let bond = if ret == 0 { bond } else { 0 };
    emit_at(
        ctx,
        ProbeId::SvaBind,
        Phase::Exit,
        ts,
        Sva {
            device: read::device(ctx.arg(0)),
            handle: read::handle(bond, 0),
            mm,
            ret,
            pasid: pasid_of(mm),
            users: get(bond, Field::SvaUsers).unwrap_or(0),
        },
    );
}
on_enter!(sva_bind_enter, bind);
on_exit!(sva_bind_exit, bound);

// void iommu_sva_unbind_device(struct iommu_sva *handle)
#[inline(always)]
fn unbind(ctx: &impl Args) {
    let bond = ctx.arg(0);
    let handle = read::handle(bond, 0);
    let mm = ptr(handle.domain, Field::DomainMm);
    emit(
        ctx,
        ProbeId::SvaUnbind,
        Phase::Enter,
        Sva {
            device: read::device(handle.device),
            handle,
            mm,
            ret: 0,
            pasid: pasid_of(mm),
            users: get(bond, Field::SvaUsers).unwrap_or(0),
        },
    );
}

#[inline(always)]
fn unbound(ctx: &impl Ret) {
    emit(ctx, ProbeId::SvaUnbind, Phase::Exit, Return { ret: 0 });
}
on_enter!(sva_unbind_enter, unbind);
on_exit!(sva_unbind_exit, unbound);
