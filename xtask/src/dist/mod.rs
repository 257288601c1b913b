//! `cargo xtask dist`: what a release is: a static tarball for each architecture, and Debian packages.

mod build;
mod deb;
mod notices;
mod staging;
mod tarball;
mod twice;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

pub use build::Built;
use staging::Staging;

use crate::{arch::Arch, cache::Lock, command, progress::say, setup, workspace};

/// Options of `cargo xtask dist`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// For which architectures: both if none is named; may be repeated
    #[arg(long = "arch", value_name = "ARCH", value_enum)]
    archs: Vec<Arch>,
    /// Where to put everything
    #[arg(long, value_name = "DIR", default_value = "target/dist/out")]
    output: PathBuf,
    /// Build all of it a second time, from a clone at another place, and fail unless every byte is the same
    #[arg(long)]
    twice: bool,
    /// Take what is installed as it is, and install nothing
    #[arg(long)]
    no_setup: bool,
}

/// What every file of a release is made from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The version of the workspace.
    pub version: String,
    /// The commit, with `-dirty` where the tree differs from it.
    pub commit: String,
    /// When it was made, in seconds since 1970: the time of every file in a release.
    pub time: u64,
}

impl Source {
    /// Asks git.
    pub fn look() -> Result<Self> {
        let git = |arguments: &[&str]| {
            command::text(Command::new("git").args(arguments).current_dir(workspace::root()))
                .map(|text| text.trim().to_owned())
                .context("a release is made from a git checkout")
        };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])?,
            time: git(&["log", "-1", "--format=%ct"])?.parse().context("git's time of the commit is no number")?,
        })
    }
}

/// Runs the command.
pub fn main(arguments: &Arguments) -> Result<()> {
    let archs = if arguments.archs.is_empty() { vec![Arch::Amd64, Arch::Arm64] } else { arguments.archs.clone() };
    if !arguments.no_setup {
        archs.iter().copied().try_for_each(setup::ensure)?;
    }
    let source = Source::look()?;
    let output = workspace::root().join(&arguments.output);
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    let mut made = Vec::new();
    for &arch in &archs {
        let built = Built::release(arch, &source)?;
        let packages = package(&built, &source, &output)?;
        made.extend([packages.tarball, packages.deb]);
    }
    for file in &made {
        say(&format!("{}  {}\n", twice::digest(file)?, file.display()));
    }
    if arguments.twice {
        twice::compare(&made, &archs)?;
        say("built twice: every byte is the same\n");
    }
    Ok(())
}

/// The files of one architecture.
#[derive(Clone, Debug)]
pub struct Packages {
    /// All of it, below one directory.
    pub tarball: PathBuf,
    /// The Debian package.
    pub deb: PathBuf,
}

/// Makes the packages of one architecture from what was built, in `output`.
pub fn package(built: &Built, source: &Source, output: &Path) -> Result<Packages> {
    // One at a time: all of them are laid out in one place.
    let _lock = Lock::take("dist")?;
    let staging = Staging::fill(built, source)?;
    Ok(Packages { tarball: tarball::make(&staging, source, output)?, deb: deb::make(&staging, source, output)? })
}
