//! From the bytes of a record to an [`Event`].

use iommu_trace_common::{NO_ID, record};
use zerocopy::FromBytes;

use super::{
    Body, Change, Delivered, DeviceRef, DmaFault, DmaOp, DomainType, Event, FaultGroup, FileOp, HandleRef, Invalidate,
    IommufdOp, Lookup, ObjectOp, OwnerHint, PageResponse, Phase, ProbeId, Ptr, QueueOp, Report, SlotState, SlotWhat,
    SmmuFault, Sum, SvaOp, Task, Text,
};

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its header or than its payload.
    #[error("a record of {have} bytes is shorter than the {need} that {what} takes")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A probe number that this version does not know.
    #[error("probe number {0} is unknown to this version of iommu-trace")]
    UnknownProbe(u16),
    /// A phase or discriminant out of range, or a probe and phase that make no record.
    #[error("{0} is out of range: {1}")]
    OutOfRange(&'static str, u64),
}

/// Decodes one record.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let (header, payload) = record::Header::read_from_prefix(bytes)
        .map_err(|_| short::<record::Header>("a record's header", bytes.len()))?;
    let payload = payload.get(..header.len as usize).ok_or(DecodeError::Short {
        what: "a record's payload",
        have: payload.len(),
        need: header.len as usize,
    })?;
    let probe = ProbeId::from_u16(header.probe).ok_or(DecodeError::UnknownProbe(header.probe))?;
    let phase = match header.phase {
        0 => Phase::Enter,
        1 => Phase::Exit,
        other => return Err(DecodeError::OutOfRange("a record's phase", u64::from(other))),
    };
    Ok(Event {
        ts: header.ts,
        task: Task { cpu: header.cpu, pid: header.pid, tid: header.tid, comm: Text::from_kernel(header.comm) },
        probe,
        phase,
        stack: u32::try_from(header.stack).ok(),
        body: decode_body(probe, phase, payload)?,
    })
}

fn short<T>(what: &'static str, have: usize) -> DecodeError {
    DecodeError::Short { what, have, need: size_of::<T>() }
}

fn read<T: FromBytes>(probe: ProbeId, payload: &[u8]) -> Result<T, DecodeError> {
    T::read_from_prefix(payload).map(|(value, _)| value).map_err(|_| short::<T>(probe.function(), payload.len()))
}

