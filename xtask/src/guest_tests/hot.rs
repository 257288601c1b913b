//! Map, unmap, flushes and invalidation: told one by one, or summed up, they are what the guest program did.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
};
use crate::qemu::Iommu;

macro_rules! row {
    ($name:literal, $kernel:literal, $iommu:ident) => {
        GuestTest {
            name: $name,
            about: "map, unmap, flush and invalidate are the program's, one by one and summed up",
            kernel: $kernel,
            iommu: Iommu::$iommu,
            tracer: true,
            run,
        }
    };
}

/// The table.
pub const TESTS: &[GuestTest] = &[
    row!("hot-built-7.3", "built-7.3", Intel),
    row!("long-hot-built-6.12", "built-6.12", Intel),
    row!("long-hot-amd-vi-built-7.3", "built-7.3", Amd),
    row!("long-hot-amd-vi-built-6.12", "built-6.12", Amd),
];

/// Pairs of map and unmap.
const PAIRS: u64 = 300;

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    for (name, options) in [("streamed", "--events dma,invalidate"), ("summed", "--sums")] {
        script.case(
            name,
            &format!(
                "iommu-trace trace {options} --format json --output {name}.json \
                 -- guest map-load --ops {PAIRS} --truth {name}.truth"
            ),
        );
    }
    let files = script.run(guest.vm())?;
    for name in ["streamed", "summed"] {
        checks.check(format!("{name}: it ends well"), files.expect_status(name, 0));
        let events = lines(&files, &format!("{name}.json"))?;
        let truth = lines(&files, &format!("{name}.truth"))?;
        for (what, size) in [("map", "length"), ("unmap", "unmapped")] {
            let expected = sum(truth.iter().filter(|line| line["truth"] == what), size);
            let told = bytes(&events, what);
            checks.check(format!("{name}: the bytes of {what}"), equal(told, expected));
        }
        checks.check(format!("{name}: each unmap is flushed"), at_least(&events, "flush", PAIRS));
        if sees_invalidations(&events) {
            checks.check(format!("{name}: each flush invalidates"), at_least(&events, "invalidate", PAIRS));
        }
        checks.check(format!("{name}: nothing is lost"), whole(&events));
    }
    checks.check("summed: few events are told", few(&lines(&files, "summed.json")?));
    Ok(())
}

/// A compiler may leave nothing of AMD's static function that a probe could be put on; the verdict says so.
fn sees_invalidations(events: &[Value]) -> bool {
    let probes = events.first().and_then(|start| start["probes"].as_array()).into_iter().flatten();
    probes
        .filter(|probe| matches!(probe["function"].as_str(), Some("qi_submit_sync" | "iommu_completion_wait")))
        .any(|probe| probe["verdict"] == "ok")
}

fn lines(files: &Files, name: &str) -> Result<Vec<Value>> {
    let text = files.text(name)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} is no JSON"))).collect()
}

fn sum<'a>(lines: impl Iterator<Item = &'a Value>, field: &str) -> u64 {
    lines.filter_map(|line| line[field].as_u64()).sum()
}

/// Bytes of all calls. The group's default domain is mapped by the kernel itself, which here maps nothing meanwhile.
fn bytes(events: &[Value], what: &str) -> u64 {
    let single = events.iter().filter(|event| event["event"] == what);
    let sums = events.iter().filter(|event| event["event"] == "sum" && event["of"] == what);
    sum(single, "size") + sum(sums, "bytes")
}

fn calls(events: &[Value], what: &str) -> u64 {
    let single = events.iter().filter(|event| event["event"] == what).count() as u64;
    single + sum(events.iter().filter(|event| event["event"] == "sum" && event["of"] == what), "calls")
}

fn equal(told: u64, expected: u64) -> Result<()> {
    ensure!(expected > 0 && told == expected, "{told} are told, {expected} were made");
    Ok(())
}

fn at_least(events: &[Value], what: &str, least: u64) -> Result<()> {
    let calls = calls(events, what);
    ensure!(calls >= least, "{calls} calls of {what} are told, at least {least} were made");
    Ok(())
}

fn whole(events: &[Value]) -> Result<()> {
    let end = events.last().context("no event")?;
    ensure!(end["event"] == "end", "it has no end");
    ensure!(!events.iter().any(|event| event["event"] == "lost"), "something was lost: {end}");
    Ok(())
}

fn few(events: &[Value]) -> Result<()> {
    ensure!(!events.iter().any(|event| event["event"] == "map"), "maps are told one by one");
    ensure!((events.len() as u64) < PAIRS, "{} events for {PAIRS} pairs of calls", events.len());
    Ok(())
}
