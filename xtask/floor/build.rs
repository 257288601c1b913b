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
    let toolchain = toolchain::find().map_err(|missing| missing.to_string())?;
    let target_dir = out_dir.join("bpf");
    let status = toolchain
        .cargo_build(&arch)
        .args(["--bin", "iommu-trace-floor-ebpf", "--manifest-path"])
        .arg(variable("CARGO_MANIFEST_DIR")?.join("ebpf/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .status()
        .map_err(|error| format!("cannot run {:?}: {error}", toolchain.compiler))?;
    if !status.success() {
        return Err(format!("building the floor's BPF programs with {:?} failed: {status}", toolchain.compiler));
    }
    let built = target_dir.join(toolchain::TARGET).join("release/iommu-trace-floor-ebpf");
    let object = out_dir.join("floor.bpf.o");
    fs::copy(&built, &object).map_err(|error| format!("cannot copy {} to the build: {error}", built.display()))?;
    Ok(())
}
