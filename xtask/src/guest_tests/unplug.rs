//! Devices removed while user space has them: nothing is left of them, neither in the kernel nor in the mirror.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Checks, Guest, GuestTest, session::Script, trace::Trace};
use crate::{console::message, qemu::Iommu};

const NOTHING_LEFT: &str = "a device that is removed while it is attached leaves no alarm and no entry behind";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "unplug-built-7.3",
        about: NOTHING_LEFT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| unplugged(guest, checks, 3),
    },
    GuestTest {
        name: "long-unplug-built-7.3",
        about: NOTHING_LEFT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| unplugged(guest, checks, 100),
    },
];

/// Said by the guest in the kernel's log: what the kernel said between the two is of the devices' coming and going.
const BEGIN: &str = "unplug: begin";
const END: &str = "unplug: end";
/// VFIO tells that the program did not ask to be told of a removal.
const ORDINARY: &str = "No device request channel registered, blocked until released by user";

fn unplugged(guest: &Guest, checks: &mut Checks, count: usize) -> Result<()> {
    let mut script = Script::new();
    script.case("before", "exec iommu-trace handles --json");
    script.case("begin", &format!("exec echo '<4>{BEGIN}' > /dev/kmsg"));
    let program = |truth: &str| format!("guest unplug --count {count} --truth /out/{truth}.truth");
    script.case(
        "check",
        &format!(
            "exec iommu-trace check --track-frees --format json --output /out/check.jsonl -- {}",
            program("check")
        ),
    );
    script.case(
        "trace",
        &format!("exec iommu-trace trace --format json --output /out/trace.jsonl -- {}", program("trace")),
    );
    script.case("record", &format!("exec iommu-trace record -o /out/run.itr -- {}", program("record")));
    script.case("end", &format!("exec echo '<4>{END}' > /dev/kmsg"));
    script.case("after", "exec iommu-trace handles --json");
    script.case("recorded", "exec iommu-trace handles --json --from /out/run.itr");
    let files = script.run(guest.vm().timeout(Duration::from_secs(600)))?;
    for name in ["before", "begin", "check", "trace", "record", "end", "after", "recorded"] {
        files.expect_status(name, 0).with_context(|| name.to_owned())?;
    }
    let trace = Trace::parse(&files.text("trace.jsonl")?)?;
    checks.check("check raises no alarm", Trace::parse(&files.text("check.jsonl")?)?.check_clean());
    checks.check("the trace is whole", trace.check_frame().and_then(|()| trace.check_clean()));
    checks.check("the trace tells what the guest says it did", told(&trace, &files.text("trace.truth")?, count));
    let (before, after) = (files.text("before.stdout")?, files.text("after.stdout")?);
    checks.check("afterwards the same is attached as before", same(&before, &after));
    checks.check("by the recording nothing is attached", nothing_attached(&files.text("recorded.stdout")?));
    checks.check("the kernel says nothing", said_nothing(files.console()));
    Ok(())
}

/// What happened to the device, in its order, by the trace and by the guest.
fn told(trace: &Trace, truth: &str, count: usize) -> Result<()> {
    let device = "0000:00:02.0";
    let mut expected = String::new();
    for _ in 0..count {
        expected.push_str("bind attach detach unbind remove add ");
    }
    let mut spans: Vec<_> = trace.spans.iter().filter(|span| span.text("device") == Some(device)).collect();
    spans.sort_by_key(|span| span.ts);
    let mut seen = String::new();
    for span in spans {
        let name = match span.event.as_str() {
            "iommufd_bind" => "bind",
            "iommufd_unbind" => "unbind",
            "attach" | "detach" if span.text("owner") == Some("iommufd") => &span.event,
            "device_remove" => "remove",
            "device_add" => "add",
            _ => continue,
        };
        let _ = write!(seen, "{name} ");
    }
    ensure!(seen == expected, "the trace tells\n  {seen}\nnot\n  {expected}");
    let did = |kind: &str| truth.lines().filter(|line| line.contains(&format!(r#""truth":"{kind}""#))).count();
    for kind in ["bind", "attach", "detach", "unbind", "device_remove", "device_add"] {
        ensure!(did(kind) == count, "the guest says {kind} {} times, not {count}", did(kind));
    }
    Ok(())
}

/// Between the two marks the console, which has warnings and worse, has nothing.
fn said_nothing(console: &str) -> Result<()> {
    let mut lines = console.lines().map(message);
    lines.by_ref().find(|line| *line == BEGIN).context("the console lacks the mark of the beginning")?;
    let said: Vec<&str> =
        lines.take_while(|line| *line != END).filter(|line| !line.is_empty() && !line.ends_with(ORDINARY)).collect();
    ensure!(console.contains(END), "the console lacks the mark of the end");
    ensure!(said.is_empty(), "the kernel said\n  {}", said.join("\n  "));
    Ok(())
}

/// No slot of a snapshot holds anything.
fn nothing_attached(text: &str) -> Result<()> {
    let snapshot: Value = serde_json::from_str(text).context("the snapshot is no JSON")?;
    let groups = snapshot["groups"].as_array().context("the snapshot has no groups")?;
    ensure!(!groups.is_empty(), "the snapshot is empty");
    for group in groups {
        ensure!(group["slots"].as_array().is_some_and(Vec::is_empty), "still attached: {group}");
    }
    Ok(())
}

/// Two snapshots hold the same slots, but for numbers and addresses.
fn same(before: &str, after: &str) -> Result<()> {
    let slots = |text: &str| -> Result<Vec<String>> {
        let snapshot: Value = serde_json::from_str(text).context("the snapshot is no JSON")?;
        let groups = snapshot["groups"].as_array().context("the snapshot has no groups")?;
        ensure!(groups.iter().all(|group| group["complete"] == true), "a group was not read whole: {text}");
        let mut all: Vec<String> = groups
            .iter()
            .map(|group| {
                let kinds: Vec<_> = group["slots"].as_array().into_iter().flatten().map(|s| &s["owner"]).collect();
                format!("{} {} {kinds:?}", group["devices"], group["domain"]["domain_type"])
            })
            .collect();
        all.sort();
        Ok(all)
    };
    let (before, after) = (slots(before)?, slots(after)?);
    ensure!(before == after, "before\n  {before:#?}\nafter\n  {after:#?}");
    ensure!(!before.is_empty(), "the snapshots are empty");
    Ok(())
}
