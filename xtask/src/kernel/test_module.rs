//! The test guests' own kernel module (`xtask/guest/module`), built with the source and the build tree of its kernel.
//!
//! In the cache it lies beside its kernel, in `module-HASH/`, where HASH is that of its source.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Image,
    build::{self, Make},
    catalogue, fetch, variants,
};
use crate::cache::Lock;

/// Its file.
const MODULE: &str = "iommu_trace_pri.ko";
/// What it is made of.
const SOURCES: &[(&str, &str)] = &[
    ("iommu_trace_pri.c", include_str!("../../guest/module/iommu_trace_pri.c")),
    ("Kbuild", include_str!("../../guest/module/Kbuild")),
];

/// The module for a kernel, built unless it is there; `None` for a kernel that was not built here.
pub(super) fn get(image: &Image) -> Result<Option<PathBuf>> {
    // A variant has its base's configuration and structures: the base's module fits.
    let base = match variants::find(&image.name)? {
        Some((entry, _)) => build::cached(entry)?,
        None => None,
    };
    let image = base.as_ref().unwrap_or(image);
    let Some(entry) = catalogue::find(&image.name) else { return Ok(None) };
    let place = image.bzimage.parent().context("a kernel without a place")?;
    let tree = place.join("build");
    if !tree.join("vmlinux.symvers").exists() {
        return Ok(None);
    }
    let whole: String = SOURCES.iter().map(|(_, text)| *text).collect();
    let dir = place.join(format!("module-{}", build::short_hash([whole.as_str()])));
    let module = dir.join(MODULE);
    // Making a module makes what the tree lacks for it.
    let _lock = Lock::take(entry.name)?;
    if !module.exists() {
        let (_, source) = fetch::source(entry, false)?;
        let make = Make { name: MODULE, version: &image.version, source: &source, build: &tree };
        compile(&make, &dir)?;
    }
    Ok(Some(module))
}

fn compile(make: &Make<'_>, dir: &Path) -> Result<()> {
    let parent = dir.parent().context("a module without a place")?;
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(parent)?;
    for (name, text) in SOURCES {
        let path = partial.path().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    make.run(&["modules_prepare".to_owned()], &partial.path().join("prepare.log"))?;
    let exported = make.build.join("vmlinux.symvers");
    let targets = [
        format!("M={}", partial.path().display()),
        format!("KBUILD_EXTRA_SYMBOLS={}", exported.display()),
        "modules".to_owned(),
    ];
    make.run(&targets, &partial.path().join("build.log"))?;
    fs::rename(partial.keep(), dir).with_context(|| format!("cannot make {}", dir.display()))
}
