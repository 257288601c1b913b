//! Page requests by VT-d's own queue, interrupt and response: the path that hardware takes.

use anyhow::{Context, Result, ensure};
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
        run: unhandled,
    },
    GuestTest {
        name: "page-requests-stock-7.3",
        about: ANSWERED_BY_THE_CORE,
        kernel: "stock-7.3",
        iommu: Iommu::IntelPri,
        tracer: true,
        run: unhandled,
    },
];

/// Requests of a few interrupts, of which some find several.
fn unhandled(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    script.case(
        "run",
        "exec iommu-trace trace --events fault,invalidate --format json --output /out/trace.jsonl -- \
         guest page-request --count 3 --batch 4 --truth /out/truth.jsonl",
    );
    let files = script.run(guest.vm())?;
    files.expect_status("run", 0)?;
    let text = files.text("trace.jsonl")?;
    let trace = Trace::parse(&text)?;
    checks.check("the trace is what it says it is", Schema::load()?.check(&text).and_then(|()| trace.check_frame()));
    checks.check("nothing is lost", trace.check_clean());
    let asked = requests(&files.text("truth.jsonl")?)?;
    let faults: Vec<&Span> = trace.spans.iter().filter(|span| span.event == "fault").collect();
    checks.check("there are as many faults as requests", {
        if asked.len() == 12 && faults.len() == 12 {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{} requests were made, and {} faults were told", asked.len(), faults.len()))
        }
    });
    checks.check("each request is told once, with all its stages", each_request(&asked, &faults));
    checks.check("each answer is an invalidation descriptor", each_answer(&trace, &faults));
    checks.check("requests of one interrupt are timed from the same moment", each_interrupt(&asked, &faults));
    Ok(())
}

/// The page requests that the guest says it has made.
fn requests(truth: &str) -> Result<Vec<Value>> {
    let lines = truth.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    Ok(lines.into_iter().filter(|line| line["truth"] == "page_request").collect())
}

fn each_request(asked: &[Value], faults: &[&Span]) -> Result<()> {
    for request in asked {
        let same = |fault: &&&Span| ["device", "pasid", "grpid", "addr"].iter().all(|f| *fault.get(f) == request[*f]);
        let told: Vec<_> = faults.iter().filter(same).collect();
        ensure!(told.len() == 1, "told {} times: {request}", told.len());
        let fault = told[0];
        let (from, to) = (request["ts0"].as_u64(), request["ts1"].as_u64());
        ensure!(from < Some(fault.ts) && Some(fault.ts) < to, "at another time: {}", fault.raw);
        ensure!(
            fault.text("comm").is_some_and(|comm| comm.starts_with("irq/")),
            "no interrupt's thread: {}",
            fault.raw
        );
        ensure!(*fault.get("response") == request["response"], "answered otherwise: {}", fault.raw);
        ensure!(fault.number("lookups") == Some(1), "not one look-up: {}", fault.raw);
        ensure!(fault.text("answered_by") == Some("report"), "answered by another: {}", fault.raw);
        ensure!(fault.number("interrupt_ns") > Some(0), "no interrupt: {}", fault.raw);
        ensure!(fault.number("response_ns") > Some(0), "no response: {}", fault.raw);
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

fn each_interrupt(asked: &[Value], faults: &[&Span]) -> Result<()> {
    let began = |fault: &&Span| Some(fault.ts - fault.number("interrupt_ns")?);
    for batch in faults.chunks(4) {
        let first = batch.first().and_then(began);
        ensure!(first.is_some() && batch.iter().all(|fault| began(fault) == first), "not one: {}", batch[0].raw);
    }
    ensure!(faults.iter().filter_map(began).collect::<std::collections::BTreeSet<_>>().len() == asked.len() / 4);
    Ok(())
}
