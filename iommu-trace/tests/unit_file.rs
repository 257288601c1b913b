//! The systemd unit, by systemd's own judgement. Ignored where there is no systemd: `cargo xtask test --only prometheus`
//! runs it with what belongs to `serve`.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

use std::{fs, path::Path, process::Command};

/// The unit, with the program where it was built.
fn unit(dir: &Path) -> String {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/iommu-trace.service")).unwrap();
    assert!(unit.contains("ExecStart=iommu-trace serve"));
    let path = dir.join("iommu-trace.service");
    let unit = unit.replace("ExecStart=iommu-trace", concat!("ExecStart=", env!("CARGO_BIN_EXE_iommu-trace")));
    // Its manual page is not installed.
    let unit: Vec<&str> = unit.lines().filter(|line| !line.starts_with("Documentation=")).collect();
    fs::write(&path, unit.join("\n") + "\n").unwrap();
    path.to_str().unwrap().to_owned()
}

fn systemd_analyze(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_finds_no_fault_with_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let (well, said) = systemd_analyze(&["verify", &unit(dir.path())]);
    assert!(well, "{said}");
    assert!(!said.contains("iommu-trace.service:"), "{said}");
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_thinks_little_can_be_done_with_it() {
    let dir = tempfile::tempdir().unwrap();
    // In tenths: a service without any protection has 9.6.
    let (well, said) =
        systemd_analyze(&["security", "--offline=true", "--no-pager", "--threshold=25", &unit(dir.path())]);
    assert!(well, "{said}");
}

#[test]
fn the_unit_asks_for_no_more_than_attaching_takes() {
    let dir = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(unit(dir.path())).unwrap();
    let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
    assert_eq!(setting("AmbientCapabilities"), "CAP_BPF CAP_PERFMON CAP_SYSLOG");
    assert_eq!(setting("CapabilityBoundingSet"), setting("AmbientCapabilities"));
    assert_eq!(setting("DynamicUser"), "yes");
    assert_eq!(setting("Type"), "notify");
}
