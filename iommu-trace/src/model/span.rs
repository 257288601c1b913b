//! What the model tells: events joined into things a person recognises.
//!
//! A [`Span`] is one attach, one fault from report to free, one bind … with its beginning, its end and what became
//! of it. Its JSON form (with [`serde`]) is the public event of `docs/events.md`, flat, with `event` as its tag.

use serde::Serialize;

use crate::event::{Comm, DomainType, Name, Ptr, ResponseCode, Task};

/// Who owns an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// iommufd.
    Iommufd,
    /// Shared virtual addressing.
    Sva,
    /// A legacy VFIO container.
    Vfio,
    /// The core or a driver.
    #[default]
    Kernel,
}

impl Owner {
    /// Every owner.
    pub const ALL: [Owner; 4] = [Owner::Iommufd, Owner::Sva, Owner::Vfio, Owner::Kernel];

    /// As in the JSON form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Owner::Iommufd => "iommufd",
            Owner::Sva => "sva",
            Owner::Vfio => "vfio",
            Owner::Kernel => "kernel",
        }
    }
}

/// One thing that happened, whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// When it began: `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// What it is.
    #[serde(flatten)]
    pub kind: SpanKind,
    /// CPU it began on.
    pub cpu: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Task name.
    pub comm: Comm,
    /// Stack id in the source's table, to be resolved by the output.
    #[serde(skip)]
    pub stack: Option<u32>,
}

impl Span {
    /// What `task` began at `ts`.
    #[must_use]
    pub fn new(ts: u64, kind: SpanKind, task: &Task, stack: Option<u32>) -> Self {
        Span { ts, kind, cpu: task.cpu, pid: task.pid, tid: task.tid, comm: task.comm, stack }
    }
}

/// What happened; the tag is the public name of the event.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SpanKind {
    /// A domain was attached, or the attempt failed.
    Attach(ChangeSpan),
    /// A domain was put in place of another.
    Replace(ChangeSpan),
    /// A domain was detached.
    Detach(ChangeSpan),
    /// One I/O page fault from report to free.
    Fault(FaultSpan),
    /// One stage of a fault, with `--stages`.
    FaultStage(StageSpan),
    /// An SVA bond was made, or one more user joined it.
    SvaBind(SvaSpan),
    /// A user left an SVA bond.
    SvaUnbind(SvaSpan),
    /// A device joined a fault queue.
    IopfEnable(QueueSpan),
    /// A device left its fault queue.
    IopfDisable(QueueSpan),
    /// A device was bound to iommufd.
    IommufdBind(IommufdSpan),
    /// A device was unbound from iommufd.
    IommufdUnbind(IommufdSpan),
    /// An iommufd fault queue object was destroyed.
    FaultQueueDestroy(ObjectSpan),
    /// A device joined a group.
    DeviceAdd(DeviceSpan),
    /// A device left its group.
    DeviceRemove(DeviceSpan),
    /// A domain was freed.
    DomainFree(DomainSpan),
    /// An unrecoverable fault.
    DmaFault(DmaFaultSpan),
    /// A mapping was made.
    Map(DmaSpan),
    /// A mapping was removed.
    Unmap(DmaSpan),
    /// A queued invalidation.
    Invalidate(InvalidateSpan),
    /// What IOMMUs had cached of a domain was flushed.
    Flush(FlushSpan),
    /// Calls of a hot function, summed up.
    Sum(SumSpan),
    /// A device's reset began: its domains are blocked.
    ResetPrepare(DeviceSpan),
    /// A device's reset ended.
    ResetDone(DeviceSpan),
    /// Records were lost.
    Lost(LostSpan),
}

/// Topics, as `--events` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Attach, replace, detach, domains, devices and groups.
    Attach,
    /// I/O page faults and unrecoverable faults.
    Fault,
    /// SVA bonds.
    Sva,
    /// iommufd objects.
    Iommufd,
    /// Map and unmap.
    Dma,
    /// Invalidation.
    Invalidate,
    /// PCI resets.
    Reset,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Topic; 7] =
        [Topic::Attach, Topic::Fault, Topic::Sva, Topic::Iommufd, Topic::Dma, Topic::Invalidate, Topic::Reset];

    /// As `--events` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Topic::Attach => "attach",
            Topic::Fault => "fault",
            Topic::Sva => "sva",
            Topic::Iommufd => "iommufd",
            Topic::Dma => "dma",
            Topic::Invalidate => "invalidate",
            Topic::Reset => "reset",
        }
    }
}

