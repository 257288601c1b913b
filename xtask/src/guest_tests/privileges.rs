//! What a tracer may do that is not root: the capabilities that the guide names are enough, and none of them is too many.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
};
use crate::qemu::Iommu;

macro_rules! row {
    ($kernel:literal) => {
        GuestTest {
            name: concat!("privileges-", $kernel),
            about: "three capabilities are enough, and of two the missing one is named",
            kernel: $kernel,
            iommu: Iommu::None,
            tracer: true,
            run,
        }
    };
}

/// A kernel without iommufd, and with lockdown.
macro_rules! stock {
    ($kernel:literal) => {
        GuestTest {
            name: concat!("privileges-", $kernel),
            about: "two capabilities are enough, of one the missing one is named; and a lockdown is, where it is in the way",
            kernel: $kernel,
            iommu: Iommu::Intel,
            tracer: true,
            run: run_stock,
        }
    };
}

/// The table.
pub const TESTS: &[GuestTest] = &[
    row!("built-7.3"),
    row!("built-6.12"),
    stock!("stock-6.1"),
    stock!("stock-6.12"),
    stock!("stock-6.18"),
    stock!("stock-7.3"),
    GuestTest {
        name: "kprobes-stock-7.3",
        about: "no kprobe is used where the address that decides is hidden, and what would show it is told",
        kernel: "stock-7.3",
        iommu: Iommu::Virtio,
        tracer: true,
        run: kprobes,
    },
];

/// Page faults that the workload makes.
const FAULTS: usize = 20;

/// The sets of capabilities that are tried, by the name of their case, and which essential one each lacks.
const TRIED: &[(&str, &str, Option<&str>)] = &[
    ("all", "CAP_BPF,CAP_PERFMON,CAP_SYSLOG", None),
    ("without-syslog", "CAP_BPF,CAP_PERFMON", None),
    ("without-perfmon", "CAP_BPF,CAP_SYSLOG", Some("CAP_PERFMON")),
    ("without-bpf", "CAP_PERFMON,CAP_SYSLOG", Some("CAP_BPF")),
];

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    // The workload is root's, the tracer is nobody's.
    script.case("room", "mkdir -m 777 nobody; mkfifo -m 666 /tmp/go");
    for (name, caps, lacks) in TRIED {
        let tracer = format!("guest as --caps {caps} -- iommu-trace trace --stages --format json --stacks");
        let words = if lacks.is_some() {
            format!("{tracer} --duration 1s")
        } else {
            format!(
                "{tracer} --output nobody/{name} -- sh -c 'read -r line < /tmp/go' & pid=$!
                 until [ -s nobody/{name} ]; do sleep 0.1; done
                 guest iopf --faults {FAULTS} --truth {name}.truth
                 echo > /tmp/go; wait $pid"
            )
        };
        script.case(name, &words);
    }
    script.case(
        "handles",
        "guest attach --hold-until /out/done --ready-file /out/ready --truth hold.truth & pid=$!
         until [ -e ready ]; do sleep 0.1; done
         iommu-trace handles > root.handles
         guest as --caps CAP_BPF,CAP_PERFMON,CAP_SYSLOG -- iommu-trace handles > nobody.handles
         touch done; wait $pid",
    );
    let files = script.run(guest.vm())?;
    for (name, caps, lacks) in TRIED {
        match lacks {
            None => checks.check(format!("with {caps} it sees all"), sees_all(&files, name)),
            Some(lacks) => checks.check(format!("with {caps} it names {lacks}"), names(&files, name, lacks)),
        }
    }
    checks.check("only CAP_SYSLOG shows the names of a stack", stacks(&files));
    checks.check("the snapshot is root's", snapshot(&files));
    Ok(())
}

/// Far more than it takes: emulated on a busy machine, each start takes seconds.
const LIMIT: Duration = Duration::from_secs(600);

