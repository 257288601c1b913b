//! Kernels with a bug put in: `check` names the rule, the handle, the device and the tasks; and on the kernel without
//! the bug the same programs break no rule.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
    trace::{Span, Trace},
};
use crate::qemu::Iommu;

/// What each of these tests shows.
const ABOUT: &str = "check names the rule that a bug in the kernel breaks, with its handle, device and tasks";

/// A device with a function level reset, alone in its group. Without ATS the reset would leave the IOMMU alone.
const RESETTABLE: &[&str] =
    &["pcie-root-port,id=rp,addr=0x4", "virtio-rng-pci,bus=rp,iommu_platform=on,disable-legacy=on,ats=on"];

/// A program that shows a bug.
struct Case {
    kernel: &'static str,
    program: &'static str,
    rule: &'static str,
    /// Whether the violation is about one handle. Some are about a device that has none.
    handle: bool,
    devices: &'static [&'static str],
}

const fn case(kernel: &'static str, program: &'static str, rule: &'static str) -> Case {
    Case { kernel, program, rule, handle: true, devices: &[] }
}

const CASES: &[Case] = &[
    case("built-7.3+leak-on-destroy", "iopf --faults 2 --leave-unanswered 2 --end destroy", "fault-unanswered"),
    case("built-7.3+no-error-answer", "iopf --no-handler --faults 2", "fault-dropped"),
    case("built-7.3+store-before-op", "race", "visible-before-attach"),
    Case { handle: false, ..case("built-7.3+replace-unattached", "vfio --siblings", "empty-slot") },
    Case {
        handle: false,
        devices: RESETTABLE,
        ..case("built-7.3+unbalanced-reset", "vfio --device 0000:01:00.0", "attach-while-blocked")
    },
    case("built-7.3+no-automatic-answers", "race", "use-after-detach"),
    case("built-7.3+freed-before-detach", "attach", "freed-while-attached"),
    case("built-7.3+freed-before-answers", "iopf --faults 1 --leave-unanswered 1", "freed-while-attached"),
    case("built-7.3+two-answers", "iopf --faults 2", "double-response"),
    case("built-7.3+answered-stays", "iopf --faults 2", "group-use-after-free"),
    case("built-7.3+group-not-freed", "iopf --faults 2", "group-leak"),
    case("built-7.3+handle-kept-on-replace", "attach", "handle-reused"),
    case("built-7.3+slot-not-erased", "race", "stale-lookup"),
    case("built-7.3+wrong-id", "iopf --faults 2", "device-mismatch"),
];

const fn broken(name: &'static str, kernel: &'static str) -> GuestTest {
    GuestTest { name, about: ABOUT, kernel, iommu: Iommu::Intel, tracer: true, run: shown }
}

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "broken-nothing",
        about: "the programs that show the bugs break no rule on a kernel without them",
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: silent,
    },
    broken("broken-leak-on-destroy", "built-7.3+leak-on-destroy"),
    broken("broken-no-error-answer", "built-7.3+no-error-answer"),
    broken("broken-store-before-op", "built-7.3+store-before-op"),
    broken("broken-replace-unattached", "built-7.3+replace-unattached"),
    broken("broken-unbalanced-reset", "built-7.3+unbalanced-reset"),
    broken("broken-no-automatic-answers", "built-7.3+no-automatic-answers"),
    broken("broken-freed-before-detach", "built-7.3+freed-before-detach"),
    broken("broken-freed-before-answers", "built-7.3+freed-before-answers"),
    broken("broken-two-answers", "built-7.3+two-answers"),
    broken("broken-answered-stays", "built-7.3+answered-stays"),
    broken("broken-group-not-freed", "built-7.3+group-not-freed"),
    broken("broken-handle-kept-on-replace", "built-7.3+handle-kept-on-replace"),
    broken("broken-slot-not-erased", "built-7.3+slot-not-erased"),
    broken("broken-wrong-id", "built-7.3+wrong-id"),
];

/// A program under `check`, and that under a trace that says which handles there are.
fn script(name: &str, program: &str) -> String {
    format!(
        "exec iommu-trace trace --format json --output /out/{name}.trace -- \
         iommu-trace check --track-frees --format json --output /out/{name}.jsonl -- \
         guest {program} --truth /out/{name}.truth"
    )
}

fn boot(guest: &Guest, script: Script, devices: &[&str]) -> Result<Files> {
    let vm = devices.iter().fold(guest.vm().timeout(Duration::from_secs(240)), |vm, device| vm.device(*device));
    script.run(vm)
}

