//! Devices removed while user space has them: nothing is left of them, neither in the kernel nor in the mirror.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script, said_nothing},
    trace::Trace,
};
use crate::qemu::{Hotplug, Iommu};

const NOTHING_LEFT: &str = "a device that is removed while it is attached leaves no alarm and no entry behind";
const UNPLUGGED: &str = "a device that QEMU takes away while it is attached leaves no alarm and no entry behind";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "unplug-built-7.3",
        about: NOTHING_LEFT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, None, &[("iommufd", "--count 3", 1, 3)]),
    },
    GuestTest {
        name: "unplug-built-7.3-hotplug",
        about: UNPLUGGED,
        kernel: "built-7.3-hotplug",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| {
            run(
                guest,
                checks,
                Some(Hotplug::Acpi),
                &[
                    ("iommufd", "--by qemu --count 2 --ports 2", 2, 2),
                    ("container", "--by qemu --count 2 --container", 1, 2),
                ],
            )
        },
    },
    GuestTest {
        name: "long-unplug-built-7.3",
        about: NOTHING_LEFT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| {
            let runs = &[("iommufd", "--count 100", 1, 100), ("container", "--count 100 --container", 1, 100)];
            run(guest, checks, None, runs)
        },
    },
    GuestTest {
        name: "long-unplug-acpi-built-7.3-hotplug",
        about: UNPLUGGED,
        kernel: "built-7.3-hotplug",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, Some(Hotplug::Acpi), BOTH),
    },
    GuestTest {
        name: "long-unplug-pcie-built-7.3-hotplug",
        about: UNPLUGGED,
        kernel: "built-7.3-hotplug",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, Some(Hotplug::Pcie), BOTH),
    },
    GuestTest {
        name: "long-unplug-pcie-stock-7.3",
        about: UNPLUGGED,
        kernel: "stock-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, Some(Hotplug::Pcie), CONTAINER),
    },
    GuestTest {
        name: "long-unplug-acpi-stock-6.12-amd",
        about: UNPLUGGED,
        kernel: "stock-6.12",
        iommu: Iommu::Amd,
        tracer: true,
        run: |guest, checks| run(guest, checks, Some(Hotplug::Acpi), CONTAINER),
    },
];

/// A way to hold the device, what `guest unplug` is told, on how many ports at once, how often on each.
type Way = (&'static str, &'static str, usize, usize);

const CONTAINER: &[Way] = &[("container", "--by qemu --count 25 --ports 4 --container", 4, 25)];
const BOTH: &[Way] = &[("iommufd", "--by qemu --count 25 --ports 4", 4, 25), CONTAINER[0]];

/// Said by the guest in the kernel's log: what the kernel said between the two is of the devices' coming and going.
const BEGIN: &str = "unplug: begin";
const END: &str = "unplug: end";
/// What is said of it anyway: VFIO tells that the program did not ask to be told of a removal, and resets what sits in a slot
/// when it is opened and closed, which the core tells, and once that it was without the slot's lock.
const ORDINARY: [&str; 5] = [
    // Of the next, where it comes often.
    "vfio_pci_core_request: ",
    ": No device request channel registered, blocked until released by user",
    ": unlocked secondary bus reset via: ",
    ": resetting",
    ": reset done",
];

fn run(guest: &Guest, checks: &mut Checks, hotplug: Option<Hotplug>, ways: &[Way]) -> Result<()> {
    let mut script = Script::new();
    script.case("before", "exec iommu-trace handles --json");
    script.case("begin", &format!("exec echo '<4>{BEGIN}' > /dev/kmsg"));
    let mut cases = vec!["before".to_owned(), "begin".to_owned()];
    for (way, arguments, ..) in ways {
        let program = |run: &str| format!("guest unplug {arguments} --truth /out/{way}-{run}.truth");
        let mut case = |name: &str, command: String| {
            let name = format!("{way}-{name}");
            script.case(&name, &format!("exec iommu-trace {command}"));
            cases.push(name);
        };
        case(
            "check",
            format!("check --track-frees --format json --output /out/{way}-check.jsonl -- {}", program("check")),
        );
        case("record", format!("record -o /out/{way}.itr -- {}", program("record")));
        case("trace", format!("trace --from /out/{way}.itr --format json --output /out/{way}-trace.jsonl"));
        case("recorded", format!("handles --json --from /out/{way}.itr"));
    }
    script.case("end", &format!("exec echo '<4>{END}' > /dev/kmsg"));
    script.case("after", "exec iommu-trace handles --json");
    cases.extend(["end".to_owned(), "after".to_owned()]);
    let files = script.run(guest.vm().hotplug(hotplug).timeout(Duration::from_secs(1800)))?;
    for name in &cases {
        files.expect_status(name, 0).with_context(|| name.clone())?;
    }
    for way in ways {
        held(&files, checks, way, hotplug.is_some(), guest.image.name.starts_with("stock-"))?;
    }
    let (before, after) = (files.text("before.stdout")?, files.text("after.stdout")?);
    checks.check("afterwards the same is attached as before", same(&before, &after));
    checks.check("the kernel says nothing", said_nothing(files.console(), [BEGIN, END], &ORDINARY));
    Ok(())
}

