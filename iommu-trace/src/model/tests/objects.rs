//! Bonds, queues, iommufd's devices, resets, the hardware's own events.

use iommu_trace_common::record::SumValue;

use super::names;
use crate::{
    event::{Body, DeviceRef, DmaFault, DmaOp, Invalidate, Name, Phase, ProbeId, Ptr, SmmuFault, Sum},
    model::{
        ModelOptions,
        span::{SpanKind, Summed},
        testing::{QUEUE, Script, bond, dev, domain, kernel_7_3},
    },
};

#[test]
fn unbind_tells_the_users_that_are_left() {
    let (device, mut script) = (dev(1), Script::new());
    let bond = bond(1, &device);
    script.by(10).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 3).ret(ProbeId::SvaUnbind, 0);
    let effects = script.run();
    let SpanKind::SvaUnbind(unbind) = &effects.spans[0].kind else { panic!("{effects:?}") };
    assert_eq!((unbind.users, unbind.pasid, unbind.handle), (2, Some(9), Some(bond.handle.ptr)));
    assert_eq!(unbind.duration_ns, 100);
}

#[test]
fn bind_and_unbind_of_iommufd_tell_the_object_id() {
    let (device, mut script) = (dev(4), Script::new());
    script.by(10).bind(&device).unbind(&device);
    let effects = script.run();
    assert_eq!(names(&effects), ["replace", "iommufd_bind", "replace", "iommufd_unbind"]);
    for span in [&effects.spans[1], &effects.spans[3]] {
        let (SpanKind::IommufdBind(op) | SpanKind::IommufdUnbind(op)) = &span.kind else { panic!("{span:?}") };
        assert_eq!((op.device, op.device_id), (device.device.name, Some(5)));
    }
}

#[test]
fn queues_and_resets_are_told() {
    let (device, mut script) = (dev(4), Script::new());
    script
        .by(10)
        .queue_add(&device, 0)
        .device(ProbeId::ResetPrepare, &device)
        .ret(ProbeId::ResetPrepare, -12)
        .device(ProbeId::ResetDone, &device)
        .queue_remove(&device)
        .queue_removed(&device)
        .fault_destroy()
        .fault_destroyed()
        .domain_free(domain(1))
        .device(ProbeId::DeviceRemove, &device);
    let effects = script.run();
    assert_eq!(
        names(&effects),
        [
            "iopf_enable",
            "reset_prepare",
            "reset_done",
            "iopf_disable",
            "fault_queue_destroy",
            "domain_free",
            "device_remove"
        ]
    );
    let SpanKind::ResetPrepare(prepare) = &effects.spans[1].kind else { panic!() };
    assert_eq!(prepare.ret, Some(-12));
    let SpanKind::FaultQueueDestroy(queue) = &effects.spans[4].kind else { panic!() };
    assert_eq!((queue.object, queue.object_id), (QUEUE, Some(7)));
}

#[test]
fn a_dma_fault_finds_its_device_by_the_requester_id() {
    let (device, mut script) = (dev(0x1a), Script::new());
    let fault = DmaFault { seq_id: 1, source: 0x1a, addr: 0x4000, reason: 6, ..DmaFault::default() };
    script.by(1).snapshot_begin(&device, crate::model::testing::DEFAULT);
    script.by(1).snapshot_end(&device).event(ProbeId::DmarFault, Phase::Enter, Body::DmaFault(fault));
    let effects = script.run();
    let SpanKind::DmaFault(fault) = &effects.spans[0].kind else { panic!("{effects:?}") };
    assert_eq!(fault.device, Some(device.device.name));
    assert_eq!((fault.group, fault.source_id.as_deref()), (Some(0x1a), Some("00:03.2")));
    assert_eq!((fault.iommu.as_deref(), fault.access), (Some("dmar1"), "write"));
}

#[test]
fn faults_of_amd_vi_and_virtio_iommu_tell_their_access_by_flags_or_not_at_all() {
    let (amd, virtio) = ((ProbeId::AmdPollEvents, Phase::Enter), (ProbeId::VirtioEvents, Phase::Exit));
    let cases = [
        (amd, 0x10, 0x020, "ivhd0", "write", Some("00:02.0")),
        (amd, 0x10, 0x000, "ivhd0", "read", Some("00:02.0")),
        // An interrupt's request.
        (amd, 0x10, 0x02a, "ivhd0", "unknown", Some("00:02.0")),
        (virtio, 0x10, 0x102, "virtio0", "write", Some("00:02.0")),
        (virtio, 0x10, 0x101, "virtio0", "read", Some("00:02.0")),
        (virtio, 0x10, 0x100, "virtio0", "unknown", Some("00:02.0")),
        // An endpoint that is no PCI device.
        (virtio, 0x10010, 0x100, "virtio0", "unknown", None),
    ];
    for ((probe, phase), source, status, iommu, access, source_id) in cases {
        let fault = DmaFault { source, status, addr: 0x4008, reason: 2, ..DmaFault::default() };
        let mut script = Script::new();
        script.by(1).event(probe, phase, Body::DmaFault(fault));
        let effects = script.run();
        let SpanKind::DmaFault(fault) = &effects.spans[0].kind else { panic!("{effects:?}") };
        assert_eq!((fault.iommu.as_deref(), fault.access), (Some(iommu), access), "{probe:?} {status:#x}");
        assert_eq!((fault.flags, fault.source_id.as_deref(), fault.addr), (Some(status), source_id, 0x4008));
    }
}

