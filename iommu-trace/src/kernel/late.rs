//! iommufd as a module, which may come and go while we look on.

use std::{fs, os::linux::fs::MetadataExt as _, path::Path};

use iommu_trace_common::{ABSENT, Field, Late, ProbeId};

use super::{Asked, BTF_DIR, Home, Kernel, MODULE};

/// A function that is in vmlinux where iommufd is a module (drivers/iommu/iommufd/driver.c), and not where there is none.
const BESIDE_THE_MODULE: &str = "iommufd_viommu_find_dev";

impl Kernel {
    /// Whether iommufd is a module on this kernel, loaded or not.
    #[must_use]
    pub fn iommufd_is_modular(&self) -> bool {
        matches!(self.home(ProbeId::IommufdBind.function()), Some(Home::Module(_))) || self.awaits_iommufd()
    }

    /// Whether iommufd is a module that may come.
    #[must_use]
    pub fn awaits_iommufd(&self) -> bool {
        self.home(ProbeId::IommufdBind.function()).is_none()
            && (self.types.vmlinux_has_function(BESIDE_THE_MODULE) || is_listed(&self.release))
    }

    /// Reads the types of iommufd again, and tells what the BPF side must know of it.
    pub fn reload(&mut self) -> anyhow::Result<Late> {
        self.types.reload(Path::new(BTF_DIR))?;
        Ok(self.late())
    }

    /// What the BPF side must know of iommufd's own types.
    #[must_use]
    pub fn late(&self) -> Late {
        let mut late = Late::ABSENT;
        for (offset, field) in late.offsets.iter_mut().zip(Field::LATE) {
            *offset = self.types.offset(field.structure(), field.path()).unwrap_or(ABSENT);
        }
        let settings = self.settings(Asked::default());
        late.object_device = settings.object_device;
        late.iommufd_pasid_arg = settings.iommufd_pasid_arg;
        late
    }
}

/// Whether the kernel's modules, as installed, have it.
fn is_listed(release: &str) -> bool {
    fs::read_to_string(format!("/lib/modules/{release}/modules.dep"))
        .is_ok_and(|list| list.lines().any(|line| line.contains(&format!("/{MODULE}.ko"))))
}

/// One stay of the module in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence(u64);

impl Presence {
    /// The module as it is loaded now; another one after it was unloaded and loaded again.
    #[must_use]
    pub fn now() -> Option<Presence> {
        // Files of sysfs have numbers that are given out in turn. The types are there before the module's init runs.
        let meta = fs::metadata(Path::new(BTF_DIR).join(MODULE)).ok()?;
        Some(Presence(meta.st_ino()))
    }
}

/// Whether somebody uses the module, so that something may have happened in it already.
#[must_use]
pub fn in_use() -> bool {
    let dir = Path::new("/sys/module").join(MODULE);
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    // Its init, which makes its device files, still runs.
    if read("initstate").trim() == "coming" {
        return false;
    }
    // Modules on top of it hold one reference each.
    let holders = fs::read_dir(dir.join("holders")).map_or(0, Iterator::count);
    read("refcnt").trim().parse::<usize>().is_ok_and(|count| count > holders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_late_field_has_its_own_place() {
        for (place, field) in Field::LATE.into_iter().enumerate() {
            assert_eq!(field.late(), Some(place), "{field:?}");
        }
        let of_iommufd = |field: &&Field| field.structure().starts_with("iommufd_");
        for field in Field::ALL.iter().filter(of_iommufd) {
            assert!(field.late().is_some(), "{field:?} is iommufd's");
        }
        assert_eq!(Field::ALL.iter().filter(|field| field.late().is_some()).count(), Field::LATE.len());
    }
}
