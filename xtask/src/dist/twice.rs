//! A second build elsewhere, and the comparison.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{arch::Arch, cargo, command, workspace};

/// The SHA-256 of a file, in hexadecimal.
pub fn digest(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(format!("{:x}", Sha256::digest(bytes)))
}

/// Builds the commit once more, from a clone in a directory whose name has another length, and compares the files.
pub fn compare(made: &[PathBuf], archs: &[Arch]) -> Result<()> {
    let elsewhere = tempfile::Builder::new().prefix("built-a-second-time-").tempdir()?;
    let clone = elsewhere.path().join("checkout");
    command::output(Command::new("git").args(["clone", "--quiet"]).arg(workspace::root()).arg(&clone))?;
    let mut dist = cargo::command();
    dist.current_dir(&clone).args(["run", "--quiet", "--package", "xtask", "--", "dist", "--no-setup"]);
    for arch in archs {
        dist.args(["--arch", arch.facts().debian]);
    }
    command::passed_through(&mut dist)?;
    for file in made {
        let name = file.file_name().context("a file without a name")?;
        let again = clone.join("target/dist/out").join(name);
        let (first, second) = (digest(file)?, digest(&again)?);
        ensure!(
            first == second,
            "{} is not the same when it is built a second time ({first}, then {second}). Uncommitted changes are not in \
             the second build",
            name.to_string_lossy()
        );
    }
    Ok(())
}
