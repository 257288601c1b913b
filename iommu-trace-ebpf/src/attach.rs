//! Attach, replace, detach; look-ups; domains, groups' members and resets.

use iommu_trace_common::{
    Field, NO_ID, Phase, ProbeId,
    record::{Attach, DeviceOnly, Domain, Lookup, Prepared, Return},
};

use crate::{
    filter,
    free::watch,
    out::{emit, emit_often, now, set},
    probe::{Args, Ret, on_enter, on_enter_either, on_exit, on_exit_either},
    read,
};

/// What an attach, replace or detach was given.
struct Call {
    group: u64,
    device: u64,
    domain: u64,
    handle: u64,
    pasid: u32,
}

#[inline(always)]
fn change(ctx: &impl Args, probe: ProbeId, call: Call) {
    watch(call.handle);
    emit(ctx, probe, Phase::Enter, |record: *mut Attach| {
        // SAFETY: the places are this record's.
        let (device, handle) = unsafe { (&raw mut (*record).device, &raw mut (*record).handle) };
        let behind = read::handle_into(handle, call.handle, call.domain);
        let dev = if call.device != 0 { call.device } else { behind };
        let group = if call.group != 0 { call.group } else { read::ptr(dev, Field::DeviceIommuGroup) };
        read::member_into(device, dev, group);
        let old_domain = read::ptr(group, Field::GroupDomain);
        set!(record, {
            domain: call.domain,
            old_domain: old_domain,
            pasid: call.pasid,
            domain_owner: read::domain_owner(call.domain),
        });
        // SAFETY: the places are this record's.
        unsafe {
            read::copy(&raw mut (*record).default_domain, group, Field::GroupDefaultDomain);
            read::copy(&raw mut (*record).dma_owner, group, Field::GroupOwner);
            read::copy(&raw mut (*record).domain_type, call.domain, Field::DomainType);
            read::copy(&raw mut (*record).old_domain_type, old_domain, Field::DomainType);
        }
    });
}

#[inline(always)]
fn returned(ctx: &impl Ret, probe: ProbeId) {
    let ret = ctx.ret() as i32 as i64;
    emit(ctx, probe, Phase::Exit, |record: *mut Return| set!(record, { ret: ret }));
}

#[inline(always)]
fn returned_void(ctx: &impl Ret, probe: ProbeId) {
    emit(ctx, probe, Phase::Exit, |record: *mut Return| set!(record, { ret: 0 }));
}

/// The programs of a change. Those of functions that 6.1 has have a kprobe form: `stem_enter or stem_kprobe`.
macro_rules! change {
    (
        $enter:ident $(or $kprobe:ident)?, $exit:ident $(or $kretprobe:ident)?,
        $probe:ident, $returned:ident, |$ctx:ident| $call:expr
    ) => {
        const _: () = {
            #[inline(always)]
            fn enter($ctx: &impl Args) {
                change($ctx, ProbeId::$probe, $call);
            }
            #[inline(always)]
            fn exit(ctx: &impl Ret) {
                $returned(ctx, ProbeId::$probe);
            }
            change!(@enter $enter $($kprobe)?);
            change!(@exit $exit $($kretprobe)?);
        };
    };
    (@enter $enter:ident) => { on_enter!($enter, enter); };
    (@enter $enter:ident $kprobe:ident) => { on_enter_either!($enter, $kprobe, enter); };
    (@exit $exit:ident) => { on_exit!($exit, exit); };
    (@exit $exit:ident $kretprobe:ident) => { on_exit_either!($exit, $kretprobe, exit); };
}