/// The case of the guest's kernel.
fn shown(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let case = CASES.iter().find(|case| case.kernel == guest.image.name).context("a kernel without a case")?;
    let mut script = Script::new();
    script.case("broken", &self::script("broken", case.program));
    let files = boot(guest, script, case.devices)?;
    let text = files.text("broken.jsonl")?;
    let found = Trace::parse(&text)?;
    let violations: Vec<&Span> = found.spans.iter().filter(|span| span.event == "violation").collect();
    let fired: Vec<&Span> = violations.iter().copied().filter(|v| v.text("rule") == Some(case.rule)).collect();
    checks.check("the rule", {
        let rules: Vec<_> = violations.iter().filter_map(|v| v.text("rule")).collect();
        if fired.is_empty() {
            let stderr = files.text("broken.stderr")?;
            Err(anyhow::anyhow!("{} did not fire, only: {}\n{stderr}", case.rule, rules.join(", ")))
        } else {
            Ok(())
        }
    });
    let Some(violation) = fired.first() else { return Ok(()) };
    checks.check("the exit status", files.expect_status("broken", 3));
    checks.check("the device and its group", names_device(violation, &files));
    checks.check("the tasks", names_tasks(violation, &files));
    if case.handle {
        checks.check("the handle", names_handle(violation, &files));
    }
    checks.note(format!("{}: {}", case.rule, violation.text("message").unwrap_or_default()));
    Ok(())
}

/// The lines of a ground truth. What the program could not do for the bug is not judged here.
fn truth(files: &Files) -> Result<Vec<serde_json::Value>> {
    files.text("broken.truth")?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn names_device(violation: &Span, files: &Files) -> Result<()> {
    let subject = violation.get("subject");
    let (device, group) = (&subject["device"], &subject["group"]);
    ensure!(device.is_string() && group.is_number(), "no device or no group: {}", violation.raw);
    let known = truth(files)?.iter().any(|line| line["device"] == *device && line["group"] == *group);
    ensure!(known, "the program had no such device in such a group: {}", violation.raw);
    Ok(())
}

fn names_tasks(violation: &Span, files: &Files) -> Result<()> {
    let truth = truth(files)?;
    let evidence = violation.get("evidence").as_array().context("no evidence")?;
    ensure!(!evidence.is_empty(), "no evidence: {}", violation.raw);
    for event in evidence {
        let pid = &event["pid"];
        let ours = truth.iter().any(|line| line["truth"] == "start" && line["pid"] == *pid);
        ensure!(ours && event["comm"] == "guest", "this is no task of the program: {event}");
    }
    Ok(())
}

/// The handle is one that the trace has seen attached to that slot.
fn names_handle(violation: &Span, files: &Files) -> Result<()> {
    let subject = violation.get("subject");
    let trace = Trace::parse(&files.text("broken.trace")?)?;
    let attached = trace.spans.iter().any(|span| {
        (span.event == "attach" || span.event == "replace")
            && span.get("handle") == &subject["handle"]
            && span.get("group") == &subject["group"]
    });
    ensure!(
        subject["handle"].is_string() && attached,
        "the trace shows no attach of that handle to that group: {}",
        violation.raw
    );
    Ok(())
}

/// What 7.3 really does: `vfio --siblings` leaves a handle that names a device which is gone.
const KNOWN: &str = "device-id-dangling";

/// Every program, on a kernel without a bug.
fn silent(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    let mut devices: Vec<&str> = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let name = format!("case{number}");
        script.case(
            &name,
            &format!(
                "exec iommu-trace check --track-frees --silence {KNOWN} --format json --output /out/{name}.jsonl -- \
                 guest {} --truth /out/{name}.truth",
                case.program
            ),
        );
        devices.extend(case.devices);
    }
    let files = boot(guest, script, &devices)?;
    for (number, case) in CASES.iter().enumerate() {
        let name = format!("case{number}");
        let result = files
            .expect_status(&name, 0)
            .and_then(|()| Trace::parse(&files.text(&format!("{name}.jsonl"))?)?.check_clean());
        checks.check(format!("{} is silent", case.program), result);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::VARIANTS;

    #[test]
    fn every_variant_has_a_case_and_a_test_and_the_rule_it_is_made_for() {
        for variant in VARIANTS {
            let kernel = format!("{}+{}", variant.base, variant.name);
            let case = CASES.iter().find(|case| case.kernel == kernel).unwrap();
            assert_eq!(case.rule, variant.rule, "{kernel}");
            let test = TESTS.iter().find(|test| test.kernel == kernel).unwrap();
            assert_eq!(test.name, format!("broken-{}", variant.name));
        }
        assert_eq!(CASES.len(), VARIANTS.len());
    }
}
