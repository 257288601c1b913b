//! Page requests by VT-d's own queue, interrupt and response: the path that hardware takes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    session::Script,
    trace::{Schema, Span, Trace},
};
use crate::qemu::Iommu;

const ANSWERED_BY_THE_CORE: &str =
    "each page request of VT-d is one fault from interrupt to response, though nobody handles it";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "page-requests-stock-6.12",
        about: ANSWERED_BY_THE_CORE,
        kernel: "stock-6.12",
        iommu: Iommu::IntelPri,
        tracer: true,
        run: |guest, checks| told(guest, checks, &[UNHANDLED]),
    },
    GuestTest {
        name: "page-requests-stock-7.3",
        about: ANSWERED_BY_THE_CORE,
        kernel: "stock-7.3",
        iommu: Iommu::IntelPri,
        tracer: true,
        run: |guest, checks| told(guest, checks, &[UNHANDLED]),
    },
    GuestTest {
        name: "page-requests-built-7.3",
        about: "page requests of VT-d are answered by a process's own memory, and by user space through iommufd",
        kernel: "built-7.3",
        iommu: Iommu::IntelPri,
        tracer: true,
        run: |guest, checks| told(guest, checks, &[SVA, IOMMUFD]),
    },
    GuestTest {
        name: "broken-slow-report",
        about: "the last detach of a RID frees a handle that VT-d's interrupt thread is using; another waits for it",
        kernel: "built-7.3+slow-report",
        iommu: Iommu::IntelPri,
        tracer: true,
        run: undrained,
    },
];

/// docs/findings.md has why. The kernel is slow between look-up and handler; the detach begins meanwhile. The second
/// program may crash the guest: what was found before has to be out by then.
fn undrained(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let check = "iommu-trace check --track-frees --format json";
    let program = "guest undrained --interrupt-first --truth /dev/null";
    let script =
        format!("{check} --output /dev/null -- {program} --not-the-last && echo waited && exec {check} -- {program}");
    let outcome = guest.vm().timeout(Duration::from_secs(300)).script(script).run()?;
    let text = outcome.text();
    let waited = text.starts_with("waited\n");
    checks.check("a detach that is not the last waits, and breaks no rule", {
        if waited { Ok(()) } else { Err(anyhow!("{}", String::from_utf8_lossy(&outcome.stderr))) }
    });
    let found = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["event"] == "violation" && line["rule"] == "use-after-free")
        .with_context(|| format!("use-after-free did not fire; the guest ended as {:?}", outcome.status))?;
    let evidence = found["evidence"].as_array().context("no evidence")?;
    let by_interrupt = |event: &Value| event["comm"].as_str().is_some_and(|comm| comm.starts_with("irq/"));
    ensure!(evidence.iter().any(by_interrupt), "the interrupt's thread is not among the evidence: {found}");
    checks.check("the last one frees what the interrupt's thread is using", Ok(()));
    checks.note(format!("use-after-free: {}; the guest ended as {:?}", found["message"], outcome.status));
    Ok(())
}

/// A way to handle page requests, and what must be told of each.
struct Way {
    name: &'static str,
    answered_by: &'static str,
    /// Requests made in batches, and after them.
    batched: usize,
    alone: usize,
    /// Whether a handle is found.
    handle: bool,
    /// Whether user space is told of them.
    delivered: bool,
    /// Whether the interrupt's own thread sends the answer.
    by_interrupt: bool,
}

const UNHANDLED: Way = Way {
    name: "none",
    answered_by: "report",
    batched: 12,
    alone: 0,
    handle: false,
    delivered: false,
    by_interrupt: true,
};
/// At its end one request asks for what is not mapped any more.
const SVA: Way = Way { name: "sva", answered_by: "handler", alone: 1, handle: true, by_interrupt: false, ..UNHANDLED };
const IOMMUFD: Way =
    Way { name: "iommufd", answered_by: "user", handle: true, delivered: true, by_interrupt: false, ..UNHANDLED };
/// Requests that an interrupt finds.
const BATCH: usize = 4;

