//! What the hardware does: unrecoverable faults, map and unmap, invalidation.

use super::{
    Model,
    effects::Effects,
    span::{DmaFaultSpan, DmaSpan, FlushSpan, InvalidateSpan, Span, SpanKind, SumSpan, Summed},
};
use crate::event::{DeviceRef, DmaFault, DmaOp, Event, Invalidate, Name, ProbeId, Ptr, SmmuFault, Sum};

impl Model {
    pub(super) fn dma_fault(&mut self, event: &Event, fault: &DmaFault, effects: &mut Effects) {
        let (unit, access, flags) = match event.probe {
            ProbeId::AmdPollEvents | ProbeId::AmdPrintEvent => ("ivhd", amd_access(fault.status), Some(fault.status)),
            ProbeId::VirtioEvents => ("virtio", virtio_access(fault.status), Some(fault.status)),
            _ => ("dmar", if fault.read { "read" } else { "write" }, None),
        };
        // virtio-iommu numbers its endpoints as it likes; firmware makes those of PCI devices their requester ids.
        let source = u16::try_from(fault.source).ok().map(|source| SourceId(source.into()));
        let device = source.as_ref().and_then(|id| self.mirror.device_by_name(Name::new(&format!("0000:{id}"))));
        let span = DmaFaultSpan {
            iommu: Some(format!("{unit}{}", fault.seq_id)),
            group: device.and_then(|device| device.group_id),
            device: device.map(|device| device.name),
            source_id: source.map(|source| source.to_string()),
            addr: fault.addr,
            access,
            reason: Some(fault.reason),
            flags,
            pasid: fault.pasid,
            function: event.probe.function(),
        };
        self.tell_event(event, SpanKind::DmaFault(span), effects);
    }

    pub(super) fn smmu_fault(&mut self, event: &Event, fault: &SmmuFault, effects: &mut Effects) {
        let known = fault.device.ptr != Ptr(0);
        if known {
            self.mirror.learn(&fault.device);
        }
        let span = DmaFaultSpan {
            iommu: (!fault.unit.is_empty()).then(|| fault.unit.to_string()),
            group: if known { self.mirror.group_id(&fault.device) } else { None },
            device: (!fault.device.name.is_empty()).then_some(fault.device.name),
            // Firmware says which stream a device has; that of a PCI device need not be its requester id.
            source_id: Some(format!("{:#x}", fault.stream)),
            addr: fault.addr,
            access: smmu_access(fault.kind, fault.flags),
            reason: Some(fault.kind),
            flags: Some(fault.flags),
            pasid: fault.pasid,
            function: event.probe.function(),
        };
        self.tell_event(event, SpanKind::DmaFault(span), effects);
    }

    pub(super) fn io_page_fault(
        &mut self,
        event: &Event,
        device: &DeviceRef,
        iova: u64,
        flags: u32,
        effects: &mut Effects,
    ) {
        self.mirror.learn(device);
        let span = DmaFaultSpan {
            iommu: None,
            group: self.mirror.group_id(device),
            device: (!device.name.is_empty()).then_some(device.name),
            source_id: None,
            addr: iova,
            // IOMMU_FAULT_READ is 0, IOMMU_FAULT_WRITE is 1.
            access: if flags & 1 == 0 { "read" } else { "write" },
            reason: None,
            flags: None,
            pasid: None,
            function: event.probe.function(),
        };
        self.tell_event(event, SpanKind::DmaFault(span), effects);
    }

    /// A map or unmap returned. Calls inside another map make no event.
    pub(super) fn dma(&mut self, event: &Event, op: &DmaOp, effects: &mut Effects) {
        let span = DmaSpan {
            domain: op.domain,
            addr: op.iova,
            size: op.size,
            ret: op.ret,
            duration_ns: op.duration,
            function: event.probe.function(),
        };
        let kind = match event.probe {
            ProbeId::Unmap | ProbeId::UnmapFast => SpanKind::Unmap(span),
            _ => SpanKind::Map(span),
        };
        let began = event.ts.saturating_sub(op.duration);
        self.tell(Span::new(began, kind, &event.task, event.stack), effects);
    }

    pub(super) fn invalidated(&mut self, event: &Event, op: &Invalidate, effects: &mut Effects) {
        let amd = event.probe == ProbeId::AmdCompletionWait;
        let span = InvalidateSpan {
            iommu: op.iommu,
            kind: if amd { COMPLETION_WAIT } else { descriptor(op.desc) },
            count: op.count,
            drain: !amd && op.options & 1 != 0,
            ret: op.ret,
            duration_ns: op.duration,
        };
        let began = event.ts.saturating_sub(op.duration);
        self.tell(Span::new(began, SpanKind::Invalidate(span), &event.task, event.stack), effects);
    }

