//! Spans of every kind, as the IOMMU test device and an emulated VT-d give them.
#![allow(dead_code, reason = "each test takes what it needs")]

pub mod busy;
pub mod grafana;
pub mod promql;
pub mod recorded;
pub mod scripted;
pub mod serving;

use iommu_trace::{
    event::{Comm, DomainType, Name, Phase, ProbeId, Ptr, ResponseCode, Task},
    model::{
        Evidence, Features, RuleId, Severity, Subject, Violation,
        span::{
            Answerer, ChangeSpan, DeviceSpan, DmaFaultSpan, DmaSpan, DomainSpan, FaultSpan, FlushSpan, InvalidateSpan,
            IommufdSpan, LostSpan, ObjectSpan, Owner, QueueSpan, Response, Span, SpanKind, Stage, StageSpan, SumSpan,
            Summed, SvaSpan, Topic,
        },
    },
    output::{CommandEnd, Exit, Reason, Start, Summary, Tally},
    probes::{ProbeStatus, Verdict},
    source::{Frame, SourceInfo},
};

const START: u64 = 93_004_812_000_000;

pub fn info() -> SourceInfo {
    let probe = |function: &str, kind: &str, topic: &str, verdict, reason: Option<&str>, cost: &str| ProbeStatus {
        function: function.into(),
        kind: kind.into(),
        topic: topic.into(),
        verdict,
        reason: reason.map(Into::into),
        cost: cost.into(),
        essential: false,
    };
    SourceInfo {
        kernel: "7.3.4".into(),
        machine: "x86_64".into(),
        host: "guest".into(),
        features: Features { handles: true, store_after_op: true, iommufd: true, ..Features::default() },
        probes: vec![
            probe("iommu_attach_group_handle", "fentry", "attach", Verdict::Ok, None, "no attaches of groups"),
            probe("iommu_report_device_fault", "fentry", "fault", Verdict::Ok, None, "no page faults"),
            probe(
                "iommu_sva_iopf_handler",
                "fentry",
                "fault",
                Verdict::Missing,
                Some("this kernel has no such function"),
                "no handler times of SVA faults",
            ),
            probe(
                "iopf_group_dequeue",
                "fentry",
                "fault",
                Verdict::Broken,
                Some("Operation not permitted (os error 1)"),
                "fault groups are first seen in their handler",
            ),
        ],
        epoch_offset_ns: 1_767_225_600_000_000_000 - i64::try_from(START).unwrap(),
        started_ns: START,
        settled: false,
        stretched: Vec::new(),
    }
}

pub fn start(info: &SourceInfo) -> Start<'_> {
    Start { info, topics: &[Topic::Attach, Topic::Fault], command: &[] }
}

pub fn span(after_us: u64, kind: SpanKind) -> Span {
    Span {
        ts: START + after_us * 1000,
        kind,
        cpu: 1,
        pid: 1234,
        tid: 1236,
        comm: Comm::new("qemu-system-x86"),
        stack: None,
    }
}

fn mock() -> Name {
    Name::new("iommufd_mock0")
}

fn pci() -> Name {
    Name::new("0000:00:02.0")
}

const HANDLE: Ptr = Ptr(0xffff_8881_03f4_a000);
const OTHER: Ptr = Ptr(0xffff_8881_03f4_b040);
const DOMAIN: Ptr = Ptr(0xffff_8881_0411_c800);

pub fn attach() -> ChangeSpan {
    ChangeSpan {
        group: Some(3),
        device: Some(mock()),
        pasid: 0,
        domain: DOMAIN,
        domain_type: DomainType::UNMANAGED,
        old_domain: None,
        handle: Some(HANDLE),
        old_handle: None,
        ret: 0,
        duration_ns: 12_345,
        owner: Owner::Iommufd,
        device_id: Some(4),
        function: "iommu_attach_group_handle",
    }
}

pub fn fault() -> FaultSpan {
    FaultSpan {
        group: Some(3),
        device: mock(),
        pasid: Some(18),
        grpid: 7,
        addr: 0x7f12_dead_b000,
        perm: 3,
        flags: 3,
        last: true,
        requests: Some(1),
        handle: Some(HANDLE),
        device_id: Some(4),
        delivered_id: Some(4),
        cookie: Some(1),
        ret: Some(0),
        lookups: 1,
        interrupt_ns: Some(3_120),
        lookup_ns: Some(1_212),
        device_id_ns: Some(1_260),
        handler_ns: Some(1_904),
        delivered_ns: Some(20_377),
        response_ns: Some(104_190),
        response: Response(Some(ResponseCode::Success)),
        answered_by: Some(Answerer::User),
        freed_ns: Some(104_802),
        complete: true,
    }
}