impl SpanKind {
    /// The public name of the event, as in its JSON form.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            SpanKind::Attach(_) => "attach",
            SpanKind::Replace(_) => "replace",
            SpanKind::Detach(_) => "detach",
            SpanKind::Fault(_) => "fault",
            SpanKind::FaultStage(_) => "fault_stage",
            SpanKind::SvaBind(_) => "sva_bind",
            SpanKind::SvaUnbind(_) => "sva_unbind",
            SpanKind::IopfEnable(_) => "iopf_enable",
            SpanKind::IopfDisable(_) => "iopf_disable",
            SpanKind::IommufdBind(_) => "iommufd_bind",
            SpanKind::IommufdUnbind(_) => "iommufd_unbind",
            SpanKind::FaultQueueDestroy(_) => "fault_queue_destroy",
            SpanKind::DeviceAdd(_) => "device_add",
            SpanKind::DeviceRemove(_) => "device_remove",
            SpanKind::DomainFree(_) => "domain_free",
            SpanKind::DmaFault(_) => "dma_fault",
            SpanKind::Map(_) => "map",
            SpanKind::Unmap(_) => "unmap",
            SpanKind::Invalidate(_) => "invalidate",
            SpanKind::Flush(_) => "flush",
            SpanKind::Sum(_) => "sum",
            SpanKind::ResetPrepare(_) => "reset_prepare",
            SpanKind::ResetDone(_) => "reset_done",
            SpanKind::Lost(_) => "lost",
        }
    }

    /// The topic it belongs to; `None` for losses, which are always told.
    #[must_use]
    pub fn topic(&self) -> Option<Topic> {
        Some(match self {
            SpanKind::Attach(_)
            | SpanKind::Replace(_)
            | SpanKind::Detach(_)
            | SpanKind::DeviceAdd(_)
            | SpanKind::DeviceRemove(_)
            | SpanKind::DomainFree(_) => Topic::Attach,
            SpanKind::Fault(_)
            | SpanKind::FaultStage(_)
            | SpanKind::IopfEnable(_)
            | SpanKind::IopfDisable(_)
            | SpanKind::DmaFault(_) => Topic::Fault,
            SpanKind::SvaBind(_) | SpanKind::SvaUnbind(_) => Topic::Sva,
            SpanKind::IommufdBind(_) | SpanKind::IommufdUnbind(_) | SpanKind::FaultQueueDestroy(_) => Topic::Iommufd,
            SpanKind::Map(_) | SpanKind::Unmap(_) => Topic::Dma,
            SpanKind::Invalidate(_) | SpanKind::Flush(_) => Topic::Invalidate,
            SpanKind::Sum(sum) => sum.of.topic(),
            SpanKind::ResetPrepare(_) | SpanKind::ResetDone(_) => Topic::Reset,
            SpanKind::Lost(_) => return None,
        })
    }
}

/// An attach, replace or detach. Nested calls are one span: the outermost function of the core's API.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChangeSpan {
    /// The group's number.
    pub group: Option<u32>,
    /// The device, where one was given or the handle tells it.
    pub device: Option<Name>,
    /// 0 is the RID.
    pub pasid: u32,
    /// The domain attached; for a detach the one left.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
    /// The domain before (attach, replace) or after (detach) where known.
    pub old_domain: Option<Ptr>,
    /// The handle attached; for a detach the one that was in the slot, where known.
    pub handle: Option<Ptr>,
    /// The handle replaced.
    pub old_handle: Option<Ptr>,
    /// 0 or the negative errno.
    pub ret: i64,
    /// From entry to return.
    pub duration_ns: u64,
    /// Who asked for it.
    pub owner: Owner,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// The kernel function.
    pub function: &'static str,
}

/// Who answered a page request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answerer {
    /// User space, by writing to the fault file.
    User,
    /// iommufd by itself, on detach or replace.
    Automatic,
    /// iommufd by itself, when its fault queue object was destroyed.
    QueueDestroy,
    /// The core, because the device left its fault queue.
    QueueRemove,
    /// The core, inside the report (no handler, or the handler failed).
    Report,
    /// A handler in the kernel (SVA, a driver's).
    Handler,
}

/// How a page request was answered, `none` when it was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Response(pub Option<ResponseCode>);

impl Serialize for Response {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(code) => code.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }
}

