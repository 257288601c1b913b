//! The cache outside the checkout: kernels, tools, package lists. A fresh clone finds everything there again.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// `$XDG_CACHE_HOME/iommu-trace`, or `~/.cache/iommu-trace`. Made if it is not there.
pub fn root() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|v| Path::new(v).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(env::var_os("HOME").context("no cache directory: neither XDG_CACHE_HOME nor HOME is set")?)
                .join(".cache")
        }
    };
    directory(base.join("iommu-trace"))
}

/// A directory of the cache, made if it is not there.
pub fn sub(path: impl AsRef<Path>) -> Result<PathBuf> {
    directory(root()?.join(path))
}

fn directory(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot make the cache directory {}", path.display()))?;
    Ok(path)
}

/// A lock between runs of xtask, held until dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file is what releases the lock")] File);

impl Lock {
    /// Takes the lock `name` of the cache; waits for another run that holds it, and says so.
    pub fn take(name: &str) -> Result<Self> {
        let path = sub("locks")?.join(name);
        let file = File::create(&path).with_context(|| format!("cannot make the lock file {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("xtask: waiting for another run that is busy with {name}");
            flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self(file))
    }
}
