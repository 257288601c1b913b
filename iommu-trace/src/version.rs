//! Which build this is.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints after the name: the version, the commit that it was built from, the SHA-256 of the BPF
/// object inside, the target. Two builds that say the same in each line are the same program.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit      ",
    env!("IOMMU_TRACE_BUILD_COMMIT"),
    "\nBPF object  sha256:",
    env!("IOMMU_TRACE_BPF_SHA256"),
    "\ntarget      ",
    env!("IOMMU_TRACE_BUILD_TARGET"),
);
