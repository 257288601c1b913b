//! The `iommu-trace` binary.

mod memory;

use std::process::ExitCode;

fn main() -> ExitCode {
    iommu_trace::cli::main()
}