/// One I/O page fault. Stage times count from the report's entry; a stage that was not reached or not seen is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FaultSpan {
    /// The group's number.
    pub group: Option<u32>,
    /// The device.
    pub device: Name,
    /// `None` for a request by RID.
    pub pasid: Option<u32>,
    /// Page request group index.
    pub grpid: u32,
    /// Faulting address.
    #[serde(serialize_with = "hex")]
    pub addr: u64,
    /// `IOMMU_FAULT_PERM_*` bits: 1 read, 2 write, 4 exec, 8 privileged.
    pub perm: u32,
    /// `IOMMU_FAULT_PAGE_REQUEST_*` bits.
    pub flags: u32,
    /// Whether it is the last request of its group; only that one is answered.
    pub last: bool,
    /// Requests in its group, once its handler told.
    pub requests: Option<u32>,
    /// The handle that the look-up found.
    pub handle: Option<Ptr>,
    /// iommufd's object id of the device, read in the kernel from the handle.
    pub device_id: Option<u32>,
    /// The id that user space was told.
    pub delivered_id: Option<u32>,
    /// The cookie that user space was told.
    pub cookie: Option<u32>,
    /// What the report returned; absent when its return was not seen.
    pub ret: Option<i64>,
    /// Look-ups made for it (two with user PASID tables).
    pub lookups: u32,
    /// From the interrupt's thread beginning its work to the report.
    pub interrupt_ns: Option<u64>,
    /// Report to handle.
    pub lookup_ns: Option<u64>,
    /// Report to the device id being read from the handle, in the kernel.
    pub device_id_ns: Option<u64>,
    /// Report to the handler being entered.
    pub handler_ns: Option<u64>,
    /// Report to user space holding the id.
    pub delivered_ns: Option<u64>,
    /// Report to the response.
    pub response_ns: Option<u64>,
    /// The response.
    pub response: Response,
    /// Who answered; `None` without an answer, and where the call that answered was lost.
    pub answered_by: Option<Answerer>,
    /// Report to the fault group's free.
    pub freed_ns: Option<u64>,
    /// False when it was still outstanding when the trace ended.
    pub complete: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `serialize_with` passes by reference")]
fn hex<S: serde::Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

/// The stages of a fault, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// `iommu_report_device_fault` was entered.
    Report,
    /// The handle was found (or not).
    Lookup,
    /// The device id was read from the handle.
    DeviceId,
    /// The domain's handler was entered.
    Handler,
    /// User space read it.
    Delivered,
    /// The driver answered the device.
    Response,
    /// The fault group was freed.
    Free,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Stage; 7] =
        [Stage::Report, Stage::Lookup, Stage::DeviceId, Stage::Handler, Stage::Delivered, Stage::Response, Stage::Free];

    /// As in the JSON form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Report => "report",
            Stage::Lookup => "lookup",
            Stage::DeviceId => "device_id",
            Stage::Handler => "handler",
            Stage::Delivered => "delivered",
            Stage::Response => "response",
            Stage::Free => "free",
        }
    }
}

/// One stage of a fault, as it happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageSpan {
    /// Which.
    pub stage: Stage,
    /// The group's number.
    pub group: Option<u32>,
    /// The device.
    pub device: Name,
    /// `None` for a request by RID.
    pub pasid: Option<u32>,
    /// Page request group index.
    pub grpid: u32,
    /// Faulting address.
    #[serde(serialize_with = "hex")]
    pub addr: u64,
    /// Since the report.
    pub since_report_ns: u64,
    /// The handle, where known.
    pub handle: Option<Ptr>,
    /// The device id, where known.
    pub device_id: Option<u32>,
    /// The response, in that stage.
    pub response: Option<ResponseCode>,
}

/// A bind or unbind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SvaSpan {
    /// The group's number.
    pub group: Option<u32>,
    /// The device.
    pub device: Name,
    /// The PASID of the address space.
    pub pasid: Option<u32>,
    /// The bond's handle.
    pub handle: Option<Ptr>,
    /// Users after the call.
    pub users: u32,
    /// The address space.
    pub mm: Ptr,
    /// 0 or the negative errno.
    pub ret: i64,
    /// From entry to return.
    pub duration_ns: u64,
}

/// A device and a fault queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueSpan {
    /// The group's number.
    pub group: Option<u32>,
    /// The device.
    pub device: Name,
    /// The `struct iopf_queue`.
    pub queue: Ptr,
    /// 0 or the negative errno.
    pub ret: i64,
}

/// A device and iommufd.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IommufdSpan {
    /// The group's number.
    pub group: Option<u32>,
    /// The device.
    pub device: Name,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// 0 or the negative errno.
    pub ret: i64,
    /// From entry to return.
    pub duration_ns: u64,
}

