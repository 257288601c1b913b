//! Kernels and sources from Debian's archive into the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Entry, Image, Kind, Origin, Pick};
use crate::{
    apt::{self, Apt, Package},
    cache::{self, Lock},
    command,
    progress::Progress,
};

/// The directory of an entry, with one directory a version inside.
pub(super) fn entry_dir(entry: &Entry) -> Result<PathBuf> {
    cache::sub(Path::new("kernels").join(entry.name))
}

/// The archive that an entry comes from.
pub(super) fn archive(entry: &Entry) -> Result<Apt> {
    match entry.origin {
        Origin::Configured => Apt::configured(),
        Origin::Suite(suite) => Apt::suite(suite),
        Origin::Foreign(architecture) => Apt::foreign(architecture),
        Origin::ForeignSuite(suite, architecture) => Apt::foreign_suite(suite, architecture),
    }
}

/// The package that a pick means today.
pub(super) fn resolve(apt: &Apt, pick: Pick) -> Result<Package> {
    match pick {
        Pick::Named(name) => apt.newest(name),
        Pick::Newest(prefix, suffix) => newest(apt.starting_with(prefix)?, suffix)
            .with_context(|| format!("there is no package {prefix}…{suffix} in the archive")),
        Pick::DependencyOf(meta, prefix) => {
            let meta = apt.newest(meta)?;
            let dependencies = apt.dependencies(&meta)?;
            let Some(name) = dependencies.iter().find(|d| d.starts_with(prefix)) else {
                bail!(
                    "package {} {} depends on no {prefix}…, only on: {}",
                    meta.name,
                    meta.version,
                    dependencies.join(" ")
                );
            };
            apt.newest(name)
        }
    }
}

fn newest(packages: Vec<Package>, suffix: &str) -> Option<Package> {
    packages.into_iter().filter(|p| p.name.ends_with(suffix)).max_by(|a, b| apt::compare(&a.version, &b.version))
}

/// The newest version of a stock kernel in the cache.
pub(super) fn cached(entry: &Entry) -> Result<Option<Image>> {
    let dir = entry_dir(entry)?;
    let version = versions(&dir)?.into_iter().max_by(|a, b| apt::compare(a, b));
    version.map(|version| image(entry, &version, &dir.join(&version))).transpose()
}

/// The names of the directories in `dir`, but for the unfinished ones.
pub(crate) fn versions(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|name| !name.starts_with('.')).collect())
}

fn image(entry: &Entry, version: &str, dir: &Path) -> Result<Image> {
    let modules = module_dir(dir);
    // Debian puts it into /boot, and from 7.1 on beside the modules.
    let bzimage = [Some(dir.join("boot")), modules.clone()]
        .into_iter()
        .flatten()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")))
        .with_context(|| format!("there is no vmlinuz in {}", dir.display()))?;
    Ok(Image { name: entry.name.to_owned(), version: version.to_owned(), bzimage, modules })
}

/// `lib/modules/RELEASE` of an unpacked package, wherever this release of Debian keeps it.
pub(super) fn module_dir(dir: &Path) -> Option<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|sub| fs::read_dir(dir.join(sub)).ok()?.next()?.ok())
        .map(|e| e.path())
        .next()
}

/// Fetches the newest version of a stock kernel unless it is there.
pub(super) fn stock(entry: &Entry) -> Result<Image> {
    let Kind::Stock { pick, split } = entry.kind else {
        bail!("{} is built, not fetched", entry.name);
    };
    let _lock = Lock::take(entry.name)?;
    let apt = archive(entry)?;
    let package = resolve(&apt, pick)?;
    let dir = entry_dir(entry)?;
    let place = dir.join(&package.version);
    if !place.exists() {
        let mut packages = vec![package.clone()];
        if let Some((image, modules)) = split {
            packages.push(apt.newest(&package.name.replacen(image, modules, 1))?);
        }
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&dir)?;
        apt.unpack(&packages, partial.path())?;
        index_modules(partial.path())?;
        // What is in its place has an image.
        image(entry, &package.version, partial.path())?;
        // Dropped as a temporary directory, kept as the finished one.
        fs::rename(partial.keep(), &place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    image(entry, &package.version, &place)
}

/// Makes `modules.dep`, which Debian makes when a package is installed.
fn index_modules(root: &Path) -> Result<()> {
    let Some(dir) = module_dir(root) else { return Ok(()) };
    let release = dir.file_name().context("a module directory without a name")?;
    // depmod knows lib/modules only.
    let base = if dir.starts_with(root.join("usr")) { root.join("usr") } else { root.to_owned() };
    let depmod = command::find("depmod").context("depmod is not installed: run `cargo xtask setup`")?;
    command::output(Command::new(depmod).arg("-b").arg(base).arg(release)).map(drop)
}

/// The unpacked source tree of an entry's package: fetched if `newest` is asked for or none is in the cache.
pub(super) fn source(entry: &Entry, newest: bool) -> Result<(String, PathBuf)> {
    let Kind::Source(pick) = entry.kind else {
        bail!("{} has no source of its own to fetch", entry.name);
    };
    let dir = cache::sub(Path::new("kernels/source").join(entry.name))?;
    if !newest && let Some(version) = versions(&dir)?.into_iter().max_by(|a, b| apt::compare(a, b)) {
        let tree = dir.join(&version);
        return Ok((version, tree));
    }
    let apt = archive(entry)?;
    let package = resolve(&apt, pick)?;
    let tree = dir.join(&package.version);
    if !tree.exists() {
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&dir)?;
        apt.unpack(std::slice::from_ref(&package), partial.path())?;
        let tarball = partial.path().join(format!("usr/src/{}.tar.xz", package.name));
        let unpacked = partial.path().join("tree");
        fs::create_dir(&unpacked)?;
        let progress = Progress::start(format!("unpacking {}", package.name));
        command::output(
            Command::new("tar").arg("-xf").arg(&tarball).arg("-C").arg(&unpacked).arg("--strip-components=1"),
        )?;
        progress.done("");
        fs::rename(&unpacked, &tree).with_context(|| format!("cannot make {}", tree.display()))?;
    }
    Ok((package.version, tree))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_found_by_version_not_by_name() {
        let package = |name: &str, version: &str| Package { name: name.into(), version: version.into() };
        let packages = vec![
            package("linux-image-6.18.15+deb13-amd64", "6.18.15-1~bpo13+1"),
            package("linux-image-6.18.5+deb13-amd64", "6.18.5-1~bpo13+1"),
            package("linux-image-6.18.99+deb13-cloud-amd64", "6.18.99-1~bpo13+1"),
        ];
        assert_eq!(newest(packages, "+deb13-amd64").unwrap().version, "6.18.15-1~bpo13+1");
        assert_eq!(newest(Vec::new(), ""), None);
    }

    #[test]
    fn modules_are_found_in_merged_and_unmerged_trees() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(module_dir(dir.path()), None);
        let release = dir.path().join("usr/lib/modules/7.3.4");
        fs::create_dir_all(&release).unwrap();
        assert_eq!(module_dir(dir.path()), Some(release));
    }
}
