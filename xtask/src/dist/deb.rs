//! The Debian package, by cargo-deb from the list in iommu-trace's `Cargo.toml`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Source, staging::Staging};
use crate::{cargo, command, workspace};

/// The version that is known to work.
const VERSION: &str = "3.8.0";

/// Packs what is staged.
pub fn make(staging: &Staging, source: &Source, output: &Path) -> Result<PathBuf> {
    let facts = staging.arch.facts();
    let file = output.join(format!("iommu-trace_{}_{}.deb", source.version, facts.debian));
    let mut command = Command::new(cargo::tool("cargo-deb", VERSION)?);
    command
        .current_dir(workspace::root())
        .args(["--package", "iommu-trace", "--no-build", "--no-strip", "--locked", "--target", facts.target])
        .args(["--deb-version", &source.version, "--output"])
        .arg(&file)
        .env("SOURCE_DATE_EPOCH", source.time.to_string());
    command::output(&mut command).with_context(|| format!("cannot make {}", file.display()))?;
    Ok(file)
}
