//! iommufd: its devices, its fault files, its fault queue objects. These functions may be in a module.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_user, generated::bpf_loop},
};
use iommu_trace_common::{
    Field, MAX_DELIVERED, Phase, ProbeId,
    record::{Delivered, File, Iommufd, Object, Return},
};

use crate::{
    filter,
    out::{diagnose, emit, emit_often, lost, set},
    probe::{Args, Ret, on_call_either, on_enter_either, on_exit_either},
    read::{self, ptr},
};

/// `struct iommu_hwpt_pgfault` of include/uapi/linux/iommufd.h: user space's ABI, the same on every kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pgfault {
    flags: u32,
    dev_id: u32,
    pasid: u32,
    grpid: u32,
    perm: u32,
    reserved: u32,
    addr: u64,
    length: u32,
    cookie: u32,
}

// static ssize_t iommufd_fault_fops_{read,write}(struct file *, char __user *, size_t, loff_t *)
#[inline(always)]
fn file_record(ctx: &impl Args, probe: ProbeId, phase: Phase, ret: i64) {
    let file = ctx.arg(0);
    if filter::is_not_told(|| ctx.member(file, Field::FilePrivateData), 0) {
        return;
    }
    emit_often(ctx, probe, phase, |record: *mut File| {
        set!(record, {
            file: file,
            fault: ctx.member(file, Field::FilePrivateData),
            count: ctx.arg(2),
            ret: ret,
        });
    });
}

#[inline(always)]
fn file_exit(ctx: &(impl Args + Ret), probe: ProbeId) {
    let ret = ctx.ret() as i64;
    let fault = || ctx.member(ctx.arg(0), Field::FilePrivateData);
    if matches!(probe, ProbeId::FaultRead) && ret > 0 && !filter::is_not_told(fault, 0) {
        delivered(ctx, ret as u64);
    }
    file_record(ctx, probe, Phase::Exit, ret);
}

/// What a walk through the messages of one read needs.
#[repr(C)]
struct Walk<C> {
    ctx: *const C,
    fault: u64,
    buf: u64,
}

/// One record for each message, by the kernel's own loop: the verifier looks at the body once.
#[inline(always)]
fn delivered<C: Args>(ctx: &C, bytes: u64) {
    let messages = (bytes / size_of::<Pgfault>() as u64) as u32;
    let mut walk =
        Walk { ctx: core::ptr::from_ref(ctx), fault: ctx.member(ctx.arg(0), Field::FilePrivateData), buf: ctx.arg(1) };
    // SAFETY: the callback has the form that the helper calls, and `walk` outlives the call.
    let looped = unsafe { bpf_loop(messages.min(MAX_DELIVERED), message::<C> as *mut _, (&raw mut walk).cast(), 0) };
    if looped < 0 || messages > MAX_DELIVERED {
        diagnose!(ctx, "a read gave {} messages; {} were followed", messages, looped);
        lost(ProbeId::FaultRead, Phase::Exit);
    }
}

unsafe extern "C" fn message<C: EbpfContext>(index: u32, walk: *mut Walk<C>) -> i64 {
    // SAFETY: the helper hands on what it was given, a `Walk` that lives in the caller.
    let walk = unsafe { &*walk };
    let address = walk.buf + u64::from(index) * size_of::<Pgfault>() as u64;
    // SAFETY: the helper checks the address. The kernel has just written there, so the page is present.
    let Ok(message) = (unsafe { bpf_probe_read_user(address as *const Pgfault) }) else {
        lost(ProbeId::FaultRead, Phase::Exit);
        return 0;
    };
    if filter::is_not_told(|| walk.fault, message.dev_id) {
        return 0;
    }
    // SAFETY: the context outlives the loop.
    emit_often(unsafe { &*walk.ctx }, ProbeId::FaultRead, Phase::Exit, |record: *mut Delivered| {
        set!(record, {
            fault: walk.fault,
            addr: message.addr,
            index: index,
            device_id: message.dev_id,
            pasid: message.pasid,
            grpid: message.grpid,
            perm: message.perm,
            flags: message.flags,
            cookie: message.cookie,
            pad: 0,
        });
    });
    0
}

macro_rules! file {
    ($probe:ident, $enter:ident, $exit:ident: $fentry:ident, $kprobe:ident, $fexit:ident, $kretprobe:ident) => {
        #[inline(always)]
        fn $enter(ctx: &impl Args) {
            file_record(ctx, ProbeId::$probe, Phase::Enter, 0);
        }
        #[inline(always)]
        fn $exit(ctx: &(impl Args + Ret)) {
            file_exit(ctx, ProbeId::$probe);
        }
        on_call_either!($probe, ($fentry, $kprobe, $enter), ($fexit, $kretprobe, $exit));
    };
}
file!(FaultRead, read_enter, read_exit: fault_read_enter, fault_read_kprobe, fault_read_exit, fault_read_kretprobe);
file!(FaultWrite, write_enter, write_exit: fault_write_enter, fault_write_kprobe, fault_write_exit, fault_write_kretprobe);

#[inline(always)]
fn object(ctx: &impl Args, probe: ProbeId, object: u64, other: u64) {
    emit(ctx, probe, Phase::Enter, |record: *mut Object| {
        set!(record, { ptr: object, other: other });
        // SAFETY: the places are this record's.
        unsafe {
            read::copy(&raw mut (*record).id, object, Field::ObjectId);
            read::copy(&raw mut (*record).kind, object, Field::ObjectType);
        }
    });
}

#[inline(always)]
fn done(ctx: &impl Ret, probe: ProbeId) {
    emit(ctx, probe, Phase::Exit, |record: *mut Return| set!(record, { ret: 0 }));
}

