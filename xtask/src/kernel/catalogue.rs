//! The kernels that this project knows, as one table.

/// Where packages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The suites that the system has configured.
    Configured,
    /// This suite, configured or not.
    Suite(&'static str),
    /// The suites that the system has configured, for this architecture.
    Foreign(&'static str),
    /// This suite, for this architecture.
    ForeignSuite(&'static str, &'static str),
}

/// Which package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// This one.
    Named(&'static str),
    /// The one with the highest version among those named `PREFIX…SUFFIX`.
    Newest(&'static str, &'static str),
    /// The one, named `PREFIX…`, that this package depends on.
    DependencyOf(&'static str, &'static str),
}

/// What is made of the packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Built from a source package, with `xtask/kernel-test.config`.
    Source(Pick),
    /// Built again from the tree of another, with more options.
    Rebuilt {
        /// The kernel that it is made from.
        base: &'static str,
        /// The Kconfig fragment on top of its own.
        fragment: &'static str,
        /// Whether it is built for the everyday tests, and not only when it is asked for.
        everyday: bool,
    },
    /// Debian's own image. `modules` is the prefix of the package's name that holds the modules, where the image's
    /// package (whose prefix is `image`) does not.
    Stock {
        /// Which package holds the image.
        pick: Pick,
        /// Prefixes: of the package of the image, and of that of the modules.
        split: Option<(&'static str, &'static str)>,
    },
}

/// A kernel of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name on the command line.
    pub name: &'static str,
    /// Where it comes from.
    pub origin: Origin,
    /// What it is made of.
    pub kind: Kind,
    /// What it is for.
    pub about: &'static str,
}

/// From 7.0 on, the image and the modules have packages of their own.
const SPLIT: Option<(&str, &str)> = Some(("linux-binary-", "linux-modules-"));
const BACKPORTS: Origin = Origin::Suite("trixie-backports");

/// All of them.
pub const CATALOGUE: &[Entry] = &[
    Entry {
        name: "built-6.12",
        origin: Origin::Configured,
        kind: Kind::Source(Pick::Named("linux-source-6.12")),
        about: "raw handles, stored before the attach op; iommufd's test device (boot it with --iommu none)",
    },
    Entry {
        name: "built-7.3",
        origin: BACKPORTS,
        kind: Kind::Source(Pick::Newest("linux-source-7.", "")),
        about: "tagged handles, stored after the attach op; PASID replace, PCI reset; iommufd's test device",
    },
    Entry {
        name: "built-7.3-modules",
        origin: BACKPORTS,
        kind: Kind::Rebuilt {
            base: "built-7.3",
            fragment: include_str!("../../kernel-modules.config"),
            everyday: true,
        },
        about: "the same with iommufd and VFIO as modules, as most distributions have them",
    },
    Entry {
        name: "built-7.3-hotplug",
        origin: BACKPORTS,
        kind: Kind::Rebuilt {
            base: "built-7.3",
            fragment: include_str!("../../kernel-hotplug.config"),
            everyday: false,
        },
        about: "the same, and PCI devices come and go (boot it with --hotplug)",
    },
    Entry {
        name: "built-7.3-cpus",
        origin: BACKPORTS,
        kind: Kind::Rebuilt { base: "built-7.3", fragment: include_str!("../../kernel-cpus.config"), everyday: false },
        about: "the same for up to 64 CPUs, where it has 2 (boot it with --smp)",
    },
    Entry {
        name: "stock-6.1",
        origin: Origin::Configured,
        kind: Kind::Stock { pick: Pick::DependencyOf("linux-image-amd64", "linux-image-"), split: None },
        about: "the oldest supported: domains only",
    },
    Entry {
        name: "stock-6.12",
        origin: Origin::Configured,
        kind: Kind::Stock { pick: Pick::DependencyOf("linux-image-6.12-amd64", "linux-image-"), split: None },
        about: "domains only: Debian leaves iommufd out",
    },
    Entry {
        name: "stock-6.18",
        origin: BACKPORTS,
        kind: Kind::Stock { pick: Pick::Newest("linux-image-6.18.", "+deb13-amd64"), split: None },
        about: "domains only: Debian leaves iommufd out",
    },
    Entry {
        name: "stock-7.3",
        origin: BACKPORTS,
        kind: Kind::Stock { pick: Pick::Newest("linux-binary-7.", "+deb13-amd64"), split: SPLIT },
        about: "the newest stock kernel: domains only",
    },
    Entry {
        name: "stock-6.1-arm64",
        origin: Origin::Foreign("arm64"),
        kind: Kind::Stock { pick: Pick::DependencyOf("linux-image-arm64", "linux-image-"), split: None },
        about: "for arm64 (boot it with --iommu smmuv3), before it had fentry",
    },
    Entry {
        name: "stock-6.12-arm64",
        origin: Origin::Foreign("arm64"),
        kind: Kind::Stock { pick: Pick::DependencyOf("linux-image-6.12-arm64", "linux-image-"), split: None },
        about: "for arm64 (boot it with --iommu smmuv3)",
    },
    Entry {
        name: "stock-7.3-arm64",
        origin: Origin::ForeignSuite("trixie-backports", "arm64"),
        kind: Kind::Stock { pick: Pick::Newest("linux-binary-7.", "+deb13-arm64"), split: SPLIT },
        about: "the newest for arm64 (boot it with --iommu smmuv3)",
    },
];

/// The entry of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|e| e.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_what_kind_it_is() {
        let names: BTreeSet<_> = CATALOGUE.iter().map(|e| e.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        for entry in CATALOGUE {
            let prefix = if matches!(entry.kind, Kind::Source(_) | Kind::Rebuilt { .. }) { "built-" } else { "stock-" };
            assert!(entry.name.starts_with(prefix), "{}", entry.name);
            assert_eq!(find(entry.name).map(|e| e.name), Some(entry.name));
        }
        assert!(find("built").is_none());
    }
}