/// What a distribution's kernel lets be done while it is locked down so far.
const STOCK: &[(&str, &str, &str, Expected)] = &[
    ("enough", "none", "CAP_BPF,CAP_PERFMON", Expected::Sees),
    (
        "lacks-perfmon",
        "none",
        "CAP_BPF,CAP_SYSLOG",
        Expected::Says(&["CAP_PERFMON is not held"], &["CAP_BPF is not held"]),
    ),
    (
        "lacks-bpf",
        "none",
        "CAP_PERFMON,CAP_SYSLOG",
        Expected::Says(&["CAP_BPF is not held", "kernel.unprivileged_bpf_disabled is 2"], &["CAP_PERFMON is not held"]),
    ),
    ("integrity", "integrity", "CAP_BPF,CAP_PERFMON", Expected::Sees),
    (
        "confidentiality",
        "confidentiality",
        "CAP_BPF,CAP_PERFMON",
        Expected::Says(&["locked down for confidentiality", "lockdown=integrity"], &["is not held"]),
    ),
];

enum Expected {
    /// What root does to a group's default domain.
    Sees,
    /// An error with these words, and without those.
    Says(&'static [&'static str], &'static [&'static str]),
}

/// Types that a group's default domain is given.
const TYPES: &str = "identity,DMA";

fn run_stock(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    script.case(
        "room",
        "mkdir -m 777 nobody; mkfifo -m 666 /tmp/go; mount -t securityfs none /sys/kernel/security
         echo 2 > /proc/sys/kernel/unprivileged_bpf_disabled",
    );
    for (name, lockdown, caps, expected) in STOCK {
        let tracer = format!("guest as --caps {caps} -- iommu-trace trace --events attach --format json");
        // It can only be raised.
        let locked = format!(
            "grep -q '\\[{lockdown}\\]' /sys/kernel/security/lockdown || echo {lockdown} > /sys/kernel/security/lockdown"
        );
        let words = match expected {
            Expected::Says(..) => format!("{locked}; {tracer} --duration 1s"),
            Expected::Sees => format!(
                "{locked}
                 {tracer} --output nobody/{name} -- sh -c 'read -r line < /tmp/go' & pid=$!
                 i=0; until [ -s nobody/{name} ] || [ $i = 600 ]; do sleep 0.1; i=$((i + 1)); done
                 guest default-domain --types {TYPES} --no-driver --no-remove --no-failures --truth {name}.truth
                 echo > /tmp/go; wait $pid"
            ),
        };
        script.case(name, &words);
    }
    script.case("doctor", "guest as --caps CAP_BPF,CAP_PERFMON -- iommu-trace doctor");
    let files = script.run(guest.vm().timeout(LIMIT))?;
    for (name, lockdown, caps, expected) in STOCK {
        let result = match expected {
            Expected::Sees => sees_domains(&files, name),
            Expected::Says(words, others) => says(&files, name, words, others),
        };
        checks.check(format!("with {caps}, lockdown {lockdown}"), result);
    }
    checks.check(
        "doctor tells of the lockdown",
        files.text("doctor.stdout").and_then(|text| {
            let told =
                ["MISSING   no lockdown  confidentiality", "lockdown=integrity", "unprivileged_bpf_disabled is 2"];
            ensure!(told.iter().all(|words| text.contains(words)), "it said:\n{text}");
            files.expect_status("doctor", 1)
        }),
    );
    Ok(())
}

fn sees_domains(files: &Files, name: &str) -> Result<()> {
    files.expect_status(name, 0)?;
    let done = files.text(&format!("{name}.truth"))?.lines().filter(|line| line.contains("\"ret\":0")).count();
    ensure!(done > 0, "the program did nothing");
    let events = events(files, name)?;
    let changes =
        |event: &&serde_json::Value| ["attach", "replace", "detach"].iter().any(|kind| event["event"] == *kind);
    let (seen, end) = (events.iter().filter(changes).count(), events.last().context("it wrote nothing")?);
    ensure!(end["event"] == "end", "it does not end with `end`");
    // Before 6.4 the core changes domains in functions that the compiler puts in place: the probes are attached, and see nothing.
    let probes = events.first().and_then(|start| start["probes"].as_array()).context("no probes in the first line")?;
    let verdict = |function: &str| probes.iter().find(|probe| probe["function"] == function).map(|p| &p["verdict"]);
    ensure!(
        verdict("iommu_attach_group").is_some_and(|verdict| verdict == "ok"),
        "a probe is not attached: {probes:?}"
    );
    let expected = match verdict("__iommu_group_set_domain_internal") {
        Some(verdict) if verdict == "ok" => TYPES.split(',').count(),
        _ => 0,
    };
    ensure!(seen >= expected, "{seen} changes of domains were seen, not {expected}");
    Ok(())
}

