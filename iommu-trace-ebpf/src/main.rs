//! The BPF programs: one file a topic, the readers of kernel structures ([`read`]), and the one way out ([`out`]).
//!
//! Programs decide nothing that user space could decide: each reads what its function was given, and hands it on as one
//! fixed-size record. They are built for the BPF target only, by iommu-trace's build script.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod attach;
#[cfg(target_arch = "bpf")]
mod dma;
#[cfg(target_arch = "bpf")]
mod dma_fault;
#[cfg(target_arch = "bpf")]
mod fault;
#[cfg(target_arch = "bpf")]
mod filter;
#[cfg(target_arch = "bpf")]
mod free;
#[cfg(target_arch = "bpf")]
mod invalidate;
#[cfg(target_arch = "bpf")]
mod iommufd;
#[cfg(target_arch = "bpf")]
mod out;
#[cfg(target_arch = "bpf")]
mod probe;
#[cfg(target_arch = "bpf")]
mod read;
#[cfg(target_arch = "bpf")]
mod smmu;
#[cfg(target_arch = "bpf")]
mod snapshot;
#[cfg(target_arch = "bpf")]
mod stretch;
#[cfg(target_arch = "bpf")]
mod sum;
#[cfg(target_arch = "bpf")]
mod sva;

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
    eprintln!("these are BPF programs: build iommu-trace, whose build script builds them for the BPF target");
}
