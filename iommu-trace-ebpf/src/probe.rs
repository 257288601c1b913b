//! How a program meets the function it is attached to: one body, whatever way it is attached.
//!
//! Functions of vmlinux are reached by fentry and fexit. Those of `iommufd`, which may be a module that fentry cannot
//! reach, have a kprobe and kretprobe form of the same body besides.

use aya_ebpf::{
    EbpfContext,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};

/// The arguments of a function at its entry.
pub trait Args: EbpfContext {
    /// Argument `n`, from 0.
    fn arg(&self, n: usize) -> u64;
}

/// The result of a function.
pub trait Ret: EbpfContext {
    /// What it returned.
    fn ret(&self) -> u64;
}

impl Args for FEntryContext {
    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        FEntryContext::arg(self, n)
    }
}

impl Args for FExitContext {
    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        FExitContext::arg(self, n)
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

/// A program at the entry of a vmlinux function: `on_enter!(name, body)`.
macro_rules! on_enter {
    ($name:ident, $body:path) => {
        #[aya_ebpf::macros::fentry]
        pub fn $name(ctx: aya_ebpf::programs::FEntryContext) -> i32 {
            $body(&ctx);
            0
        }
    };
}

/// A program at the return of a vmlinux function.
macro_rules! on_exit {
    ($name:ident, $body:path) => {
        #[aya_ebpf::macros::fexit]
        pub fn $name(ctx: aya_ebpf::programs::FExitContext) -> i32 {
            $body(&ctx);
            0
        }
    };
}

/// Programs at the entry of a function that may be in a module: fentry and kprobe.
macro_rules! on_enter_either {
    ($fentry:ident, $kprobe:ident, $body:path) => {
        crate::probe::on_enter!($fentry, $body);
        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe(ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            $body(&ctx);
            0
        }
    };
}

/// Programs at the return of a function that may be in a module: fexit and kretprobe.
macro_rules! on_exit_either {
    ($fexit:ident, $kretprobe:ident, $body:path) => {
        crate::probe::on_exit!($fexit, $body);
        #[aya_ebpf::macros::kretprobe]
        pub fn $kretprobe(ctx: aya_ebpf::programs::RetProbeContext) -> u32 {
            $body(&ctx);
            0
        }
    };
}

pub(crate) use {on_enter, on_enter_either, on_exit, on_exit_either};
