//! Builds the floor's BPF programs with the BPF toolchain that iommu-trace's own are built with.

#[path = "../../iommu-trace/build/toolchain.rs"]
#[allow(dead_code, missing_docs)]
mod toolchain;

use std::{env, fs, path::PathBuf, process::ExitCode};

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
    let variable = |name: &str| env::var_os(name).map(PathBuf::from).ok_or(format!("cargo did not set {name}"));
    let out_dir = variable("OUT_DIR")?;
    for name in ["BPF_LINKER", "PATH", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "../../iommu-trace/build", "ebpf"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|error| format!("CARGO_CFG_TARGET_ARCH: {error}"))?;
    let manifest = variable("CARGO_MANIFEST_DIR")?.join("ebpf/Cargo.toml");
    let built = toolchain::build("iommu-trace-floor-ebpf", &manifest, &arch, &out_dir.join("bpf"))?;
    let object = out_dir.join("floor.bpf.o");
    fs::copy(&built, &object).map_err(|error| format!("cannot copy {} to the build: {error}", built.display()))?;
    Ok(())
}
