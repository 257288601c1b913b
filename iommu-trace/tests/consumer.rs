//! The consumer's loop, from a source to a file, without a kernel.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser as _;
use common::scripted::{Scripted, Step, fault, lost};
use iommu_trace::cli::{ConsumerOptions, Run};
use serde_json::Value;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: ConsumerOptions,
}

fn options(arguments: &[&str]) -> ConsumerOptions {
    Arguments::try_parse_from(["test"].iter().chain(arguments)).unwrap().options
}

struct Ran {
    done: anyhow::Result<ExitCode>,
    text: String,
}

impl Ran {
    fn code(&self) -> u8 {
        // ExitCode tells its number to nobody but the system.
        let code = self.done.as_ref().unwrap_or_else(|error| panic!("{error:#}"));
        (0..=255).find(|n| *code == ExitCode::from(*n)).unwrap()
    }

    fn json(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn end(&self) -> Value {
        let end = self.json().pop().unwrap();
        assert_eq!(end["event"], "end");
        end
    }

    fn of(&self, event: &str) -> usize {
        self.json().iter().filter(|line| line["event"] == event).count()
    }
}

fn run(source: Scripted, arguments: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let mut all = vec!["--output", path.to_str().unwrap()];
    all.extend(arguments);
    let options = options(&all);
    let done = Run::new(&options).and_then(|run| run.consume(source.boxed()));
    Ran { done, text: fs::read_to_string(&path).unwrap_or_default() }
}

fn faults(numbers: impl IntoIterator<Item = u32>) -> Vec<Step> {
    numbers.into_iter().map(|n| Step::Events(fault(n))).collect()
}

#[test]
fn every_fault_of_a_source_is_shown_once_between_start_and_end() {
    let ran = run(Scripted::new(faults(1..=50)), &["--format", "json"]);
    assert_eq!(ran.code(), 0);
    let lines = ran.json();
    assert_eq!(lines[0]["event"], "start");
    let seen: Vec<u64> =
        lines.iter().filter(|line| line["event"] == "fault").map(|line| line["grpid"].as_u64().unwrap()).collect();
    assert_eq!(seen, (1..=50).collect::<Vec<_>>());
    let end = ran.end();
    assert_eq!(end["exit"]["reason"], "end_of_source");
    assert_eq!(end["faults"]["invalid"], 50, "{end}");
    assert_eq!(end["latencies"]["response"]["max_ns"], 5_000, "{end}");
}

#[test]
fn text_has_a_header_and_a_summary() {
    let ran = run(Scripted::new(faults(1..=2)), &[]);
    assert!(ran.text.starts_with("iommu-trace "), "{}", ran.text);
    assert_eq!(ran.text.matches(" fault   0x").count(), 2, "{}", ran.text);
    assert!(ran.text.ends_with("  lost      none\n"), "{}", ran.text);
}

#[test]
fn stacks_are_shown_when_asked_for() {
    let ran = run(Scripted::new(faults(1..=1)), &["--stacks"]);
    assert!(ran.text.contains("iommu_report_device_fault+0x5/0x2b0"), "{}", ran.text);
    assert!(!ran.text.contains("bpf_prog"), "our own program is in the stack: {}", ran.text);
    assert!(!run(Scripted::new(faults(1..=1)), &[]).text.contains("+0x5/0x2b0"));
}

#[test]
fn what_the_filters_leave_out_is_counted_and_losses_are_told_all_the_same() {
    let mut steps = faults(1..=3);
    steps.push(Step::Events(lost(4, 9)));
    let ran = run(Scripted::new(steps), &["--format", "json", "--device", "0000:*"]);
    assert_eq!((ran.of("fault"), ran.of("lost")), (0, 1), "{}", ran.text);
    let end = ran.end();
    assert_eq!(end["filtered"], 3);
    assert_eq!(end["lost"][0]["count"], 9);
    assert_eq!(end["lost"][0]["probe"], "iopf_free_group");
}

#[test]
fn count_ends_the_run_after_exactly_as_many() {
    let source = Scripted { storm: true, ..Scripted::live(vec![Step::Events((1..100).flat_map(fault).collect())]) };
    let ran = run(source, &["--format", "json", "--count", "42"]);
    assert_eq!(ran.of("fault"), 42);
    assert_eq!(ran.end()["exit"]["reason"], "count");
}

#[test]
fn duration_ends_the_run_also_when_nothing_happens_and_under_a_storm() {
    for storm in [false, true] {
        let source = Scripted { storm, ..Scripted::live(faults(1..=1)) };
        let begin = Instant::now();
        let ran = run(source, &["--format", "json", "--duration", "100ms"]);
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert_eq!(ran.end()["exit"]["reason"], "duration");
    }
}

#[test]
fn the_command_s_exit_status_becomes_ours() {
    let ran = run(Scripted::live(faults(1..=3)), &["--format", "json", "--", "sh", "-c", "exit 7"]);
    assert_eq!(ran.code(), 7);
    assert_eq!(ran.end()["exit"]["reason"], "command");
    assert_eq!(ran.end()["exit"]["command"]["status"], 7);
    assert_eq!(ran.json()[0]["command"][2], "exit 7");
}

#[test]
fn a_command_killed_by_a_signal_gives_128_and_the_signal() {
    let ran = run(Scripted::live(vec![]), &["--format", "json", "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(ran.code(), 128 + 9);
    assert_eq!(ran.end()["exit"]["command"]["signal"], 9);
}

#[test]
fn a_command_that_outlives_the_run_is_terminated() {
    let begin = Instant::now();
    let ran =
        run(Scripted::live(vec![]), &["--format", "json", "--duration", "50ms", "--", "sh", "-c", "exec sleep 100"]);
    assert!(begin.elapsed() < Duration::from_secs(4), "it was waited for");
    assert_eq!(ran.code(), 0);
    assert_eq!(ran.end()["exit"]["command"]["signal"], 15);
}

#[test]
fn a_command_that_does_not_exist_is_named_and_nothing_is_written() {
    for (command, told) in [
        (
            "no-such-command-here",
            "cannot start the command \"no-such-command-here\": it is not in any directory of PATH",
        ),
        ("./no/such/file", "cannot start the command \"./no/such/file\": there is no such file"),
        ("/proc/self/status", "cannot start the command \"/proc/self/status\": it is not executable"),
    ] {
        let ran = run(Scripted::live(vec![]), &["--", command]);
        assert_eq!(format!("{:#}", ran.done.unwrap_err()), told);
        assert_eq!(ran.text, "");
    }
}

#[test]
fn a_command_that_cannot_be_executed_ends_the_run_with_an_end_line() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = run(Scripted::live(vec![]), &["--format", "json", "--", script.to_str().unwrap()]);
    assert_eq!(ran.end()["exit"]["reason"], "error");
    let told = format!("{:#}", ran.done.unwrap_err());
    assert!(told.starts_with("cannot start the command") && told.contains("No such file"), "{told}");
}

#[test]
fn a_source_that_fails_is_told_after_an_end_line() {
    let mut steps = faults(1..=2);
    steps.push(Step::Fail("the ring is broken"));
    let ran = run(Scripted::live(steps), &["--format", "json"]);
    assert_eq!(ran.of("fault"), 2);
    assert_eq!(ran.end()["exit"]["reason"], "error");
    assert_eq!(format!("{:#}", ran.done.unwrap_err()), "the ring is broken");
}

#[test]
fn a_full_disk_ends_the_run_and_names_the_file() {
    let options = options(&["--output", "/dev/full", "--", "sleep", "100"]);
    let begin = Instant::now();
    let source = Scripted { storm: true, ..Scripted::live(faults(1..=1)) };
    let error = Run::new(&options).unwrap().consume(source.boxed()).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!(
        format!("{error:#}"),
        "cannot write to \"/dev/full\", so the output ends early: No space left on device (os error 28)"
    );
}

fn fifo(dir: &Path) -> PathBuf {
    let path = dir.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    path
}

#[test]
fn a_closed_pipe_is_told_apart_from_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut line = String::new();
            BufReader::new(fs::File::open(path).unwrap()).read_line(&mut line).unwrap();
            line
        }
    });
    let options = options(&["--output", path.to_str().unwrap()]);
    let source = Scripted { storm: true, ..Scripted::live(faults(1..=1)) };
    let error = Run::new(&options).unwrap().consume(source.boxed()).unwrap_err();
    assert!(iommu_trace::output::is_closed_pipe(&error), "{error:#}");
    assert!(reader.join().unwrap().starts_with("iommu-trace "));
}

#[test]
fn a_reader_of_a_pipe_need_not_wait_for_a_full_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            let begin = Instant::now();
            let found = BufReader::new(fs::File::open(path).unwrap())
                .lines()
                .any(|line| line.unwrap().contains("\"event\":\"fault\""));
            (found, begin.elapsed())
        }
    });
    let options = options(&["--format", "json", "--duration", "3s", "--output", path.to_str().unwrap()]);
    // The reader leaves after the first fault; that only the end line meets a closed pipe is as good.
    let _ = Run::new(&options).unwrap().consume(Scripted::live(faults(1..=1)).boxed());
    let (found, took) = reader.join().unwrap();
    assert!(found && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn filtering_by_the_command_needs_one() {
    let ran = run(Scripted::new(vec![]), &["--pid", "command"]);
    assert!(format!("{:#}", ran.done.unwrap_err()).contains("the command after `--`"));
}
