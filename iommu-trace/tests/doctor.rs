//! `doctor`, on machines that are laid out in a directory.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{fs, path::Path};

use iommu_trace::{
    cli::{Report, State},
    output::Palette,
    probes::{
        ProbeStatus, Verdict,
        stretch::{POINTS, Planned, Step},
    },
};

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn capable(root: &Path, mask: &str) {
    write(root, "proc/self/status", &format!("Name:\tx\nCapEff:\t{mask}\nCapBnd:\t000001ffffffffff\n"));
}

/// A machine where nothing is missing.
fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "proc/sys/kernel/osrelease", "7.3.4\n");
    capable(root, "000001ffffffffff");
    write(root, "sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
    write(root, "proc/sys/kernel/unprivileged_bpf_disabled", "2\n");
    write(root, "sys/kernel/btf/vmlinux", "");
    write(root, "sys/bus/event_source/devices/kprobe/type", "6\n");
    write(root, "sys/kernel/tracing/events/enable", "");
    write(root, "sys/module/iommufd/refcnt", "0\n");
    for device in ["0000:00:02.0", "0000:00:03.0"] {
        write(root, &format!("sys/class/iommu/dmar0/devices/{device}"), "");
        write(root, &format!("sys/kernel/iommu_groups/1/devices/{device}"), "");
    }
    dir
}

fn text(report: &Report) -> String {
    let arch = std::env::consts::ARCH;
    report
        .text(Palette::plain())
        .replace(&format!("7.3.4 {arch}"), "7.3.4 ARCH")
        .replace(&format!("unknown {arch}"), "unknown ARCH")
}

#[test]
fn a_machine_where_nothing_is_missing() {
    let dir = machine();
    let report = Report::collect(dir.path(), common::info().probes, true);
    assert!(report.ok);
    insta::assert_snapshot!(text(&report));
}

#[test]
fn a_machine_where_everything_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    capable(dir.path(), "0000000000000000");
    write(dir.path(), "sys/kernel/security/lockdown", "none integrity [confidentiality]\n");
    let report = Report::collect(dir.path(), Vec::new(), false);
    assert!(!report.ok);
    insta::assert_snapshot!(text(&report).replace(" (os error 2)", ""));
}

#[test]
fn cap_sys_admin_stands_for_bpf_and_perfmon() {
    let dir = machine();
    capable(dir.path(), "0000000000200000");
    let report = Report::collect(dir.path(), Vec::new(), true);
    assert!(report.ok);
    let state = |name| report.checks.iter().find(|check| check.name == name).unwrap().state;
    assert_eq!((state("CAP_BPF"), state("CAP_SYSLOG")), (State::Ok, State::Missing));
}

#[test]
fn each_missing_capability_is_named() {
    let dir = machine();
    // CAP_BPF only.
    capable(dir.path(), "0000008000000000");
    let report = Report::collect(dir.path(), Vec::new(), false);
    assert!(!report.ok);
    assert!(text(&report).ends_with("Tracing is not possible here without: CAP_PERFMON.\n"), "{}", text(&report));
}

#[test]
fn a_broken_probe_matters_when_it_is_essential() {
    let dir = machine();
    let probe = |essential| ProbeStatus {
        function: "iommu_attach_group_handle".into(),
        kind: "fentry".into(),
        topic: "attach".into(),
        verdict: Verdict::Broken,
        reason: Some("Device or resource busy (os error 16)".into()),
        cost: "attachments of groups are not seen".into(),
        essential,
    };
    assert!(Report::collect(dir.path(), vec![probe(false)], true).ok);
    let report = Report::collect(dir.path(), vec![probe(true)], true);
    assert!(!report.ok);
    assert!(text(&report).contains("without: iommu_attach_group_handle."), "{}", text(&report));
}

#[test]
fn probes_that_cannot_be_attached_for_another_reason_are_told() {
    let dir = machine();
    let report = Report::collect(dir.path(), common::info().probes, false).with_trouble("the map is too large".into());
    assert!(!report.ok);
    let text = text(&report);
    assert!(text.ends_with("\nThe probes could not be attached: the map is too large\n"), "{text}");
}

#[test]
fn steps_that_can_be_stretched_are_told_with_what_is_in_the_way() {
    let dir = machine();
    let planned = |step, reasons: &[&str]| Planned {
        step,
        points: POINTS.iter().filter(|point| point.step == step && reasons.is_empty()).collect(),
        reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
    };
    let steps = [
        planned(Step::Replace, &[]).status(),
        planned(Step::Handler, &["iommufd_fault_iopf_handler is in module iommufd, where no wait can be put"]).status(),
    ];
    let report = Report::collect(dir.path(), Vec::new(), true).with_stretch(steps.to_vec());
    assert!(report.ok, "it is nothing that tracing stands on");
    let text = text(&report);
    let told = text.split_once("Steps that").unwrap().1;
    assert_eq!(
        told,
        " check --stretch can widen: 1 of 2
  ok        replace  __iommu_group_set_domain_internal, __iommu_set_group_pasid
  missing   handler  a fault's handler is called, and has done nothing yet
            iommufd_fault_iopf_handler is in module iommufd, where no wait can be put

Nothing essential is missing.
"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["stretch"][1]["step"], &json["stretch"][1]["verdict"]), (&"handler".into(), &"missing".into()));
}

#[test]
fn the_json_form_has_the_same() {
    let dir = machine();
    let report = Report::collect(dir.path(), common::info().probes, true);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["units"][0]["name"], "dmar0");
    assert_eq!(json["devices"], 2);
    assert_eq!(json["checks"].as_array().unwrap().len(), report.checks.len());
    assert_eq!(json["probes"][2]["verdict"], "missing");
}
