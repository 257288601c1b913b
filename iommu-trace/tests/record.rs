//! `record`: files in turn, the flight recorder, a kill, a full disk. Recorded from recordings, which needs no kernel.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::recorded::{record, workload};
use iommu_trace::{
    event::{Body, Event},
    recording::Recording,
    source::{Batch, Progress, Source as _},
};

fn iommu_trace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommu-trace"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    iommu_trace(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn events(path: &Path) -> Vec<Event> {
    let mut source = Recording::open(path).unwrap();
    let mut all = Vec::new();
    loop {
        let mut batch = Batch::default();
        let progress = source.poll(Duration::ZERO, &mut batch).unwrap();
        all.extend(batch.events);
        if progress == Progress::End {
            return all;
        }
    }
}

fn is_piece(event: &Event) -> bool {
    matches!(event.body, Body::Slot(_))
}

fn handles(path: &Path) -> serde_json::Value {
    let output = run(&["handles", "--json", "--from", path.to_str().unwrap()]);
    let mut held: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // When it was read, and what was lost before a part began, is not the same.
    (held["ts"], held["lost"]) = (0.into(), 0.into());
    held
}

#[test]
fn files_in_turn_open_by_themselves_and_together_hold_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let whole = record(dir.path(), "whole.itr", &workload(20_000, 1));
    let path = dir.path().join("part.itr");
    let (from, to) = (whole.to_str().unwrap(), path.to_str().unwrap());
    let output = run(&["record", "--from", from, "-o", to, "--max-size", "64K", "--keep", "3"]);
    assert!(output.status.success() && stderr(&output).contains(" files"), "{}", stderr(&output));

    let parts: Vec<PathBuf> = [".2", ".1", ""].iter().map(|end| dir.path().join(format!("part.itr{end}"))).collect();
    assert!(!dir.path().join("part.itr.3").exists());
    let mut kept = Vec::new();
    for part in &parts {
        assert_eq!(fs::metadata(part).unwrap().permissions().mode() & 0o777, 0o600);
        let events = events(part);
        assert!(is_piece(&events[0]), "it begins with what was attached");
        kept.extend(events.into_iter().skip_while(is_piece));
        // No slot was being changed when it was begun, so that its first 100 ms are judged like the rest.
        assert!(Recording::open(part).unwrap().header().source.settled);
    }
    let all = events(&whole);
    assert!(kept.len() > 1000 && kept.len() < all.len());
    assert_eq!(kept, all[all.len() - kept.len()..]);
    assert_eq!(handles(&path), handles(&whole));
    // The rule that was broken shows from the part that it is in, and nothing is broken where a part begins.
    let broken = |part: &PathBuf| {
        let checked = run(&["check", "--from", part.to_str().unwrap()]);
        String::from_utf8_lossy(&checked.stdout).matches("VIOLATION").count()
    };
    assert_eq!(parts.iter().map(broken).sum::<usize>(), 1);
}

#[test]
fn a_recording_ends_when_it_is_as_large_as_it_may_become() {
    let dir = tempfile::tempdir().unwrap();
    let whole = record(dir.path(), "whole.itr", &workload(20_000, 1));
    let path = dir.path().join("small.itr");
    let (from, to) = (whole.to_str().unwrap(), path.to_str().unwrap());
    let output = run(&["record", "--from", from, "-o", to, "--max-size", "64K"]);
    assert!(stderr(&output).contains("as large as it may become"), "{}", stderr(&output));
    let size = fs::metadata(&path).unwrap().len();
    assert!((64 << 10..512 << 10).contains(&size), "{size}");
    let (got, all) = (events(&path), events(&whole));
    assert_eq!(got, all[..got.len()]);
}

