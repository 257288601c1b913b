//! Modules of stock kernels: which, in which order, and unpacked, so that the guest's init only has to load them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// What guests want of a stock kernel; what is built in, or not there at all, is left out.
pub const WANTED: &[&str] =
    &["virtio_pci", "9pnet_virtio", "9p", "virtio_iommu", "virtio_rng", "vfio_pci", "vfio_iommu_type1", "iommufd"];

/// A module ready for `finit_module`.
#[derive(Debug)]
pub struct Module {
    /// Where it goes in the guest.
    pub path: String,
    /// The ELF file.
    pub content: Vec<u8>,
}

/// Reads the modules `wanted` and all they depend on from `lib/modules/RELEASE`, in the order to load them.
pub fn load<'a>(dir: &Path, wanted: impl IntoIterator<Item = &'a str>) -> Result<Vec<Module>> {
    let list = dir.join("modules.dep");
    let list = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let dependencies = Dependencies::parse(&list);
    dependencies
        .order(wanted)
        .into_iter()
        .map(|path| {
            let content = unpack(&dir.join(&path))?;
            let path = format!("lib/modules/{}", path.trim_end_matches(".xz").trim_end_matches(".zst"));
            Ok(Module { path, content })
        })
        .collect()
}

/// `modules.dep`, by module name.
#[derive(Debug, Default)]
struct Dependencies {
    paths: BTreeMap<String, (String, Vec<String>)>,
}

impl Dependencies {
    fn parse(text: &str) -> Self {
        let paths = text.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            Some((name(path), (path.to_owned(), needs.split_whitespace().map(name).collect())))
        });
        Self { paths: paths.collect() }
    }

    fn order<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for module in wanted {
            self.visit(&module.replace('-', "_"), &mut seen, &mut order);
        }
        order
    }

    fn visit(&self, module: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let Some((path, needs)) = self.paths.get(module) else {
            return;
        };
        if !seen.insert(module.to_owned()) {
            return;
        }
        for need in needs {
            self.visit(need, seen, order);
        }
        order.push(path.clone());
    }
}

/// `kernel/fs/9p/9p.ko.xz` → `9p`; dashes and underscores are the same to the kernel.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("ko") => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{} is compressed in a way unknown here", path.display()),
    };
    Ok(command::output(Command::new(program).arg("-dc").arg(path))?.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/net/9p/9pnet.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/vfio/pci/vfio-pci.ko.xz:
";

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let order = Dependencies::parse(DEP).order(["9pnet_virtio", "9p", "vfio-pci", "no_such_module"]);
        let at = |n: &str| order.iter().position(|p| name(p) == n).unwrap();
        assert!(at("virtio") < at("virtio_ring") && at("virtio_ring") < at("9pnet_virtio"));
        assert!(at("9pnet") < at("9p") && at("netfs") < at("9p"));
        assert!(order.contains(&"kernel/drivers/vfio/pci/vfio-pci.ko.xz".to_owned()));
        assert_eq!(order.len(), 7);
    }

    #[test]
    fn an_uncompressed_module_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kernel")).unwrap();
        fs::write(dir.path().join("kernel/a.ko"), "ELF").unwrap();
        fs::write(dir.path().join("modules.dep"), "kernel/a.ko:\n").unwrap();
        let modules = load(dir.path(), ["a"]).unwrap();
        assert_eq!((modules[0].path.as_str(), modules[0].content.as_slice()), ("lib/modules/kernel/a.ko", &b"ELF"[..]));
    }
}
