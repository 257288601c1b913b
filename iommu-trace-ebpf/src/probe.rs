//! How a program meets the function it is attached to: one body, whatever way it is attached.
//!
//! Functions of vmlinux are reached by fentry and fexit. Those of `iommufd`, which may be a module that fentry cannot
//! reach, have a kprobe and kretprobe form of the same body besides; so have those that kernels have whose architecture had
//! no fentry yet (arm64 before Linux 6.4).

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_get_func_arg,
    macros::map,
    maps::LruHashMap,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use iommu_trace_common::{Field, ProbeId};

use crate::{out::thread, read::setting};

/// The arguments of a function at its entry.
pub trait Args: EbpfContext {
    /// Whether the verifier knows the types of the arguments.
    const TYPED: bool = false;

    /// Argument `n`, from 0.
    fn arg(&self, n: usize) -> u64;

    /// The same as a bare number, to be reckoned with: the verifier lets nobody multiply what it knows for a pointer.
    #[inline(always)]
    fn number(&self, n: usize) -> u64 {
        self.arg(n)
    }

    /// Whether what the arguments lead to is read by loads: see [`crate::read::member`].
    #[inline(always)]
    fn direct(&self) -> bool {
        Self::TYPED && setting!(direct) != 0
    }

    /// Reads a member of what an argument leads to.
    #[inline(always)]
    fn member<T: Copy + Default>(&self, base: u64, field: Field) -> T {
        crate::read::member(self.direct(), base, field)
    }
}

/// The result of a function.
pub trait Ret: EbpfContext {
    /// What it returned.
    fn ret(&self) -> u64;
}

impl Args for FEntryContext {
    const TYPED: bool = true;

    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        FEntryContext::arg(self, n)
    }
}

impl Args for FExitContext {
    const TYPED: bool = true;

    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        FExitContext::arg(self, n)
    }

    #[inline(always)]
    fn number(&self, n: usize) -> u64 {
        let mut value = 0;
        // SAFETY: the context is the program's own, and the value is written to. The verifier puts a load in place of the call.
        unsafe { bpf_get_func_arg(self.as_ptr(), n as u32, &raw mut value) };
        value
    }
}

impl Args for BtfTracePointContext {
    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        BtfTracePointContext::arg(self, n)
    }
}

impl Args for ProbeContext {
    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        ProbeContext::arg(self, n).unwrap_or(0)
    }
}

impl Ret for FExitContext {
    #[inline(always)]
    fn ret(&self) -> u64 {
        FExitContext::ret(self).unwrap_or(0)
    }
}

impl Ret for RetProbeContext {
    #[inline(always)]
    fn ret(&self) -> u64 {
        RetProbeContext::ret(self)
    }
}

/// How many arguments are kept from a kprobe for its kretprobe.
const KEPT_ARGS: usize = 4;
/// Which word of `struct pt_regs` is the stack pointer, and how many bytes a return takes off the stack.
#[cfg(not(bpf_target_arch = "aarch64"))]
const STACK: (usize, u64) = (19, 8);
#[cfg(bpf_target_arch = "aarch64")]
const STACK: (usize, u64) = (31, 0);

/// A running call: a thread may be in the same function twice, in an interrupt.
#[repr(C)]
#[derive(Clone, Copy)]
struct Frame {
    thread: u64,
    stack: u64,
    probe: u64,
}

/// The arguments of running calls that a kretprobe needs again.
#[map]
static KEPT: LruHashMap<Frame, [u64; KEPT_ARGS]> = LruHashMap::with_max_entries(4096, 0);

impl Frame {
    /// The call whose caller has this stack pointer, before it and after.
    #[inline(always)]
    fn new(probe: ProbeId, stack: u64) -> Frame {
        Frame { thread: thread(), stack, probe: probe as u64 }
    }
}

/// The stack pointer in the registers of a kprobe or kretprobe.
#[inline(always)]
fn stack_pointer(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: a kprobe's context is a whole `struct pt_regs`, which this is a word of.
    unsafe { *ctx.as_ptr().cast::<u64>().add(STACK.0) }
}

/// Keeps the arguments of a call for its return.
#[inline(always)]
pub fn keep(probe: ProbeId, ctx: &ProbeContext) {
    let args = [Args::arg(ctx, 0), Args::arg(ctx, 1), Args::arg(ctx, 2), Args::arg(ctx, 3)];
    let frame = Frame::new(probe, stack_pointer(ctx) + STACK.1);
    // Where there is no room, the return is not told: the map drops its oldest, so that there is.
    let _ = KEPT.insert(&frame, &args, 0);
}

/// What the kprobe of a function does that is probed at its return only, besides keeping its arguments.
#[inline(always)]
pub fn nothing(_ctx: &ProbeContext) {}

