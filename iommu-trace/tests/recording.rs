//! Recordings through the whole consumer: what is told from one is what was told live, and every damage is told.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use clap::Parser as _;
use common::scripted::{Scripted, Step};
use iommu_trace::{
    cli::{CheckArgs, ConsumerOptions, RecordArgs, Run},
    event::{Body, Event, Phase, ProbeId},
    model::testing::{Req, Script, bond, dev, group, hnd, kernel_7_3},
    recording::Recording,
    source::{Batch, Progress, Source, SourceInfo},
};

#[derive(clap::Parser)]
struct TraceArguments {
    #[command(flatten)]
    options: ConsumerOptions,
}

#[derive(clap::Parser)]
struct CheckArguments {
    #[command(flatten)]
    check: CheckArgs,
}

#[derive(clap::Parser)]
struct RecordArguments {
    #[command(flatten)]
    record: RecordArgs,
}

fn info() -> SourceInfo {
    SourceInfo { features: kernel_7_3(), started_ns: 1_000_000, epoch_offset_ns: 1_000, ..common::info() }
}

/// Attaches, faults of two threads, a violation in the middle, a loss, an SVA bond, map and unmap.
fn script() -> Script {
    let (device, other, mut script) = (dev(1), dev(2), Script::new());
    let (handle, second) = (hnd(1, &device), hnd(2, &other));
    script.by(10).snapshot_begin(&other, iommu_trace::model::testing::DEFAULT).snapshot_end(&other);
    script.by(10).bind(&device).attach(&device, 0, &handle).attach(&device, 5, &hnd(3, &device));
    for n in 0..30 {
        let request = Req::new((n % 3 == 0).then_some(5), n, 0x1000 * u64::from(n));
        let used = if n % 3 == 0 { hnd(3, &device) } else { handle };
        script.by(20 + n % 2).fault(group(n), &device, &request, &used);
        script.by(30).read(device.id, &request, n + 1).pass(1_000).write(group(n), &device, &request, &used, n % 2);
    }
    // Into a slot that is occupied: a rule is broken.
    script.by(11).core_attach(&device, 5, &hnd(7, &device), 0);
    script.by(10).detach(&device, 0, &handle);
    script.by(10).lost(ProbeId::GroupFree, Phase::Enter, 3);
    script.by(40).bind(&other).attach(&other, 0, &second).detach(&other, 0, &second).unbind(&other);
    script.by(41).sva(ProbeId::SvaBind, &other, None, 1, 0).sva_bound(&other, Some(&bond(4, &other)), 1, 1, 0);
    script
}

/// In batches, as a source gives them; the last is empty.
fn steps(events: &[Event], size: usize) -> Vec<Step> {
    events.chunks(size).map(|chunk| Step::Events(chunk.to_vec())).chain([Step::Events(vec![])]).collect()
}

fn scripted(events: &[Event]) -> Box<dyn Source> {
    Scripted { info: info(), ..Scripted::new(steps(events, 7)) }.boxed()
}

fn record(dir: &Path, events: &[Event], arguments: &[&str]) -> PathBuf {
    let path = dir.join("run.itr");
    let all = [&["record", "-o", path.to_str().unwrap()], arguments].concat();
    let record = RecordArguments::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).record;
    record.record(scripted(events)).unwrap();
    path
}

fn recorded(events: &[Event]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::read(record(dir.path(), events, &[])).unwrap()
}

fn trace(source: Box<dyn Source>, dir: &Path, arguments: &[&str]) -> String {
    let path = dir.join("trace.out");
    let all = [&["trace", "--output", path.to_str().unwrap()], arguments].concat();
    let options = TraceArguments::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).options;
    Run::new(&options).unwrap().consume(source).unwrap();
    fs::read_to_string(path).unwrap()
}

fn check(source: Box<dyn Source>, dir: &Path, arguments: &[&str]) -> String {
    let path = dir.join("check.out");
    let all = [&["check", "--output", path.to_str().unwrap()], arguments].concat();
    let check = CheckArguments::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).check;
    let options = check.consumer();
    Run::new(&options).unwrap().judging(check.judging().unwrap()).consume(source).unwrap();
    fs::read_to_string(path).unwrap()
}