/// Decodes a record's payload.
pub fn decode_body(probe: ProbeId, phase: Phase, payload: &[u8]) -> Result<Body, DecodeError> {
    use ProbeId as P;
    Ok(match (probe, phase) {
        (
            P::AttachDevice
            | P::DetachDevice
            | P::AttachGroup
            | P::DetachGroup
            | P::AttachGroupHandle
            | P::ReplaceGroupHandle
            | P::DetachGroupHandle
            | P::AttachDevicePasid
            | P::ReplaceDevicePasid
            | P::DetachDevicePasid
            | P::SetDomain,
            Phase::Enter,
        ) => Body::Change(Box::new(read::<record::Attach>(probe, payload)?.into())),
        (P::AttachHandleGet, Phase::Exit) => Body::Lookup(read::<record::Lookup>(probe, payload)?.into()),
        (P::ReportDeviceFault, Phase::Enter) => Body::Report(read::<record::Report>(probe, payload)?.into()),
        (
            P::IommufdIopfHandler | P::SvaIopfHandler | P::GroupResponse | P::GroupFree | P::GroupDequeue,
            Phase::Enter,
        ) => Body::FaultGroup(read::<record::Group>(probe, payload)?.into()),
        (P::MockPageResponse | P::IntelPageResponse | P::AmdPageResponse | P::SmmuPageResponse, Phase::Enter) => {
            Body::PageResponse(read::<record::PageResponse>(probe, payload)?.into())
        }
        // A read's messages come as entries of their own; they are told apart by the payload's length.
        (P::FaultRead, Phase::Exit) if payload.len() == size_of::<record::Delivered>() => {
            Body::Delivered(read::<record::Delivered>(probe, payload)?.into())
        }
        (P::FaultRead | P::FaultWrite, _) => Body::File(read::<record::File>(probe, payload)?.into()),
        (P::QueueAddDevice | P::QueueRemoveDevice | P::QueueFlushDev | P::QueueDiscardPartial | P::QueueFree, _) => {
            Body::Queue(read::<record::Queue>(probe, payload)?.into())
        }
        (P::AutoResponse | P::FaultDestroy, Phase::Enter) => {
            Body::Object(read::<record::Object>(probe, payload)?.into())
        }
        (P::IommufdBind, _)
        | (
            P::IommufdUnbind | P::IommufdAttach | P::IommufdReplace | P::IommufdDetach | P::IommufdDeviceDestroy,
            Phase::Enter,
        ) => Body::Iommufd(read::<record::Iommufd>(probe, payload)?.into()),
        (P::SvaBind, _) | (P::SvaUnbind, Phase::Enter) => {
            Body::Sva(Box::new(read::<record::Sva>(probe, payload)?.into()))
        }
        (P::DeviceAdd | P::DeviceRemove | P::ResetPrepare | P::ResetDone, Phase::Enter) => {
            Body::Device(read::<record::DeviceOnly>(probe, payload)?.device.into())
        }
        (P::DomainFree, Phase::Enter) => {
            let raw = read::<record::Domain>(probe, payload)?;
            Body::Domain {
                domain: Ptr(raw.domain),
                domain_type: DomainType(raw.domain_type),
                owner: OwnerHint::from_raw(raw.owner),
            }
        }
        (P::AmdPollEvents, _) | (P::DmarFault | P::AmdPrintEvent, Phase::Enter) | (P::VirtioEvents, Phase::Exit) => {
            Body::DmaFault(read::<record::DmaFault>(probe, payload)?.into())
        }
        (P::SmmuEvents, _) => Body::SmmuFault(Box::new(read::<record::SmmuFault>(probe, payload)?.into())),
        (P::IoPageFault, Phase::Enter) => {
            let raw = read::<record::IoPageFault>(probe, payload)?;
            Body::IoPageFault { device: raw.device.into(), iova: raw.iova, flags: raw.flags }
        }
        (P::PrqEventThread, _) => Body::Interrupt { iommu: Ptr(read::<record::Interrupt>(probe, payload)?.iommu) },
        (P::Map | P::MapSg | P::MapNosync | P::Unmap | P::UnmapFast, Phase::Exit) => {
            Body::Dma(read::<record::Dma>(probe, payload)?.into())
        }
        (P::CacheTagFlushRange | P::CacheTagFlushAll | P::AmdFlushPages, Phase::Exit) => {
            Body::Flush(read::<record::Dma>(probe, payload)?.into())
        }
        (P::Sums, Phase::Exit) => {
            let raw = read::<record::Sum>(probe, payload)?;
            let sum = Sum::new(&raw.key, &raw.value)
                .ok_or(DecodeError::OutOfRange("the function of a sum", u64::from(raw.key.probe)))?;
            Body::Sum(Box::new(sum))
        }
        (P::QiSubmitSync | P::AmdCompletionWait, Phase::Exit) => {
            Body::Invalidate(read::<record::Invalidate>(probe, payload)?.into())
        }
        (P::ResetPrepare, Phase::Exit) => {
            let raw = read::<record::Prepared>(probe, payload)?;
            Body::Prepared { ret: raw.ret, recovering: (raw.recovering != NO_ID).then_some(raw.recovering) }
        }
        (P::Kfree, Phase::Enter) => Body::Free { ptr: Ptr(read::<record::Free>(probe, payload)?.ptr) },
        (P::GroupShowType, Phase::Enter) => {
            let raw = read::<record::Slot>(probe, payload)?;
            let what = SlotWhat::from_raw(raw.what)
                .ok_or(DecodeError::OutOfRange("a snapshot record's kind", u64::from(raw.what)))?;
            Body::Slot(Box::new(SlotState {
                what,
                device: raw.device.into(),
                handle: raw.handle.into(),
                domain: Ptr(raw.domain),
                domain_type: DomainType(raw.domain_type),
                domain_owner: OwnerHint::from_raw(raw.domain_owner),
                pasid: raw.pasid,
                users: raw.users,
            }))
        }
        (_, Phase::Exit) => Body::Return { ret: read::<record::Return>(probe, payload)?.ret },
        (_, Phase::Enter) => return Err(DecodeError::OutOfRange("a record's probe and phase", probe as u64)),
    })
}

/// An object id; 0 is none, and so is what stands for none.
fn id(raw: u32) -> Option<u32> {
    (raw != NO_ID && raw != 0).then_some(raw)
}

impl From<record::Device> for DeviceRef {
    fn from(raw: record::Device) -> Self {
        DeviceRef {
            ptr: Ptr(raw.ptr),
            group: Ptr(raw.group),
            group_id: u32::try_from(raw.group_id).ok().filter(|_| raw.group != 0),
            name: Text::from_kernel(raw.name),
        }
    }
}

impl From<record::Handle> for HandleRef {
    fn from(raw: record::Handle) -> Self {
        HandleRef {
            ptr: Ptr(raw.ptr),
            domain: Ptr(raw.domain),
            domain_type: DomainType(raw.domain_type),
            device: Ptr(raw.device),
            idev: Ptr(raw.idev),
            device_id: id(raw.device_id),
            owner: OwnerHint::from_raw(raw.owner),
        }
    }
}

impl From<record::Attach> for Change {
    fn from(raw: record::Attach) -> Self {
        Change {
            device: raw.device.into(),
            handle: raw.handle.into(),
            domain: Ptr(raw.domain),
            domain_type: DomainType(raw.domain_type),
            domain_owner: OwnerHint::from_raw(raw.domain_owner),
            old_domain: Ptr(raw.old_domain),
            old_domain_type: DomainType(raw.old_domain_type),
            default_domain: Ptr(raw.default_domain),
            dma_owner: Ptr(raw.dma_owner),
            pasid: raw.pasid,
        }
    }
}

