//! Wrong input and a hostile environment: each has its message and its exit status.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
};
use crate::{command::tail, qemu::Iommu};

/// Lines of output that a failure shows.
const SHOWN: usize = 16;

/// The table.
pub const TESTS: &[GuestTest] = &[GuestTest {
    name: "usage-stock-6.12",
    about: "wrong input and a hostile environment get a message that helps, and the documented exit status",
    kernel: "stock-6.12",
    iommu: Iommu::Intel,
    tracer: true,
    run,
}];

/// A case: what is run, how it must end, what it must say.
struct Case {
    name: &'static str,
    script: &'static str,
    status: i32,
    /// In standard error.
    says: &'static [&'static str],
    /// In standard output.
    shows: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "no-privileges",
        script: "su nobody -s /bin/sh -c 'iommu-trace trace --duration 1'",
        status: 2,
        says: &["Root or CAP_BPF and CAP_PERFMON", "iommu-trace doctor"],
        shows: &[],
    },
    Case {
        name: "no-privileges-doctor",
        script: "su nobody -s /bin/sh -c 'iommu-trace doctor'",
        status: 1,
        says: &[],
        shows: &["CAP_BPF", "CAP_PERFMON", "run as root"],
    },
    Case {
        name: "no-btf",
        script: "mount -t tmpfs none /sys/kernel/btf; iommu-trace trace --duration 1; s=$?; umount /sys/kernel/btf; exit $s",
        status: 2,
        says: &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"],
        shows: &[],
    },
    Case {
        name: "no-btf-doctor",
        script: "mount -t tmpfs none /sys/kernel/btf; iommu-trace doctor; s=$?; umount /sys/kernel/btf; exit $s",
        status: 1,
        says: &[],
        shows: &["BTF", "CONFIG_DEBUG_INFO_BTF"],
    },
    Case {
        name: "no-iommufd",
        script: "iommu-trace trace --duration 100ms",
        status: 0,
        says: &[],
        shows: &["not in this kernel"],
    },
    Case {
        name: "no-iommufd-doctor",
        script: "iommu-trace doctor",
        status: 0,
        says: &[],
        shows: &["missing   iommufd", "modprobe iommufd", "iommufd_fault_iopf_handler", "Nothing essential is missing"],
    },
    Case {
        name: "no-iommufd-doctor-json",
        script: "iommu-trace doctor --json",
        status: 0,
        says: &[],
        shows: &[r#""name": "iommufd""#, r#""state": "missing""#, r#""ok": true"#],
    },
    Case {
        name: "unknown-device",
        script: "iommu-trace trace --device 'nonesuch*' --duration 100ms",
        status: 0,
        says: &["no device matches --device nonesuch*", "0000:00:02.0"],
        shows: &[],
    },
    Case {
        name: "unknown-group",
        script: "iommu-trace trace --group 4711 --duration 100ms",
        status: 0,
        says: &["there is no IOMMU group 4711"],
        shows: &[],
    },
    Case {
        name: "bad-glob",
        script: "iommu-trace trace --device '0000:[' --duration 1",
        status: 2,
        says: &["--device", "0000:[", "no pattern"],
        shows: &[],
    },
    Case {
        name: "unknown-topic",
        script: "iommu-trace trace --events faults",
        status: 2,
        says: &["faults", "possible values", "invalidate"],
        shows: &[],
    },
    Case {
        name: "bad-size",
        script: "iommu-trace trace --buffer-size 17",
        status: 2,
        says: &["--buffer-size", "not between 4K and 1G"],
        shows: &[],
    },
    Case {
        name: "unwritable-output",
        script: "iommu-trace trace --output /nowhere/trace.jsonl -- true",
        status: 2,
        says: &["/nowhere/trace.jsonl", "No such file or directory"],
        shows: &[],
    },
    Case {
        name: "no-such-command",
        script: "iommu-trace trace -- nonesuch --option",
        status: 2,
        says: &["nonesuch", "PATH"],
        shows: &[],
    },
    Case {
        name: "command-not-executable",
        script: "iommu-trace trace -- /etc/passwd",
        status: 2,
        says: &["/etc/passwd", "not executable"],
        shows: &[],
    },
    Case {
        name: "closed-pipe",
        script: "( iommu-trace trace -- guest workload storm --seconds 20 --truth /dev/null; echo $? > /out/closed ) \
                 | head -n 3; exit $(cat /out/closed)",
        status: 0,
        says: &[],
        shows: &[],
    },
    Case {
        name: "full-disk",
        script: "mkdir /small; mount -t tmpfs -o size=64k none /small; iommu-trace trace --format json \
                 --output /small/trace.jsonl -- guest workload storm --seconds 20 --truth /dev/null",
        status: 2,
        says: &["/small/trace.jsonl", "No space left on device"],
        shows: &[],
    },
];

/// Cases that must have nothing to complain about.
const SILENT: &[&str] = &["closed-pipe", "no-iommufd"];

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    for case in CASES {
        script.case(case.name, case.script);
    }
    let files = script.run(guest.vm().timeout(Duration::from_secs(600)))?;
    for case in CASES {
        checks.check(case.name, case.judge(&files));
    }
    Ok(())
}

impl Case {
    fn judge(&self, files: &Files) -> Result<()> {
        files.expect_status(self.name, self.status)?;
        for (file, wanted) in [("stderr", self.says), ("stdout", self.shows)] {
            let text = files.text(&format!("{}.{file}", self.name))?;
            for words in wanted {
                ensure!(text.contains(words), "{file} does not have {words:?}:\n{}", tail(&text, SHOWN));
            }
        }
        let errors = files.text(&format!("{}.stderr", self.name))?;
        ensure!(
            !SILENT.contains(&self.name) || errors.is_empty(),
            "standard error should be empty:\n{}",
            tail(&errors, SHOWN)
        );
        ensure!(!errors.contains("panicked"), "a panic:\n{}", tail(&errors, SHOWN));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own_and_a_failure_says_something() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        assert!(SILENT.iter().all(|name| names.contains(name)));
        for case in CASES {
            assert!(case.status == 0 || !case.says.is_empty() || !case.shows.is_empty(), "{}", case.name);
        }
    }
}