/// A return by a kretprobe, with the arguments that were kept.
pub struct Returned<'a> {
    ctx: &'a RetProbeContext,
    args: [u64; KEPT_ARGS],
}

/// The return of a call whose arguments were kept; `None` for one that began before.
#[inline(always)]
pub fn returned(probe: ProbeId, ctx: &RetProbeContext) -> Option<Returned<'_>> {
    let frame = Frame::new(probe, stack_pointer(ctx));
    // SAFETY: copied out at once; the call is this thread's.
    let args = *unsafe { KEPT.get(&frame) }?;
    let _ = KEPT.remove(&frame);
    Some(Returned { ctx, args })
}

impl EbpfContext for Returned<'_> {
    fn as_ptr(&self) -> *mut c_void {
        self.ctx.as_ptr()
    }
}

impl Args for Returned<'_> {
    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        if n < KEPT_ARGS { self.args[n] } else { 0 }
    }
}

impl Ret for Returned<'_> {
    #[inline(always)]
    fn ret(&self) -> u64 {
        self.ctx.ret()
    }
}

/// A program in a section of its own: `program!("kind", Context, name, |ctx| { ... })`. aya's attributes put all of a kind into one
/// section, and its loader copies the line information of a section for each program in it: ten megabytes.
macro_rules! program {
    ($kind:literal, $context:ident, $name:ident, |$ctx:ident| $body:block) => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!($kind, "/", stringify!($name)))]
        pub fn $name(ctx: *mut core::ffi::c_void) -> i32 {
            let $ctx = aya_ebpf::programs::$context::new(ctx);
            $body
            0
        }
    };
}

/// A program at the entry of a vmlinux function: `on_enter!(name, body)`.
macro_rules! on_enter {
    ($name:ident, $body:path) => {
        crate::probe::program!("fentry", FEntryContext, $name, |ctx| { $body(&ctx) });
    };
}

/// A program at the return of a vmlinux function.
macro_rules! on_exit {
    ($name:ident, $body:path) => {
        crate::probe::program!("fexit", FExitContext, $name, |ctx| { $body(&ctx) });
    };
}

/// Programs at the entry of a function that may be in a module: fentry and kprobe.
macro_rules! on_enter_either {
    ($fentry:ident, $kprobe:ident, $body:path) => {
        crate::probe::on_enter!($fentry, $body);
        crate::probe::program!("kprobe", ProbeContext, $kprobe, |ctx| { $body(&ctx) });
    };
}

/// Programs at the return of a function that may be in a module: fexit and kretprobe.
macro_rules! on_exit_either {
    ($fexit:ident, $kretprobe:ident, $body:path) => {
        crate::probe::on_exit!($fexit, $body);
        crate::probe::program!("kretprobe", RetProbeContext, $kretprobe, |ctx| { $body(&ctx) });
    };
}

/// Programs at the entry and the return of a function, the latter given the arguments again, which for the kretprobe the kprobe
/// keeps: `on_call_either!(ProbeId, (fentry, kprobe, body), (fexit, kretprobe, body))`.
macro_rules! on_call_either {
    ($probe:ident, ($fentry:ident, $kprobe:ident, $enter:path), ($fexit:ident, $kretprobe:ident, $exit:path)) => {
        crate::probe::on_enter!($fentry, $enter);
        crate::probe::on_return_either!(@kprobe $probe, $kprobe, $enter);
        crate::probe::on_return_either!(@return $probe, $fexit, $kretprobe, $exit);
    };
}

/// Programs at the return of a function alone: the kprobe only keeps the arguments.
macro_rules! on_return_either {
    ($probe:ident, $kprobe:ident, ($fexit:ident, $kretprobe:ident, $exit:path)) => {
        crate::probe::on_return_either!(@kprobe $probe, $kprobe, crate::probe::nothing);
        crate::probe::on_return_either!(@return $probe, $fexit, $kretprobe, $exit);
    };
    (@kprobe $probe:ident, $kprobe:ident, $enter:path) => {
        crate::probe::program!("kprobe", ProbeContext, $kprobe, |ctx| {
            crate::probe::keep(iommu_trace_common::ProbeId::$probe, &ctx);
            $enter(&ctx)
        });
    };
    (@return $probe:ident, $fexit:ident, $kretprobe:ident, $exit:path) => {
        crate::probe::on_exit!($fexit, $exit);
        crate::probe::program!("kretprobe", RetProbeContext, $kretprobe, |ctx| {
            if let Some(returned) = crate::probe::returned(iommu_trace_common::ProbeId::$probe, &ctx) {
                $exit(&returned);
            }
        });
    };
}

pub(crate) use {on_call_either, on_enter, on_enter_either, on_exit, on_exit_either, on_return_either, program};
