//! The files of a release, laid out as below a prefix: `bin`, `lib`, `share`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Built, Source, notices};
use crate::{arch::Arch, command, workspace};

/// Where it is: cargo-deb's list of files names it.
const PLACE: &str = "target/dist/staging";

/// Shells, and where each looks for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/iommu-trace"),
    ("zsh", "share/zsh/site-functions/_iommu-trace"),
    ("fish", "share/fish/vendor_completions.d/iommu-trace.fish"),
];

/// Directories of the checkout that go along whole.
const DIRECTORIES: &[(&str, &str)] = &[
    ("docs", "share/doc/iommu-trace/docs"),
    ("dashboards/grafana", "share/iommu-trace/dashboards/grafana"),
    ("dashboards/prometheus", "share/iommu-trace/dashboards/prometheus"),
];

/// Files of the checkout that go along.
const FILES: &[(&str, &str)] = &[
    ("README.md", "share/doc/iommu-trace/README.md"),
    ("CHANGELOG.md", "share/doc/iommu-trace/CHANGELOG.md"),
    ("LICENSE-APACHE", "share/doc/iommu-trace/LICENSE-APACHE"),
    ("LICENSE-MIT", "share/doc/iommu-trace/LICENSE-MIT"),
    ("LICENSE-GPL-2.0", "share/doc/iommu-trace/LICENSE-GPL-2.0"),
    ("dashboards/README.md", "share/iommu-trace/dashboards/README.md"),
    ("dist/iommu-trace.service", "lib/systemd/system/iommu-trace.service"),
];

/// A filled directory.
#[derive(Debug)]
pub struct Staging {
    /// The directory.
    pub dir: PathBuf,
    /// What the program in it runs on.
    pub arch: Arch,
}

impl Staging {
    /// Lays out everything anew.
    pub fn fill(built: &Built, source: &Source) -> Result<Self> {
        let dir = workspace::root().join(PLACE);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        let staging = Self { dir, arch: built.arch };
        staging.copy(&built.program, "bin/iommu-trace", 0o755)?;
        for (from, to) in FILES {
            staging.copy(&workspace::root().join(from), to, 0o644)?;
        }
        for (from, to) in DIRECTORIES {
            staging.copy_all(&workspace::root().join(from), to)?;
        }
        for (shell, to) in COMPLETIONS {
            let text = command::text(Command::new(&built.teller).args(["completions", shell]))?;
            staging.write(to, text.as_bytes())?;
        }
        let pages = tempfile::tempdir()?;
        command::output(Command::new(&built.teller).args(["man", "--dir"]).arg(pages.path()))?;
        staging.copy_all(pages.path(), "share/man/man1")?;
        staging.write("share/doc/iommu-trace/THIRD-PARTY.md", notices::text(built.arch, source)?.as_bytes())?;
        Ok(staging)
    }

    fn place(&self, to: &str) -> Result<PathBuf> {
        let place = self.dir.join(to);
        let parent = place.parent().context("a file without a directory")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        Ok(place)
    }

    fn write(&self, to: &str, content: &[u8]) -> Result<()> {
        let place = self.place(to)?;
        fs::write(&place, content).with_context(|| format!("cannot write {}", place.display()))?;
        // The umask of who builds is not for users.
        fs::set_permissions(&place, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let place = self.place(to)?;
        fs::copy(from, &place).with_context(|| format!("cannot copy {} to {}", from.display(), place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    fn copy_all(&self, from: &Path, to: &str) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let to = format!("{to}/{}", name.to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.copy_all(&entry.path(), &to)?;
            } else {
                self.copy(&entry.path(), &to, 0o644)?;
            }
        }
        Ok(())
    }
}
