//! The `iommu-trace` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    iommu_trace::cli::main()
}