impl From<record::Lookup> for Lookup {
    fn from(raw: record::Lookup) -> Self {
        Lookup {
            group: Ptr(raw.group),
            group_id: u32::try_from(raw.group_id).ok(),
            pasid: raw.pasid,
            wanted_type: raw.wanted_type,
            ret: raw.ret,
            handle: raw.handle.into(),
            id_ts: raw.id_ts,
        }
    }
}

impl From<record::Report> for Report {
    fn from(raw: record::Report) -> Self {
        Report {
            device: raw.device.into(),
            evt: Ptr(raw.evt),
            kind: raw.request.kind,
            flags: raw.request.flags,
            pasid: raw.request.pasid,
            grpid: raw.request.grpid,
            perm: raw.request.perm,
            addr: raw.request.addr,
        }
    }
}

impl From<record::Group> for FaultGroup {
    fn from(raw: record::Group) -> Self {
        FaultGroup {
            group: Ptr(raw.group),
            handle: Ptr(raw.handle),
            domain: Ptr(raw.domain),
            queue: Ptr(raw.queue),
            device: Ptr(raw.device),
            addr: raw.request.addr,
            count: u32::try_from(raw.count).unwrap_or(u32::MAX),
            pasid: raw.request.pasid,
            grpid: raw.request.grpid,
            flags: raw.request.flags,
            cookie: raw.cookie,
            code: raw.code,
        }
    }
}

impl From<record::PageResponse> for PageResponse {
    fn from(raw: record::PageResponse) -> Self {
        let [pasid, grpid, code] = raw.answer;
        PageResponse { device: Ptr(raw.device), evt: Ptr(raw.evt), pasid, grpid, code }
    }
}

impl From<record::File> for FileOp {
    fn from(raw: record::File) -> Self {
        FileOp { file: Ptr(raw.file), fault: Ptr(raw.fault), count: raw.count, ret: raw.ret }
    }
}

impl From<record::Delivered> for Delivered {
    fn from(raw: record::Delivered) -> Self {
        Delivered {
            fault: Ptr(raw.fault),
            index: raw.index,
            device_id: raw.device_id,
            pasid: raw.pasid,
            grpid: raw.grpid,
            perm: raw.perm,
            flags: raw.flags,
            cookie: raw.cookie,
            addr: raw.addr,
        }
    }
}

impl From<record::Queue> for QueueOp {
    fn from(raw: record::Queue) -> Self {
        QueueOp { queue: Ptr(raw.queue), device: raw.device.into(), ret: raw.ret }
    }
}

impl From<record::Object> for ObjectOp {
    fn from(raw: record::Object) -> Self {
        ObjectOp { object: Ptr(raw.ptr), other: Ptr(raw.other), id: id(raw.id), kind: raw.kind }
    }
}

impl From<record::Iommufd> for IommufdOp {
    fn from(raw: record::Iommufd) -> Self {
        IommufdOp { idev: Ptr(raw.idev), device: raw.device.into(), ret: raw.ret, id: id(raw.id), pasid: raw.pasid }
    }
}

impl From<record::Sva> for SvaOp {
    fn from(raw: record::Sva) -> Self {
        SvaOp {
            device: raw.device.into(),
            handle: raw.handle.into(),
            mm: Ptr(raw.mm),
            ret: raw.ret,
            pasid: (raw.pasid != NO_ID).then_some(raw.pasid),
            users: raw.users,
        }
    }
}

impl From<record::DmaFault> for DmaFault {
    fn from(raw: record::DmaFault) -> Self {
        DmaFault {
            iommu: Ptr(raw.iommu),
            seq_id: raw.seq_id,
            source: raw.source,
            addr: raw.addr,
            reason: raw.reason,
            read: raw.read != 0,
            pasid: (raw.pasid != NO_ID).then_some(raw.pasid),
            status: raw.status,
        }
    }
}

impl From<record::SmmuFault> for SmmuFault {
    fn from(raw: record::SmmuFault) -> Self {
        SmmuFault {
            device: raw.device.into(),
            smmu: Ptr(raw.smmu),
            unit: Text::from_kernel(raw.unit),
            stream: raw.stream,
            addr: raw.addr,
            kind: raw.kind,
            pasid: (raw.pasid != NO_ID).then_some(raw.pasid),
            flags: raw.flags,
        }
    }
}

impl From<record::Dma> for DmaOp {
    fn from(raw: record::Dma) -> Self {
        DmaOp { domain: Ptr(raw.domain), iova: raw.iova, size: raw.size, ret: raw.ret, duration: raw.duration }
    }
}

impl From<record::Invalidate> for Invalidate {
    fn from(raw: record::Invalidate) -> Self {
        Invalidate {
            iommu: Ptr(raw.iommu),
            desc: raw.desc,
            count: raw.count,
            options: raw.options,
            ret: raw.ret,
            duration: raw.duration,
        }
    }
}
