//! Kernels without a bug under `check`: it stays silent, whatever is done, and knows what was attached before it came.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script, case, quoted},
    trace::Trace,
    traced::{ATTACHES, ATTACHES_7_3, FLOOD, PAGE_FAULTS, PAGE_FAULTS_7_3, Program, STORM, VT_D},
};
use crate::{qemu::Iommu, selftests};

const SILENT: &str = "check breaks no rule over all programs, with frees tracked, nor when records are lost";
const FOUND: &str = "what is attached before the tracer starts is found whole, and followed to its end";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "clean-built-7.3",
        about: SILENT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| {
            silent(guest, checks, &[PAGE_FAULTS, PAGE_FAULTS_7_3, ATTACHES, ATTACHES_7_3, RACE, VT_D, STORM])
        },
    },
    GuestTest {
        name: "clean-built-6.12",
        about: SILENT,
        kernel: "built-6.12",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| silent(guest, checks, &[PAGE_FAULTS, ATTACHES, STORM]),
    },
    GuestTest {
        name: "snapshot-built-7.3",
        about: FOUND,
        kernel: "built-7.3",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| found(guest, checks, Before { devices: 2, pasids: 2000 }),
    },
    GuestTest {
        name: "snapshot-built-6.12",
        about: FOUND,
        kernel: "built-6.12",
        iommu: Iommu::None,
        tracer: true,
        // The test device of this kernel has no PASIDs.
        run: |guest, checks| found(guest, checks, Before { devices: 8, pasids: 0 }),
    },
    GuestTest {
        name: "selftest-built-7.3",
        about: "check breaks no rule over the kernel's own selftest of iommufd, with frees tracked",
        kernel: "built-7.3",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| selftest(guest, checks, "iommufd"),
    },
    GuestTest {
        name: "selftest-fail-nth-built-7.3",
        about: "nor over its run with allocations that fail, one after the other",
        kernel: "built-7.3",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| selftest(guest, checks, "iommufd_fail_nth"),
    },
];

/// Page faults while the PASID comes and goes.
const RACE: &[Program] = &[("race", "race --cycles 30")];

/// What 7.3 really does: `vfio --siblings` leaves a handle that names a device which is gone.
const KNOWN: &str = "device-id-dangling";

/// `check` around a script, in the way that all tests here want it.
fn check(name: &str, options: &str, script: &str) -> String {
    format!(
        "exec iommu-trace check --track-frees --ownership refcounted --silence {KNOWN} --format json --output /out/{name}.jsonl {options} -- \
         sh -c {}",
        quoted(script)
    )
}

/// What a check has written, which must be silent and whole.
fn checked(files: &Files, name: &str, lossless: bool) -> Result<Value> {
    files.expect_status(name, 0)?;
    let trace = Trace::parse(&files.text(&format!("{name}.jsonl"))?)?;
    trace.check_probes()?;
    // A warning is what this kernel really does.
    let violation =
        trace.spans.iter().find(|span| span.event == "violation" && span.text("severity") != Some("warning"));
    ensure!(violation.is_none(), "a violation on a healthy kernel: {:?}", violation.map(|span| &span.raw));
    if lossless {
        trace.check_lossless()?;
    } else {
        ensure!(trace.lost() > 0, "nothing was lost, which shows nothing: the ring is not tiny enough");
    }
    Ok(trace.end["check"].clone())
}

fn silent(guest: &Guest, checks: &mut Checks, programs: &[&[Program]]) -> Result<()> {
    let programs = programs.concat();
    let all = |programs: &[Program]| -> String {
        programs
            .iter()
            .map(|(name, arguments)| case(name, &format!("exec guest {arguments} --truth /dev/null")))
            .collect()
    };
    let flood = [FLOOD, STORM].concat();
    let mut script = Script::new();
    script.case("whole", &check("whole", "", &all(&programs)));
    let flooded: Vec<_> =
        flood.iter().map(|(_, arguments)| format!("guest {arguments} --truth /dev/null || exit")).collect();
    script.case("lossy", &check("lossy", "--buffer-size 4096", &flooded.join("; ")));
    let files = script.run(guest.vm().timeout(Duration::from_secs(600)))?;
    for (name, _) in &programs {
        checks.check(format!("{name} goes as it has to"), files.expect_status(name, 0));
    }
    for (name, lossless) in [("whole", true), ("lossy", false)] {
        match checked(&files, name, lossless) {
            Ok(check) => {
                let watched = &check["watched"];
                checks.note(format!(
                    "{name}: {} handles and {} faults watched, {} judgements withheld",
                    watched["handles_attached"],
                    watched["faults"],
                    withheld(&check)
                ));
                checks.check(format!("{name}: silent"), Ok(()));
                if lossless {
                    checks.note(format!("{name}: {}", refcounted(&check)));
                    checks.check(format!("{name}: everything is judged"), all_judged(&check));
                }
            }
            Err(error) => checks.check(format!("{name}: silent"), Err(error)),
        }
    }
    Ok(())
}

/// What a reference count in the handle would have made of the run: the first proposal, whose rules only warn.
fn refcounted(check: &Value) -> String {
    let counts = &check["refcounted"];
    format!(
        "with a reference count {} private pointers that nobody could free, {} handles freed while referenced",
        counts["priv_unfreeable"], counts["freed_while_referenced"]
    )
}

/// Judgements that were not passed.
fn withheld(check: &Value) -> u64 {
    check["unjudged"].as_array().into_iter().flatten().filter_map(|one| one["count"].as_u64()).sum()
}

fn all_judged(check: &Value) -> Result<()> {
    ensure!(withheld(check) == 0, "not judged: {}", check["unjudged"]);
    Ok(())
}

