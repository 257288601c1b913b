//! `stats`: the same figures live and from a recording, and those of the trace; two recordings side by side.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::process::Command;

use clap::Parser as _;
use common::recorded::{record, source, workload};
use iommu_trace::cli::StatsArgs;
use serde_json::Value;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    stats: StatsArgs,
}

fn run(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_iommu-trace")).args(arguments).env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&run(arguments)).unwrap()
}

#[test]
fn a_recording_has_the_figures_of_the_live_run_and_of_its_trace() {
    let dir = tempfile::tempdir().unwrap();
    let script = workload(200, 1);
    let path = record(dir.path(), "a.itr", &script);
    let path = path.to_str().unwrap();
    let replayed = json(&["stats", "--format", "json", path]);

    let arguments = Arguments::try_parse_from(["stats"]).unwrap().stats;
    let (live, _) = arguments.collect(source(&script)).unwrap();
    // Numbers with a fraction go through text in one of the two.
    let live: Value = serde_json::from_str(&serde_json::to_string(&live.unwrap()).unwrap()).unwrap();
    assert_eq!(replayed, live);

    let trace = run(&["trace", "--format", "json", "--from", path]);
    let end: Value = serde_json::from_str(trace.lines().last().unwrap()).unwrap();
    assert_eq!(replayed["events"]["fault"]["count"], 200);
    for stage in ["lookup", "device_id", "handler", "delivered", "response"] {
        for figure in ["count", "p50_ns", "p90_ns", "p99_ns", "max_ns"] {
            assert_eq!(replayed["latencies"][stage][figure], end["latencies"][stage][figure], "{stage} {figure}");
        }
    }
    assert_eq!(replayed["faults"], end["faults"]);
    assert_eq!(replayed["lost"], end["lost"]);
    assert_eq!(replayed["violations"], end["violations"]);
}

#[test]
fn devices_and_pasids_add_up_and_the_slowest_are_the_slowest() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "a.itr", &workload(300, 1));
    let stats = json(&["stats", "--format", "json", path.to_str().unwrap()]);
    for rows in ["devices", "pasids"] {
        let sum: u64 = stats[rows].as_array().unwrap().iter().map(|row| row["faults"]["count"].as_u64().unwrap()).sum();
        assert_eq!(sum, 300, "{rows}");
    }
    assert_eq!((stats["devices"].as_array().unwrap().len(), stats["pasids"].as_array().unwrap().len()), (2, 4));
    let slowest: Vec<u64> =
        stats["slowest"].as_array().unwrap().iter().map(|fault| fault["response_ns"].as_u64().unwrap()).collect();
    assert_eq!(slowest.len(), 10);
    assert!(slowest.is_sorted_by(|a, b| a >= b));
    assert_eq!(stats["latencies"]["response"]["max_ns"], slowest[0]);
}

#[test]
fn filters_choose_what_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "a.itr", &workload(40, 1));
    let path = path.to_str().unwrap();
    let all = json(&["stats", "--format", "json", path]);
    let one = json(&["stats", "--format", "json", "--device", "*1.0", "--from", path]);
    assert!(one["events"]["fault"]["count"].is_null(), "{one}");
    let one = json(&["stats", "--format", "json", "--device", "*0.1", "--from", path]);
    assert_eq!(one["devices"].as_array().unwrap().len(), 1);
    assert_eq!(
        one["devices"][0]["faults"]["count"],
        all["devices"].as_array().unwrap().iter().find(|row| row["device"] == one["devices"][0]["device"]).unwrap()["faults"]
            ["count"]
    );
    assert!(one["filtered"].as_u64().unwrap() > 0);
}

#[test]
fn one_screen_of_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "a.itr", &workload(60, 1));
    let text = run(&["stats", path.to_str().unwrap()]);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    insta::assert_snapshot!("stats", text);
}

#[test]
fn two_recordings_are_compared_stage_by_stage() {
    let dir = tempfile::tempdir().unwrap();
    let a = record(dir.path(), "a.itr", &workload(60, 1));
    // Everything takes twice as long.
    let b = record(dir.path(), "b.itr", &workload(60, 2));
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let comparison = json(&["stats", "--format", "json", a, b]);
    let response =
        comparison["changes"].as_array().unwrap().iter().find(|change| change["stage"] == "response").unwrap();
    for figure in response["percent"].as_array().unwrap() {
        let percent = figure[1].as_f64().unwrap();
        assert!((percent - 100.0).abs() < 0.5, "{response}");
    }
    insta::assert_snapshot!("stats_compared", run(&["stats", a, b]));
}
