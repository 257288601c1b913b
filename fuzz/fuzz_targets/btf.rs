//! Any bytes as the kernel's types, and as a module's: the first two bytes say where the one ends and the other begins.
#![no_main]

use iommu_trace::kernel::testing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((split, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (vmlinux, module) = rest.split_at(usize::from(u16::from_le_bytes(*split)).min(rest.len()));
    testing::types(vmlinux, module);
});
