//! The unit under a real systemd: started, reloaded, stopped, with all that it shuts off.

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
};
use crate::{debian, qemu::Iommu, workspace};

/// The table. A stock kernel, because systemd wants more of a kernel than the built ones have.
pub const TESTS: &[GuestTest] = &[GuestTest {
    name: "service-stock-6.12",
    about: "systemd starts, reloads and stops the unit as it is shipped",
    kernel: "stock-6.12",
    iommu: Iommu::Intel,
    tracer: true,
    run,
}];

/// Where the guest has its Debian.
const DEBIAN: &str = "/debian";

/// Starts systemd as the first process of a process namespace of its own, in its Debian, and waits until it is up.
/// `sd` then runs a command there.
fn boot() -> String {
    format!(
        "cp /bin/iommu-trace {DEBIAN}/usr/bin/
         mount --bind {DEBIAN} {DEBIAN}
         for dir in sys dev; do mount --rbind /$dir {DEBIAN}/$dir; done
         for dir in run tmp; do mount -t tmpfs tmpfs {DEBIAN}/$dir; done
         ln -sf /dev/null {DEBIAN}/etc/systemd/system/systemd-udevd.service
         ip link set lo up
         unshare -p -m -f sh -c 'mount -t proc proc {DEBIAN}/proc
             exec env container=guest chroot {DEBIAN} /lib/systemd/systemd --system --unit=basic.target' &
         until systemd=$(pidof systemd); do sleep 0.2; done
         sd() {{ nsenter -t $systemd -p -m chroot {DEBIAN} \"$@\"; }}
         until sd systemctl is-system-running > state 2>&1 || grep -q degraded state; do sleep 0.5; done\n"
    )
}

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let unit = workspace::root().join("dist/iommu-trace.service");
    let mut script = Script::new();
    script.case(
        "systemd",
        &(boot()
            + "sd systemctl start iommu-trace; echo $? > start.status
               sd systemctl show iommu-trace > started
               cat /proc/$(pidof iommu-trace)/status > process
               wget -q -O metrics http://127.0.0.1:9798/metrics
               sd systemctl reload iommu-trace; echo $? > reload.status
               sd systemctl stop iommu-trace; echo $? > stop.status
               sd systemctl show iommu-trace > stopped
               sd journalctl --no-pager --output cat --unit iommu-trace > journal
               kill -KILL $systemd"),
    );
    let vm = guest.vm().memory("2G").tree(debian::tree()?, DEBIAN);
    let files = script.run(vm.copy(unit, format!("{DEBIAN}/etc/systemd/system/iommu-trace.service")))?;
    let journal = files.text("journal")?;
    for (name, what) in [("start", "starts"), ("reload", "reloads"), ("stop", "stops")] {
        checks.check(
            format!("systemd {what} it"),
            files.status(name).and_then(|status| {
                ensure!(status == 0, "status {status}; the journal:\n{journal}");
                Ok(())
            }),
        );
    }
    checks.check("it is up only when its probes are attached", attached(&files));
    checks.check("it has nobody's name and no privilege", harmless(&files));
    checks.check("it ends as it should", property(&files, "stopped", "Result", "success"));
    Ok(())
}

fn property(files: &Files, file: &str, name: &str, expected: &str) -> Result<()> {
    let text = files.text(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    ensure!(value == Some(expected), "{name} is {value:?}, not {expected}");
    Ok(())
}

fn attached(files: &Files) -> Result<()> {
    property(files, "started", "ActiveState", "active")?;
    let metrics = files.text("metrics")?;
    for line in ["iommu_trace_source_up 1\n", "iommu_trace_probes{verdict=\"broken\"} 0\n"] {
        ensure!(metrics.contains(line), "no {line:?} in the metrics:\n{metrics}");
    }
    ensure!(!metrics.contains("iommu_trace_probes{verdict=\"ok\"} 0\n"), "no probe is attached");
    Ok(())
}

fn harmless(files: &Files) -> Result<()> {
    let process = files.text("process")?;
    let field = |name: &str| {
        process.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in\n{process}"))
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        ensure!(field(set)?.trim() == "0000000000000000", "{set} {}", field(set)?);
    }
    ensure!(!field("Uid:")?.split_whitespace().any(|id| id == "0"), "it is root: {}", field("Uid:")?);
    // 2: a filter of system calls.
    ensure!(field("Seccomp:")?.trim() == "2", "its system calls are not filtered");
    Ok(())
}
