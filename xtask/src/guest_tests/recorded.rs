//! Recordings made in a guest: what is told from one is what was told live.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
    trace::{Schema, Trace},
};
use crate::qemu::Iommu;

/// The table.
pub const TESTS: &[GuestTest] = &[GuestTest {
    name: "recorded-built-7.3",
    about: "a recording tells what was told live, event by event, and is small",
    kernel: "built-7.3",
    iommu: Iommu::None,
    tracer: true,
    run,
}];

/// What is traced and recorded at once.
const PROGRAMS: &str =
    "guest iopf --faults 300 --threads 3 --devices 2 --pasid 2 --pasid-via slot && guest attach --cycles 2 --pasids 2";

/// Most bytes that an event of the fault workload may take.
const BYTES_AN_EVENT: f64 = 16.0;

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    script.case(
        "live",
        &format!("exec iommu-trace trace --format json --stages --stacks --output live.jsonl --record run.itr -- sh -c '{PROGRAMS}'"),
    );
    // Without privileges, as on any other machine.
    let elsewhere = |arguments: &str, file: &str| {
        format!("chmod 644 {file}; exec su nobody -s /bin/sh -c 'iommu-trace {arguments} --from {file}'")
    };
    script.case("replayed", &elsewhere("trace --format json --stages --stacks", "run.itr"));
    script.case(
        "check-live",
        "exec iommu-trace check --format json --output check-live.jsonl --record check.itr -- guest attach --cycles 3",
    );
    script.case("check-replayed", &elsewhere("check --format json", "check.itr"));
    script.case(
        "record",
        "exec iommu-trace record -o faults.itr --no-stacks -- guest iopf --faults 4000 --threads 4 --devices 2",
    );
    script.case("stats", &elsewhere("stats --format json", "faults.itr"));
    script.case("handles", &elsewhere("handles --json", "run.itr"));
    let files = script.run(guest.vm().timeout(std::time::Duration::from_secs(300)))?;
    for name in ["live", "replayed", "check-live", "check-replayed", "record", "stats", "handles"] {
        checks.check(format!("{name}: exit status"), files.expect_status(name, 0));
    }
    checks.check("a trace from a recording is the live one", same(&files, "live.jsonl", "replayed.stdout"));
    checks.check("a check from a recording is the live one", same(&files, "check-live.jsonl", "check-replayed.stdout"));
    checks.check("every fault is in the recording", faults(&files, &checks_note(&files)?));
    checks.note(checks_note(&files)?);
    Ok(())
}

/// What the recorder said at its end.
fn checks_note(files: &Files) -> Result<String> {
    let text = files.text("record.stderr")?;
    let line = text.lines().find(|line| line.contains("recorded:")).context("the recorder said nothing at its end")?;
    Ok(line.to_owned())
}

/// The same lines, but for what differs by nature: who was started, why it ended, how long the tracer's own look-ups took.
fn same(files: &Files, live: &str, replayed: &str) -> Result<()> {
    let lines = |name: &str| -> Result<Vec<Value>> {
        let text = files.text(name)?;
        Schema::load()?.check(&text)?;
        let trace = Trace::parse(&text)?;
        // A check counts what it does not tell.
        if !trace.spans.is_empty() {
            trace.check_frame()?;
        }
        text.lines()
            .map(|line| {
                let mut value: Value = serde_json::from_str(line)?;
                match value["event"].as_str() {
                    Some("start") => value["command"] = Value::Null,
                    Some("end") => {
                        value["exit"] = Value::Null;
                        value["mirror"]["lookup"] = Value::Null;
                    }
                    _ => {}
                }
                Ok(value)
            })
            .collect()
    };
    let (live, replayed) = (lines(live)?, lines(replayed)?);
    ensure!(live.len() >= 2, "nothing was told");
    for (at, (a, b)) in live.iter().zip(&replayed).enumerate() {
        ensure!(a == b, "line {} differs:\n  {a}\n  {b}", at + 1);
    }
    ensure!(live.len() == replayed.len(), "{} lines live, {} from the recording", live.len(), replayed.len());
    Ok(())
}

fn faults(files: &Files, note: &str) -> Result<()> {
    let stats: Value = serde_json::from_str(&files.text("stats.stdout")?)?;
    ensure!(stats["lost"].as_array().is_some_and(Vec::is_empty), "records were lost: {}", stats["lost"]);
    let count = stats["events"]["fault"]["count"].as_u64().unwrap_or_default();
    ensure!(count == 4000 * 4 * 2 || count == 4000, "{count} faults");
    let each: f64 = note
        .split_once(" bytes, ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .with_context(|| format!("no size in {note:?}"))?;
    ensure!(each < BYTES_AN_EVENT, "an event takes {each} bytes");
    Ok(())
}
