//! `export`: what other tools read is what `trace` tells. Their own parsers are asked where they are installed.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use common::recorded::{record, workload};

fn run(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_iommu-trace")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn json_lines_are_those_of_the_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "a.itr", &workload(30, 1));
    let path = path.to_str().unwrap();
    let lines = |output: &Output| -> Vec<serde_json::Value> {
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let exported = lines(&run(&["export", "--format", "json", path]));
    let traced = lines(&run(&["trace", "--format", "json", "--time", "utc", "--from", path]));
    assert_eq!(exported[..exported.len() - 1], traced[..traced.len() - 1]);
    assert!(exported.iter().filter(|line| line["event"] == "fault").count() == 30);
}

/// Python with a module, in the environment that `IOMMU_TRACE_PYTHON` names or the system's.
fn python(module: &str) -> Option<String> {
    let python = std::env::var("IOMMU_TRACE_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    has.is_ok_and(|output| output.status.success()).then_some(python)
}

fn check(python: &str, script: &str, arguments: &[&Path]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    println!("{told}");
}

#[test]
fn perfetto_s_own_schema_reads_every_slice_with_its_times() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "a.itr", &workload(200, 1));
    let (trace, events) = (dir.path().join("a.pftrace"), dir.path().join("a.jsonl"));
    let path = path.to_str().unwrap();
    run(&["export", "--format", "perfetto", "--output", trace.to_str().unwrap(), path]);
    run(&["export", "--format", "json", "--output", events.to_str().unwrap(), path]);
    assert!(fs::metadata(&trace).unwrap().len() > 10_000);
    match python("perfetto") {
        Some(python) => check(&python, "check_perfetto.py", &[&trace, &events]),
        // Continuous integration installs it: see docs/recording-format.md.
        None => assert!(std::env::var_os("IOMMU_TRACE_PYTHON").is_none(), "it has no module `perfetto`"),
    }
}