fn says(files: &Files, name: &str, words: &[&str], others: &[&str]) -> Result<()> {
    files.expect_status(name, 2)?;
    let said = files.text(&format!("{name}.stderr"))?;
    let right = words.iter().all(|words| said.contains(words)) && !others.iter().any(|words| said.contains(words));
    ensure!(right, "it said: {said}");
    Ok(())
}

/// Who asks, with which `kernel.kptr_restrict`, and what of the address that the kprobes depend on: the remedy that is told,
/// none where they are used.
const ASKED: &[(&str, u32, &str, Option<&str>)] = &[
    ("shown", 1, "guest as --caps CAP_SYSLOG -- iommu-trace doctor --json", None),
    ("hidden", 1, "guest as --caps CAP_BPF -- iommu-trace doctor --json", Some("Run with CAP_SYSLOG")),
    ("from-all", 2, "guest as --caps CAP_SYSLOG -- iommu-trace doctor --json", Some("kernel.kptr_restrict to 1")),
    ("from-root", 2, "iommu-trace trace --format json --duration 100ms", Some("kernel.kptr_restrict to 1")),
    ("root", 1, "iommu-trace trace --format json --duration 100ms", None),
];

/// virtio-iommu's driver is a module there, which kprobes alone reach.
fn kprobes(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    for (name, restrict, command, _) in ASKED {
        script.case(name, &format!("echo {restrict} > /proc/sys/kernel/kptr_restrict; {command}"));
    }
    let files = script.run(guest.vm())?;
    for (name, restrict, _, remedy) in ASKED {
        checks.check(format!("{name}, kernel.kptr_restrict {restrict}"), verdict(&files, name, *remedy));
    }
    Ok(())
}

fn verdict(files: &Files, name: &str, remedy: Option<&str>) -> Result<()> {
    let text = files.text(&format!("{name}.stdout"))?;
    let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    let document = documents.next().context("it wrote nothing")?.context("it wrote no JSON")?;
    let mut probes = document["probes"].as_array().into_iter().flatten();
    let probe = probes.find(|probe| probe["function"] == "viommu_event_handler").context("the probe is not told")?;
    let expected = if remedy.is_some() { "broken" } else { "ok" };
    let reason = probe["reason"].as_str().unwrap_or_default();
    let told = remedy.is_none_or(|remedy| reason.contains("is hidden") && reason.contains(remedy));
    ensure!(probe["verdict"] == expected && told, "not {expected}, {remedy:?}: {probe}");
    Ok(())
}

fn events(files: &Files, name: &str) -> Result<Vec<serde_json::Value>> {
    let text = files.text(&format!("nobody/{name}"))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} is no JSON"))).collect()
}

fn sees_all(files: &Files, name: &str) -> Result<()> {
    files.expect_status(name, 0)?;
    let events = events(files, name)?;
    let answered = events.iter().filter(|event| event["event"] == "fault" && event["device_id"].is_u64()).count();
    let end = events.last().context("it wrote nothing")?;
    ensure!(end["event"] == "end", "it does not end with `end`");
    ensure!(answered == FAULTS, "{answered} of {FAULTS} faults were seen with their device id");
    Ok(())
}

fn names(files: &Files, name: &str, lacks: &str) -> Result<()> {
    files.expect_status(name, 2)?;
    let said = files.text(&format!("{name}.stderr"))?;
    ensure!(said.contains(&format!("{lacks} is not held")) && said.contains("setcap"), "it said: {said}");
    Ok(())
}

fn stacks(files: &Files) -> Result<()> {
    let named = |name: &str| -> Result<bool> {
        Ok(files.text(&format!("nobody/{name}"))?.contains("iommu_report_device_fault+"))
    };
    ensure!(named("all")?, "no name in the stacks with it");
    ensure!(!named("without-syslog")?, "names in the stacks without it");
    Ok(())
}

fn snapshot(files: &Files) -> Result<()> {
    files.expect_status("handles", 0)?;
    let (root, nobody) = (files.text("root.handles")?, files.text("nobody.handles")?);
    ensure!(root.contains(", 1 handle"), "nothing was attached:\n{root}");
    ensure!(root == nobody, "root's:\n{root}\nnobody's:\n{nobody}");
    Ok(())
}
