//! The least that BPF programs can do to tell the same stages: function, time, and the fields that are needed.
//!
//! Nothing is checked, named or joined here, and nothing wakes the reader. Where the verifier knows a pointer's type, it is
//! followed by a plain load.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;

/// The kernel's tracing helpers are for programs under a licence that is compatible with the GPL.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // SAFETY: the verifier accepts no program that can reach a panic, so none is ever reached.
    unsafe { core::hint::unreachable_unchecked() }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("these are BPF programs: build iommu-trace-floor, whose build script builds them for the BPF target");
}
