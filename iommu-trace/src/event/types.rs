//! The vocabulary of events.

use std::fmt;

use iommu_trace_common::{COMM_LEN, NAME_LEN, Phase, ProbeId, owner};
use serde::{Serialize, Serializer};

use super::{DmaFault, DmaOp, Invalidate, SlotState, SmmuFault, Sum};

/// A kernel address. Zero is `NULL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ptr(pub u64);

impl Ptr {
    /// `NULL`.
    pub const NULL: Ptr = Ptr(0);

    /// Whether it is `NULL`.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `None` for `NULL`.
    #[must_use]
    pub fn some(self) -> Option<Ptr> {
        (self.0 != 0).then_some(self)
    }
}

impl fmt::Display for Ptr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Ptr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A short kernel string (`dev_name()`, `comm`) in a fixed buffer, as the kernel had it: any bytes but NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const N: usize>(pub [u8; N]);

/// A device's name.
pub type Name = Text<NAME_LEN>;
/// A task's name.
pub type Comm = Text<COMM_LEN>;

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text([0; N])
    }
}

impl<const N: usize> Text<N> {
    /// A kernel string: what follows its NUL is dropped, so that equal strings are equal values.
    #[must_use]
    pub fn from_kernel(mut bytes: [u8; N]) -> Self {
        if let Some(len) = bytes.iter().position(|&b| b == 0) {
            bytes[len..].fill(0);
        }
        Text(bytes)
    }

    /// The first `N - 1` bytes of `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        let len = text.len().min(N - 1);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Text(bytes)
    }

    /// The bytes before the first NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(N);
        &self.0[..len]
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|&b| b == 0)
    }
}

/// Safe to print anywhere: control characters and bytes that are no UTF-8 are escaped.
impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut safe = String::with_capacity(N);
        for chunk in self.as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    safe.extend(c.escape_default());
                } else {
                    safe.push(c);
                }
            }
            for byte in chunk.invalid() {
                write!(safe, "\\x{byte:02x}")?;
            }
        }
        f.pad(&safe)
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `struct iommu_domain.type`, named as the kernel names its combinations of `__IOMMU_DOMAIN_*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainType(pub u32);

impl DomainType {
    /// All DMA is blocked.
    pub const BLOCKED: DomainType = DomainType(0);
    /// DMA addresses are physical addresses.
    pub const IDENTITY: DomainType = DomainType(4);
    /// Mapped by its owner, as VFIO and iommufd do.
    pub const UNMANAGED: DomainType = DomainType(1);
    /// Mapped by the DMA API.
    pub const DMA: DomainType = DomainType(3);
    /// A process address space.
    pub const SVA: DomainType = DomainType(16);
    /// User-managed page table nested on another domain.
    pub const NESTED: DomainType = DomainType(64);

    /// Every combination that has a name.
    pub const NAMED: [DomainType; 8] = [
        DomainType::BLOCKED,
        DomainType::UNMANAGED,
        DomainType::DMA,
        DomainType::IDENTITY,
        DomainType(11),
        DomainType::SVA,
        DomainType(32),
        DomainType::NESTED,
    ];

    /// The kernel's name, lower case, or `None` for a combination without a name.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "blocked",
            1 => "unmanaged",
            3 => "dma",
            4 => "identity",
            11 => "dma-fq",
            16 => "sva",
            32 => "platform",
            64 => "nested",
            _ => return None,
        })
    }
}

impl fmt::Display for DomainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("{:#x}", self.0)),
        }
    }
}

impl Serialize for DomainType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the kernel's own data tells of a handle's owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerHint {
    /// Nothing.
    #[default]
    Unknown,
    /// The handle is part of a `struct iommufd_attach_handle`.
    Iommufd,
    /// The handle is part of a `struct iommu_sva`.
    Sva,
}

impl OwnerHint {
    /// From the record's number ([`iommu_trace_common::owner`]).
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            owner::IOMMUFD => OwnerHint::Iommufd,
            owner::SVA => OwnerHint::Sva,
            _ => OwnerHint::Unknown,
        }
    }
}

/// The response to a page request: `enum iommu_page_response_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseCode {
    /// `IOMMU_PAGE_RESP_SUCCESS`: the device may retry.
    Success,
    /// `IOMMU_PAGE_RESP_INVALID`: the device must not retry.
    Invalid,
    /// `IOMMU_PAGE_RESP_FAILURE`: the device should stop sending page requests.
    Failure,
    /// A number the kernel does not define.
    Other(u32),
}

