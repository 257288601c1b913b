//! From an [`Event`] back to the bytes of a record: the inverse of [`decode`](super::decode), so that recordings can be
//! made of any events, also of those that no kernel sent.

use iommu_trace_common::{COMM_LEN, NO_ID, owner, record, slot};
use zerocopy::{Immutable, IntoBytes};

use super::{
    Body, Change, Delivered, DeviceRef, DmaFault, DmaOp, Event, FaultGroup, FileOp, HandleRef, Invalidate, IommufdOp,
    Lookup, ObjectOp, OwnerHint, PageResponse, Phase, ProbeId, Report, SlotState, SlotWhat, SmmuFault, SvaOp,
};

/// An event that no record tells: losses are counted beside the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a loss has no record in the ring")]
pub struct NoRecord;

/// Appends the event's record, header and payload.
pub fn encode(event: &Event, out: &mut Vec<u8>) -> Result<(), NoRecord> {
    let begin = out.len();
    out.resize(begin + size_of::<record::Header>(), 0);
    let payload = out.len();
    encode_body(event, out)?;
    let comm: [u8; COMM_LEN] = event.task.comm.0;
    let header = record::Header {
        ts: event.ts,
        probe: event.probe as u16,
        phase: event.phase as u16,
        cpu: event.task.cpu,
        pid: event.task.pid,
        tid: event.task.tid,
        stack: event.stack.map_or(-1, |stack| stack as i32),
        len: (out.len() - payload) as u32,
        comm,
    };
    out[begin..payload].copy_from_slice(header.as_bytes());
    Ok(())
}

/// Appends the payload of the event's record.
pub fn encode_body(event: &Event, out: &mut Vec<u8>) -> Result<(), NoRecord> {
    match &event.body {
        Body::Change(change) => put(out, &attach(change)),
        Body::Return { ret } => put(out, &record::Return { ret: *ret }),
        Body::Lookup(op) => put(out, &lookup(op)),
        Body::Report(op) => put(out, &report(op)),
        Body::FaultGroup(group) => put(out, &fault_group(group)),
        Body::PageResponse(op) => put(out, &page_response(op)),
        Body::File(op) => put(out, &file(op)),
        Body::Delivered(op) => put(out, &delivered(op)),
        Body::Queue(op) => {
            put(out, &record::Queue { queue: op.queue.0, device: device(&op.device), ret: op.ret });
        }
        Body::Object(op) => put(out, &object(op)),
        // Of these, only a bind tells more than its result at its return.
        Body::Iommufd(op) if event.phase == Phase::Exit && event.probe != ProbeId::IommufdBind => {
            put(out, &record::Return { ret: op.ret });
        }
        Body::Iommufd(op) => put(out, &iommufd(op)),
        Body::Sva(op) if event.phase == Phase::Exit && event.probe != ProbeId::SvaBind => {
            put(out, &record::Return { ret: op.ret });
        }
        Body::Sva(op) => put(out, &sva(op)),
        Body::Device(seen) => put(out, &record::DeviceOnly { device: device(seen), ret: 0 }),
        Body::Domain { domain, domain_type, owner } => {
            put(out, &record::Domain { domain: domain.0, domain_type: domain_type.0, owner: owner_of(*owner) });
        }
        Body::DmaFault(fault) => put(out, &dma_fault(fault)),
        Body::SmmuFault(fault) => put(out, &smmu_fault(fault)),
        Body::IoPageFault { device: seen, iova, flags } => {
            put(out, &record::IoPageFault { device: device(seen), iova: *iova, flags: *flags, pad: 0 });
        }
        Body::Interrupt { iommu } => put(out, &record::Interrupt { iommu: iommu.0 }),
        Body::Dma(op) | Body::Flush(op) => put(out, &dma(op)),
        Body::Invalidate(op) => put(out, &invalidate(op)),
        Body::Sum(sum) => put(out, &sum.record()),
        Body::Prepared { ret, recovering } => {
            put(out, &record::Prepared { ret: *ret, recovering: id(*recovering), pad: 0 });
        }
        Body::Free { ptr } => put(out, &record::Free { ptr: ptr.0 }),
        Body::Slot(state) => put(out, &slot_state(state)),
        Body::Lost { .. } => return Err(NoRecord),
    }
    Ok(())
}