fn stage(stage: Stage) -> StageSpan {
    StageSpan {
        stage,
        group: Some(3),
        device: mock(),
        pasid: None,
        grpid: 7,
        addr: 0xdead_b000,
        since_report_ns: 20_377,
        handle: Some(HANDLE),
        device_id: Some(4),
        response: None,
    }
}

fn sva(users: u32) -> SvaSpan {
    SvaSpan {
        group: Some(1),
        device: pci(),
        pasid: Some(1),
        handle: Some(OTHER),
        users,
        mm: Ptr(0xffff_8881_0500_0000),
        ret: 0,
        duration_ns: 34_000,
    }
}

fn queue() -> QueueSpan {
    QueueSpan { group: Some(3), device: mock(), queue: Ptr(0xffff_8881_0222_0000), ret: 0 }
}

fn iommufd() -> IommufdSpan {
    IommufdSpan { group: Some(3), device: mock(), device_id: Some(4), ret: 0, duration_ns: 8_100 }
}

fn device(ret: Option<i64>) -> DeviceSpan {
    DeviceSpan { group: Some(1), device: pci(), ret }
}

fn dma(ret: i64, function: &'static str) -> DmaSpan {
    DmaSpan { domain: DOMAIN, addr: 0x10_0000, size: 0x20_0000, ret, duration_ns: 2_200, function }
}

/// At least one of every kind, and the variants that look different.
pub fn samples() -> Vec<Span> {
    let kinds = vec![
        SpanKind::DeviceAdd(device(None)),
        SpanKind::IommufdBind(iommufd()),
        SpanKind::IopfEnable(queue()),
        SpanKind::Attach(attach()),
        SpanKind::Attach(ChangeSpan { ret: -16, ..attach() }),
        SpanKind::Attach(ChangeSpan {
            pasid: 18,
            handle: Some(OTHER),
            device_id: None,
            owner: Owner::Kernel,
            ..attach()
        }),
        SpanKind::Replace(ChangeSpan {
            handle: Some(OTHER),
            old_handle: Some(HANDLE),
            old_domain: Some(DOMAIN),
            domain_type: DomainType::NESTED,
            function: "iommu_replace_group_handle",
            ..attach()
        }),
        SpanKind::Fault(fault()),
        SpanKind::Fault(FaultSpan {
            pasid: None,
            addr: 0xdead_b000,
            perm: 9,
            response: Response(Some(ResponseCode::Invalid)),
            delivered_id: None,
            delivered_ns: None,
            answered_by: Some(Answerer::Automatic),
            response_ns: Some(2_500_000_000),
            requests: Some(3),
            ..fault()
        }),
        SpanKind::Fault(FaultSpan {
            last: false,
            flags: 1,
            requests: None,
            handle: None,
            device_id: None,
            delivered_id: None,
            delivered_ns: None,
            response: Response(None),
            answered_by: None,
            interrupt_ns: None,
            lookup_ns: None,
            device_id_ns: None,
            handler_ns: None,
            response_ns: None,
            freed_ns: None,
            cookie: None,
            ..fault()
        }),
        SpanKind::Fault(FaultSpan {
            delivered_id: Some(5),
            response_ns: None,
            response: Response(None),
            answered_by: None,
            freed_ns: None,
            complete: false,
            ..fault()
        }),
        SpanKind::Fault(FaultSpan {
            device: Name::new("0000:00:03.0"),
            handle: None,
            device_id: None,
            delivered_id: None,
            cookie: None,
            ret: Some(-22),
            interrupt_ns: None,
            lookup_ns: None,
            device_id_ns: None,
            handler_ns: None,
            delivered_ns: None,
            response_ns: None,
            response: Response(None),
            answered_by: None,
            freed_ns: None,
            requests: None,
            ..fault()
        }),
        SpanKind::FaultStage(StageSpan { since_report_ns: 0, handle: None, device_id: None, ..stage(Stage::Report) }),
        SpanKind::FaultStage(stage(Stage::Delivered)),
        SpanKind::FaultStage(StageSpan { response: Some(ResponseCode::Failure), ..stage(Stage::Response) }),
        SpanKind::SvaBind(sva(1)),
        SpanKind::SvaBind(SvaSpan { ret: -95, handle: None, pasid: None, users: 0, ..sva(0) }),
        SpanKind::SvaUnbind(sva(0)),
        SpanKind::Detach(ChangeSpan { old_domain: Some(OTHER), function: "iommu_detach_group_handle", ..attach() }),
        SpanKind::IopfDisable(queue()),
        SpanKind::IommufdUnbind(iommufd()),
        SpanKind::FaultQueueDestroy(ObjectSpan {
            object_id: Some(6),
            object: Ptr(0xffff_8881_0600_0000),
            duration_ns: 5_300,
        }),
        SpanKind::DomainFree(DomainSpan { domain: DOMAIN, domain_type: DomainType::UNMANAGED }),
        SpanKind::ResetPrepare(device(Some(0))),
        SpanKind::ResetDone(device(None)),
        SpanKind::DeviceRemove(device(None)),
        SpanKind::DmaFault(DmaFaultSpan {
            iommu: Some("dmar0".into()),
            group: Some(1),
            device: Some(pci()),
            source_id: Some("00:02.0".into()),
            addr: 0xdead_0000,
            access: "write",
            reason: Some(5),
            flags: None,
            pasid: None,
            function: "dmar_fault",
        }),
        SpanKind::Map(dma(0, "iommu_map")),
        SpanKind::Unmap(dma(0x1000, "iommu_unmap")),
        SpanKind::Invalidate(InvalidateSpan {
            iommu: Ptr(0xffff_8881_0010_0000),
            kind: "iotlb",
            count: 2,
            drain: true,
            ret: 0,
            duration_ns: 41_000,
        }),
        SpanKind::Flush(FlushSpan {
            domain: DOMAIN,
            addr: 0x10_0000,
            size: 0x20_0000,
            duration_ns: 93_000,
            function: "cache_tag_flush_range",
        }),
        SpanKind::Flush(FlushSpan {
            domain: DOMAIN,
            addr: 0,
            size: u64::MAX,
            duration_ns: 93_000,
            function: "cache_tag_flush_all",
        }),
        SpanKind::Sum(SumSpan {
            of: Summed::Map,
            domain: Some(DOMAIN),
            iommu: None,
            kind: None,
            calls: 1234,
            failed: 1,
            bytes: Some(5 << 20),
            descriptors: None,
            duration_ns: None,
            within: None,
            function: "iommu_map",
        }),
        SpanKind::Sum(SumSpan {
            of: Summed::Invalidate,
            domain: None,
            iommu: Some(Ptr(0xffff_8881_0010_0000)),
            kind: Some("iotlb"),
            calls: 3,
            failed: 0,
            bytes: None,
            descriptors: Some(6),
            duration_ns: Some(123_000),
            within: Some(Box::new({
                let mut within = [0; 20];
                within[7] = 3;
                within
            })),
            function: "qi_submit_sync",
        }),
        SpanKind::Lost(LostSpan { probe: "iommu_report_device_fault", count: 12 }),
    ];
    kinds.into_iter().zip(1..).map(|(kind, at)| span(at * 1_234, kind)).collect()
}