impl ResponseCode {
    /// From the kernel's number.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => ResponseCode::Success,
            1 => ResponseCode::Invalid,
            2 => ResponseCode::Failure,
            other => ResponseCode::Other(other),
        }
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseCode::Success => f.pad("success"),
            ResponseCode::Invalid => f.pad("invalid"),
            ResponseCode::Failure => f.pad("failure"),
            ResponseCode::Other(code) => f.pad(&format!("code-{code}")),
        }
    }
}

impl Serialize for ResponseCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `IOMMU_FAULT_PAGE_REQUEST_PASID_VALID`.
pub const FLAG_PASID_VALID: u32 = 1 << 0;
/// `IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE`: the request ends its group.
pub const FLAG_LAST_PAGE: u32 = 1 << 1;
/// `IOMMU_FAULT_PAGE_REQ`: the only kind of fault that is answered.
pub use iommu_trace_common::FAULT_PAGE_REQ;

/// The task and CPU that an event happened on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Task {
    /// CPU number.
    pub cpu: u32,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Name.
    pub comm: Comm,
}

/// A `struct device`, as a probe saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceRef {
    /// The `struct device`.
    pub ptr: Ptr,
    /// Its `struct iommu_group`.
    pub group: Ptr,
    /// The group's number.
    pub group_id: Option<u32>,
    /// `dev_name()`; empty when only the group is known.
    pub name: Name,
}

/// A `struct iommu_attach_handle`, as a probe saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HandleRef {
    /// The handle.
    pub ptr: Ptr,
    /// Its `domain`.
    pub domain: Ptr,
    /// The domain's type.
    pub domain_type: DomainType,
    /// The `struct device` behind it: iommufd's `idev->dev`, SVA's `dev`.
    pub device: Ptr,
    /// iommufd's `struct iommufd_device`.
    pub idev: Ptr,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// What it is embedded in.
    pub owner: OwnerHint,
}

/// One thing that one probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// Who and where.
    pub task: Task,
    /// The probe's function.
    pub probe: ProbeId,
    /// Entry or return.
    pub phase: Phase,
    /// Id of the kernel stack in the source's stack table.
    pub stack: Option<u32>,
    /// What it saw.
    pub body: Body,
}

/// Entry of a function that attaches, replaces or detaches ([`ProbeId::AttachDevice`] to [`ProbeId::SetDomain`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The device where one is given or the handle tells it, and always the group.
    pub device: DeviceRef,
    /// The handle that the caller passed; its `domain` may not be set yet.
    pub handle: HandleRef,
    /// The domain to attach; for a detach the one to leave.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
    /// What its cookie says of its owner.
    pub domain_owner: OwnerHint,
    /// `group->domain` at entry.
    pub old_domain: Ptr,
    /// Its type.
    pub old_domain_type: DomainType,
    /// `group->default_domain` at entry.
    pub default_domain: Ptr,
    /// `group->owner` at entry: the cookie of whoever claimed DMA ownership (VFIO's group, iommufd's context).
    pub dma_owner: Ptr,
    /// 0 is the RID.
    pub pasid: u32,
}

/// Return of `iommu_attach_handle_get`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The group searched.
    pub group: Ptr,
    /// Its number.
    pub group_id: Option<u32>,
    /// The PASID searched.
    pub pasid: u32,
    /// The domain type asked for, 0 for any.
    pub wanted_type: u32,
    /// 0 or `-ENOENT`, `-EBUSY`.
    pub ret: i64,
    /// What was found, read through to the device id; all zero on an error.
    pub handle: HandleRef,
    /// When the device id had been read out of the handle, on the event's clock.
    pub id_ts: u64,
}

