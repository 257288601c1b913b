//! A small clean Debian with systemd, as a directory: made once, kept in the cache.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Lock},
    command,
    progress::Progress,
};

/// The release that everything here is made for.
const SUITE: &str = "bookworm";
/// What a machine has that runs a service: the essential packages, and systemd. No manual, no translation.
const OPTIONS: &[&str] = &[
    "--quiet",
    "--variant=essential",
    "--include=systemd",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/i18n/*",
    "--customize-hook=rm -rf \"$1\"/var/cache/apt/archives/*.deb \"$1\"/var/lib/apt/lists/*",
];

/// The directory. Who wants to change something in it copies it first.
pub fn tree() -> Result<PathBuf> {
    let dir = cache::root()?.join("debian-tree");
    if dir.exists() {
        return Ok(dir);
    }
    let _lock = Lock::take("debian-tree")?;
    if dir.exists() {
        return Ok(dir);
    }
    let progress = Progress::start("a small Debian with systemd, for its services");
    let new = tempfile::Builder::new().prefix("debian-tree-").tempdir_in(cache::root()?)?;
    let (archive, target) = (new.path().join("tree.tar"), new.path().join("tree"));
    command::output(Command::new("mmdebstrap").args(OPTIONS).arg(SUITE).arg(&archive))
        .context("cannot make a small Debian; mmdebstrap comes with `cargo xtask setup`")?;
    // Owned by whoever runs this: in the guest all of it is root's.
    fs::create_dir(&target)?;
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--no-same-owner", "--exclude=./dev/*", "--file"]).arg(&archive).arg("--directory");
    command::output(unpack.arg(&target))?;
    // Last, by rename: it says that everything is there.
    fs::rename(&target, &dir).with_context(|| format!("cannot make {}", dir.display()))?;
    progress.done("");
    Ok(dir)
}
