//! What is left of a tracer's privileges once its probes are attached, thread by thread; and that its command has all that the user
//! has.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
};
use crate::qemu::Iommu;

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "dropped-stock-7.3",
        about: "every command drops what it does not need, its own command has what the user has",
        kernel: "stock-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run,
    },
    GuestTest {
        name: "dropped-stock-6.1",
        about: "the same on the oldest kernel",
        kernel: "stock-6.1",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run_these(guest, checks, &COMMANDS[..1]),
    },
];

/// Far more than it takes: emulated on a busy machine, each start takes seconds.
const LIMIT: Duration = Duration::from_secs(600);

/// `CAP_KILL`, `CAP_DAC_OVERRIDE` and `CAP_PERFMON`, as bits of a set.
pub(super) const KILL: u64 = 1 << 5;
const DAC_OVERRIDE: u64 = 1 << 1;
pub(super) const PERFMON: u64 = 1 << 38;
/// A filter of system calls, in `/proc/PID/status`.
const FILTER: &str = "2";

/// A command that has another one, by its name, with what its first thread keeps. What it traces does not matter, and few probes are
/// attached in no time.
struct Tried {
    name: &'static str,
    /// Up to `--`.
    command: &'static str,
    /// Of root's, besides what ends the command.
    keeps: u64,
}

const COMMANDS: &[Tried] = &[
    Tried { name: "trace", command: "iommu-trace trace --events reset --stacks --output /out/trace.out", keeps: 0 },
    Tried { name: "check", command: "iommu-trace check --settle 0s --output /out/check.out", keeps: 0 },
    Tried {
        name: "record",
        command: "iommu-trace record --events reset -o /out/own.itr --settle 0s --keep 2 --max-size 1M",
        keeps: 0,
    },
    // In somebody's directory: files can be made there later by this capability alone.
    Tried {
        name: "flight",
        command: "iommu-trace record --events reset -o /out/home/flight.itr --settle 0s --last 10s --keep 2",
        keeps: DAC_OVERRIDE,
    },
    Tried { name: "report", command: "iommu-trace report --events reset -o /out/report.html", keeps: 0 },
];

/// Looks at the tracer, once none of its threads can gain anything any more, and at itself.
const LOOK: &str = "#!/bin/sh
i=0; while grep -q 'NoNewPrivs:.*0\\|Seccomp:.*0' /proc/$PPID/task/*/status && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
cat /proc/$PPID/task/*/status > /out/$1.tasks
cat /proc/self/status > /out/$1.command
";

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    run_these(guest, checks, COMMANDS)
}

fn run_these(guest: &Guest, checks: &mut Checks, commands: &[Tried]) -> Result<()> {
    let mut script = Script::new();
    script.case(
        "room",
        &format!("cat > /look <<'EOF'\n{LOOK}EOF\nchmod 755 /look; mkdir -m 755 home; chown 65534:65534 home; chmod 777 /out; cat /proc/self/status > user"),
    );
    for Tried { name, command, .. } in commands {
        script.case(name, &format!("{command} -- /look {name}"));
    }
    script.case("nobody-user", "guest as --caps CAP_BPF,CAP_PERFMON -- cat /proc/self/status > nobody");
    script.case(
        "nobody-trace",
        "guest as --caps CAP_BPF,CAP_PERFMON -- iommu-trace trace --events reset --output /out/n.out -- /look nobody-trace",
    );
    // A command that has become another user ends all the same.
    script.case(
        "other-user",
        "iommu-trace trace --events reset --duration 1s --output /out/o.out -- guest as --user 1000 -- sleep 60",
    );
    let files = script.run(guest.vm().timeout(LIMIT))?;
    for Tried { name, keeps, .. } in commands {
        checks.check(format!("{name} works"), files.expect_status(name, 0));
        let kept =
            files.text(&format!("{name}.tasks")).and_then(|tasks| threads(&tasks, &[KILL | keeps], Some(FILTER)));
        checks.check(format!("{name} keeps what it needs alone"), kept);
        checks.check(format!("{name}'s command has what root has"), same(&files, &format!("{name}.command"), "user"));
    }
    checks.check("nobody's trace works", files.expect_status("nobody-trace", 0));
    let kept = files.text("nobody-trace.tasks").and_then(|tasks| threads(&tasks, &[], Some(FILTER)));
    checks.check("nobody's trace keeps nothing", kept);
    checks.check("nobody's command has what nobody has", same(&files, "nobody-trace.command", "nobody"));
    checks.check("a command that is another user's is ended", ended(&files));
    if commands.iter().any(|tried| tried.name == "flight") {
        let flight = || files.text("home/flight.itr").map(drop);
        checks.check("the flight recorder wrote to somebody's directory", flight());
    }
    Ok(())
}

/// The values of a field, one for each thread.
fn values<'a>(statuses: &'a str, field: &str) -> Vec<&'a str> {
    statuses.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim).collect()
}

fn set(text: &str) -> Result<u64> {
    u64::from_str_radix(text, 16).with_context(|| format!("{text} is no set of capabilities"))
}

/// For each set that is kept there are threads that have it, and the others have nothing. None can gain anything, and all have this filter
/// of system calls, where the kernel has any.
pub(super) fn threads(tasks: &str, kept: &[u64], filter: Option<&str>) -> Result<()> {
    let names = values(tasks, "Name");
    ensure!(names.len() >= 2 && names.iter().any(|name| name.starts_with("iommu-trace-s")), "threads: {names:?}");
    for (field, expected) in [("CapInh", &[][..]), ("CapPrm", kept), ("CapEff", kept), ("CapBnd", &[]), ("CapAmb", &[])]
    {
        let sets = values(tasks, field).into_iter().map(set).collect::<Result<Vec<_>>>()?;
        if field == "CapBnd" && kept.is_empty() {
            // A user who is not root may not narrow it, and cannot gain anything from it without privileges.
            continue;
        }
        let mut some: Vec<u64> = sets.iter().copied().filter(|&set| set != 0).collect();
        // A thread that is started later has what the one that starts it has.
        some.sort_unstable();
        some.dedup();
        ensure!(sets.len() == names.len() && some == expected, "{field} {sets:x?} of {names:?}, not {expected:x?}");
    }
    for (field, wanted) in [("NoNewPrivs", Some("1")), ("Seccomp", filter)] {
        let Some(wanted) = wanted else { continue };
        let found = values(tasks, field);
        let all = found.len() == names.len() && found.iter().all(|found| *found == wanted);
        ensure!(all, "{field} {found:?} of {names:?}");
    }
    Ok(())
}

/// Who is as free as who asked.
fn same(files: &Files, file: &str, reference: &str) -> Result<()> {
    let (found, expected) = (files.text(file)?, files.text(reference)?);
    for field in ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"] {
        let (found, expected) = (values(&found, field), values(&expected, field));
        ensure!(found == expected && !found.is_empty(), "{field} is {found:?}, and the user's {expected:?}");
    }
    Ok(())
}

fn ended(files: &Files) -> Result<()> {
    let errors = files.text("other-user.stderr")?;
    ensure!(!errors.contains("left running"), "{errors}");
    files.expect_status("other-user", 0)
}
