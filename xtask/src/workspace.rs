//! Where the checkout is.

use std::path::{Path, PathBuf};

/// The root of the checkout that this xtask was built from.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
