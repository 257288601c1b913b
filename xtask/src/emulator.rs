//! Which QEMU runs a machine: the one that is installed, or a newer one from Debian's archive that lives in the cache.
//!
//! VT-d's page request queue is emulated from QEMU 10.1 on, which this system need not have. The newer one is unpacked
//! with all its libraries and run by its own loader, so that nothing of it is installed and no library of the system is used.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    apt::{self, Apt},
    arch::Arch,
    cache::{self, Lock},
    command, kernel, qemu,
};

/// The package, and the suites it and its libraries come from: the last one's version is taken.
const PACKAGE: &str = "qemu-system-x86";
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];

/// Where Debian keeps a program's libraries, firmware and QEMU's own modules.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// A QEMU to run machines with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emulator {
    /// Where the unpacked one is; `None` for the installed one.
    root: Option<PathBuf>,
    arch: Arch,
}

impl Emulator {
    /// One that can emulate this IOMMU; fetched first if that is not the installed one.
    pub fn for_iommu(iommu: qemu::Iommu) -> Result<Self> {
        let arch = iommu.arch();
        let facts = arch.facts();
        ensure!(
            iommu.wants_newest_qemu() || command::find(facts.qemu).is_some(),
            "{} is not installed: cargo xtask setup --arch {}",
            facts.qemu,
            facts.debian
        );
        Ok(Self { root: iommu.wants_newest_qemu().then(get).transpose()?, arch })
    }

    /// The beginning of its command line.
    #[must_use]
    pub fn command(&self) -> Command {
        let Some(root) = &self.root else { return Command::new(self.arch.facts().qemu) };
        let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(root.join(LIBRARIES));
        command.arg(root.join("usr/bin").join(qemu::PROGRAM));
        for firmware in FIRMWARE {
            command.arg("-L").arg(root.join(firmware));
        }
        // Modules of the installed QEMU would not fit.
        command.env("QEMU_MODULE_DIR", root.join(LIBRARIES).join("qemu"));
        command
    }
}

/// The newest one's directory in the cache.
fn get() -> Result<PathBuf> {
    let dir = cache::sub("qemu")?;
    if let Some(root) = newest(&dir)? {
        return Ok(root);
    }
    let _lock = Lock::take("qemu")?;
    if let Some(root) = newest(&dir)? {
        return Ok(root);
    }
    let apt = Apt::suites(&SUITES)?;
    let packages = apt.closure(PACKAGE, SUITES[SUITES.len() - 1])?;
    let package = packages.iter().find(|p| p.name == PACKAGE);
    let version = &package.with_context(|| format!("{PACKAGE} is not among its own packages"))?.version;
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&dir)?;
    apt.unpack_all(&format!("QEMU {version} and its libraries"), &packages, partial.path())?;
    let program = partial.path().join("usr/bin").join(qemu::PROGRAM);
    ensure!(program.exists(), "package {PACKAGE} {version} has no usr/bin/{}", qemu::PROGRAM);
    // Without the epoch, whose colon would end a path in --library-path.
    let root = dir.join(version.split_once(':').map_or(version.as_str(), |(_, rest)| rest));
    fs::rename(partial.keep(), &root).with_context(|| format!("cannot make {}", root.display()))?;
    Ok(root)
}

fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    let version = kernel::versions(dir)?.into_iter().max_by(|a, b| apt::compare(a, b));
    Ok(version.map(|version| dir.join(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_one_runs_by_its_own_loader_with_its_own_libraries_firmware_and_modules() {
        let command = Emulator { root: Some("/c/11".into()), arch: Arch::Amd64 }.command();
        assert_eq!(command.get_program(), "/c/11/usr/lib64/ld-linux-x86-64.so.2");
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(args[..3], ["--library-path", "/c/11/usr/lib/x86_64-linux-gnu", "/c/11/usr/bin/qemu-system-x86_64"]);
        assert!(args.windows(2).any(|pair| pair == ["-L", "/c/11/usr/share/seabios"]), "{args:?}");
        assert!(command.get_envs().any(|(name, value)| name == "QEMU_MODULE_DIR" && value.is_some()));
        assert_eq!(Emulator::default().command().get_program(), qemu::PROGRAM);
    }
}
