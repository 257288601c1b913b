//! What this kernel is: its types, symbols, and how it treats attach handles.

mod btf;
mod btf_format;
mod jumps;
mod late;
mod offsets;
pub mod privileges;
mod symbols;
pub mod testing;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use iommu_trace_common::{Field, NO_ID, ProbeId, Settings};

use crate::{
    event::{FAULT_PAGE_REQ, harmless},
    model::Features,
};

pub use btf::{AttachTarget, MODULE, Prototype, TargetKind, Types};
pub use late::{Presence, in_use};
pub use offsets::Offsets;
pub use symbols::{Address, Symbols};

/// Where the kernel shows its types.
const BTF_DIR: &str = "/sys/kernel/btf";

/// The running kernel.
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// `uname -m`.
    pub machine: String,
    /// Host name.
    pub host: String,
    /// vmlinux's types, and those of the modules we probe.
    pub types: Types,
    /// Every structure member that the BPF side reads.
    pub offsets: Offsets,
    kprobes_refused: OnceLock<Option<String>>,
}

impl Kernel {
    /// Reads what the running kernel shows of itself. Fails where there is no BTF: then nothing can be probed.
    pub fn running() -> anyhow::Result<Kernel> {
        let types = Types::load(Path::new(BTF_DIR))?;
        let offsets = Offsets::resolve(&types);
        Ok(Kernel {
            release: sysctl("release", "/proc/sys/kernel/osrelease"),
            machine: machine(),
            host: sysctl("hostname", "/proc/sys/kernel/hostname"),
            types,
            offsets,
            kprobes_refused: OnceLock::new(),
        })
    }

    /// Where a probed function lives: `None` when this kernel does not have it.
    #[must_use]
    pub fn home(&self, function: &str) -> Option<Home> {
        if self.types.vmlinux_has_function(function) {
            return Some(Home::Vmlinux);
        }
        self.types.module_of_function(function).map(|module| Home::Module(module.to_owned()))
    }

    /// How this kernel treats handles. The `sees_*` members are left to the probe plan.
    #[must_use]
    pub fn features(&self) -> Features {
        let has = |probe: ProbeId| self.home(probe.function()).is_some();
        Features {
            store_after_op: has(ProbeId::ReplaceDevicePasid),
            tagged_slots: self.offsets.get(Field::DomainCookieType).is_some(),
            handles: has(ProbeId::AttachHandleGet),
            iommufd: has(ProbeId::IommufdBind) || self.awaits_iommufd(),
            reset_blocking: has(ProbeId::ResetPrepare),
            group_dequeue: has(ProbeId::GroupDequeue),
            ..Features::default()
        }
    }

    /// What the BPF programs are told besides offsets.
    #[must_use]
    pub fn settings(&self, asked: Asked) -> Settings {
        let cookie = |name: &str| self.types.enumerator("iommu_domain_cookie_type", name).unwrap_or(NO_ID);
        let arguments = |probe: ProbeId| self.types.prototype(probe.function()).map_or(0, |p| p.parameters.len());
        Settings {
            cookie_iommufd: cookie("IOMMU_COOKIE_IOMMUFD"),
            cookie_sva: cookie("IOMMU_COOKIE_SVA"),
            object_device: self.types.enumerator("iommufd_object_type", "IOMMUFD_OBJ_DEVICE").unwrap_or(NO_ID),
            stacks: asked.stacks,
            iommufd_pasid_arg: u32::from(arguments(ProbeId::IommufdAttach) >= 3),
            attach_pasid_handle_arg: u32::from(arguments(ProbeId::AttachDevicePasid) >= 4),
            tagged_slots: u32::from(self.features().tagged_slots),
            xa_chunk_shift: self.types.array_len("xa_node", "slots").unwrap_or(64).max(1).ilog2(),
            direct: u32::from(asked.direct),
            track_frees: u32::from(asked.track_frees),
            sums: u32::from(asked.sums),
            amd_flush_last: u32::from(arguments(ProbeId::AmdFlushPages) >= 4),
            late: u32::from(self.iommufd_is_modular()),
            desc_state_size: self.types.size("vring_desc_state_split").unwrap_or(0),
            // The probe plan knows.
            amd_wait_void: 0,
            filter: asked.filter,
            page_request: self.types.enumerator("iommu_fault_type", "IOMMU_FAULT_PAGE_REQ").unwrap_or(FAULT_PAGE_REQ),
        }
    }
}

/// What the BPF programs are asked for, whatever the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whose kernel stacks, one of [`iommu_trace_common::stacks`].
    pub stacks: u32,
    /// To read by loads of which the verifier knows the types.
    pub direct: bool,
    /// The frees of handles and fault groups.
    pub track_frees: bool,
    /// Hot functions summed up.
    pub sums: bool,
    /// Which groups are filtered out, one of [`iommu_trace_common::filter`].
    pub filter: u32,
}

/// Where a function lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the kernel image: fentry and fexit reach it.
    Vmlinux,
    /// In this module.
    Module(String),
}

/// The IOMMU hardware units that the kernel shows in `/sys/class/iommu`, by name with their number of devices.
#[must_use]
pub fn iommu_units() -> BTreeMap<String, usize> {
    entries("/sys/class/iommu")
        .map(|unit| {
            let devices = fs::read_dir(unit.join("devices")).map_or(0, Iterator::count);
            (file_name(&unit), devices)
        })
        .collect()
}

/// The IOMMU groups of `/sys/kernel/iommu_groups`, in numeric order.
#[must_use]
pub fn iommu_groups() -> Vec<PathBuf> {
    let mut groups: Vec<PathBuf> = entries("/sys/kernel/iommu_groups").collect();
    groups.sort_by_key(|path| file_name(path).parse::<u32>().unwrap_or(u32::MAX));
    groups
}

/// The names of a group's devices.
#[must_use]
pub fn group_devices(group: &Path) -> Vec<String> {
    let mut names: Vec<String> = entries(group.join("devices")).map(|path| file_name(&path)).collect();
    names.sort();
    names
}

fn entries(dir: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn sysctl(what: &str, path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| format!("unknown {what}"), |text| harmless(text.trim()).into_owned())
}

fn machine() -> String {
    // SAFETY: `utsname` is plain arrays of characters, for which all zeroes is a value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `utsname` of ours.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return std::env::consts::ARCH.to_owned();
    }
    let bytes: Vec<u8> = name.machine.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl crate::probes::Machine for Kernel {
    fn home(&self, function: &str) -> Option<Home> {
        Kernel::home(self, function)
    }

    fn awaited(&self, _function: &str) -> Option<&str> {
        self.awaits_iommufd().then_some(MODULE)
    }

    fn has_fentry(&self) -> bool {
        // What BPF trampolines are attached by (kernel/bpf/trampoline.c): arm64 has it from 6.4 on.
        self.types.vmlinux_has_function("register_ftrace_direct")
    }

    fn copy_of(&self, function: &str) -> Option<String> {
        Symbols::copy_of(function)
    }

    fn kprobes_refused(&self) -> Option<String> {
        Kernel::kprobes_refused(self)
    }

    fn has_tracepoint(&self, name: &str) -> bool {
        self.types.has_tracepoint(name)
    }

    fn has_driver(&self, prefix: &str) -> bool {
        // virtio-iommu's units are called after their PCI devices.
        iommu_units().keys().any(|unit| unit.starts_with(prefix))
            || entries(Path::new("/sys/bus/virtio/drivers").join(prefix))
                .any(|path| file_name(&path).starts_with("virtio"))
    }
}