/// How long the tracer's own look-ups took differs from run to run.
fn without_own_times(text: &str) -> String {
    let lines = text.lines().map(|line| match serde_json::from_str::<serde_json::Value>(line) {
        Ok(mut value) => {
            if let Some(mirror) = value.get_mut("mirror") {
                mirror["lookup"] = serde_json::Value::Null;
            }
            value.to_string()
        }
        Err(_) => line.split("mirror's own").next().unwrap_or_default().to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Lines that a trace of [`scripted`] begins with.
const HEADS: usize = 3;

#[test]
fn a_recording_tells_what_was_told_live() {
    let dir = tempfile::tempdir().unwrap();
    let events = script().events;
    let path = record(dir.path(), &events, &[]);
    for arguments in [
        &["--format", "json"][..],
        &["--format", "json", "--stacks", "--stages"],
        &["--stacks", "--time", "utc"],
        &["--events", "fault", "--pasid", "5"],
        &["--device", "*1.0", "--min-latency", "1us"],
    ] {
        let live = trace(scripted(&events), dir.path(), arguments);
        let replayed = trace(Box::new(Recording::open(&path).unwrap()), dir.path(), arguments);
        assert!(live.lines().count() > 3, "{live}");
        assert_eq!(without_own_times(&replayed), without_own_times(&live), "{arguments:?}");
    }
    // How much more was read when the source stopped, either may say otherwise.
    let shown = |source: Box<dyn Source>| -> Vec<String> {
        let text = trace(source, dir.path(), &["--count", "7"]);
        assert!(text.contains("the number of events given is reached\n  events    7\n"), "{text}");
        text.lines().take(HEADS + 7).map(str::to_owned).collect()
    };
    assert_eq!(shown(Box::new(Recording::open(&path).unwrap())), shown(scripted(&events)));
    for arguments in [&["--format", "json"][..], &["--ownership", "refcounted"]] {
        let live = check(scripted(&events), dir.path(), arguments);
        let replayed = check(Box::new(Recording::open(&path).unwrap()), dir.path(), arguments);
        assert!(live.contains("VIOLATION slot-occupied") || live.contains("\"event\":\"violation\""), "{live}");
        assert_eq!(without_own_times(&replayed), without_own_times(&live), "{arguments:?}");
    }
}

fn all(source: &mut dyn Source) -> (Vec<Event>, Vec<u64>, Option<String>) {
    let (mut events, mut uptos) = (Vec::new(), Vec::new());
    for _ in 0..100_000 {
        let mut batch = Batch::default();
        match source.poll(Duration::ZERO, &mut batch) {
            Ok(progress) => {
                events.extend(batch.events);
                uptos.push(batch.upto);
                if progress == Progress::End {
                    return (events, uptos, None);
                }
            }
            Err(error) => return (events, uptos, Some(format!("{error:#}"))),
        }
    }
    panic!("the recording does not end");
}

fn open(bytes: &[u8]) -> anyhow::Result<Recording> {
    use std::io::{Seek as _, Write as _};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    Recording::from_file(file, "test".into())
}

#[test]
fn batches_come_back_as_they_were() {
    let events = script().events;
    let (got, uptos, damage) = all(&mut open(&recorded(&events)).unwrap());
    assert_eq!(damage, None);
    assert_eq!(got.len(), events.len());
    let expected: Vec<u64> = events.chunks(7).map(|chunk| chunk.last().unwrap().ts).collect();
    assert_eq!(uptos[..expected.len()], expected);
}

/// The small file has two frames of events: the first was cut when a rule was broken.
#[test]
fn a_file_cut_anywhere_opens_to_its_last_whole_frame_and_says_so() {
    let events = script().events;
    let whole = recorded(&events);
    let (full, ..) = all(&mut open(&whole).unwrap());
    let mut lengths = std::collections::BTreeSet::new();
    for len in 0..whole.len() {
        let Ok(mut source) = open(&whole[..len]) else { continue };
        let (got, _, damage) = all(&mut source);
        // A cut is what a crash leaves: told as a warning, and no error.
        assert_eq!(damage, None, "cut at {len}");
        assert_eq!(got, full[..got.len()], "cut at {len}");
        lengths.insert(got.len());
    }
    assert!(lengths.len() >= 3 && lengths.contains(&full.len()), "{lengths:?}");
    assert!(open(&whole[..20]).is_err_and(|error| format!("{error:#}").contains("cut within its header")));
    assert!(open(&[]).is_err_and(|error| format!("{error:#}").contains("empty")));
}

#[test]
fn no_single_byte_can_be_changed_unnoticed() {
    let events = script().events;
    let whole = recorded(&events);
    let (full, ..) = all(&mut open(&whole).unwrap());
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        let Ok(mut source) = open(&bytes) else { continue };
        let (got, _, damage) = all(&mut source);
        assert_eq!(got, full[..got.len()], "byte {at}");
        // All that is behind the index is where the index is.
        assert!(damage.is_some() || (got == full && at >= whole.len() - 16), "byte {at} of {}", whole.len());
        let _ = source.index().map(|index| index.events());
    }
}

#[test]
fn what_is_no_recording_is_said() {
    let told = |bytes: &[u8]| format!("{:#}", open(bytes).err().unwrap());
    assert!(told(b"#!/bin/sh\necho this is no recording\n").contains("no recording of iommu-trace"));
    let mut future = recorded(&script().events);
    future[8] = 9;
    assert!(told(&future).contains("format version 9") && told(&future).contains("a newer one is needed"));
    for (path, what) in
        [("/", "is a directory"), ("/dev/zero", "no recording"), ("/dev/null", "empty"), ("/no/file", "No such file")]
    {
        let told = format!("{:#}", Recording::open(Path::new(path)).err().unwrap());
        assert!(told.contains(path) && told.contains(what), "{told}");
    }
}

#[test]
fn seeking_gives_the_state_and_then_what_follows() {
    let events = script().events;
    let mut source = open(&recorded(&events)).unwrap();
    let index = source.index().unwrap();
    assert_eq!(index.events(), events.len() as u64);
    assert_eq!(index.times(), Some((events[0].ts, events.iter().map(|event| event.ts).max().unwrap())));
    let middle = events[events.len() / 2].ts;
    source.seek(middle).unwrap();
    let (got, ..) = all(&mut source);
    let pieces = got.iter().take_while(|event| matches!(event.body, Body::Slot(_))).count();
    let entries =
        got.iter().filter(|event| matches!(&event.body, Body::Slot(slot) if !slot.handle.ptr.is_null())).count();
    assert!(pieces >= 8 && entries == 2, "{pieces} {entries}");
    assert!(got[..pieces].iter().all(|event| event.ts < middle));
    assert_eq!(got[pieces..].len(), events.iter().filter(|event| event.ts >= middle).count());
    source.rewind().unwrap();
    assert_eq!(all(&mut source).0.len(), events.len());
}

/// Recordings that were made by each version of the format, by `make_the_sample_of_this_version`.
const SAMPLES: &[(&str, usize, u64)] = &[("v1.itr", 287, 20)];

#[test]
fn recordings_of_every_version_are_read() {
    for &(name, count, faults) in SAMPLES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        let (events, _, damage) = all(&mut Recording::open(&path).unwrap());
        assert_eq!((events.len(), damage), (count, None), "{name}");
        let output = run(&["stats", "--format", "json", path.to_str().unwrap()]);
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(stats["events"]["fault"]["count"], faults, "{name}: {stats}");
        assert_eq!(stats["violations"]["slot-occupied"], 1, "{name}");
        let traced = run(&["trace", "--stacks", "--from", path.to_str().unwrap()]);
        assert!(stdout(&traced).contains("prq_event_thread+0x1e2/0x4a0"), "{name}: {}", stdout(&traced));
    }
    assert_eq!(SAMPLES.len(), iommu_trace::recording::VERSION as usize, "each version has its sample");
}

#[test]
#[ignore = "makes the file, once for each version"]
fn make_the_sample_of_this_version() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let name = format!("v{}.itr", iommu_trace::recording::VERSION);
    common::recorded::record(&data, &name, &common::recorded::workload(20, 1));
}

