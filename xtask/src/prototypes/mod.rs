//! `cargo xtask prototypes`: are kernels' functions still what the probes were written against?

mod image;

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{cargo, command, kernel, modules, progress::say, workspace};

/// The modules whose functions are probed.
const MODULES: &[&str] = &["iommufd", "virtio", "virtio_ring", "virtio_iommu"];

/// Where the table of the documentation begins and ends.
const BEGIN: &str = "<!-- begin: cargo xtask prototypes --write -->";
const END: &str = "<!-- end -->";

/// Options of `cargo xtask prototypes`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Kernels of the catalogue, `running`, or paths of a bzImage, a vmlinux or a file of BTF
    #[arg(required = true)]
    kernels: Vec<String>,
    /// Put the result into docs/prototypes.md
    #[arg(long)]
    write: bool,
}

/// Compares and tells.
pub fn main(arguments: &Arguments) -> Result<u8> {
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let mut names = Vec::new();
    for (number, kernel) in arguments.kernels.iter().enumerate() {
        let place = dir.path().join(number.to_string());
        fs::create_dir(&place)?;
        let name = lay_out(kernel, &place).with_context(|| format!("cannot read the types of {kernel}"))?;
        names.push(format!("{name}={}", place.display()));
    }
    let mut cargo = cargo::command();
    cargo
        .current_dir(workspace::root())
        .args(["run", "--quiet", "--package", "iommu-trace", "--example", "prototypes", "--"])
        .args(&names)
        .stderr(Stdio::inherit());
    let output = cargo.output().map_err(|error| command::cannot_start(&cargo, &error))?;
    if !output.status.success() {
        bail!("the comparison failed ({}): `{}`", output.status, command::shown(&cargo));
    }
    let text = String::from_utf8(output.stdout).context("the comparison is no text")?;
    if !arguments.write {
        say(&text);
        return Ok(0);
    }
    let path = workspace::root().join("docs/prototypes.md");
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let new =
        replaced(&old, &text).with_context(|| format!("{} has no line {BEGIN:?}, or no {END:?}", path.display()))?;
    fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(0)
}

/// Puts a kernel's types into a directory as `/sys/kernel/btf` has them. Tells what to call it.
fn lay_out(kernel: &str, place: &Path) -> Result<String> {
    if kernel == "running" {
        return running(Path::new("/sys/kernel/btf"), place);
    }
    let image = kernel::find(kernel)?;
    let content = fs::read(&image.bzimage).with_context(|| format!("cannot read {}", image.bzimage.display()))?;
    fs::write(place.join("vmlinux"), image::types(&content)?)?;
    if let Some(dir) = &image.modules {
        // With what they need.
        for module in modules::load(dir, MODULES.iter().copied())? {
            let name = module.path.rsplit('/').next().and_then(|file| file.strip_suffix(".ko")).unwrap_or_default();
            let name = name.replace('-', "_");
            if MODULES.contains(&name.as_str()) {
                fs::write(place.join(name), image::section(&module.content, ".BTF")?)?;
            }
        }
    }
    let name = Path::new(&image.name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let version = image.version.split('-').next().unwrap_or_default();
    Ok(if version.is_empty() { name } else { format!("{name} ({version})") })
}

/// The types of the kernel that runs here.
fn running(shown: &Path, place: &Path) -> Result<String> {
    for name in ["vmlinux"].iter().chain(MODULES) {
        let from = shown.join(name);
        // A module that is built in, or not loaded, is not shown.
        if *name == "vmlinux" || from.exists() {
            fs::copy(&from, place.join(name)).with_context(|| {
                format!("cannot copy {}: a kernel with CONFIG_DEBUG_INFO_BTF shows its types there", from.display())
            })?;
        }
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!("running ({})", release.trim()))
}

/// The document with another text in the marked region.
fn replaced(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_kernel_that_runs_what_it_shows_is_taken() {
        let (shown, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let error = format!("{:#}", running(shown.path(), place.path()).unwrap_err());
        assert!(error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
        fs::write(shown.path().join("vmlinux"), "types").unwrap();
        fs::write(shown.path().join("virtio_ring"), "more").unwrap();
        fs::write(shown.path().join("ext4"), "of no interest").unwrap();
        assert!(running(shown.path(), place.path()).unwrap().starts_with("running ("));
        let mut names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["virtio_ring", "vmlinux"]);
    }

    #[test]
    fn only_the_marked_region_is_replaced() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replaced(&document, "table\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n\ntable\n\n{END}\nb\n"));
        assert_eq!(replaced(&new, "table").unwrap(), new);
        assert!(replaced("nothing", "table").is_none());
    }
}
