//! What compiles and links BPF: which of the ways is there.
//!
//! The build script of iommu-trace looks in the same places; what differs is only who tells people how to mend it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{cargo, command};

/// The bpf-linker that this project is built with.
pub const LINKER_VERSION: &str = "0.10.3";

/// The LLVM that this bpf-linker loads.
const LLVM: &str = "libLLVM.so.22.";

/// Debian's packages of a compiler with a ready-built `core` for BPF.
pub const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// A way to compile for `bpfel-unknown-none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// Debian's `rustc-web`, with a ready-built `core`.
    Debian,
    /// rustup's nightly with `rust-src`, which builds `core` itself.
    Nightly,
}

/// The compiler that is there, if one is.
#[must_use]
pub fn compiler() -> Option<Compiler> {
    if debian_core(Path::new("/usr/lib/rustlib")) && Path::new("/usr/bin/rustc").exists() {
        return Some(Compiler::Debian);
    }
    let sysroot = command::text(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    core.is_dir().then_some(Compiler::Nightly)
}

/// Whether there is a ready-built `core` for BPF.
fn debian_core(rustlib: &Path) -> bool {
    contains(&rustlib.join("bpfel-unknown-none/lib"), |name| {
        name.starts_with("libcore-") && Path::new(name).extension().is_some_and(|e| e == "rlib")
    })
}

/// bpf-linker: the one that `BPF_LINKER` names, one on `PATH`, or ours.
pub fn linker() -> Result<Option<PathBuf>> {
    if let Some(path) = env::var_os("BPF_LINKER") {
        return Ok(Some(path.into()));
    }
    let ours = cargo::tools()?.join("bin/bpf-linker");
    Ok(command::find("bpf-linker").or_else(|| ours.is_file().then_some(ours)))
}

/// The directory of an LLVM that bpf-linker can load.
#[must_use]
pub fn llvm() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> =
        env::var_os("LD_LIBRARY_PATH").map(|v| env::split_paths(&v).collect()).unwrap_or_default();
    places.extend(["/usr/lib/llvm-22/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"].map(PathBuf::from));
    // Only then the compilers': asking them takes a while.
    let has = |dir: &PathBuf| contains(dir, |name| name.starts_with(LLVM));
    places.into_iter().find(has).or_else(|| {
        let own = command::text(Command::new("rustc").args(["--print", "sysroot"])).ok()?;
        let own = Path::new(own.trim()).join("lib");
        let toolchains = env::var_os("RUSTUP_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".rustup")))
            .and_then(|home| fs::read_dir(home.join("toolchains")).ok());
        let others = toolchains.into_iter().flatten().filter_map(|e| Some(e.ok()?.path().join("lib")));
        std::iter::once(own).chain(others).find(has)
    })
}

/// The components that the checks need and this toolchain lacks.
#[must_use]
pub fn missing_components() -> Vec<&'static str> {
    let sysroot = command::text(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let bin = Path::new(sysroot.trim()).join("bin");
    [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")]
        .into_iter()
        .filter(|(_, program)| !bin.join(program).exists())
        .map(|(component, _)| component)
        .collect()
}

fn contains(dir: &Path, fits: impl Fn(&str) -> bool) -> bool {
    fs::read_dir(dir)
        .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.file_name().to_str().is_some_and(&fits))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_core_is_no_toolchain() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!debian_core(dir.path()));
        let lib = dir.path().join("bpfel-unknown-none/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libcore-1.rmeta"), "").unwrap();
        assert!(!debian_core(dir.path()));
        fs::write(lib.join("libcore-1.rlib"), "").unwrap();
        assert!(debian_core(dir.path()));
    }
}