fn iommu_trace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommu-trace"));
    command.args(arguments).env("COLUMNS", "100").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    iommu_trace(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_consumer_reads_a_file_and_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), &script().events, &[]);
    let path = path.to_str().unwrap();
    let traced = run(&["trace", "--from", path]);
    assert_eq!((traced.status.code(), stderr(&traced).as_str()), (Some(0), ""));
    assert!(stdout(&traced).contains("VIOLATION") && stdout(&traced).contains("LOST"), "{}", stdout(&traced));
    let piped = iommu_trace(&["trace", "--from", "-"]).stdin(fs::File::open(path).unwrap()).output().unwrap();
    assert_eq!(without_own_times(&stdout(&piped)), without_own_times(&stdout(&traced)));
    let mut cat = Command::new("cat").arg(path).stdout(Stdio::piped()).spawn().unwrap();
    let piped = iommu_trace(&["trace", "--from", "-"]).stdin(cat.stdout.take().unwrap()).output().unwrap();
    cat.wait().unwrap();
    assert_eq!(without_own_times(&stdout(&piped)), without_own_times(&stdout(&traced)));

    assert_eq!(run(&["check", "--from", path]).status.code(), Some(3));
    let handles = run(&["handles", "--from", path, "--json"]);
    let held: serde_json::Value = serde_json::from_slice(&handles.stdout).unwrap();
    assert_eq!(held["groups"].as_array().unwrap().len(), 2, "{held}");
    let early = run(&["handles", "--from", path, "--json", "--at", "0.000005"]);
    let held: serde_json::Value = serde_json::from_slice(&early.stdout).unwrap();
    let slots = held["groups"][0]["slots"].as_array().unwrap();
    assert_eq!(
        (slots.len(), slots[0]["owner"].as_str(), slots[0]["device_id"].as_u64()),
        (2, Some("iommufd"), Some(2))
    );
}