#[test]
fn a_fault_of_smmuv3_is_of_the_device_that_has_the_stream() {
    let device = dev(0x1a);
    let fault = |kind, flags| SmmuFault {
        device: device.device,
        unit: Name::new("smmu3.0x0000000009050000"),
        stream: 0x1_001a,
        addr: 0x4008,
        kind,
        pasid: Some(5),
        flags,
        ..SmmuFault::default()
    };
    // RnW is bit 3. A stream's bad configuration has no access.
    let cases = [(0x10, 0x400, "write"), (0x13, 0x408, "read"), (0x01, 0x8, "read"), (0x02, 0x8, "unknown")];
    for (kind, flags, access) in cases {
        let mut script = Script::new();
        script.by(1).event(ProbeId::SmmuEvents, Phase::Exit, Body::SmmuFault(Box::new(fault(kind, flags))));
        let effects = script.run();
        let SpanKind::DmaFault(told) = &effects.spans[0].kind else { panic!("{effects:?}") };
        assert_eq!((told.device, told.group), (Some(device.device.name), device.device.group_id));
        assert_eq!((told.source_id.as_deref(), told.pasid), (Some("0x1001a"), Some(5)));
        assert_eq!(told.iommu.as_deref(), Some("smmu3.0x0000000009050000"));
        assert_eq!((told.access, told.reason, told.flags), (access, Some(kind), Some(flags)), "{kind:#x}");
    }
    // The driver knows no device that has it.
    let mut script = Script::new();
    let unknown = SmmuFault { device: DeviceRef::default(), ..fault(0x02, 0) };
    script.by(1).event(ProbeId::SmmuEvents, Phase::Enter, Body::SmmuFault(Box::new(unknown)));
    let effects = script.run();
    let SpanKind::DmaFault(told) = &effects.spans[0].kind else { panic!("{effects:?}") };
    assert_eq!((told.device, told.group, told.source_id.as_deref()), (None, None, Some("0x1001a")));
}

#[test]
fn maps_and_invalidations_begin_when_they_were_entered() {
    let mut script = Script::new();
    let map = DmaOp { domain: domain(1), iova: 0x1000, size: 4096, ret: 0, duration: 700 };
    let flush = Invalidate { iommu: Ptr(1), desc: 2, count: 1, options: 1, ret: 0, duration: 50 };
    script
        .by(1)
        .event(ProbeId::MapNosync, Phase::Exit, Body::Dma(map))
        .event(ProbeId::UnmapFast, Phase::Exit, Body::Dma(DmaOp { duration: u64::MAX, ..map }))
        .event(ProbeId::QiSubmitSync, Phase::Exit, Body::Invalidate(flush));
    let effects = script.run();
    assert_eq!(names(&effects), ["map", "unmap", "invalidate"]);
    assert_eq!(effects.spans[0].ts, script.events[0].ts - 700);
    assert_eq!(effects.spans[1].ts, 0);
    let SpanKind::Invalidate(flush) = &effects.spans[2].kind else { panic!() };
    assert_eq!((flush.kind, flush.drain), ("iotlb", true));
}

#[test]
fn sums_name_what_was_summed_up() {
    let value = |calls| SumValue { calls, amount: 4096 * calls, duration: 900, within: [0; 20], failed: 0 };
    let sum = |of, object, kind, value| Body::Sum(Box::new(Sum { of, object, kind, value }));
    let timed = |calls| SumValue { within: std::array::from_fn(|at| u32::from(at == 3)), ..value(calls) };
    let mut script = Script::new();
    script
        .by(1)
        .event(ProbeId::Sums, Phase::Exit, sum(ProbeId::MapNosync, domain(1), 0, value(3)))
        .event(ProbeId::Sums, Phase::Exit, sum(ProbeId::QiSubmitSync, Ptr(7), 6, timed(1)))
        .event(ProbeId::Sums, Phase::Exit, sum(ProbeId::CacheTagFlushAll, domain(1), 0, timed(1)));
    let effects = script.run();
    let sums: Vec<_> = effects
        .spans
        .iter()
        .map(|span| match &span.kind {
            SpanKind::Sum(sum) => {
                (sum.of, sum.domain, sum.iommu, sum.kind, sum.bytes, sum.descriptors, sum.duration_ns)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        sums,
        [
            (Summed::Map, Some(domain(1)), None, None, Some(3 * 4096), None, None),
            (Summed::Invalidate, None, Some(Ptr(7)), Some("pasid-iotlb"), None, Some(4096), Some(900)),
            (Summed::Flush, Some(domain(1)), None, None, None, None, Some(900)),
        ]
    );
}

#[test]
fn losses_are_told_and_counted() {
    let mut script = Script::new();
    script.by(1).lost(ProbeId::Map, Phase::Exit, 3).lost(ProbeId::Map, Phase::Exit, 4);
    let (model, effects) = script.model(kernel_7_3(), ModelOptions::default());
    assert_eq!(names(&effects), ["lost", "lost"]);
    assert_eq!(model.counts().lost[&ProbeId::Map], 7);
}
