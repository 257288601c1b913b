//! The programs of a release, built so that where they are built does not matter.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, Result, bail};

use super::Source;
use crate::{arch::Arch, cargo, command, cross, programs, workspace};

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
    let target = arch.facts().target;
    let mut cargo = match arch {
        Arch::Amd64 => cargo::command(),
        Arch::Arm64 => cross::cargo(arch)?,
    };
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    // What `cross` has set for this target stays.
    let flags = cargo
        .get_envs()
        .find_map(|(name, value)| (name == variable.as_str()).then(|| value?.to_str().map(str::to_owned))?)
        .unwrap_or_else(|| programs::STATIC.to_owned());
    cargo
        .current_dir(workspace::root())
        .args(["build", "--locked", "--quiet", "--profile", PROFILE, "--target", target])
        .args(["--package", "iommu-trace", "--bins", "--message-format=json-render-diagnostics"])
        .env(&variable, format!("{flags} {}", remapped()?.join(" ")))
        .env("IOMMU_TRACE_COMMIT", &source.commit)
        .env("SOURCE_DATE_EPOCH", source.time.to_string())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let progress = crate::progress::Progress::start(format!("iommu-trace for {}", arch.facts().debian));
    let output = cargo.output().map_err(|error| command::cannot_start(&cargo, &error))?;
    if !output.status.success() {
        bail!("cannot build the release: `{}` failed ({})", command::shown(&cargo), output.status);
    }
    progress.done("");
    programs::executables(&String::from_utf8_lossy(&output.stdout))
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
