//! Shared virtual addressing: bonds between a device and an address space.

use iommu_trace_common::{
    Field, NO_ID, Phase, ProbeId,
    record::{Return, Sva},
};

use crate::{
    out::{emit, set},
    probe::{Args, Ret, on_call_either, on_enter_either, on_exit_either},
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

/// Fills a record: the bond is 0 where there is none (yet).
#[inline(always)]
fn fill(record: *mut Sva, dev: u64, bond: u64, mm: u64, ret: i64) {
    // SAFETY: the places are this record's.
    unsafe {
        let behind = read::handle_into(&raw mut (*record).handle, bond, 0);
        read::device_into(&raw mut (*record).device, if dev != 0 { dev } else { behind });
        read::copy(&raw mut (*record).users, bond, Field::SvaUsers);
    }
    let mm = if mm != 0 { mm } else { ptr(ptr(bond, Field::HandleDomain), Field::DomainMm) };
    set!(record, { mm: mm, ret: ret, pasid: pasid_of(mm) });
}

// struct iommu_sva *iommu_sva_bind_device(struct device *dev, struct mm_struct *mm)
#[inline(always)]
fn bind(ctx: &impl Args) {
    emit(ctx, ProbeId::SvaBind, Phase::Enter, |record: *mut Sva| fill(record, ctx.arg(0), 0, ctx.arg(1), 0));
}

#[inline(always)]
fn bound(ctx: &(impl Args + Ret)) {
    let bond = ctx.ret();
    let ret = read::error_of(bond);
    emit(ctx, ProbeId::SvaBind, Phase::Exit, |record: *mut Sva| {
        fill(record, ctx.arg(0), if ret == 0 { bond } else { 0 }, ctx.arg(1), ret);
    });
}
on_call_either!(SvaBind, (sva_bind_enter, sva_bind_kprobe, bind), (sva_bind_exit, sva_bind_kretprobe, bound));

// void iommu_sva_unbind_device(struct iommu_sva *handle)
#[inline(always)]
fn unbind(ctx: &impl Args) {
    emit(ctx, ProbeId::SvaUnbind, Phase::Enter, |record: *mut Sva| fill(record, 0, ctx.arg(0), 0, 0));
}

#[inline(always)]
fn unbound(ctx: &impl Ret) {
    emit(ctx, ProbeId::SvaUnbind, Phase::Exit, |record: *mut Return| set!(record, { ret: 0 }));
}
on_enter_either!(sva_unbind_enter, sva_unbind_kprobe, unbind);
on_exit_either!(sva_unbind_exit, sva_unbind_kretprobe, unbound);
