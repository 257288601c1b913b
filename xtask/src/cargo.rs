//! Cargo, and programs that it installs into the cache.

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Lock},
    command,
};

/// The cargo that runs us, or the one on `PATH`.
#[must_use]
pub fn command() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// The directory that cargo's programs are installed into.
pub fn tools() -> Result<PathBuf> {
    cache::sub("tools")
}

/// A program of cargo's in this version, installed if it is not in the cache.
pub fn tool(name: &str, version: &str) -> Result<PathBuf> {
    // A directory of its own for each version: two checkouts may want two.
    let dir = tools()?.join(format!("{name}-{version}"));
    let program = dir.join("bin").join(name);
    if program.exists() {
        return Ok(program);
    }
    let _lock = Lock::take(name)?;
    if !program.exists() {
        install(name, version, dir)?;
    }
    Ok(program)
}

/// Installs a program of cargo's into a directory.
pub fn install(name: &str, version: &str, dir: PathBuf) -> Result<()> {
    eprintln!("xtask: installing {name} {version}: some minutes at the most");
    let mut install = command();
    install
        .args(["install", &format!("{name}@{version}"), "--locked", "--root"])
        .arg(dir)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        // Not into this workspace's configuration.
        .current_dir("/");
    command::passed_through(&mut install).with_context(|| format!("cannot install {name} {version}"))
}