#[test]
fn standard_output_by_its_device_is_as_good_as_a_dash() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), &script().events, &[]);
    let into = |name: &str| {
        let file = dir.path().join("redirected");
        let mut command = Command::new(env!("CARGO_BIN_EXE_iommu-trace"));
        command.args(["record", "-o", name, "--from"]).arg(&path);
        // To a file, as `>` does, and to a pipe.
        assert!(command.stdout(fs::File::create(&file).unwrap()).status().unwrap().success());
        let piped = command.stdout(std::process::Stdio::piped()).output().unwrap().stdout;
        assert_eq!(fs::read(file).unwrap(), piped, "{name}");
        piped
    };
    let whole = into("-");
    assert!(whole.len() > 500 && into("/dev/stdout") == whole);
    // What cannot be made anew keeps no older ones.
    let output = run(&["record", "-o", "/dev/stdout", "--last", "1s", "--from", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn what_makes_no_sense_with_a_recording_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), &script().events, &[]);
    let path = path.to_str().unwrap();
    let before = fs::read(path).unwrap();
    for (arguments, told) in [
        (&["trace", "--from", path, "--buffer-size", "8M"][..], "'--from <FILE>' cannot be used with '--buffer-size"),
        (&["check", "--from", path, "--track-frees"], "cannot be used with '--track-frees'"),
        (&["trace", "--from", path, "--", "true"], "cannot be used with '[CMD]...'"),
        (&["trace", "--from", path, "--output", path], "is the recording that --from reads"),
        (&["handles", "--at", "1s"], "--from <FILE>"),
        (&["record", "-o", "/"], "it is a directory"),
        (&["record", "-o", "x.itr", "--keep", "3"], "--keep needs --max-size"),
        (&["record"], "--output <FILE>"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(fs::read(path).unwrap(), before);
}

#[test]
fn a_damaged_file_is_told_with_status_2_after_all_that_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), &script().events, &[]);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let output = run(&["trace", "--from", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("sva_bind"), "{}", stdout(&output));
    assert!(stderr(&output).contains("checksum") && stderr(&output).contains("run.itr"), "{}", stderr(&output));

    fs::write(&path, &bytes[..bytes.len() - 80]).unwrap();
    let output = run(&["trace", "--from", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("is not whole"), "{}", stderr(&output));
}