/// Entry of `iommu_report_device_fault`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The faulting device.
    pub device: DeviceRef,
    /// The `struct iopf_fault` passed (its own when the core answers without a group).
    pub evt: Ptr,
    /// `IOMMU_FAULT_PAGE_REQ` is 1.
    pub kind: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Meaningful with [`FLAG_PASID_VALID`].
    pub pasid: u32,
    /// Page request group index.
    pub grpid: u32,
    /// `IOMMU_FAULT_PERM_*`.
    pub perm: u32,
    /// The faulting address.
    pub addr: u64,
}

impl Report {
    /// The PASID of the request, `None` for a request by RID.
    #[must_use]
    pub fn pasid(&self) -> Option<u32> {
        (self.flags & FLAG_PASID_VALID != 0).then_some(self.pasid)
    }

    /// Whether the request ends its group, and so must be answered.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.flags & FLAG_LAST_PAGE != 0
    }
}

/// A `struct iopf_group` in a handler ([`ProbeId::IommufdIopfHandler`], [`ProbeId::SvaIopfHandler`]), in
/// [`ProbeId::GroupResponse`], [`ProbeId::GroupDequeue`] or [`ProbeId::GroupFree`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultGroup {
    /// The group. Its first member is the last fault, so a `page_response` with this `evt` answers it.
    pub group: Ptr,
    /// `attach_handle`.
    pub handle: Ptr,
    /// The handle's domain; `NULL` where the probe did not follow the handle (only handlers do).
    pub domain: Ptr,
    /// The `struct iommufd_fault` that it will be put into; `NULL` where it was not followed.
    pub queue: Ptr,
    /// `fault_param->dev`.
    pub device: Ptr,
    /// Address of the last fault.
    pub addr: u64,
    /// Requests in the group, the last included.
    pub count: u32,
    /// PASID of the last fault.
    pub pasid: u32,
    /// Group index of the last fault.
    pub grpid: u32,
    /// Flags of the last fault.
    pub flags: u32,
    /// iommufd's cookie, once delivered.
    pub cookie: u32,
    /// The code, in a response.
    pub code: u32,
}

/// Entry of a driver's `page_response` op: the one complete place to see responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageResponse {
    /// The device answered.
    pub device: Ptr,
    /// The fault answered: equals its [`FaultGroup::group`], or the [`Report::evt`] when there is no group.
    pub evt: Ptr,
    /// PASID.
    pub pasid: u32,
    /// Page request group index.
    pub grpid: u32,
    /// `IOMMU_PAGE_RESP_*`.
    pub code: u32,
}

/// Entry or return of `read` or `write` on a fault file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOp {
    /// The `struct file`.
    pub file: Ptr,
    /// The `struct iommufd_fault`.
    pub fault: Ptr,
    /// Bytes asked for.
    pub count: u64,
    /// Bytes done or the error; 0 at entry.
    pub ret: i64,
}

/// One message that `read` gave to user space: the moment when it holds the device id. One for each request of a
/// group, the last request included, all with the group's cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The `struct iommufd_fault`.
    pub fault: Ptr,
    /// Position in this read.
    pub index: u32,
    /// The device id that user space got.
    pub device_id: u32,
    /// PASID.
    pub pasid: u32,
    /// Page request group index.
    pub grpid: u32,
    /// `IOMMU_FAULT_PERM_*`.
    pub perm: u32,
    /// Flags.
    pub flags: u32,
    /// The cookie to answer with.
    pub cookie: u32,
    /// Faulting address.
    pub addr: u64,
}

/// `iopf_queue_*`: a device joins (return of [`ProbeId::QueueAddDevice`]), leaves (entry and return of
/// [`ProbeId::QueueRemoveDevice`]), is flushed; the queue's partial faults are dropped; the queue goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueOp {
    /// The `struct iopf_queue`.
    pub queue: Ptr,
    /// The device; all zero where the call is about the whole queue.
    pub device: DeviceRef,
    /// What the function returned; 0 at entry.
    pub ret: i64,
}

/// An iommufd object: [`ProbeId::AutoResponse`] (the page table, with the handle in `other`) and
/// [`ProbeId::FaultDestroy`] (the fault queue object, which is a `struct iommufd_fault`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectOp {
    /// The object.
    pub object: Ptr,
    /// The handle, in an automatic response.
    pub other: Ptr,
    /// Its id.
    pub id: Option<u32>,
    /// Its type, an enumerator of this kernel's `enum iommufd_object_type`.
    pub kind: u32,
}