fn put<T: IntoBytes + Immutable>(out: &mut Vec<u8>, value: &T) {
    out.extend_from_slice(value.as_bytes());
}

fn id(id: Option<u32>) -> u32 {
    id.unwrap_or(NO_ID)
}

fn owner_of(hint: OwnerHint) -> u32 {
    match hint {
        OwnerHint::Unknown => owner::UNKNOWN,
        OwnerHint::Iommufd => owner::IOMMUFD,
        OwnerHint::Sva => owner::SVA,
    }
}

fn group_number(number: Option<u32>) -> i32 {
    number.and_then(|number| i32::try_from(number).ok()).unwrap_or(-1)
}

fn device(device: &DeviceRef) -> record::Device {
    record::Device {
        ptr: device.ptr.0,
        group: device.group.0,
        group_id: group_number(device.group_id),
        pad: 0,
        name: device.name.0,
    }
}

fn handle(handle: &HandleRef) -> record::Handle {
    record::Handle {
        ptr: handle.ptr.0,
        domain: handle.domain.0,
        device: handle.device.0,
        idev: handle.idev.0,
        domain_type: handle.domain_type.0,
        device_id: id(handle.device_id),
        owner: owner_of(handle.owner),
        pad: 0,
    }
}

fn attach(change: &Change) -> record::Attach {
    record::Attach {
        device: device(&change.device),
        handle: handle(&change.handle),
        domain: change.domain.0,
        old_domain: change.old_domain.0,
        default_domain: change.default_domain.0,
        dma_owner: change.dma_owner.0,
        domain_type: change.domain_type.0,
        old_domain_type: change.old_domain_type.0,
        pasid: change.pasid,
        domain_owner: owner_of(change.domain_owner),
    }
}

fn lookup(op: &Lookup) -> record::Lookup {
    record::Lookup {
        group: op.group.0,
        id_ts: op.id_ts,
        ret: op.ret,
        handle: handle(&op.handle),
        group_id: group_number(op.group_id),
        pasid: op.pasid,
        wanted_type: op.wanted_type,
        pad: 0,
    }
}

fn request(op: &Report) -> record::Request {
    record::Request {
        kind: op.kind,
        pad: 0,
        flags: op.flags,
        pasid: op.pasid,
        grpid: op.grpid,
        perm: op.perm,
        addr: op.addr,
    }
}

fn report(op: &Report) -> record::Report {
    record::Report { device: device(&op.device), evt: op.evt.0, request: request(op) }
}

fn fault_group(group: &FaultGroup) -> record::Group {
    record::Group {
        group: group.group.0,
        handle: group.handle.0,
        domain: group.domain.0,
        queue: group.queue.0,
        device: group.device.0,
        count: u64::from(group.count),
        request: record::Request {
            kind: 0,
            pad: 0,
            flags: group.flags,
            pasid: group.pasid,
            grpid: group.grpid,
            perm: 0,
            addr: group.addr,
        },
        cookie: group.cookie,
        code: group.code,
    }
}

fn page_response(op: &PageResponse) -> record::PageResponse {
    record::PageResponse { device: op.device.0, evt: op.evt.0, answer: [op.pasid, op.grpid, op.code], pad: 0 }
}

fn file(op: &FileOp) -> record::File {
    record::File { file: op.file.0, fault: op.fault.0, count: op.count, ret: op.ret }
}

fn delivered(op: &Delivered) -> record::Delivered {
    record::Delivered {
        fault: op.fault.0,
        addr: op.addr,
        index: op.index,
        device_id: op.device_id,
        pasid: op.pasid,
        grpid: op.grpid,
        perm: op.perm,
        flags: op.flags,
        cookie: op.cookie,
        pad: 0,
    }
}

fn object(op: &ObjectOp) -> record::Object {
    record::Object { ptr: op.object.0, other: op.other.0, id: id(op.id), kind: op.kind }
}

fn iommufd(op: &IommufdOp) -> record::Iommufd {
    record::Iommufd { idev: op.idev.0, device: device(&op.device), ret: op.ret, id: id(op.id), pasid: op.pasid }
}

fn sva(op: &SvaOp) -> record::Sva {
    record::Sva {
        device: device(&op.device),
        handle: handle(&op.handle),
        mm: op.mm.0,
        ret: op.ret,
        pasid: id(op.pasid),
        users: op.users,
    }
}

