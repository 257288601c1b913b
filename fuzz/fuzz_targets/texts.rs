//! Any bytes as texts of procfs: the symbol table, a process's status and stat.
#![no_main]

use iommu_trace::kernel::testing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| testing::texts(bytes));
