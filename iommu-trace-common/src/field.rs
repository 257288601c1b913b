//! Which structure offsets the BPF programs are told at load.
//!
//! rustc emits no CO-RE relocations, so every offset is resolved by user space from the running kernel's BTF and
//! handed over as one read-only array indexed by [`Field`]. A member that this kernel lacks is [`ABSENT`].

/// The offset of a member that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! fields {
    ($($variant:ident = $ty:literal . $path:literal),+ $(,)?) => {
        /// A structure member whose byte offset differs between kernels.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Field {
            $(#[doc = concat!("`", $ty, ".", $path, "`")] $variant,)+
        }

        impl Field {
            /// Every field, in numeric order.
            pub const ALL: &'static [Field] = &[$(Field::$variant,)+];
            /// How many there are: the length of the offset array.
            pub const COUNT: usize = Self::ALL.len();

            /// The structure's name in BTF, and, behind ` with `, a member that tells it from others of that name.
            #[must_use]
            pub const fn structure(self) -> &'static str {
                match self { $(Field::$variant => $ty,)+ }
            }

            /// The member's path inside the structure, dots between nested members.
            #[must_use]
            pub const fn path(self) -> &'static str {
                match self { $(Field::$variant => $path,)+ }
            }
        }
    };
}

fields! {
    DeviceIommuGroup = "device"."iommu_group",
    DeviceKobjName = "device"."kobj.name",
    DeviceInitName = "device"."init_name",
    PciDevDevice = "pci_dev"."dev",
    GroupId = "iommu_group"."id",
    GroupDomain = "iommu_group"."domain",
    GroupDefaultDomain = "iommu_group"."default_domain",
    GroupBlockingDomain = "iommu_group"."blocking_domain",
    GroupOwner = "iommu_group"."owner",
    GroupRecoveryCnt = "iommu_group"."recovery_cnt",
    GroupDevices = "iommu_group"."devices",
    GroupPasidArray = "iommu_group"."pasid_array",
    GroupDeviceList = "group_device"."list",
    GroupDeviceDev = "group_device"."dev",
    XarrayHead = "xarray"."xa_head",
    XaNodeShift = "xa_node"."shift",
    XaNodeSlots = "xa_node"."slots",
    DomainType = "iommu_domain"."type",
    DomainCookieType = "iommu_domain"."cookie_type",
    DomainIopfHandler = "iommu_domain"."iopf_handler",
    DomainMm = "iommu_domain"."mm",
    DomainFaultData = "iommu_domain"."fault_data",
    DomainIommufdHwpt = "iommu_domain"."iommufd_hwpt",
    HwptFault = "iommufd_hw_pagetable"."fault",
    HandleDomain = "iommu_attach_handle"."domain",
    IommufdHandleIdev = "iommufd_attach_handle"."idev",
    IdevId = "iommufd_device"."obj.id",
    IdevType = "iommufd_device"."obj.type",
    IdevDev = "iommufd_device"."dev",
    ObjectId = "iommufd_object"."id",
    ObjectType = "iommufd_object"."type",
    SvaDev = "iommu_sva"."dev",
    SvaUsers = "iommu_sva"."users",
    MmIommuMm = "mm_struct"."iommu_mm",
    IommuMmPasid = "iommu_mm_data"."pasid",
    MmPasid = "mm_struct"."pasid",
    FaultType = "iopf_fault"."fault.type",
    IopfGroupLastFault = "iopf_group"."last_fault",
    IopfGroupCount = "iopf_group"."fault_count",
    IopfGroupHandle = "iopf_group"."attach_handle",
    IopfGroupParam = "iopf_group"."fault_param",
    IopfGroupCookie = "iopf_group"."cookie",
    FaultParamDev = "iommu_fault_param"."dev",
    ResponsePasid = "iommu_page_response"."pasid",
    FilePrivateData = "file"."private_data",
    IntelReg = "intel_iommu"."reg",
    IntelCap = "intel_iommu"."cap",
    IntelSeqId = "intel_iommu"."seq_id",
    QiDescQw0 = "qi_desc"."qw0",
    DmarDomainDomain = "dmar_domain"."domain",
    ProtectionDomainDomain = "protection_domain"."domain",
    AmdMmioBase = "amd_iommu"."mmio_base",
    AmdEvtBuf = "amd_iommu"."evt_buf",
    AmdIndex = "amd_iommu"."index",
    VringQueue = "vring_virtqueue"."vq",
    VringPacked = "vring_virtqueue"."packed_ring",
    VringLayout = "vring_virtqueue"."layout",
    VringLastUsed = "vring_virtqueue"."last_used_idx",
    VringNum = "vring_virtqueue"."split.vring.num",
    VringUsed = "vring_virtqueue"."split.vring.used",
    VringDescState = "vring_virtqueue"."split.desc_state",
    DescStateData = "vring_desc_state_split"."data",
    VirtqueueVdev = "virtqueue"."vdev",
    VirtioDeviceIndex = "virtio_device"."index",
    SmmuEvtqCons = "arm_smmu_device with evtq"."evtq.q.llq.cons",
    SmmuEvtqShift = "arm_smmu_device with evtq"."evtq.q.llq.max_n_shift",
    SmmuEvtqBase = "arm_smmu_device with evtq"."evtq.q.base",
    SmmuEvtqProdReg = "arm_smmu_device with evtq"."evtq.q.prod_reg",
    SmmuIommuDev = "arm_smmu_device with evtq"."iommu.dev",
    SmmuStreams = "arm_smmu_device with evtq"."streams",
    SmmuStreamId = "arm_smmu_stream"."id",
    SmmuStreamMaster = "arm_smmu_stream"."master",
    SmmuStreamNode = "arm_smmu_stream"."node",
    SmmuMasterDev = "arm_smmu_master"."dev",
}

impl Field {
    /// Members of iommufd's own structures, of which nothing is known while iommufd is a module and not loaded: see [`Late`].
    pub const LATE: [Field; 7] = [
        Field::HwptFault,
        Field::IommufdHandleIdev,
        Field::IdevId,
        Field::IdevType,
        Field::IdevDev,
        Field::ObjectId,
        Field::ObjectType,
    ];

    /// The place of this member in [`Late::offsets`]; `None` for a structure of vmlinux.
    #[must_use]
    pub const fn late(self) -> Option<usize> {
        match self {
            Field::HwptFault => Some(0),
            Field::IommufdHandleIdev => Some(1),
            Field::IdevId => Some(2),
            Field::IdevType => Some(3),
            Field::IdevDev => Some(4),
            Field::ObjectId => Some(5),
            Field::ObjectType => Some(6),
            _ => None,
        }
    }
}

/// What is known of iommufd as a module: it may come and go while the programs stay, whose read-only globals are fixed when
/// they are loaded. So this is a map's only value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Offsets of [`Field::LATE`].
    pub offsets: [u32; Field::LATE.len()],
    /// As in [`crate::Settings`].
    pub object_device: u32,
    /// As in [`crate::Settings`].
    pub iommufd_pasid_arg: u32,
}

impl Late {
    /// While the module is not there.
    pub const ABSENT: Late =
        Late { offsets: [ABSENT; Field::LATE.len()], object_device: crate::NO_ID, iommufd_pasid_arg: 0 };
}