/// Runs the program each way under a trace, and compares.
fn told(guest: &Guest, checks: &mut Checks, ways: &[Way]) -> Result<()> {
    let mut script = Script::new();
    for way in ways {
        let name = way.name;
        script.case(
            name,
            &format!(
                "exec iommu-trace trace --events attach,fault,sva,iommufd,invalidate --format json \
                 --output /out/{name}.jsonl -- guest page-request --handler {name} --count 3 --batch {BATCH} \
                 --truth /out/{name}.truth"
            ),
        );
    }
    let files = script.run(guest.vm())?;
    for way in ways {
        let name = way.name;
        files.expect_status(name, 0).with_context(|| format!("handler {name}"))?;
        let text = files.text(&format!("{name}.jsonl"))?;
        let trace = Trace::parse(&text)?;
        let whole = Schema::load()?.check(&text).and_then(|()| trace.check_frame()).and_then(|()| trace.check_clean());
        checks.check(format!("{name}: the trace is what it says it is, nothing is lost, no rule broken"), whole);
        let asked = requests(&files.text(&format!("{name}.truth"))?)?;
        let mut faults: Vec<&Span> = trace.spans.iter().filter(|span| span.event == "fault").collect();
        faults.sort_by_key(|fault| fault.ts);
        let as_many = [asked.len(), faults.len()] == [way.batched + way.alone; 2];
        checks.check(format!("{name}: there are as many faults as requests"), {
            if as_many { Ok(()) } else { Err(anyhow!("{} requests, {} faults", asked.len(), faults.len())) }
        });
        checks.check(
            format!("{name}: each request is told once, with all its stages"),
            each_request(way, &asked, &faults),
        );
        if way.by_interrupt {
            checks.check(format!("{name}: each answer is one descriptor"), each_answer(&trace, &faults));
        }
        let batched = &faults[..faults.len().min(way.batched)];
        checks.check(format!("{name}: requests of one interrupt are timed from one moment"), each_interrupt(batched));
    }
    Ok(())
}

/// The page requests that the guest says it has made.
fn requests(truth: &str) -> Result<Vec<Value>> {
    let lines = truth.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    Ok(lines.into_iter().filter(|line| line["truth"] == "page_request").collect())
}

fn each_request(way: &Way, asked: &[Value], faults: &[&Span]) -> Result<()> {
    for request in asked {
        let (from, to) = (request["ts0"].as_u64(), request["ts1"].as_u64());
        let same = |fault: &&&Span| {
            let then = from < Some(fault.ts) && Some(fault.ts) < to;
            then && ["device", "group", "pasid", "grpid", "addr"].iter().all(|f| *fault.get(f) == request[*f])
        };
        let told: Vec<_> = faults.iter().filter(same).collect();
        ensure!(told.len() == 1, "told {} times: {request}", told.len());
        let fault = told[0];
        ensure!(
            fault.text("comm").is_some_and(|comm| comm.starts_with("irq/")),
            "no interrupt's thread: {}",
            fault.raw
        );
        ensure!(*fault.get("response") == request["response"], "answered otherwise: {}", fault.raw);
        ensure!(fault.number("lookups") == Some(1), "not one look-up: {}", fault.raw);
        ensure!(fault.text("answered_by") == Some(way.answered_by), "answered by another: {}", fault.raw);
        ensure!(fault.number("interrupt_ns") > Some(0), "no interrupt: {}", fault.raw);
        ensure!(fault.number("response_ns") > Some(0), "no response: {}", fault.raw);
        for stage in ["lookup_ns", "handler_ns", "freed_ns"] {
            ensure!(fault.number(stage).is_some() == way.handle, "{stage}: {}", fault.raw);
        }
        ensure!(fault.number("delivered_ns").is_some() == way.delivered, "delivered: {}", fault.raw);
        ensure!(fault.get("delivered_id") == fault.get("device_id"), "told another id: {}", fault.raw);
    }
    Ok(())
}

/// The driver answers by `qi_submit_sync`, on the interrupt's thread, after the response was decided and before the next
/// request.
fn each_answer(trace: &Trace, faults: &[&Span]) -> Result<()> {
    let sent = |span: &&Span| span.event == "invalidate" && faults.iter().any(|fault| fault.tid == span.tid);
    let submitted: Vec<&Span> = trace.spans.iter().filter(sent).collect();
    for (index, fault) in faults.iter().enumerate() {
        let from = fault.ts + fault.number("response_ns").context("no response")?;
        let until = faults.get(index + 1).map_or(u64::MAX, |next| next.ts);
        let own = submitted.iter().filter(|span| from <= span.ts && span.ts < until).count();
        ensure!(own == 1, "{own} descriptors were submitted to answer: {}", fault.raw);
    }
    Ok(())
}

fn each_interrupt(faults: &[&Span]) -> Result<()> {
    let began = |fault: &&Span| Some(fault.ts - fault.number("interrupt_ns")?);
    for batch in faults.chunks(BATCH) {
        let first = batch.first().and_then(began);
        ensure!(first.is_some() && batch.iter().all(|fault| began(fault) == first), "not one: {}", batch[0].raw);
    }
    let interrupts: BTreeSet<u64> = faults.iter().filter_map(began).collect();
    ensure!(interrupts.len() == faults.len() / BATCH, "{} interrupts: {interrupts:?}", interrupts.len());
    Ok(())
}