/// On a kernel that `preempts`, a program may be put aside while it takes a stack. Another thread on that CPU whose call it would tell then
/// is told as lost: seen up to ten times, on a busy host, always counted, never as an alarm.
fn held(files: &Files, checks: &mut Checks, way: &Way, plugged: bool, preempts: bool) -> Result<()> {
    let (name, ..) = way;
    let check = Trace::parse(&files.text(&format!("{name}-check.jsonl"))?)?;
    checks.check(format!("{name}: check raises no alarm"), check.check_lawful());
    let trace = Trace::parse(&files.text(&format!("{name}-trace.jsonl"))?)?;
    checks.check(
        format!("{name}: the trace begins and ends, and has no alarm"),
        trace.check_frame().and_then(|()| trace.check_lawful()),
    );
    let (missed, most) = (check.lost().max(trace.lost()), if preempts { 20 } else { 0 });
    if missed > 0 {
        checks.note(format!("{name}: {missed} records lost, and told as lost"));
    }
    checks.check(format!("{name}: next to nothing is lost"), {
        if missed <= most { Ok(()) } else { Err(anyhow::anyhow!("{missed} records were lost")) }
    });
    let truth = files.text(&format!("{name}-record.truth"))?;
    if trace.lost() == 0 {
        checks.check(
            format!("{name}: the trace tells what the guest says it did"),
            told(&trace, &truth, way, plugged).with_context(|| name.to_string()),
        );
    }
    let recorded = files.text(&format!("{name}-recorded.stdout"))?;
    checks.check(format!("{name}: by the recording nothing is attached"), nothing_attached(&recorded));
    Ok(())
}

/// What happened to each device, in its order, by the trace and by the guest.
fn told(trace: &Trace, truth: &str, (name, _, ports, count): &Way, plugged: bool) -> Result<()> {
    let (held, owner) = match *name {
        "container" => ("attach detach ", "vfio"),
        _ => ("bind attach detach unbind ", "iommufd"),
    };
    let round = if plugged { format!("add {held}remove ") } else { format!("{held}remove add ") };
    let expected = round.repeat(*count);
    let mut spans: Vec<_> = trace.spans.iter().collect();
    spans.sort_by_key(|span| span.ts);
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    // A container's attaches are of its group: whose that is, its device's coming or going tells.
    let mut of_group: BTreeMap<u64, String> = BTreeMap::new();
    for span in spans {
        let what = match span.event.as_str() {
            "iommufd_bind" => "bind",
            "iommufd_unbind" => "unbind",
            "attach" | "detach" if span.text("owner") == Some(owner) => &span.event,
            "device_remove" => "remove",
            "device_add" => "add",
            _ => continue,
        };
        let group = span.number("group").with_context(|| format!("no group: {}", span.raw))?;
        match span.text("device") {
            Some(device) => {
                let seen = seen.entry(device.to_owned()).or_default();
                if what == "remove" {
                    seen.push_str(&of_group.remove(&group).unwrap_or_default());
                }
                let _ = write!(seen, "{what} ");
            }
            None => {
                let _ = write!(of_group.entry(group).or_default(), "{what} ");
            }
        }
    }
    ensure!(of_group.is_empty(), "the trace does not tell of whom this is: {of_group:?}");
    ensure!(seen.len() == *ports, "the trace tells of {:?}, not of {ports} devices", seen.keys());
    for (device, seen) in seen {
        ensure!(seen == expected, "of {device} the trace tells\n  {seen}\nnot\n  {expected}");
    }
    let did = |kind: &str| truth.lines().filter(|line| line.contains(&format!(r#""truth":"{kind}""#))).count();
    let mut kinds = vec!["attach", "detach", "device_remove", "device_add"];
    if *name != "container" {
        kinds.extend(["bind", "unbind"]);
    }
    for kind in kinds {
        ensure!(did(kind) == count * ports, "the guest says {kind} {} times, not {}", did(kind), count * ports);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_may_tell_of_resets_and_of_nothing_else() {
        let console = |said: &str| {
            let line = |text: &str| format!("[    9.899778] {text}\n");
            [BEGIN, "vfio-pci 0000:01:00.0: resetting", "vfio-pci 0000:01:00.0: reset done", said, END]
                .map(|text| if text.is_empty() { String::new() } else { line(text) })
                .concat()
        };
        let said_nothing = |console: &str| said_nothing(console, [BEGIN, END], &ORDINARY);
        said_nothing(&console("")).unwrap();
        said_nothing(&console("pcieport 0000:00:04.0: unlocked secondary bus reset via: pciehp_reset_slot+0x98/0x140"))
            .unwrap();
        let error = said_nothing(&console("vfio-pci 0000:01:00.0: not ready")).unwrap_err().to_string();
        assert!(error.contains("not ready") && !error.contains("resetting"), "{error}");
        assert!(said_nothing(&console("").replace(END, "")).is_err(), "the end is missing");
    }
}
