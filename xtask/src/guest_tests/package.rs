//! What a release is, used as its users use it: the Debian package in a clean Debian, the tarball in nothing at all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    cell::TAKEN_ONCE,
    session::{Files, Script},
    trace::{Schema, Trace},
};
use crate::{
    arch::Arch,
    debian,
    dist::{self, Built, Source},
    qemu::Iommu,
};

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "package-stock-6.12",
        about: "the Debian package installs into a clean Debian, traces there, and leaves nothing when it is removed",
        kernel: "stock-6.12",
        iommu: Iommu::Intel,
        tracer: true,
        run: packaged,
    },
    GuestTest {
        name: "package-tarball-stock-7.3",
        about: "the tarball's program needs nothing but itself",
        kernel: "stock-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: unpacked,
    },
    GuestTest {
        name: "package-tarball-arm64-6.12",
        about: "so does arm64's",
        kernel: "stock-6.12-arm64",
        iommu: Iommu::Smmuv3,
        tracer: true,
        run: unpacked,
    },
];

/// Where the guest has its Debian.
const DEBIAN: &str = "/debian";

/// What the package brings, and a user looks for.
const BRINGS: &[&str] = &[
    "/usr/bin/iommu-trace",
    "/usr/share/man/man1/iommu-trace-check.1.gz",
    "/usr/share/bash-completion/completions/iommu-trace",
    "/usr/share/doc/iommu-trace/THIRD-PARTY.md",
    "/usr/share/iommu-trace/dashboards/grafana/iommu-trace-host.json",
    "/lib/systemd/system/iommu-trace.service",
];

/// Faults that are traced.
const FAULTS: usize = 3;

/// The files of a release for the guest's architecture, and its tarball's name without the ending.
fn release(arch: Arch) -> Result<(tempfile::TempDir, dist::Packages)> {
    let dir = tempfile::tempdir()?;
    let source = Source::look()?;
    let packages = dist::package(&Built::release(arch, &source)?, &source, dir.path())?;
    Ok((dir, packages))
}

/// A command of the Debian in the guest, in words of the shell. By its path: of a bare name, busybox's `chroot` takes its own applet.
fn inside(command: &str) -> String {
    format!("chroot {DEBIAN} /usr/bin/env PATH=/usr/local/bin:/usr/sbin:/usr/bin {command}")
}

/// A trace of some faults by a program, in words of the shell.
fn traced(program: &str) -> String {
    format!(
        "{program} trace --format json --output /out/trace.jsonl -- guest --truth /dev/null dma-fault --count {FAULTS}"
    )
}

fn packaged(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let (_dir, packages) = release(Arch::Amd64)?;
    let mut script = Script::new();
    script.case(
        "debian",
        &format!(
            "mount --bind {DEBIAN} {DEBIAN}
             for dir in sys dev proc out; do mkdir -p {DEBIAN}/$dir; mount --rbind /$dir {DEBIAN}/$dir; done
             cp /bin/guest {DEBIAN}/usr/local/bin/; rm -f {DEBIAN}/usr/bin/iommu-trace
             # The tree was made without manuals; whoever installs this gets its own.
             rm {DEBIAN}/etc/dpkg/dpkg.cfg.d/*
             find {DEBIAN} -xdev -name '*iommu-trace*' > before
             exec {}",
            inside("dpkg --install /package.deb")
        ),
    );
    for (name, command) in [
        ("verify", "dpkg --verify iommu-trace"),
        ("list", "dpkg --listfiles iommu-trace"),
        ("version", "iommu-trace --version"),
        ("doctor", "iommu-trace doctor"),
        ("trace", &traced("iommu-trace")),
        ("unit", "systemd-analyze verify --man=no iommu-trace.service"),
    ] {
        script.case(name, &format!("exec {}", inside(command)));
    }
    let purge = inside("dpkg --purge iommu-trace");
    script.case("purge", &format!("{purge} && find {DEBIAN} -xdev -name '*iommu-trace*' > after"));
    let vm = guest.vm().memory("2G").timeout(Duration::from_secs(300)).tree(debian::tree()?, DEBIAN);
    let files = script.run(vm.copy(packages.deb, format!("{DEBIAN}/package.deb")))?;
    for (name, what) in [
        ("debian", "dpkg installs it"),
        ("verify", "every file is as it was packed"),
        ("doctor", "doctor finds all it needs"),
    ] {
        checks.check(what, files.expect_status(name, 0));
    }
    checks.check("what users look for is there", {
        let list = files.text("list.stdout")?;
        let lacking: Vec<_> = BRINGS
            .iter()
            // Debian has one directory for both.
            .filter(|file| !list.lines().any(|line| line == **file || line == format!("/usr{file}")))
            .collect();
        if lacking.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{lacking:?} not in\n{list}")) }
    });
    checks.check("the version tells commit and object", version(&files));
    checks.check("it traces", faults(&files));
    checks.check("systemd finds no fault with the unit", files.expect_status("unit", 0));
    checks.check("nothing is left when it is purged", {
        files.expect_status("purge", 0).and_then(|()| {
            let (before, after) = (files.text("before")?, files.text("after")?);
            ensure!(before == after, "before:\n{before}afterwards:\n{after}");
            Ok(())
        })
    });
    Ok(())
}

fn unpacked(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let (_dir, packages) = release(guest.iommu.arch())?;
    let name = packages.tarball.file_name().context("a tarball without a name")?.to_string_lossy().into_owned();
    let mut script = Script::new();
    script.case(
        "unpack",
        &format!("mkdir /opt; rm /bin/iommu-trace; tar -C /opt -xzf /{name} && mv /opt/* /opt/release"),
    );
    script.case("taken", TAKEN_ONCE);
    script.case("version", "exec /opt/release/bin/iommu-trace --version");
    script.case("trace", &format!("exec {}", traced("/opt/release/bin/iommu-trace")));
    let vm = guest.vm().memory("2G").timeout(Duration::from_secs(600));
    let files = script.run(vm.copy(packages.tarball, format!("/{name}")))?;
    checks.check("it unpacks", files.expect_status("unpack", 0));
    checks.check("the version tells commit and object", version(&files));
    checks.check("it traces", faults(&files));
    Ok(())
}

fn version(files: &Files) -> Result<()> {
    files.expect_status("version", 0)?;
    let said = files.text("version.stdout")?;
    let source = Source::look()?;
    for part in
        [format!("iommu-trace {}", source.version), format!("commit      {}", source.commit), "sha256:".to_owned()]
    {
        ensure!(said.contains(&part), "no {part:?} in\n{said}");
    }
    Ok(())
}

fn faults(files: &Files) -> Result<()> {
    files.expect_status("trace", 0)?;
    let text = files.text("trace.jsonl")?;
    Schema::load()?.check(&text)?;
    let trace = Trace::parse(&text)?;
    trace.check_clean()?;
    let faults = trace.spans.iter().filter(|span| span.event == "dma_fault").count();
    // An SMMUv3 tells each access of a transfer.
    ensure!(faults >= FAULTS, "{faults} faults, not {FAULTS}");
    Ok(())
}
