//! Building a kernel of the catalogue again with other options: only what they touch is compiled.
//!
//! The build tree of the kernel that it is made from is copied, a second fragment is merged into its configuration, and
//! make finds little to do. In the cache, `kernels/NAME/VERSION-HASH/` has the `bzImage` and `lib/modules/RELEASE`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    Entry, Image, Kind,
    build::{self, Make},
    catalogue, fetch,
};
use crate::{apt, cache::Lock, command, progress::Progress};

/// The configuration on top of the base's, and the kernel that it is the base of.
fn recipe(entry: &Entry) -> Result<(&'static Entry, &'static str)> {
    let Kind::Rebuilt { base, fragment, .. } = entry.kind else {
        bail!("{} is not made from another kernel", entry.name);
    };
    let base =
        catalogue::find(base).with_context(|| format!("{} is made from {base}, which there is not", entry.name))?;
    Ok((base, fragment))
}

/// The newest finished kernel of an entry, built with these configurations.
pub(super) fn cached(entry: &Entry) -> Result<Option<Image>> {
    let (_, fragment) = recipe(entry)?;
    let dir = fetch::entry_dir(entry)?;
    let suffix = suffix(fragment);
    fetch::versions(&dir)?
        .into_iter()
        .filter_map(|name| name.strip_suffix(&suffix).map(str::to_owned))
        .filter(|version| dir.join(format!("{version}{suffix}")).join("bzImage").exists())
        .max_by(|a, b| apt::compare(a, b))
        .map(|version| image(entry, &dir.join(format!("{version}{suffix}")), version))
        .transpose()
}

/// Builds it unless it is there, and the kernel it is made from before.
pub(super) fn build(entry: &Entry, newest: bool) -> Result<Image> {
    let (base_entry, fragment) = recipe(entry)?;
    let base = build::build(base_entry, newest)?;
    let _lock = Lock::take(entry.name)?;
    let place = fetch::entry_dir(entry)?.join(format!("{}{}", base.version, suffix(fragment)));
    if !place.join("bzImage").exists() {
        let (_, source) = fetch::source(base_entry, false)?;
        compile(entry, &base, fragment, &source, &place)?;
    }
    image(entry, &place, base.version)
}

/// What follows the version in a directory's name: it changes with either configuration.
fn suffix(fragment: &str) -> String {
    format!("-{}", build::hash(&format!("{}\n{fragment}", build::FRAGMENT)))
}

fn image(entry: &Entry, place: &Path, version: String) -> Result<Image> {
    let modules = fetch::module_dir(place).with_context(|| format!("there are no modules in {}", place.display()))?;
    Ok(Image { name: entry.name.to_owned(), version, bzimage: place.join("bzImage"), modules: Some(modules) })
}

fn compile(entry: &Entry, base: &Image, fragment: &str, source: &Path, place: &Path) -> Result<()> {
    let tree = tree(base, place)?;
    let make = Make { name: entry.name, version: &base.version, source, build: &tree };
    let path = place.join("fragment.config");
    fs::write(&path, fragment).with_context(|| format!("cannot write {}", path.display()))?;
    build::merge(&make, &path)?;
    check(fragment, &fs::read_to_string(tree.join(".config"))?)?;
    make.run(&["bzImage".to_owned(), "modules".to_owned()], &place.join("build.log"))?;
    let to = format!("INSTALL_MOD_PATH={}", place.display());
    make.run(&[to, "INSTALL_MOD_STRIP=1".to_owned(), "modules_install".to_owned()], &place.join("install.log"))?;
    build::install(&tree, place)
}

/// The base's build tree, copied with times, by which make decides.
fn tree(base: &Image, place: &Path) -> Result<PathBuf> {
    let tree = place.join("build");
    if !tree.exists() {
        let from = base.bzimage.parent().context("a kernel without a place")?.join("build");
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let progress = Progress::start(format!("copying the build tree of {}", base.name));
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(place)?;
        let copy = partial.path().join("tree");
        command::output(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(from).arg(&copy))?;
        fs::rename(&copy, &tree).with_context(|| format!("cannot make {}", tree.display()))?;
        progress.done("");
    }
    Ok(tree)
}

/// Every option that the fragment sets has to have come through.
fn check(fragment: &str, config: &str) -> Result<()> {
    let lost: Vec<&str> = fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|wanted| !config.lines().any(|line| line == *wanted))
        .collect();
    if !lost.is_empty() {
        bail!(
            "the kernel's configuration has lost {}: this kernel names their dependencies differently",
            lost.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_did_not_come_through_is_named() {
        let fragment = "# why\nCONFIG_A=m\nCONFIG_B=y\n# CONFIG_C is not set\n";
        assert!(check(fragment, "CONFIG_A=m\nCONFIG_B=y\n").is_ok());
        let error = check(fragment, "CONFIG_A=y\nCONFIG_B=y\n").unwrap_err().to_string();
        assert!(error.contains("CONFIG_A=m") && !error.contains("CONFIG_B"), "{error}");
    }

    #[test]
    fn each_is_made_from_a_kernel_that_is_built_here() {
        let rebuilt: Vec<_> = catalogue::CATALOGUE.iter().filter(|e| matches!(e.kind, Kind::Rebuilt { .. })).collect();
        assert!(!rebuilt.is_empty());
        for entry in rebuilt {
            let (base, _) = recipe(entry).unwrap();
            assert!(matches!(base.kind, Kind::Source(_)), "{}", entry.name);
        }
    }
}
