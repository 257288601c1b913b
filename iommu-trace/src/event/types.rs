//! An event, what it is about, and all that it can be.

use iommu_trace_common::{Phase, ProbeId};
use serde::Serialize;

use super::{
    Comm, Delivered, DmaFault, DmaOp, DomainType, FaultGroup, FileOp, Invalidate, Name, OwnerHint, PageResponse, Ptr,
    Report, SlotState, SmmuFault, Sum,
};

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

/// What a probe saw. Which variant an event has follows from its probe and phase. Those that are large and rare are boxed, so that
/// the many others are small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Entry of an attach, replace or detach.
    Change(Box<Change>),
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
    Sva(Box<SvaOp>),
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
    SmmuFault(Box<SmmuFault>),
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
    Slot(Box<SlotState>),
    /// `count` records of this event's probe and phase were lost before this point.
    Lost {
        /// How many.
        count: u64,
    },
}
