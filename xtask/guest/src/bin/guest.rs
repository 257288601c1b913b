//! The guest programs' one binary. See the library for what they are.

use std::process::ExitCode;

fn main() -> ExitCode {
    iommu_trace_guest::main()
}