fn dma_fault(fault: &DmaFault) -> record::DmaFault {
    record::DmaFault {
        iommu: fault.iommu.0,
        addr: fault.addr,
        seq_id: fault.seq_id,
        source: fault.source,
        reason: fault.reason,
        read: u32::from(fault.read),
        pasid: id(fault.pasid),
        status: fault.status,
    }
}

fn smmu_fault(fault: &SmmuFault) -> record::SmmuFault {
    record::SmmuFault {
        device: device(&fault.device),
        smmu: fault.smmu.0,
        addr: fault.addr,
        unit: fault.unit.0,
        stream: fault.stream,
        kind: fault.kind,
        pasid: id(fault.pasid),
        flags: fault.flags,
    }
}

fn dma(op: &DmaOp) -> record::Dma {
    record::Dma { domain: op.domain.0, iova: op.iova, size: op.size, ret: op.ret, duration: op.duration }
}

fn invalidate(op: &Invalidate) -> record::Invalidate {
    record::Invalidate {
        iommu: op.iommu.0,
        desc: op.desc,
        ret: op.ret,
        duration: op.duration,
        count: op.count,
        options: op.options,
    }
}

fn slot_state(state: &SlotState) -> record::Slot {
    record::Slot {
        device: device(&state.device),
        handle: handle(&state.handle),
        domain: state.domain.0,
        domain_type: state.domain_type.0,
        pasid: state.pasid,
        what: match state.what {
            SlotWhat::Group => slot::GROUP,
            SlotWhat::DefaultDomain => slot::DEFAULT_DOMAIN,
            SlotWhat::Member => slot::MEMBER,
            SlotWhat::Entry => slot::ENTRY,
            SlotWhat::End => slot::END,
        },
        domain_owner: owner_of(state.domain_owner),
        users: state.users,
        pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Task, decode};

    proptest! {
        /// Any record that can be decoded is the same event after one more turn, whatever its probe, phase and bytes.
        #[test]
        fn what_is_decoded_is_encoded_and_decoded_the_same(
            probe in 0..ProbeId::ALL.len() as u16,
            phase in 0u16..2,
            stack in -1i32..100,
            mut payload in prop::collection::vec(prop_oneof![Just(0u8), Just(0xffu8), any::<u8>()], 240),
            delivered in any::<bool>(),
            what in 0u32..5,
        ) {
            let len = if delivered { size_of::<record::Delivered>() } else { payload.len() };
            // The one discriminant in a payload: random ones are out of range.
            let at = std::mem::offset_of!(record::Slot, what);
            payload[at..at + 4].copy_from_slice(&what.to_le_bytes());
            let header = record::Header {
                ts: 7, probe, phase, cpu: 3, pid: 4, tid: 5, stack, len: len as u32, comm: *b"a comm of a task",
            };
            let bytes = [header.as_bytes(), &payload].concat();
            let Ok(event) = decode(&bytes) else { return Ok(()) };
            let mut again = Vec::new();
            prop_assert!(encode(&event, &mut again).is_ok());
            prop_assert_eq!(decode(&again), Ok(event));
        }
    }

    #[test]
    fn every_probe_s_records_take_part() {
        // A payload of zeroes is a record wherever the probe and phase make one at all.
        let mut decoded = 0;
        for (probe, phase) in (0..ProbeId::ALL.len() as u16).flat_map(|probe| [(probe, 0), (probe, 1)]) {
            let header = record::Header {
                ts: 1,
                probe,
                phase,
                cpu: 0,
                pid: 0,
                tid: 0,
                stack: -1,
                len: 240,
                comm: [0; COMM_LEN],
            };
            let Ok(event) = decode(&[header.as_bytes(), &[0; 240]].concat()) else { continue };
            let mut bytes = Vec::new();
            encode(&event, &mut bytes).unwrap();
            assert_eq!(decode(&bytes).as_ref(), Ok(&event), "{probe} {phase}");
            decoded += 1;
        }
        assert!(decoded > ProbeId::ALL.len(), "{decoded}");
    }

    #[test]
    fn a_loss_has_no_record() {
        let event = Event {
            ts: 1,
            task: Task::default(),
            probe: ProbeId::GroupFree,
            phase: Phase::Enter,
            stack: None,
            body: Body::Lost { count: 3 },
        };
        assert_eq!(encode(&event, &mut Vec::new()), Err(NoRecord));
    }
}
