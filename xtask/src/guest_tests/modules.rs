//! iommufd as a module: loaded and unloaded while it is traced, in both orders.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    compare::{Trust, compare},
    dropped::{KILL, PERFMON, threads},
    session::{Files, Script},
    trace::{Schema, Trace},
    truth::Truth,
};
use crate::qemu::Iommu;

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "modules",
        about: "iommufd is loaded and unloaded while it is traced, 5 times and more",
        kernel: "built-7.3-modules",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, 5),
    },
    GuestTest {
        name: "long-modules",
        about: "iommufd is loaded and unloaded 100 times while it is traced",
        kernel: "built-7.3-modules",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, 100),
    },
];

/// Far more than it takes: emulated on a busy machine, a cycle takes seconds.
const LIMIT: Duration = Duration::from_secs(900);

/// Loads iommufd, unloads it, and waits until the tracer's probes are on it: their number stays, though a single one may take long on a
/// busy machine. What the init has loaded is unloaded first.
const WORDS: &str = "
    ko=$(find /lib/modules -name iommufd.ko)
    load() { insmod $ko || exit 21; }
    unload() { rmmod iommufd || exit 22; }
    kprobes() { grep ' iommufd_' /sys/kernel/debug/kprobes/list | grep -v -c GONE; }
    settle() { i=0; n=0; same=0; until [ $same = 4 ]; do
        now=$(kprobes); if [ $now -gt 0 ] && [ $now = $n ]; then same=$((same+1)); else same=0; fi
        n=$now; sleep 0.3; i=$((i+1)); [ $i = 120 ] && exit 23; done; }
";

/// Which cycles have work in them.
fn works(cycle: usize) -> bool {
    cycle % 4 == 1
}

fn run(guest: &Guest, checks: &mut Checks, cycles: usize) -> Result<()> {
    let mut script = Script::new();
    script.case(
        "before",
        &format!("{WORDS} for m in vfio_pci vfio_pci_core vfio_iommu_type1 vfio; do rmmod $m; done; unload"),
    );
    script.case("doctor", "iommu-trace doctor --json");

    // The tracer is there first, and each time everything that is done is done under its eyes.
    let each: Vec<String> = (1..=cycles)
        .map(|cycle| {
            let work = if works(cycle) {
                format!(
                    "settle; guest iopf --faults 20 --pasid 2 --pasid-via slot --leave-unread 2 --truth /out/{0} || exit 24; \
                     guest attach --cycles 1 --pasids 2 --truth /out/{1} || exit 25;",
                    faults(cycle),
                    attaches(cycle)
                )
            } else {
                String::new()
            };
            format!("load; {work} unload\n")
        })
        .collect();
    let look = "sleep 1; cat /proc/$PPID/task/*/status > /out/cycles.tasks";
    script.case("cycles-script", &format!("cat > /out/cycles.sh <<'EOF'\n{look}\n{WORDS}\n{}\nEOF", each.concat()));
    script.case("cycles", "iommu-trace record -o /out/cycles.itr -- sh /out/cycles.sh");
    for (name, command) in [
        ("cycles-trace", "trace --format json --output /out/cycles.jsonl"),
        ("cycles-check", "check"),
        ("cycles-handles", "handles --json"),
    ] {
        script.case(name, &format!("exec iommu-trace {command} --from /out/cycles.itr"));
    }

    // What uses the module at once is partly seen, and nothing is concluded from the rest.
    script.case(
        "at-once",
        &format!(
            "iommu-trace check -- sh -c \"$(cat <<'EOF'\n{WORDS}\nfor i in 1 2 3; do load; \
             guest iopf --faults 30 --leave-unanswered 2 --truth /dev/null || exit 24; unload; done\nEOF\n)\""
        ),
    );
    // The module is there first, goes, and comes again.
    script.case("load", &format!("{WORDS} load"));
    script.case(
        "module-first",
        &format!(
            "iommu-trace trace --format json --output /out/module-first.jsonl -- sh -c \"$(cat <<'EOF'\n{WORDS}\n\
             guest iopf --faults 20 --truth /out/first.truth || exit 24; unload; load; settle; \
             guest iopf --faults 20 --truth /out/again.truth || exit 24\nEOF\n)\""
        ),
    );
    script.case("unload", &format!("{WORDS} unload"));
    script.case("after", "iommu-trace handles --json");
    let files = script.run(guest.vm().timeout(LIMIT))?;

    for case in [
        "before",
        "cycles",
        "cycles-trace",
        "cycles-check",
        "cycles-handles",
        "at-once",
        "module-first",
        "unload",
        "after",
    ] {
        checks.check(format!("{case}: exit status"), files.expect_status(case, 0));
    }
    checks.check("doctor tells that it waits", waits(&files));
    // One thread ends the command, another sets probes; this kernel has no filters of system calls.
    let kept = files.text("cycles.tasks").and_then(|tasks| threads(&tasks, &[KILL, PERFMON], None));
    checks.check("a recorder keeps what sets the probes alone", kept);
    let names: Vec<String> =
        (1..=cycles).filter(|&cycle| works(cycle)).flat_map(|cycle| [faults(cycle), attaches(cycle)]).collect();
    compared(&files, checks, "cycles", &names);
    compared(&files, checks, "module-first", &["first.truth".to_owned(), "again.truth".to_owned()]);
    for case in ["cycles-handles", "after"] {
        checks.check(format!("{case}: nothing of iommufd is left"), nothing_left(&files, case));
    }
    Ok(())
}

