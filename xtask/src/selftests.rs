//! `cargo xtask selftests`: the kernel's own selftests of iommufd, built statically for the guest.
//!
//! Nobody here has written them, and they know nothing of a tracer: they are the best check that a kernel without a
//! bug gives no alarm. They come from the source that the kernel itself is built from, and stay in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    cache::{self, Lock},
    command, kernel,
    progress::{Progress, say},
};

/// The kernel whose copy is used: that of 6.12 does not compile.
pub const KERNEL: &str = "built-7.3";

/// The programs.
pub const PROGRAMS: &[&str] = &["iommufd", "iommufd_fail_nth"];

/// Options of `cargo xtask selftests`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {}

/// Runs it: builds the programs and prints their paths.
pub fn main(_: &Arguments) -> Result<()> {
    for program in build()? {
        say(&format!("{}\n", program.display()));
    }
    Ok(())
}

/// The programs, in the order of [`PROGRAMS`], built unless they are there.
pub fn build() -> Result<Vec<PathBuf>> {
    let (version, source) = kernel::source(KERNEL)?;
    let dir = cache::sub(Path::new("selftests").join(KERNEL).join(version))?;
    let _lock = Lock::take("selftests")?;
    let programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| dir.join(name)).collect();
    if programs.iter().all(|program| program.exists()) {
        return Ok(programs);
    }
    let progress = Progress::start(format!("building the selftests of {KERNEL}"));
    let work = tempfile::Builder::new().prefix(".partial-").tempdir_in(&dir)?;
    let headers = work.path().join("headers");
    let mut make = Command::new("make");
    make.arg("-C").arg(&source).arg(format!("O={}", work.path().join("build").display()));
    make.arg("ARCH=x86_64").arg(format!("INSTALL_HDR_PATH={}", headers.display())).arg("headers_install");
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CARGO_MAKEFLAGS"] {
        make.env_remove(variable);
    }
    fs::create_dir(work.path().join("build"))?;
    command::output(&mut make)?;
    let selftests = source.join("tools/testing/selftests");
    for (name, program) in PROGRAMS.iter().zip(&programs) {
        let built = work.path().join(name);
        command::output(
            Command::new("gcc")
                .args(["-O2", "-static", "-D_GNU_SOURCE", "-Wno-unused-function", "-isystem"])
                .arg(headers.join("include"))
                .arg("-I")
                .arg(&selftests)
                .arg(selftests.join(format!("iommu/{name}.c")))
                .arg("-o")
                .arg(&built)
                .arg("-lcap"),
        )?;
        // By rename: what is in its place is whole.
        fs::rename(&built, program).with_context(|| format!("cannot put {} into its place", program.display()))?;
    }
    progress.done("");
    Ok(programs)
}
