//! The guest's shell and tools: Debian's static busybox, fetched once.

use std::{
    fs,
    io::{Seek, Write},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    apt::Apt,
    arch::Arch,
    cache::{self, Lock},
    command,
    initramfs::Initramfs,
};

const PACKAGE: &str = "busybox-static";

/// Puts busybox into an archive, with a link for each of its applets.
pub fn install<W: Write + Seek>(archive: &mut Initramfs<W>, arch: Arch) -> Result<()> {
    let (program, applets) = get()?;
    let program = if arch == Arch::Amd64 { program } else { foreign(arch)? };
    archive.copy(&program, "bin/busybox")?;
    for applet in applets.lines().map(str::trim).filter(|a| !a.is_empty() && *a != "busybox") {
        archive.symlink(&format!("bin/{applet}"), "/bin/busybox")?;
    }
    Ok(())
}

/// The program of another architecture, from the cache. It has the same applets, and cannot be asked here.
fn foreign(arch: Arch) -> Result<PathBuf> {
    let debian = arch.facts().debian;
    let dir = cache::sub("busybox")?;
    let program = dir.join(format!("busybox-{debian}"));
    let _lock = Lock::take("busybox")?;
    if !program.exists() {
        let apt = Apt::foreign(debian)?;
        let unpacked = tempfile::tempdir_in(&dir).context("cannot make a directory in the cache")?;
        apt.unpack(&[apt.newest(PACKAGE)?], unpacked.path())?;
        fs::rename(unpacked.path().join("bin/busybox"), &program)
            .or_else(|_| fs::rename(unpacked.path().join("usr/bin/busybox"), &program))
            .with_context(|| format!("package {PACKAGE} of {debian} has no bin/busybox"))?;
    }
    Ok(program)
}

/// The program and the names of its applets, from the cache.
fn get() -> Result<(PathBuf, String)> {
    let dir = cache::sub("busybox")?;
    let (program, applets) = (dir.join("busybox"), dir.join("applets"));
    if !applets.exists() {
        let _lock = Lock::take("busybox")?;
        let apt = Apt::configured()?;
        let unpacked = tempfile::tempdir_in(&dir).context("cannot make a directory in the cache")?;
        let package = apt.newest(PACKAGE)?;
        apt.unpack(&[package], unpacked.path())?;
        fs::rename(unpacked.path().join("bin/busybox"), &program)
            .or_else(|_| fs::rename(unpacked.path().join("usr/bin/busybox"), &program))
            .with_context(|| format!("package {PACKAGE} has no bin/busybox"))?;
        let list = command::text(Command::new(&program).arg("--list"))?;
        // Last, by rename: it says that everything is there.
        let temporary = dir.join("applets.new");
        fs::write(&temporary, list)?;
        fs::rename(&temporary, &applets)?;
    }
    let applets = fs::read_to_string(&applets).with_context(|| format!("cannot read {}", applets.display()))?;
    Ok((program, applets))
}