/// `iommufd_device_{bind,unbind,attach,replace,detach,destroy}`. `bind` has `idev` and `id` at its return only; the
/// returns of the others are a [`Body::Return`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IommufdOp {
    /// The `struct iommufd_device`.
    pub idev: Ptr,
    /// Its device.
    pub device: DeviceRef,
    /// What was returned; 0 at entry. A failed `bind` has its error here.
    pub ret: i64,
    /// Its object id.
    pub id: Option<u32>,
    /// 0 is the RID.
    pub pasid: u32,
}

/// `iommu_sva_bind_device` (entry: device and mm; return: everything) and `iommu_sva_unbind_device` (entry:
/// everything, `users` before the decrement; its return is a [`Body::Return`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SvaOp {
    /// The device asked for; at the return of a bind the one stored in the bond is `handle.device`.
    pub device: DeviceRef,
    /// The bond.
    pub handle: HandleRef,
    /// The address space.
    pub mm: Ptr,
    /// 0 or the error.
    pub ret: i64,
    /// The PASID of `mm`.
    pub pasid: Option<u32>,
    /// `refcount_read(&users)`.
    pub users: u32,
}

/// What a probe saw. Which variant an event has follows from its probe and phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Entry of an attach, replace or detach.
    Change(Change),
    /// Return of a function of which nothing but the result is of interest (0 for `void`).
    Return {
        /// What it returned.
        ret: i64,
    },
    /// Return of `iommu_attach_handle_get`.
    Lookup(Lookup),
    /// Entry of `iommu_report_device_fault`; its return is a [`Body::Return`].
    Report(Report),
    /// A fault group passes a handler, a response, a dequeue or its free.
    FaultGroup(FaultGroup),
    /// A driver answers its device.
    PageResponse(PageResponse),
    /// `read` or `write` of a fault file.
    File(FileOp),
    /// User space was told of a fault.
    Delivered(Delivered),
    /// A fault queue changes.
    Queue(QueueOp),
    /// An iommufd object.
    Object(ObjectOp),
    /// iommufd and one of its devices.
    Iommufd(IommufdOp),
    /// An SVA bond.
    Sva(SvaOp),
    /// A device joins or leaves a group; a PCI reset begins or ends (return of `prepare` is a [`Body::Return`]).
    Device(DeviceRef),
    /// Entry of `iommu_domain_free`.
    Domain {
        /// The domain.
        domain: Ptr,
        /// Its type.
        domain_type: DomainType,
        /// What its cookie says of its owner.
        owner: OwnerHint,
    },
    /// An unrecoverable fault that VT-d, AMD-Vi or virtio-iommu recorded.
    DmaFault(DmaFault),
    /// An event of SMMUv3's queue.
    SmmuFault(SmmuFault),
    /// The `iommu:io_page_fault` tracepoint: an unrecoverable fault of another driver.
    IoPageFault {
        /// The device.
        device: DeviceRef,
        /// Faulting address.
        iova: u64,
        /// 0 read, 1 write.
        flags: u32,
    },
    /// The thread of an IOMMU's page request interrupt begins or ends its work.
    Interrupt {
        /// The IOMMU.
        iommu: Ptr,
    },
    /// A map or unmap.
    Dma(DmaOp),
    /// A queued invalidation.
    Invalidate(Invalidate),
    /// A flush of what IOMMUs have cached of a domain.
    Flush(DmaOp),
    /// What calls of a hot function came to.
    Sum(Box<Sum>),
    /// Return of a reset's prepare.
    Prepared {
        /// 0 or the negative errno.
        ret: i64,
        /// Devices of the group that are blocked for their reset, where this kernel counts them.
        recovering: Option<u32>,
    },
    /// Watched memory was freed.
    Free {
        /// Its address.
        ptr: Ptr,
    },
    /// A piece of the snapshot.
    Slot(SlotState),
    /// `count` records of this event's probe and phase were lost before this point.
    Lost {
        /// How many.
        count: u64,
    },
}
