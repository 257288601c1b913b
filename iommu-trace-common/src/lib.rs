//! The record ABI between the BPF programs and user space.
//!
//! Everything here is plain `#[repr(C)]` data without pointers to follow, shared by `iommu-trace-ebpf` (which
//! fills it) and `iommu-trace` (which decodes it). Three tables meet here: [`ProbeId`] (which kernel function
//! a record comes from), [`Field`] (which structure offsets the BPF side is told), and the record layouts in
//! [`record`].
#![no_std]

pub mod field;
pub mod near;
pub mod probe;
pub mod record;

pub use field::{ABSENT, Field, Late};
pub use probe::{Phase, ProbeId};

/// Longest device name kept, with its terminating NUL (`dev_name()` of PCI devices has 12 characters).
pub const NAME_LEN: usize = 32;
/// Length of a task's `comm`, as the kernel's `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;
/// "No device id": iommufd object ids start at 1 and stay below this.
pub const NO_ID: u32 = u32::MAX;
/// The kind of a fault that is a page request (`IOMMU_FAULT_PAGE_REQ` since 6.8).
pub const FAULT_PAGE_REQ: u32 = 1;
/// How many fault messages one `read()` of a fault file is followed through; later ones are counted as lost.
pub const MAX_DELIVERED: u32 = 4096;
/// How many devices of one group the snapshot follows.
pub const MAX_MEMBERS: u32 = 4096;
/// How many handles and fault groups are watched for their frees at once.
pub const MAX_WATCHED: u32 = 1 << 17;
/// How many records of VT-d's fault recording registers one interrupt is followed through.
pub const MAX_DMA_FAULTS: u32 = 16;
/// How many records of SMMUv3's event queue one call is followed through: as many as the driver lets it hold.
pub const MAX_QUEUED_FAULTS: u32 = 1 << 19;
/// How many entries of AMD-Vi's event log, and how many of virtio-iommu's events, one call is followed through.
pub const MAX_LOGGED_FAULTS: u32 = 128;

/// Who owns an attach handle, as far as the kernel's own data tells: `iommu_domain.cookie_type`, or, where that does not
/// exist, whether an iommufd device object lies where an `iommufd_attach_handle` would have it.
pub mod owner {
    /// The domain does not say.
    pub const UNKNOWN: u32 = 0;
    /// iommufd: the handle is the first member of a `struct iommufd_attach_handle`.
    pub const IOMMUFD: u32 = 1;
    /// Shared virtual addressing: the handle is the first member of a `struct iommu_sva`.
    pub const SVA: u32 = 2;
}

/// How many groups can be filtered out in BPF: those with higher numbers are left to user space.
pub const MAX_FILTERED: usize = 16384;

/// Which groups are filtered out in BPF.
pub mod filter {
    /// None.
    pub const NONE: u32 = 0;
    /// Those that have not one of the numbers asked for.
    pub const BY_NUMBER: u32 = 1;
    /// Those whose devices have other names than asked for, until another device joins or leaves one.
    pub const BY_DEVICE: u32 = 2;
}

/// Whose kernel stacks are taken. To unwind one costs more than all the rest of a record.
pub mod stacks {
    /// Nobody's.
    pub const NONE: u32 = 0;
    /// Of what is rare: attach, SVA, iommufd's calls, resets, fault queues, frees.
    pub const RARE: u32 = 1;
    /// Of page faults, DMA faults, mappings and invalidations, too.
    pub const ALL: u32 = 2;
}

/// The steps of the kernel's that `check --stretch` makes longer, and what is counted of it.
pub mod stretch {
    /// A fault's handle was looked up, and its handler is not called yet.
    pub const LOOKUP: usize = 0;
    /// The handler has just been called.
    pub const HANDLER: usize = 1;
    /// The attach op of a replace is done, and the new handle is not stored yet.
    pub const REPLACE: usize = 2;
    /// How many there are.
    pub const STEPS: usize = 3;

    /// The longest wait, nanoseconds. None of the steps is in atomic context: they take mutexes. It is a part of the time after which
    /// the kernel complains of a CPU that does nothing else (20 s), and of what a user would take for a hang.
    pub const MAX_NS: u64 = 50_000_000;

    /// What was waited at one step, on one CPU.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Waited {
        /// How often.
        pub waits: u64,
        /// How long in all, nanoseconds.
        pub ns: u64,
    }
}

/// What the BPF programs are told about the running kernel besides offsets: a read-only global.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// `IOMMU_COOKIE_IOMMUFD` of this kernel, or [`NO_ID`].
    pub cookie_iommufd: u32,
    /// `IOMMU_COOKIE_SVA` of this kernel, or [`NO_ID`].
    pub cookie_sva: u32,
    /// `IOMMUFD_OBJ_DEVICE` of this kernel, or [`NO_ID`]. Tells iommufd's handles on kernels without
    /// `iommu_domain.cookie_type`.
    pub object_device: u32,
    /// Whose kernel stacks are taken: one of [`stacks`].
    pub stacks: u32,
    /// Not 0: `iommufd_device_{attach,replace,detach}` take the PASID as their second argument (from 6.15 on).
    pub iommufd_pasid_arg: u32,
    /// Not 0: `iommu_attach_device_pasid` takes a handle as its fourth argument (from 6.11 on).
    pub attach_pasid_handle_arg: u32,
    /// Not 0: `pasid_array` holds tagged pointers (0 a domain, 1 a handle), else bare handles.
    pub tagged_slots: u32,
    /// Bits of an index that one level of an xarray covers: 6, or 4 with `CONFIG_BASE_SMALL`.
    pub xa_chunk_shift: u32,
    /// Not 0: what the arguments of fentry and fexit programs point to is read by loads, whose types the verifier checks,
    /// and not by a helper's call for each member.
    pub direct: u32,
    /// Not 0: handles and fault groups are watched for their frees.
    pub track_frees: u32,
    /// Not 0: map, unmap and invalidation are summed up, and not told one by one.
    pub sums: u32,
    /// Not 0: `amd_iommu_domain_flush_pages` takes the last address, not the size (from 7.0 on).
    pub amd_flush_last: u32,
    /// Not 0: iommufd is a module, and what its types are is told in a map: see [`Late`].
    pub late: u32,
    /// Bytes of a `struct vring_desc_state_split`, 0 where this kernel has none.
    pub desc_state_size: u32,
    /// Not 0: the function of `iommu_completion_wait` that is probed returns nothing, for its callers look at no result.
    pub amd_wait_void: u32,
    /// `IOMMU_FAULT_PAGE_REQ` of this kernel: 1, or 2 where it has unrecoverable faults, too (before 6.8).
    pub page_request: u32,
    /// Whether page faults and look-ups of some groups are not told: one of [`filter`].
    pub filter: u32,
}

/// What a [`record::Slot`] tells.
pub mod slot {
    /// A group begins: its current domain is in `domain`.
    pub const GROUP: u32 = 0;
    /// The group's default domain.
    pub const DEFAULT_DOMAIN: u32 = 1;
    /// A member device of the group.
    pub const MEMBER: u32 = 2;
    /// An entry of `pasid_array`.
    pub const ENTRY: u32 = 3;
    /// The group is complete; `pasid` is 1 when not everything of it could be followed, else 0.
    pub const END: u32 = 4;
}

/// Upper bounds of the buckets that durations are counted in when they are summed up, nanoseconds. Those of the exporter.
pub const SUM_BOUNDS_NS: [u64; 19] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
];

/// Lost records by probe and phase: index `probe * 2 + phase`.
pub type LossCounters = [u64; 2 * ProbeId::ALL.len()];