/// An iommufd object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectSpan {
    /// Its id.
    pub object_id: Option<u32>,
    /// Its address.
    pub object: Ptr,
    /// From entry to return.
    pub duration_ns: u64,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceSpan {
    /// The group's number.
    pub group: Option<u32>,
    /// The device.
    pub device: Name,
    /// 0 or the negative errno, where the function returns one.
    pub ret: Option<i64>,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DomainSpan {
    /// Its address.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
}

/// An unrecoverable fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DmaFaultSpan {
    /// The IOMMU, as `dmarN`, `ivhdN`, `virtioN` or `smmu3.ADDRESS`; absent where the kernel does not say.
    pub iommu: Option<String>,
    /// The group's number, where known.
    pub group: Option<u32>,
    /// The device, where the kernel or the requester id tells.
    pub device: Option<Name>,
    /// Requester id as bus:device.function; SMMUv3's stream id in hexadecimal.
    pub source_id: Option<String>,
    /// Faulting address.
    #[serde(serialize_with = "hex")]
    pub addr: u64,
    /// `read`, `write`, or `unknown` where the IOMMU does not say.
    pub access: &'static str,
    /// The hardware's reason number.
    pub reason: Option<u32>,
    /// The flags of AMD-Vi's, virtio-iommu's or SMMUv3's event, as their specifications have them.
    pub flags: Option<u32>,
    /// PASID where the request had one.
    pub pasid: Option<u32>,
    /// The probe that told.
    pub function: &'static str,
}

/// A map or unmap.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DmaSpan {
    /// The domain.
    pub domain: Ptr,
    /// First address.
    #[serde(serialize_with = "hex")]
    pub addr: u64,
    /// Bytes asked for.
    pub size: u64,
    /// What was returned: 0 or the errno of a map, the bytes of an unmap or scatter-gather map.
    pub ret: i64,
    /// From entry to return.
    pub duration_ns: u64,
    /// The kernel function.
    pub function: &'static str,
}

/// A queued invalidation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InvalidateSpan {
    /// The IOMMU's address.
    pub iommu: Ptr,
    /// Kind of the first descriptor, as the hardware's specification names it.
    pub kind: &'static str,
    /// Descriptors.
    pub count: u32,
    /// Whether it drains page requests.
    pub drain: bool,
    /// What was returned.
    pub ret: i64,
    /// From entry to return.
    pub duration_ns: u64,
}

/// A flush of what IOMMUs have cached of a domain: the driver's function above the invalidations of its IOMMUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlushSpan {
    /// The domain.
    pub domain: Ptr,
    /// First address.
    #[serde(serialize_with = "hex")]
    pub addr: u64,
    /// Bytes; `u64::MAX` for all of the domain.
    pub size: u64,
    /// From entry to return.
    pub duration_ns: u64,
    /// The kernel function.
    pub function: &'static str,
}

/// What is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Summed {
    /// Map.
    Map,
    /// Unmap.
    Unmap,
    /// Flushes of a domain.
    Flush,
    /// Invalidations by an IOMMU.
    Invalidate,
}

impl Summed {
    /// As in the JSON form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Summed::Map => "map",
            Summed::Unmap => "unmap",
            Summed::Flush => "flush",
            Summed::Invalidate => "invalidate",
        }
    }

    /// The topic of the calls.
    #[must_use]
    pub fn topic(self) -> Topic {
        match self {
            Summed::Map | Summed::Unmap => Topic::Dma,
            Summed::Flush | Summed::Invalidate => Topic::Invalidate,
        }
    }
}

/// Calls of a hot function on one domain or IOMMU since the last sum, which is a second ago or more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SumSpan {
    /// What was called.
    pub of: Summed,
    /// The domain of a map, unmap or flush.
    pub domain: Option<Ptr>,
    /// The IOMMU of an invalidation.
    pub iommu: Option<Ptr>,
    /// Kind of the invalidations.
    pub kind: Option<&'static str>,
    /// Calls.
    pub calls: u64,
    /// Those that failed.
    pub failed: u64,
    /// Bytes mapped or unmapped.
    pub bytes: Option<u64>,
    /// Descriptors of the invalidations.
    pub descriptors: Option<u64>,
    /// Time from entry to return of all of them; of map and unmap it is not taken.
    pub duration_ns: Option<u64>,
    /// Calls by duration, up to each of [`SUM_BOUNDS_NS`](iommu_trace_common::SUM_BOUNDS_NS) and longer.
    pub within: Option<Box<[u32; 20]>>,
    /// The kernel function.
    pub function: &'static str,
}

/// Lost records.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LostSpan {
    /// The probe's function.
    pub probe: &'static str,
    /// How many.
    pub count: u64,
}
