//! Attach, replace, detach; look-ups; domains, groups' members and resets.

use iommu_trace_common::{
    Field, Phase, ProbeId,
    record::{Attach, DeviceOnly, Domain, Handle, Lookup, Return},
};

use crate::{
    out::{emit, emit_at, now},
    probe::{Args, Ret, on_enter, on_exit},
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
    let ts = now();
    let handle = read::handle(call.handle, call.domain);
    let mut device = if call.device != 0 {
        read::device(call.device)
    } else if handle.device != 0 {
        read::device(handle.device)
    } else {
        read::group(call.group)
    };
    if call.group != 0 {
        device.group = call.group;
    }
    let old_domain = read::ptr(device.group, Field::GroupDomain);
    emit_at(
        ctx,
        probe,
        Phase::Enter,
        ts,
        Attach {
            device,
            handle,
            domain: call.domain,
            old_domain,
            default_domain: read::ptr(device.group, Field::GroupDefaultDomain),
            dma_owner: read::ptr(device.group, Field::GroupOwner),
            domain_type: read::domain_type(call.domain),
            old_domain_type: read::domain_type(old_domain),
            pasid: call.pasid,
            domain_owner: read::domain_owner(call.domain),
        },
    );
}

#[inline(always)]
fn returned(ctx: &impl Ret, probe: ProbeId) {
    emit(ctx, probe, Phase::Exit, Return { ret: ctx.ret() as i32 as i64 });
}

#[inline(always)]
fn returned_void(ctx: &impl Ret, probe: ProbeId) {
    emit(ctx, probe, Phase::Exit, Return { ret: 0 });
}

macro_rules! change {
    ($enter:ident, $exit:ident, $probe:ident, $returned:ident, |$ctx:ident| $call:expr) => {
        const _: () = {
            #[inline(always)]
            fn enter($ctx: &impl Args) {
                change($ctx, ProbeId::$probe, $call);
            }
            #[inline(always)]
            fn exit(ctx: &impl Ret) {
                $returned(ctx, ProbeId::$probe);
            }
            on_enter!($enter, enter);
            on_exit!($exit, exit);
        };
    };
}

// int iommu_attach_device(struct iommu_domain *domain, struct device *dev)
change!(attach_device_enter, attach_device_exit, AttachDevice, returned, |ctx| Call {
    group: 0,
    device: ctx.arg(1),
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// void iommu_detach_device(struct iommu_domain *domain, struct device *dev)
change!(detach_device_enter, detach_device_exit, DetachDevice, returned_void, |ctx| Call {
    group: 0,
    device: ctx.arg(1),
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// int iommu_attach_group(struct iommu_domain *domain, struct iommu_group *group)
change!(attach_group_enter, attach_group_exit, AttachGroup, returned, |ctx| Call {
    group: ctx.arg(1),
    device: 0,
    domain: ctx.arg(0),
    handle: 0,
    pasid: 0,
});
// void iommu_detach_group(struct iommu_domain *domain, struct iommu_group *group)
change!(detach_group_enter, detach_group_exit, DetachGroup, returned_void, |ctx| Call {
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
    handle: if read::settings().attach_pasid_handle_arg != 0 { ctx.arg(3) } else { 0 },
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
    let ts = now();
    let group = ctx.arg(0);
    let found = ctx.ret();
    let ret = read::error_of(found);
    let handle: Handle = read::handle(if ret == 0 { found } else { 0 }, 0);
    let id_ts = now();
    emit_at(
        ctx,
        ProbeId::AttachHandleGet,
        Phase::Exit,
        ts,
        Lookup {
            group,
            id_ts,
            ret,
            handle,
            group_id: read::get(group, Field::GroupId).unwrap_or(-1),
            pasid: ctx.arg(1) as u32,
            wanted_type: ctx.arg(2) as u32,
            pad: 0,
        },
    );
}
on_exit!(attach_handle_get_exit, looked_up);

// void iommu_domain_free(struct iommu_domain *domain)
#[inline(always)]
fn domain_freed(ctx: &impl Args) {
    let domain = ctx.arg(0);
    emit(
        ctx,
        ProbeId::DomainFree,
        Phase::Enter,
        Domain { domain, domain_type: read::domain_type(domain), owner: read::domain_owner(domain) },
    );
}
on_enter!(domain_free_enter, domain_freed);

#[inline(always)]
fn group_member(ctx: &impl Args, probe: ProbeId) {
    let mut device = read::device(ctx.arg(1));
    device.group_id = ctx.arg(0) as i32;
    emit(ctx, probe, Phase::Enter, DeviceOnly { device, ret: 0 });
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
fn reset_prepare(ctx: &impl Args) {
    emit(ctx, ProbeId::ResetPrepare, Phase::Enter, DeviceOnly { device: read::pci_device(ctx.arg(0)), ret: 0 });
}
#[inline(always)]
fn reset_prepared(ctx: &impl Ret) {
    returned(ctx, ProbeId::ResetPrepare);
}
#[inline(always)]
fn reset_done(ctx: &impl Args) {
    emit(ctx, ProbeId::ResetDone, Phase::Enter, DeviceOnly { device: read::pci_device(ctx.arg(0)), ret: 0 });
}
on_enter!(reset_prepare_enter, reset_prepare);
on_exit!(reset_prepare_exit, reset_prepared);
on_enter!(reset_done_enter, reset_done);
