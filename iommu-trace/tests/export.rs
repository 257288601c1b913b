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
    // Everything that was recorded is exported.
    let all = "attach,fault,sva,iommufd,dma,invalidate,reset";
    let traced = lines(&run(&["trace", "--format", "json", "--time", "utc", "--events", all, "--from", path]));
    assert_eq!(exported.len(), traced.len());
    for (exported, traced) in exported.iter().zip(&traced).take(traced.len() - 1) {
        assert_eq!(exported, traced);
    }
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
#[cfg(not(feature = "parquet"))]
fn without_parquet_it_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "a.itr", &workload(3, 1));
    let output = Command::new(env!("CARGO_BIN_EXE_iommu-trace"))
        .args(["export", "--format", "parquet", "-o", dir.path().to_str().unwrap(), path.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--features parquet"));
}

#[test]
#[cfg(feature = "parquet")]
fn duckdb_reads_the_tables_and_finds_the_figures_of_stats() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = workload(500, 1);
    for n in 0..20 {
        let op = iommu_trace::event::DmaOp {
            domain: iommu_trace::event::Ptr(1 << 63 | 7),
            iova: n << 12,
            size: 4096,
            ret: if n == 3 { -12 } else { 0 },
            duration: 500 + n,
        };
        let probe = if n % 4 == 0 { iommu_trace::event::ProbeId::Unmap } else { iommu_trace::event::ProbeId::Map };
        script.by(50).event(probe, iommu_trace::event::Phase::Exit, iommu_trace::event::Body::Dma(op));
    }
    let path = record(dir.path(), "a.itr", &script);
    let (tables, stats) = (dir.path().join("tables"), dir.path().join("stats.json"));
    let path = path.to_str().unwrap();
    run(&["export", "--format", "parquet", "--output", tables.to_str().unwrap(), path]);
    let all = "attach,fault,sva,iommufd,dma,invalidate,reset";
    let told = run(&["stats", "--format", "json", "--events", all, path]);
    fs::write(&stats, told.stdout).unwrap();
    for table in ["faults", "handle_lives", "dma_operations", "violations"] {
        assert!(fs::metadata(tables.join(format!("{table}.parquet"))).unwrap().len() > 500, "{table}");
    }
    match python("duckdb") {
        Some(python) => check(&python, "check_parquet.py", &[&tables, &stats]),
        None => assert!(std::env::var_os("IOMMU_TRACE_PYTHON").is_none(), "it has no module `duckdb`"),
    }
    // Tables of another run are not written over.
    let again = Command::new(env!("CARGO_BIN_EXE_iommu-trace"))
        .args(["export", "--format", "parquet", "--output", tables.to_str().unwrap(), path])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("faults.parquet"));
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
        // The nightly run of continuous integration installs it.
        None => assert!(std::env::var_os("IOMMU_TRACE_PYTHON").is_none(), "it has no module `perfetto`"),
    }
}
