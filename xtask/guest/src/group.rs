//! IOMMU groups through sysfs: members and default domain.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::pci;
use crate::sys::Tried;
use crate::truth::{Fact, Outcome, Truth};

const GROUPS: &str = "/sys/kernel/iommu_groups";

/// An IOMMU group, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Group(pub u32);

/// What sysfs shows of a group.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Its number.
    pub group: u32,
    /// The names of its devices, in order.
    pub devices: Vec<String>,
    /// Its default domain's type, as the kernel names it.
    pub default_domain: String,
}

impl Group {
    /// Every group there is, by number.
    pub fn all_views() -> Vec<View> {
        let Ok(dir) = fs::read_dir(GROUPS) else { return Vec::new() };
        let mut numbers: Vec<u32> = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        let view = |group| {
            let of = Self(group);
            View { group, devices: of.devices(), default_domain: of.default_domain() }
        };
        numbers.into_iter().map(view).collect()
    }

    fn path(self, attribute: &str) -> PathBuf {
        Path::new(GROUPS).join(self.0.to_string()).join(attribute)
    }

    /// The names of its devices.
    pub fn devices(self) -> Vec<String> {
        let Ok(dir) = fs::read_dir(self.path("devices")) else { return Vec::new() };
        let mut names: Vec<_> = dir.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Its default domain's type, as the kernel names it; empty when it cannot be read.
    pub fn default_domain(self) -> String {
        fs::read_to_string(self.path("type")).unwrap_or_default().trim().to_owned()
    }

    /// Changes the default domain's type, and tells.
    pub fn set_default_domain(self, truth: &Truth, asked: &str) -> Tried<()> {
        let before = self.default_domain();
        let (outcome, result) = Outcome::of(|| pci::write(&self.path("type"), asked));
        let after = self.default_domain();
        let core = before != after && !(before == "DMA" && after == "DMA-FQ");
        truth.tell(&Fact::DefaultDomain {
            group: self.0,
            devices: self.devices(),
            asked: asked.to_owned(),
            before,
            after,
            core,
            outcome,
        });
        result
    }
}
