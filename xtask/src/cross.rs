//! What builds programs for another architecture: Debian's Rust compiler, its standard library for that architecture, and
//! a cross linker.
//!
//! The library is unpacked into the cache: nothing of another architecture is installed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    apt::{Apt, Package},
    arch::Arch,
    cache::{self, Lock},
    command,
};

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const LIBRARY: &str = "libstd-rust-web-dev";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// Cargo, told to build static programs for `arch`.
pub fn cargo(arch: Arch) -> Result<Command> {
    let sysroot = sysroot(arch)?;
    let sysroot = sysroot.to_str().context("the cache directory's name is not UTF-8")?;
    let mut cargo = Command::new(CARGO);
    cargo
        .env("RUSTC", RUSTC)
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            // One flag a word: a path with a space would be two.
            format!("-Ctarget-feature=+crt-static -Clinker={LINKER} --sysroot={sysroot}"),
        )
        .env("CC_aarch64_unknown_linux_gnu", LINKER)
        .env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar")
        // Of the toolchain that runs us, and not of the one that builds.
        .env_remove("RUSTUP_TOOLCHAIN");
    Ok(cargo)
}

/// The installed compiler's standard library for `arch`, fetched if it is not in the cache.
fn sysroot(arch: Arch) -> Result<PathBuf> {
    let facts = arch.facts();
    ensure!(
        command::find(LINKER).is_some(),
        "{LINKER} is not there, which links the programs of guests: cargo xtask setup --arch {}",
        facts.debian
    );
    let version = command::text(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "rustc-web"]))
        .with_context(|| {
            let name = facts.debian;
            format!(
                "programs for {name} are built by Debian's rustc, which is not there: cargo xtask setup --arch {name}"
            )
        })?;
    let dir = cache::sub(PathBuf::from("rust").join(facts.debian))?;
    let place = dir.join(&version);
    let _lock = Lock::take("rust-cross")?;
    if !place.exists() {
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&dir)?;
        // A library is for exactly its own compiler.
        let package = Package { name: LIBRARY.to_owned(), version: version.clone() };
        Apt::foreign(facts.debian)?.unpack(&[package], partial.path()).with_context(|| {
            format!("{LIBRARY} of {} must be of the installed rustc-web's version {version}", facts.debian)
        })?;
        fs::rename(partial.path().join("usr"), &place)
            .with_context(|| format!("package {LIBRARY} {version} cannot be put into {}", place.display()))?;
    }
    Ok(place)
}
