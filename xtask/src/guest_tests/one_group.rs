//! A fault of a device whose group's handle names another one, which is gone: docs/findings.md has why.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
    trace::Trace,
};
use crate::qemu::Iommu;

/// The table.
pub const TESTS: &[GuestTest] = &[GuestTest {
    name: "broken-one-group",
    about: "a fault is delivered with the id of a device that was destroyed, another of the group's",
    kernel: "built-7.3+one-group",
    iommu: Iommu::None,
    tracer: true,
    run,
}];

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    for (name, more) in [("gone", ""), ("reused", "--another")] {
        script.case(
            name,
            &format!(
                "exec iommu-trace check --track-frees --format json --output /out/{name}.jsonl -- \
                 guest siblings {more} --truth /out/{name}.truth"
            ),
        );
    }
    let files = script.run(guest.vm().timeout(Duration::from_secs(240)))?;
    for name in ["gone", "reused"] {
        checks.check(format!("{name}: the rules"), fired(&files, name));
    }
    checks.check("the message names a device that is gone", {
        told(&files, "gone").and_then(|told| {
            ensure!(told.faulted != told.named && told.named == told.destroyed, "{told:?}");
            Ok(())
        })
    });
    checks.check("the message names a device that came afterwards and did not fault", {
        told(&files, "reused").and_then(|told| {
            ensure!(told.faulted != told.named && Some(told.named) == told.newer, "{told:?}");
            Ok(())
        })
    });
    checks.note(files.text("reused.stderr")?.lines().next().unwrap_or_default());
    Ok(())
}

fn fired(files: &Files, name: &str) -> Result<()> {
    files.expect_status(name, 3)?;
    let trace = Trace::parse(&files.text(&format!("{name}.jsonl"))?)?;
    let rules: Vec<_> = trace.spans.iter().filter_map(|span| span.text("rule")).collect();
    ensure!(rules == ["device-id-dangling", "wrong-device"], "{rules:?}");
    Ok(())
}

/// What the program says of its fault, as device ids.
#[derive(Debug)]
struct Told {
    faulted: u32,
    named: u32,
    destroyed: u32,
    newer: Option<u32>,
}

fn told(files: &Files, name: &str) -> Result<Told> {
    let text = files.text(&format!("{name}.stderr"))?;
    let line = text.lines().find(|line| line.starts_with("siblings: device")).context("the program told no fault")?;
    let mut ids = line.split("device ").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u32>().with_context(|| format!("no id in: {line}"))
    });
    let mut next = || ids.next().with_context(|| format!("too few ids in: {line}"))?;
    let (faulted, named, destroyed) = (next()?, next()?, next()?);
    Ok(Told { faulted, named, destroyed, newer: ids.next().transpose()? })
}