/// What is attached before the tracer starts: so many devices, each by RID and so many PASIDs.
#[derive(Clone, Copy)]
struct Before {
    devices: u64,
    pasids: u64,
}

impl Before {
    /// Slots of one device. The test device fails PASID 1024 on purpose, so that it is left out.
    fn slots(self) -> u64 {
        1 + self.pasids - u64::from(self.pasids >= 1024)
    }
}

fn found(guest: &Guest, checks: &mut Checks, before: Before) -> Result<()> {
    let Before { devices, pasids } = before;
    // One after the other: what appears in sysfs meanwhile is the program's own device.
    let start = format!(
        "pids=; for i in $(seq {devices}); do guest attach --pasids {pasids} --hold-until /out/go --ready-file /out/ready$i \
         --truth /out/held$i & pids=\"$pids $!\"; until [ -e /out/ready$i ]; do sleep 0.1; done; done; "
    );
    let let_go = "touch /out/go; for pid in $pids; do wait $pid || exit 1; done";
    let mut script = Script::new();
    // The programs outlive the case that starts them, and end under the check.
    script.case(
        "held",
        &format!(
            "{start} iommu-trace handles --json > /out/handles.json || exit 1; iommu-trace handles > /out/handles.text || exit 1; \
             iommu-trace check --track-frees --format json --output /out/followed.jsonl -- \
             sh -c 'touch /out/go; while pidof guest > /dev/null; do sleep 0.1; done' || exit; {let_go}"
        ),
    );
    let files = script.run(guest.vm().timeout(Duration::from_secs(300)))?;
    files.expect_status("held", 0)?;
    let held: Value = serde_json::from_str(&files.text("handles.json")?).context("handles --json")?;
    checks.check("handles shows every slot", (1..=devices).try_for_each(|n| shown(&files, &held, n, before)));
    let check = checked_followed(&files)?;
    let watched = |field: &str| check["watched"][field].as_u64().unwrap_or_default();
    let slots = devices * before.slots();
    checks.check("the checker finds them", equal("handles found", watched("handles_found"), slots));
    checks.check("it sees each of them go", equal("handles detached", watched("handles_detached"), slots));
    checks.check("nothing is left", equal("handles left", watched("handles_left"), 0));
    checks.note(format!("{slots} handles found, in {} lines of text", files.text("handles.text")?.lines().count()));
    Ok(())
}

fn checked_followed(files: &Files) -> Result<Value> {
    let trace = Trace::parse(&files.text("followed.jsonl")?)?;
    trace.check_probes()?;
    trace.check_clean()?;
    Ok(trace.end["check"].clone())
}

fn equal(what: &str, got: u64, expected: u64) -> Result<()> {
    ensure!(got == expected, "{what}: {got}, expected {expected}");
    Ok(())
}

/// The slots of the `n`th program are those that its truth tells, each with a handle of iommufd and the device's id.
fn shown(files: &Files, held: &Value, n: u64, before: Before) -> Result<()> {
    let truth = files.text(&format!("held{n}"))?;
    let lines: Vec<Value> = truth.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let device = lines.iter().find(|line| line["device_id"].is_number() && line["group"].is_number());
    let device = device.context("the program attached no device")?;
    let group = held["groups"].as_array().into_iter().flatten().find(|group| group["group"] == device["group"]);
    let group = group.with_context(|| format!("group {} is not shown", device["group"]))?;
    ensure!(group["complete"] == true, "group {} is not complete", device["group"]);
    let slots = group["slots"].as_array().context("a group without slots")?;
    let pasids: Vec<u64> = slots.iter().filter_map(|slot| slot["pasid"].as_u64()).collect();
    let expected: Vec<u64> = (0..=before.pasids).filter(|&pasid| pasid != 1024).collect();
    ensure!(
        pasids == expected,
        "{} slots, expected {}; they begin {:?}",
        pasids.len(),
        expected.len(),
        pasids.get(..8)
    );
    for slot in slots {
        let whole =
            slot["handle"].is_string() && slot["owner"] == "iommufd" && slot["device_id"] == device["device_id"];
        ensure!(whole, "this slot is not that of {device}: {slot}");
    }
    Ok(())
}

fn selftest(guest: &Guest, checks: &mut Checks, name: &str) -> Result<()> {
    let programs = selftests::build()?;
    let program = programs.iter().find(|path| path.file_name().is_some_and(|file| file == name));
    let program = program.context("the selftests have no such program")?;
    let mut script = Script::new();
    // What of it fails here for want of memory or huge pages says nothing of the tracer.
    script.case("selftest", &check("selftest", "", &format!("/bin/{name} > /out/tap 2>&1; exit 0")));
    let files = script.run(guest.vm().copy(program, format!("/bin/{name}")).timeout(Duration::from_secs(1800)))?;
    let tap = files.text("tap")?;
    let passed = tap.lines().filter(|line| line.starts_with("ok ")).count();
    checks.check("the selftest does its work", {
        let enough = passed > 0;
        if enough { Ok(()) } else { Err(anyhow::anyhow!("no test of it passed:\n{}", crate::command::tail(&tap, 20))) }
    });
    let check = checked(&files, "selftest", true)?;
    checks.check("silent", Ok(()));
    checks.check("everything is judged", all_judged(&check));
    let watched = &check["watched"];
    checks.note(format!(
        "{passed} of its tests pass; {} handles, {} look-ups and {} faults watched",
        watched["handles_attached"], watched["lookups"], watched["faults"]
    ));
    checks.note(refcounted(&check));
    Ok(())
}
