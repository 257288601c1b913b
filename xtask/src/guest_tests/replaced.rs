//! Faults in the midst of a replace, on a kernel that is slow there: docs/findings.md has why.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
    trace::{Span, Trace},
};
use crate::qemu::Iommu;

/// The table.
pub const TESTS: &[GuestTest] = &[GuestTest {
    name: "broken-slow-replace",
    about: "a fault in the midst of a replace finds the old handle: the clean-up answers it, or it outlives the handle",
    kernel: "built-7.3+slow-replace",
    iommu: Iommu::Intel,
    tracer: true,
    run,
}];

/// The slots that are replaced, by the program's option.
const SLOTS: &[(&str, u32)] = &[("pasid", 1), ("rid", 0)];

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    let mut case = |name: &str, pasid: u32, more: &str| {
        script.case(
            name,
            &format!(
                "exec iommu-trace check --track-frees --format json --output /out/{name}.jsonl -- \
                 guest replace-race --cycles 1 --pasid {pasid} {more} --truth /out/{name}.truth"
            ),
        );
    };
    for (name, pasid) in SLOTS {
        case(&format!("{name}-in-time"), *pasid, "--delay 100");
        case(&format!("{name}-late"), *pasid, "--delay 750");
    }
    // Last, for it may crash the guest.
    case("read", 1, "--delay 750 --read-old");
    let files = script.run(guest.vm().timeout(Duration::from_secs(240)))?;
    for (name, _) in SLOTS {
        checks.check(format!("{name}: the clean-up answers the new page table's fault"), in_time(&files, name));
        let late = format!("{name}-late");
        checks.check(format!("{name}: the fault is handled with the freed handle"), late_one(&files, &late));
    }
    checks.check("user space gets the id from the freed handle's memory", {
        late_one(&files, "read").and_then(|()| fired(&files, "read", "device-mismatch").map(drop))
    });
    checks.note(fired(&files, "pasid-late", "use-after-free")?);
    Ok(())
}

/// Delivered before the store: no rule is broken, and the answer is not user space's.
fn in_time(files: &Files, name: &str) -> Result<()> {
    let name = format!("{name}-in-time");
    files.expect_status(&name, 0)?;
    let text = files.text(&format!("{name}.jsonl"))?;
    Trace::parse(&text)?.check_clean()?;
    let end = text.lines().last().context("check told nothing")?;
    let end: serde_json::Value = serde_json::from_str(end).context("the last line is no JSON")?;
    ensure!(end["faults"]["invalid"] == 1, "the fault was not answered invalid: {end}");
    let said = files.text(&format!("{name}.stderr"))?;
    ensure!(said.contains("1 faults, 0 read from the new page table's queue"), "the new queue got the fault: {said}");
    Ok(())
}

/// Handled after the free.
fn late_one(files: &Files, name: &str) -> Result<()> {
    files.expect_status(name, 3)?;
    let message = fired(files, name, "use-after-free")?;
    ensure!(message.contains("was handled with handle"), "{message}");
    Ok(())
}

/// What a rule's first violation says.
fn fired(files: &Files, name: &str, rule: &str) -> Result<String> {
    let trace = Trace::parse(&files.text(&format!("{name}.jsonl"))?)?;
    let violations: Vec<&Span> = trace.spans.iter().filter(|span| span.event == "violation").collect();
    let found = violations.iter().find(|violation| violation.text("rule") == Some(rule));
    let found = found.with_context(|| {
        let rules: Vec<_> = violations.iter().filter_map(|violation| violation.text("rule")).collect();
        format!("{name}: {rule} did not fire, only: {}", rules.join(", "))
    })?;
    Ok(found.text("message").unwrap_or_default().to_owned())
}