// void iommufd_auto_response_faults(struct iommufd_hw_pagetable *hwpt, struct iommufd_attach_handle *handle)
#[inline(always)]
fn auto_response(ctx: &impl Args) {
    object(ctx, ProbeId::AutoResponse, ctx.arg(0), ctx.arg(1));
}
#[inline(always)]
fn auto_responded(ctx: &impl Ret) {
    done(ctx, ProbeId::AutoResponse);
}
on_enter_either!(auto_response_enter, auto_response_kprobe, auto_response);
on_exit_either!(auto_response_exit, auto_response_kretprobe, auto_responded);

// void iommufd_fault_destroy(struct iommufd_object *obj)
#[inline(always)]
fn fault_destroy(ctx: &impl Args) {
    object(ctx, ProbeId::FaultDestroy, ctx.arg(0), 0);
}
#[inline(always)]
fn fault_destroyed(ctx: &impl Ret) {
    done(ctx, ProbeId::FaultDestroy);
}
on_enter_either!(fault_destroy_enter, fault_destroy_kprobe, fault_destroy);
on_exit_either!(fault_destroy_exit, fault_destroy_kretprobe, fault_destroyed);

#[inline(always)]
fn iommufd(ctx: &impl EbpfContext, probe: ProbeId, phase: Phase, idev: u64, dev: u64, pasid: u32, ret: i64) {
    emit(ctx, probe, phase, |record: *mut Iommufd| {
        set!(record, { idev: idev, ret: ret, pasid: pasid });
        // SAFETY: the places are this record's.
        unsafe {
            read::device_into(&raw mut (*record).device, if dev != 0 { dev } else { ptr(idev, Field::IdevDev) });
            read::copy(&raw mut (*record).id, idev, Field::IdevId);
        }
    });
}

// struct iommufd_device *iommufd_device_bind(struct iommufd_ctx *, struct device *dev, u32 *id)
#[inline(always)]
fn bind(ctx: &impl Args) {
    iommufd(ctx, ProbeId::IommufdBind, Phase::Enter, 0, ctx.arg(1), 0, 0);
}
#[inline(always)]
fn bound(ctx: &(impl EbpfContext + Ret)) {
    let idev = ctx.ret();
    let ret = read::error_of(idev);
    iommufd(ctx, ProbeId::IommufdBind, Phase::Exit, if ret == 0 { idev } else { 0 }, 0, 0, ret);
}
on_enter_either!(iommufd_bind_enter, iommufd_bind_kprobe, bind);
on_exit_either!(iommufd_bind_exit, iommufd_bind_kretprobe, bound);

#[inline(always)]
fn returned(ctx: &impl Ret, probe: ProbeId, ret: i64) {
    emit(ctx, probe, Phase::Exit, |record: *mut Return| set!(record, { ret: ret }));
}

/// A function of iommufd that is given the device first. At its return the device may be gone, so nothing is read.
macro_rules! on_idev {
    ($probe:ident, $enter:ident, $exit:ident, |$ctx:ident| $pasid:expr, |$rctx:ident| $ret:expr =>
     $fentry:ident, $kprobe:ident, $fexit:ident, $kretprobe:ident) => {
        #[inline(always)]
        fn $enter($ctx: &impl Args) {
            iommufd($ctx, ProbeId::$probe, Phase::Enter, $ctx.arg(0), 0, $pasid, 0);
        }
        #[inline(always)]
        fn $exit($rctx: &impl Ret) {
            returned($rctx, ProbeId::$probe, $ret);
        }
        on_enter_either!($fentry, $kprobe, $enter);
        on_exit_either!($fexit, $kretprobe, $exit);
    };
}

#[inline(always)]
fn pasid_arg(ctx: &impl Args) -> u32 {
    if read::iommufd_pasid_arg() { ctx.arg(1) as u32 } else { 0 }
}

// void iommufd_device_unbind(struct iommufd_device *idev)
on_idev!(IommufdUnbind, unbind, unbound, |_ctx| 0, |_ctx| 0 =>
    iommufd_unbind_enter, iommufd_unbind_kprobe, iommufd_unbind_exit, iommufd_unbind_kretprobe);
// int iommufd_device_attach(struct iommufd_device *idev, [ioasid_t pasid,] u32 *pt_id)
on_idev!(IommufdAttach, attach, attached, |ctx| pasid_arg(ctx), |ctx| ctx.ret() as i32 as i64 =>
    iommufd_attach_enter, iommufd_attach_kprobe, iommufd_attach_exit, iommufd_attach_kretprobe);
// int iommufd_device_replace(struct iommufd_device *idev, [ioasid_t pasid,] u32 *pt_id)
on_idev!(IommufdReplace, replace, replaced, |ctx| pasid_arg(ctx), |ctx| ctx.ret() as i32 as i64 =>
    iommufd_replace_enter, iommufd_replace_kprobe, iommufd_replace_exit, iommufd_replace_kretprobe);
// void iommufd_device_detach(struct iommufd_device *idev[, ioasid_t pasid])
on_idev!(IommufdDetach, detach, detached, |ctx| pasid_arg(ctx), |_ctx| 0 =>
    iommufd_detach_enter, iommufd_detach_kprobe, iommufd_detach_exit, iommufd_detach_kretprobe);
// void iommufd_device_destroy(struct iommufd_object *obj): the object is the device's first member
on_idev!(IommufdDeviceDestroy, destroy, destroyed, |_ctx| 0, |_ctx| 0 =>
    iommufd_destroy_enter, iommufd_destroy_kprobe, iommufd_destroy_exit, iommufd_destroy_kretprobe);
