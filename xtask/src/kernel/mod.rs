//! Kernels to boot: from the catalogue by name, or any bzImage by path.

mod build;
mod catalogue;
mod command;
mod edit;
mod fetch;
mod modular;
mod test_module;
mod variant_build;
mod variants;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cache::Lock;

pub use catalogue::{CATALOGUE, Entry, Kind, Origin, Pick};
pub use command::{Arguments, main as command_main};
pub(crate) use fetch::versions;
pub use variants::{VARIANTS, Variant, WIDENED};

/// A kernel ready to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What it is called: the catalogue's name, or the path.
    pub name: String,
    /// Debian's version of the package it came from; empty for a path.
    pub version: String,
    /// The image.
    pub bzimage: PathBuf,
    /// `lib/modules/RELEASE`, for kernels that need modules.
    pub modules: Option<PathBuf>,
}

/// Finds a kernel by name or path; one of the catalogue is fetched or built first if it is not in the cache.
pub fn find(name: &str) -> Result<Image> {
    if let Some(entry) = catalogue::find(name) {
        return ensure(entry, false);
    }
    if let Some((entry, variant)) = variants::find(name)? {
        return ensure_variant(entry, variant, false);
    }
    let path = Path::new(name);
    if path.is_file() {
        return Ok(Image { name: name.to_owned(), version: String::new(), bzimage: path.to_owned(), modules: None });
    }
    let names: Vec<&str> = CATALOGUE.iter().map(|e| e.name).collect();
    bail!("{name} is neither a kernel of the catalogue ({}) nor a file", names.join(", "));
}

/// The source of a kernel of the catalogue, fetched if it is not in the cache: its version and the tree.
pub fn source(name: &str) -> Result<(String, PathBuf)> {
    let Some(entry) = catalogue::find(name) else { bail!("there is no kernel {name} in the catalogue") };
    let _lock = Lock::take(entry.name)?;
    fetch::source(entry, false)
}

/// The test guests' own module for a kernel that was built here, built as needed; `None` for another kernel.
pub fn test_module(image: &Image) -> Result<Option<PathBuf>> {
    test_module::get(image)
}

/// A kernel of the catalogue, fetched and built as needed. Without `newest`, what is in the cache is good enough.
fn ensure(entry: &Entry, newest: bool) -> Result<Image> {
    if !newest && let Some(image) = cached(entry)? {
        return Ok(image);
    }
    match entry.kind {
        Kind::Source(_) => build::build(entry, newest),
        Kind::Rebuilt { .. } => modular::build(entry, newest),
        Kind::Stock { .. } => fetch::stock(entry),
    }
}

/// Whether a kernel can be had without building what is built only when it is asked for.
#[must_use]
pub fn ready(name: &str) -> bool {
    if let Some(entry) = catalogue::find(name)
        && matches!(entry.kind, Kind::Rebuilt { everyday: false, .. })
    {
        return matches!(modular::cached(entry), Ok(Some(_)));
    }
    match variants::find(name) {
        Ok(Some((entry, variant))) => matches!(variant_build::cached(entry, variant), Ok(Some(_))),
        _ => true,
    }
}

/// A variant of a kernel, built as needed.
fn ensure_variant(entry: &Entry, variant: &Variant, newest: bool) -> Result<Image> {
    if !newest && let Some(image) = variant_build::cached(entry, variant)? {
        return Ok(image);
    }
    variant_build::build(entry, variant, newest)
}

/// The newest image of an entry in the cache.
fn cached(entry: &Entry) -> Result<Option<Image>> {
    match entry.kind {
        Kind::Source(_) => build::cached(entry),
        Kind::Rebuilt { .. } => modular::cached(entry),
        Kind::Stock { .. } => fetch::cached(entry),
    }
}
