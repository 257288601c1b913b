//! Debian's Prometheus and promtool, fetched once and not installed.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    apt::Apt,
    cache::{self, Lock},
};

const PACKAGE: &str = "prometheus";
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// The directory of both programs, in the cache.
pub fn get() -> Result<PathBuf> {
    let dir = cache::sub("prometheus")?;
    let ready = |dir: &PathBuf| PROGRAMS.iter().all(|program| dir.join(program).is_file());
    if ready(&dir) {
        return Ok(dir);
    }
    let _lock = Lock::take("prometheus")?;
    if ready(&dir) {
        return Ok(dir);
    }
    let apt = Apt::configured()?;
    let package = apt.newest(PACKAGE)?;
    let unpacked = tempfile::tempdir_in(&dir).context("cannot make a directory in the cache")?;
    apt.unpack(&[package], unpacked.path())?;
    for program in PROGRAMS {
        fs::rename(unpacked.path().join("usr/bin").join(program), dir.join(program))
            .with_context(|| format!("package {PACKAGE} has no usr/bin/{program}"))?;
    }
    Ok(dir)
}
