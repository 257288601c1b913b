//! Builds the BPF programs with whichever BPF toolchain is there, and puts the object where the library includes it.
//! Also finds out what `--version` tells: the commit, and which object it is.

#[path = "build/commit.rs"]
mod commit;
#[path = "build/strip.rs"]
#[allow(missing_docs)]
mod strip;
#[path = "build/toolchain.rs"]
#[allow(dead_code, missing_docs)]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sha2::{Digest as _, Sha256};

/// Set to the path of a ready object to build without a BPF toolchain, as packagers do.
const OBJECT: &str = "IOMMU_TRACE_BPF_OBJECT";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    let object = out_dir.join("iommu-trace.bpf.o");
    for name in [OBJECT, "BPF_LINKER", "PATH", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "build", "../iommu-trace-ebpf", "../iommu-trace-common"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let built = match env::var_os(OBJECT) {
        Some(path) => PathBuf::from(path),
        None => compile(&target_root(&out_dir).join("bpf"))?,
    };
    let whole = fs::read(&built).map_err(|error| format!("cannot read {}: {error}", built.display()))?;
    let stripped =
        strip::without_debug(&whole).map_err(|error| format!("cannot strip {}: {error}", built.display()))?;
    fs::write(&object, &stripped).map_err(|error| format!("cannot write {}: {error}", object.display()))?;
    println!("cargo::rustc-env=IOMMU_TRACE_BPF_SHA256={:x}", Sha256::digest(&stripped));
    println!(
        "cargo::rustc-env=IOMMU_TRACE_BUILD_COMMIT={}",
        commit::find(&profile(&out_dir).file_name().unwrap_or_default().to_string_lossy())
    );
    println!("cargo::rustc-env=IOMMU_TRACE_BUILD_TARGET={}", env::var("TARGET").unwrap_or_default());
    Ok(())
}

/// The profile's directory. Its name is the profile's: cargo's `PROFILE` knows but two.
fn profile(out_dir: &Path) -> &Path {
    // <root>[/<triple>]/<profile>/build/<package>/out
    out_dir.ancestors().nth(3).unwrap_or(out_dir)
}

/// The root of cargo's target directory, so that all profiles share one build of the BPF programs.
fn target_root(out_dir: &Path) -> PathBuf {
    let profile = profile(out_dir);
    let above = profile.parent().unwrap_or(profile);
    let triple = env::var_os("TARGET").unwrap_or_default();
    let root = if above.file_name() == Some(&triple) { above.parent().unwrap_or(above) } else { above };
    root.to_owned()
}

fn compile(target_dir: &Path) -> Result<PathBuf, String> {
    let manifest = Path::new(&env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo did not set CARGO_MANIFEST_DIR")?)
        .join("../iommu-trace-ebpf/Cargo.toml");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|error| format!("CARGO_CFG_TARGET_ARCH: {error}"))?;
    // One directory an architecture: the same target triple stands for them all.
    toolchain::build("iommu-trace-ebpf", &manifest, &arch, &target_dir.join(&arch))
}
