//! The tarball: the same bytes from the same files, whoever packs them and whenever.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Source, staging::Staging};
use crate::command;

/// Packs what is staged.
pub fn make(staging: &Staging, source: &Source, output: &Path) -> Result<PathBuf> {
    let machine = staging.arch.facts().target.split('-').next().unwrap_or_default();
    let name = format!("iommu-trace-{}-{machine}-linux", source.version);
    let tar = output.join(format!("{name}.tar"));
    let parent = staging.dir.parent().context("the staging directory has no parent")?;
    let last = staging.dir.file_name().context("the staging directory has no name")?.to_string_lossy().into_owned();
    let mut pack = Command::new("tar");
    pack.args(["--create", "--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u+rw,go+r-w,a+X", &format!("--mtime=@{}", source.time)])
        .arg(format!("--transform=s,^{last},{name},"))
        .arg("--file")
        .arg(&tar)
        .arg("--directory")
        .arg(parent)
        .arg(&last);
    command::output(&mut pack)?;
    // Without the file's name and time.
    command::output(Command::new("gzip").args(["--best", "--no-name", "--force"]).arg(&tar))?;
    let packed = tar.with_extension("tar.gz");
    fs::metadata(&packed).with_context(|| format!("gzip has left no {}", packed.display()))?;
    Ok(packed)
}