// int iommu_attach_device(struct iommu_domain *domain, struct device *dev)
change!(attach_device_enter or attach_device_kprobe, attach_device_exit or attach_device_kretprobe, AttachDevice, returned, |ctx| Call {
    group: 0,
    device: ctx.arg(1),
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// void iommu_detach_device(struct iommu_domain *domain, struct device *dev)
change!(detach_device_enter or detach_device_kprobe, detach_device_exit or detach_device_kretprobe, DetachDevice, returned_void, |ctx| Call {
    group: 0,
    device: ctx.arg(1),
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// int iommu_attach_group(struct iommu_domain *domain, struct iommu_group *group)
change!(attach_group_enter or attach_group_kprobe, attach_group_exit or attach_group_kretprobe, AttachGroup, returned, |ctx| Call {
    group: ctx.arg(1),
    device: 0,
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// void iommu_detach_group(struct iommu_domain *domain, struct iommu_group *group)
change!(detach_group_enter or detach_group_kprobe, detach_group_exit or detach_group_kretprobe, DetachGroup, returned_void, |ctx| Call {
    group: ctx.arg(1),
    device: 0,
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// int iommu_attach_group_handle(struct iommu_domain *, struct iommu_group *, struct iommu_attach_handle *)
change!(attach_group_handle_enter, attach_group_handle_exit, AttachGroupHandle, returned, |ctx| Call {
    group: ctx.arg(1),
    device: 0,
    domain: ctx.arg(0),
    handle: ctx.arg(2),
    pasid: 0,
});
// int iommu_replace_group_handle(struct iommu_group *, struct iommu_domain *, struct iommu_attach_handle *)
change!(replace_group_handle_enter, replace_group_handle_exit, ReplaceGroupHandle, returned, |ctx| Call {
    group: ctx.arg(0),
    device: 0,
    domain: ctx.arg(1),
    handle: ctx.arg(2),
    pasid: 0,
});
// void iommu_detach_group_handle(struct iommu_domain *, struct iommu_group *)
change!(detach_group_handle_enter, detach_group_handle_exit, DetachGroupHandle, returned_void, |ctx| Call {
    group: ctx.arg(1),
    device: 0,
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// int iommu_attach_device_pasid(struct iommu_domain *, struct device *, ioasid_t, struct iommu_attach_handle *)
change!(attach_device_pasid_enter, attach_device_pasid_exit, AttachDevicePasid, returned, |ctx| Call {
    group: 0,
    device: ctx.arg(1),
    domain: ctx.arg(0),
    handle: if read::setting!(attach_pasid_handle_arg) != 0 { ctx.arg(3) } else { 0 },
    pasid: ctx.arg(2) as u32,
});
// int iommu_replace_device_pasid(struct iommu_domain *, struct device *, ioasid_t, struct iommu_attach_handle *)
change!(replace_device_pasid_enter, replace_device_pasid_exit, ReplaceDevicePasid, returned, |ctx| Call {
    group: 0,
    device: ctx.arg(1),
    domain: ctx.arg(0),
    handle: ctx.arg(3),
    pasid: ctx.arg(2) as u32,
});
// void iommu_detach_device_pasid(struct iommu_domain *, struct device *, ioasid_t)
change!(detach_device_pasid_enter, detach_device_pasid_exit, DetachDevicePasid, returned_void, |ctx| Call {
    group: 0,
    device: ctx.arg(1),
    domain: ctx.arg(0),
    handle: 0,
    pasid: ctx.arg(2) as u32,
});
// static int __iommu_group_set_domain_internal(struct iommu_group *, struct iommu_domain *, unsigned int flags)
change!(set_domain_enter, set_domain_exit, SetDomain, returned, |ctx| Call {
    group: ctx.arg(0),
    device: 0,
    domain: ctx.arg(1),
    handle: 0,
    pasid: 0,
});

// struct iommu_attach_handle *iommu_attach_handle_get(struct iommu_group *, ioasid_t, unsigned int type)
#[inline(always)]
fn looked_up(ctx: &(impl Args + Ret)) {
    // The result comes after the arguments, with its type.
    let found = if ctx.direct() { ctx.arg(3) } else { ctx.ret() };
    let ret = read::error_of(found);
    if filter::is_unwanted(|| ctx.member(ctx.arg(0), Field::GroupId)) {
        return;
    }
    emit_often(ctx, ProbeId::AttachHandleGet, Phase::Exit, |record: *mut Lookup| {
        // SAFETY: the place is this record's.
        read::handle_by(ctx.direct(), unsafe { &raw mut (*record).handle }, if ret == 0 { found } else { 0 }, 0);
        let id_ts = now();
        let group = ctx.arg(0);
        set!(record, {
            group: group,
            id_ts: id_ts,
            ret: ret,
            pasid: ctx.arg(1) as u32,
            wanted_type: ctx.arg(2) as u32,
            group_id: ctx.member(group, Field::GroupId),
            pad: 0,
        });
    });
}
on_exit!(attach_handle_get_exit, looked_up);

// void iommu_domain_free(struct iommu_domain *domain)
#[inline(always)]
fn domain_freed(ctx: &impl Args) {
    let domain = ctx.arg(0);
    emit(ctx, ProbeId::DomainFree, Phase::Enter, |record: *mut Domain| {
        set!(record, {
            domain: domain,
            domain_type: read::domain_type(domain),
            owner: read::domain_owner(domain),
        });
    });
}
on_enter_either!(domain_free_enter, domain_free_kprobe, domain_freed);

#[inline(always)]
fn group_member(ctx: &impl Args, probe: ProbeId) {
    filter::changed(ctx.arg(0) as i32);
    emit(ctx, probe, Phase::Enter, |record: *mut DeviceOnly| {
        // SAFETY: the place is this record's.
        let device = unsafe { &raw mut (*record).device };
        read::device_into(device, ctx.arg(1));
        set!(device, { group_id: ctx.arg(0) as i32 });
        set!(record, { ret: 0 });
    });
}

// TRACE_EVENT add_device_to_group, remove_device_from_group: (int group_id, struct device *dev)
#[aya_ebpf::macros::btf_tracepoint]
pub fn device_add_enter(ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
    group_member(&ctx, ProbeId::DeviceAdd);
    0
}
#[aya_ebpf::macros::btf_tracepoint]
pub fn device_remove_enter(ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
    group_member(&ctx, ProbeId::DeviceRemove);
    0
}

// int pci_dev_reset_iommu_prepare(struct pci_dev *pdev); void pci_dev_reset_iommu_done(struct pci_dev *pdev)
#[inline(always)]
fn reset(ctx: &impl Args, probe: ProbeId) {
    emit(ctx, probe, Phase::Enter, |record: *mut DeviceOnly| {
        // SAFETY: the place is this record's.
        read::pci_device_into(unsafe { &raw mut (*record).device }, ctx.arg(0));
        set!(record, { ret: 0 });
    });
}
#[inline(always)]
fn reset_prepare(ctx: &impl Args) {
    reset(ctx, ProbeId::ResetPrepare);
}
#[inline(always)]
fn reset_prepared(ctx: &(impl Args + Ret)) {
    let (ret, dev) = (ctx.ret() as i32 as i64, read::pci_device(ctx.arg(0)));
    emit(ctx, ProbeId::ResetPrepare, Phase::Exit, |record: *mut Prepared| {
        let group = read::ptr(dev, Field::DeviceIommuGroup);
        set!(record, { ret: ret, recovering: read::get(group, Field::GroupRecoveryCnt).unwrap_or(NO_ID), pad: 0 });
    });
}
#[inline(always)]
fn reset_done(ctx: &impl Args) {
    reset(ctx, ProbeId::ResetDone);
}
on_enter!(reset_prepare_enter, reset_prepare);
on_exit!(reset_prepare_exit, reset_prepared);
on_enter!(reset_done_enter, reset_done);