fn faults(cycle: usize) -> String {
    format!("faults-{cycle}.truth")
}

fn attaches(cycle: usize) -> String {
    format!("attaches-{cycle}.truth")
}

/// Without the module, its functions are neither missing nor attached.
fn waits(files: &Files) -> Result<()> {
    let text = files.text("doctor.stdout")?;
    let report: Value = serde_json::from_str(&text).with_context(|| format!("doctor's JSON: {text}"))?;
    let verdict = |function: &str| {
        let probes = report["probes"].as_array()?;
        Some(probes.iter().find(|probe| probe["function"] == function)?["verdict"].as_str()?.to_owned())
    };
    for function in ["iommufd_fault_fops_read", "iommufd_device_bind", "mock_domain_page_response"] {
        let verdict = verdict(function);
        ensure!(verdict.as_deref() == Some("waiting"), "{function}: {verdict:?}, and the module is not loaded");
    }
    ensure!(verdict("iommu_attach_group_handle").as_deref() == Some("ok"), "a function of vmlinux is not well");
    Ok(())
}

/// What was traced is what the programs did, nothing lost.
fn compared(files: &Files, checks: &mut Checks, name: &str, names: &[String]) {
    let whole = || -> Result<(Trace, Vec<Truth>)> {
        let text = files.text(&format!("{name}.jsonl"))?;
        Schema::load()?.check(&text)?;
        let trace = Trace::parse(&text)?;
        trace.check_lossless()?;
        let truths = names.iter().map(|name| Truth::parse(&files.text(name)?)).collect::<Result<_>>()?;
        Ok((trace, truths))
    };
    match whole() {
        Ok((trace, truths)) => {
            let (results, rest) = compare(&trace, &truths, Trust::Whole);
            for (file, result) in names.iter().zip(results) {
                checks.check(format!("{name}: {file}"), result);
            }
            checks.check(format!("{name}: nothing else"), rest);
            checks.note(format!("{name}: {} events", trace.spans.len()));
        }
        Err(error) => checks.check(format!("{name}: output"), Err(error)),
    }
}

/// No handle, and none of the test device's groups.
fn nothing_left(files: &Files, case: &str) -> Result<()> {
    let text = files.text(&format!("{case}.stdout"))?;
    let holdings: Value = serde_json::from_str(&text).with_context(|| format!("the JSON of handles: {text}"))?;
    let groups = holdings["groups"].as_array().context("no groups")?;
    ensure!(!groups.is_empty(), "there is an IOMMU, and its groups are not shown");
    for group in groups {
        let slots = group["slots"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(
            slots.iter().all(|slot| slot["handle"].is_null() && slot["owner"] != "iommufd"),
            "a slot of iommufd is left: {group}"
        );
        ensure!(!group.to_string().contains("iommufd_mock"), "a device of iommufd is left: {group}");
    }
    Ok(())
}
