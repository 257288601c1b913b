//! The programs of a release, built so that where they are built does not matter.

use std::{ffi::OsStr, path::PathBuf};

use anyhow::{Context, Result};

use super::Source;
use crate::{arch::Arch, programs, progress::Progress, workspace};

/// The profile of what is handed out.
const PROFILE: &str = "dist";

/// A program that was built, and one of this machine that can tell its own manual.
#[derive(Clone, Debug)]
pub struct Built {
    /// What it runs on.
    pub arch: Arch,
    /// The program.
    pub program: PathBuf,
    /// The same of this machine's architecture: it writes manual pages and completions.
    pub teller: PathBuf,
}

impl Built {
    /// Builds it as it is handed out.
    pub fn release(arch: Arch, source: &Source) -> Result<Self> {
        let program = build(arch, source)?;
        let teller = if arch == Arch::Amd64 { program.clone() } else { build(Arch::Amd64, source)? };
        Ok(Self { arch, program, teller })
    }
}

fn build(arch: Arch, source: &Source) -> Result<PathBuf> {
    let mut cargo = programs::cargo_build(arch, "iommu-trace", PROFILE)?;
    let variable = programs::rustflags(arch);
    let set = cargo.get_envs().find_map(|(name, value)| if name == variable.as_str() { value } else { None });
    let flags = [set.and_then(OsStr::to_str).unwrap_or_default().to_owned(), remapped()?.join(" ")].join(" ");
    cargo
        .arg("--locked")
        .env(&variable, flags)
        .env("IOMMU_TRACE_COMMIT", &source.commit)
        .env("SOURCE_DATE_EPOCH", source.time.to_string());
    let progress = Progress::start(format!("iommu-trace for {}", arch.facts().debian));
    let built = programs::run(&mut cargo)?;
    progress.done("");
    built
        .into_iter()
        .find(|program| program.ends_with("iommu-trace"))
        .context("package iommu-trace has built no program of its name")
}

/// Flags that take the names of this machine's directories out of the program.
fn remapped() -> Result<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let root = workspace::root();
    [(home, "/cargo"), (root, "/iommu-trace")]
        .into_iter()
        .map(|(dir, name)| {
            let dir = dir.to_str().filter(|dir| !dir.contains(' ')).with_context(|| {
                format!("{}: the name of a directory with spaces cannot be taken out of the program", dir.display())
            })?;
            Ok(format!("--remap-path-prefix={dir}={name}"))
        })
        .collect()
}
