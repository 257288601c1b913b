//! Bonds, queues, iommufd's devices, resets, the hardware's own events.

use iommu_trace_common::record::SumValue;

use super::names;
use crate::{
    event::{Body, DmaFault, DmaOp, Invalidate, Phase, ProbeId, Ptr, Sum},
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
