//! A signal ends a run with its summary. Alone in its process: a signal is for all of it, and a second one ends it.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{fs, time::Duration};

use clap::Parser as _;
use common::scripted::{Scripted, Step, fault};
use iommu_trace::cli::{ConsumerOptions, Run};

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: ConsumerOptions,
}

#[test]
fn sigterm_ends_the_run_with_all_that_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let arguments = ["test", "--format", "json", "--output", path.to_str().unwrap()];
    let options = Arguments::try_parse_from(arguments).unwrap().options;

    let watcher = std::thread::spawn({
        let path = path.clone();
        move || {
            // The handlers are in place before the first line is written.
            while !fs::read_to_string(&path).unwrap_or_default().contains("\"fault\"") {
                std::thread::sleep(Duration::from_millis(10));
            }
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        }
    });
    Run::new(&options).unwrap().consume(Scripted::live(vec![Step::Events(fault(1))]).boxed()).unwrap();
    watcher.join().unwrap();

    let text = fs::read_to_string(&path).unwrap();
    let end: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&end["event"], &end["exit"]["reason"]), (&"end".into(), &"terminate".into()));
    assert_eq!(end["events"]["fault"], 1);
}