#[test]
fn the_flight_recorder_keeps_the_last_with_what_was_attached_when_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    // 20 s of events.
    let whole = record(dir.path(), "whole.itr", &workload(2_000, 40));
    let path = dir.path().join("last.itr");
    let (from, to) = (whole.to_str().unwrap(), path.to_str().unwrap());
    let output = run(&["record", "--from", from, "-o", to, "--last", "3s"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (all, got) = (events(&whole), events(&path));
    let pieces = got.iter().take_while(|event| is_piece(event)).count();
    let kept = &got[pieces..];
    assert_eq!(kept, &all[all.len() - kept.len()..]);
    let length = kept.last().unwrap().ts - kept[0].ts;
    assert!((2_900_000_000..3_600_000_000).contains(&length), "{length}");
    let attached =
        got[..pieces].iter().filter(|event| matches!(&event.body, Body::Slot(slot) if !slot.handle.ptr.is_null()));
    assert_eq!(attached.count(), 4);
    assert_eq!(handles(&path), handles(&whole));
    // Nothing is taken for broken because its beginning was dropped.
    let checked = run(&["check", "--from", to]);
    assert_eq!(String::from_utf8_lossy(&checked.stdout).matches("VIOLATION").count(), 1);
}

/// A recorder that reads from a pipe, into which a recording goes without its end.
fn fed(whole: &Path, arguments: &[&str]) -> (Child, std::process::ChildStdin) {
    let bytes = fs::read(whole).unwrap();
    let mut child = iommu_trace(&[&["record", "--from", "-"], arguments].concat())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&bytes[..bytes.len() - 100]).unwrap();
    (child, stdin)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_was_written_before_a_kill_opens() {
    let dir = tempfile::tempdir().unwrap();
    let whole = record(dir.path(), "whole.itr", &workload(3_000, 1));
    let path = dir.path().join("killed.itr");
    let (mut child, stdin) = fed(&whole, &["-o", path.to_str().unwrap()]);
    let size = fs::metadata(&whole).unwrap().len();
    wait_for("nothing was written", || fs::metadata(&path).is_ok_and(|of| of.len() > size / 2));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    let traced = run(&["trace", "--from", path.to_str().unwrap()]);
    assert!(traced.status.success() && stderr(&traced).contains("is not whole"), "{}", stderr(&traced));
    let got = events(&path);
    assert!(got.len() > 1000 && got == events(&whole)[..got.len()]);
}

#[test]
fn sigusr1_writes_what_the_flight_recorder_has() {
    let dir = tempfile::tempdir().unwrap();
    let whole = record(dir.path(), "whole.itr", &workload(500, 1));
    let path = dir.path().join("asked.itr");
    let (mut child, stdin) = fed(&whole, &["-o", path.to_str().unwrap(), "--last", "1m"]);
    // The broken rule at the end has it write by itself.
    wait_for("nothing was written for the violation", || path.exists());
    fs::remove_file(&path).unwrap();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    wait_for("nothing was written for SIGUSR1", || path.exists());
    assert!(events(&path).len() > 1000);
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_disk_that_is_full_ends_it_with_a_message_and_what_was_written_opens() {
    let dir = tempfile::tempdir().unwrap();
    let whole = record(dir.path(), "whole.itr", &workload(30_000, 1));
    let full = run(&["record", "--from", whole.to_str().unwrap(), "-o", "/dev/full"]);
    assert_eq!(full.status.code(), Some(2));
    assert!(stderr(&full).contains("/dev/full") && stderr(&full).contains("No space left"), "{}", stderr(&full));

    // A limit of the file's size, in blocks of 512 or 1024 bytes, is as good as a small disk.
    let path = dir.path().join("cut.itr");
    let script = format!(
        "ulimit -f 150; trap '' XFSZ; exec {} record --from {} -o {}",
        env!("CARGO_BIN_EXE_iommu-trace"),
        whole.display(),
        path.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("cut.itr") && stderr(&output).contains("File too large"), "{}", stderr(&output));
    let got = events(&path);
    assert!(got.len() > 1000 && got == events(&whole)[..got.len()]);
}

#[test]
fn a_recording_goes_through_a_pipe_while_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let whole = record(dir.path(), "whole.itr", &workload(50, 1));
    let mut recorder = iommu_trace(&["record", "--from", whole.to_str().unwrap(), "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let piped =
        iommu_trace(&["stats", "--format", "json", "-"]).stdin(recorder.stdout.take().unwrap()).output().unwrap();
    assert!(recorder.wait().unwrap().success());
    let direct = iommu_trace(&["stats", "--format", "json", "-"]).stdin(File::open(&whole).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&piped.stdout), String::from_utf8_lossy(&direct.stdout));
}