pub fn summary() -> Summary {
    let mut tally = Tally::default();
    for span in &samples() {
        tally.count(span);
    }
    for n in 1..=100 {
        let kind = SpanKind::Fault(FaultSpan { lookup_ns: Some(n * 100), response_ns: Some(n * 10_000), ..fault() });
        tally.count(&span(0, kind));
    }
    tally.leave_out();
    tally.leave_out();
    tally.violation(&violation());
    let command = Some(CommandEnd { status: Some(0), signal: None });
    tally.summary(START, START + 12_345_678_901, Exit { reason: Reason::Command, command })
}

pub fn violation() -> Violation {
    let task = |pid, comm: &str| Task { cpu: 1, pid, tid: pid, comm: Comm::new(comm) };
    let evidence =
        |at: u64, what, probe, phase, task, stack| Evidence { ts: START + at, what, probe, phase, task, stack };
    Violation {
        ts: START + 9_000_000,
        rule: RuleId::UseAfterDetach,
        severity: Severity::Error,
        message: "a fault group was answered with handle 0xffff888103f4a000, whose detach had returned".into(),
        subject: Subject {
            group: Some(3),
            device: Some(mock()),
            pasid: Some(18),
            handle: Some(HANDLE),
            ..Subject::default()
        },
        evidence: vec![
            evidence(1_000_000, "attach", ProbeId::AttachDevicePasid, Phase::Exit, task(1234, "vmm"), Some(7)),
            evidence(8_000_000, "detach", ProbeId::DetachDevicePasid, Phase::Exit, task(1234, "vmm"), None),
            evidence(9_000_000, "response", ProbeId::GroupResponse, Phase::Enter, task(1240, "vmm-fault"), Some(7)),
        ],
        task: task(1240, "vmm-fault"),
    }
}

pub fn frames() -> Vec<Frame> {
    [
        "iommu_report_device_fault+0x5/0x2b0",
        "prq_event_thread+0x1e2/0x4a0",
        "irq_thread_fn+0x22/0x60",
        "ret_from_fork+0x34/0x50",
    ]
    .iter()
    .zip(0xffff_ffff_8100_0000_u64..)
    .map(|(symbol, addr)| Frame { addr, symbol: (*symbol).into() })
    .collect()
}