    /// What IOMMUs had cached of a domain was flushed.
    pub(super) fn flushed(&mut self, event: &Event, op: &DmaOp, effects: &mut Effects) {
        let span = FlushSpan {
            domain: op.domain,
            addr: op.iova,
            size: op.size,
            duration_ns: op.duration,
            function: event.probe.function(),
        };
        let began = event.ts.saturating_sub(op.duration);
        self.tell(Span::new(began, SpanKind::Flush(span), &event.task, event.stack), effects);
    }

    /// Calls of a hot function, summed up.
    pub(super) fn summed(&mut self, event: &Event, sum: &Sum, effects: &mut Effects) {
        let (of, kind) = match sum.of {
            ProbeId::Unmap | ProbeId::UnmapFast => (Summed::Unmap, None),
            ProbeId::QiSubmitSync => (Summed::Invalidate, Some(descriptor(u64::from(sum.kind)))),
            ProbeId::AmdCompletionWait => (Summed::Invalidate, Some(COMPLETION_WAIT)),
            ProbeId::CacheTagFlushRange | ProbeId::CacheTagFlushAll | ProbeId::AmdFlushPages => (Summed::Flush, None),
            _ => (Summed::Map, None),
        };
        let (domain, iommu) =
            if of == Summed::Invalidate { (None, Some(sum.object)) } else { (Some(sum.object), None) };
        let amount = |of_these: &[Summed]| of_these.contains(&of).then_some(sum.value.amount);
        let timed = sum.value.within.iter().any(|&calls| calls > 0);
        let span = SumSpan {
            of,
            domain,
            iommu,
            kind,
            calls: sum.value.calls,
            failed: sum.value.failed,
            bytes: amount(&[Summed::Map, Summed::Unmap]),
            descriptors: amount(&[Summed::Invalidate]),
            duration_ns: timed.then_some(sum.value.duration),
            within: timed.then(|| Box::new(sum.value.within)),
            function: sum.of.function(),
        };
        self.tell(Span::new(event.ts, SpanKind::Sum(span), &event.task, event.stack), effects);
    }
}

/// What AMD's driver does when it has queued invalidations.
const COMPLETION_WAIT: &str = "completion-wait";

/// The kind of a queued invalidation descriptor: bits 3:0 of its first word (VT-d specification, 6.5.2).
fn descriptor(word: u64) -> &'static str {
    match word & 0xf {
        1 => "context-cache",
        2 => "iotlb",
        3 => "device-tlb",
        4 => "interrupt-entry-cache",
        5 => "wait",
        6 => "pasid-iotlb",
        7 => "pasid-cache",
        8 => "pasid-device-tlb",
        9 => "page-group-response",
        _ => "reserved",
    }
}

/// The access by the flags of an entry of AMD-Vi's event log (its specification, 2.5.3), as the driver takes them: those of
/// an interrupt request say nothing of it.
fn amd_access(flags: u32) -> &'static str {
    const INTERRUPT: u32 = 1 << 3;
    const WRITE: u32 = 1 << 5;
    match (flags & INTERRUPT, flags & WRITE) {
        (0, 0) => "read",
        (0, _) => "write",
        _ => "unknown",
    }
}

/// The access by the flags of virtio-iommu's `struct virtio_iommu_fault`.
fn virtio_access(flags: u32) -> &'static str {
    const READ: u32 = 1;
    const WRITE: u32 = 1 << 1;
    match (flags & READ, flags & WRITE) {
        (_, WRITE) => "write",
        (READ, _) => "read",
        _ => "unknown",
    }
}

/// The access by an event of SMMUv3 (its specification, 7.3), where that kind of event tells it: those of a stream's
/// configuration do not.
fn smmu_access(kind: u32, flags: u32) -> &'static str {
    const READ: u32 = 1 << 3;
    // F_UUT, F_TRANSL_FORBIDDEN, F_WALK_EABT, F_TRANSLATION to F_PERMISSION, F_TLB_CONFLICT.
    match (kind, flags & READ) {
        (0x01 | 0x07 | 0x0b | 0x10..=0x13 | 0x20, 0) => "write",
        (0x01 | 0x07 | 0x0b | 0x10..=0x13 | 0x20, _) => "read",
        _ => "unknown",
    }
}

/// A requester id as `lspci` prints it.
struct SourceId(u32);

impl std::fmt::Display for SourceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", (self.0 >> 8) & 0xff, (self.0 >> 3) & 0x1f, self.0 & 7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requester_id_reads_as_bus_device_function() {
        assert_eq!(SourceId(0x00f8).to_string(), "00:1f.0");
        assert_eq!(SourceId(0x3a0b).to_string(), "3a:01.3");
    }

    #[test]
    fn descriptors_are_named_by_their_low_bits() {
        assert_eq!(descriptor(0x2_0000_0026), "pasid-iotlb");
        assert_eq!(descriptor(0x15), "wait");
        assert_eq!(descriptor(0), "reserved");
    }
}
