//! Runs that begin and end: often, two at once, by a signal, with a command's exit status.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    compare::{Trust, compare},
    session::{Files, Script},
    trace::{Schema, Trace},
    truth::Truth,
};
use crate::qemu::Iommu;

const ABOUT: &str =
    "runs begin and end cleanly: again and again, several at once, by a signal, with the command's status";
const ABOUT_LONG: &str = "runs begin and end cleanly 50 times";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "lifecycle-built-7.3",
        about: ABOUT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, TEN),
    },
    GuestTest {
        name: "lifecycle-built-6.12",
        about: ABOUT,
        kernel: "built-6.12",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| run(guest, checks, FOUR),
    },
    GuestTest {
        name: "long-lifecycle-built-7.3",
        about: ABOUT_LONG,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, FIFTY),
    },
    GuestTest {
        name: "long-lifecycle-built-6.12",
        about: ABOUT_LONG,
        kernel: "built-6.12",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| run(guest, checks, FIFTY),
    },
];

/// How often a tracer is started and stopped: alone, then several at once, which is harder on the kernel.
#[derive(Clone, Copy)]
struct Starts {
    alone: usize,
    rounds: usize,
    at_once: usize,
}

/// Where to detach takes seconds, as on 6.12: each function waits for grace periods of RCU.
const FOUR: Starts = Starts { alone: 2, rounds: 1, at_once: 2 };
const TEN: Starts = Starts { alone: 4, rounds: 2, at_once: 3 };
const FIFTY: Starts = Starts { alone: 5, rounds: 9, at_once: 5 };

/// Far more than it takes: emulated on a busy machine, each run takes seconds.
const LIMIT: Duration = Duration::from_secs(900);

/// The kernel's list of functions that something is attached to.
const TRACED: &str = "/sys/kernel/tracing/enabled_functions";

/// Waits until a trace has begun: its first line is there.
const WAIT: &str = "wait_for() { i=0; until [ -s $1 ] || [ $i = 600 ]; do sleep 0.1; i=$((i+1)); done; }";

fn run(guest: &Guest, checks: &mut Checks, starts: Starts) -> Result<()> {
    let Starts { alone, rounds, at_once } = starts;
    let mut script = Script::new();
    script.case(
        "alone",
        &format!("for i in $(seq {alone}); do iommu-trace trace --verbose --output /dev/null -- true || exit 1; done"),
    );
    script.case(
        "at-once",
        &format!(
            "for i in $(seq {rounds}); do pids=; for j in $(seq {at_once}); do \
             iommu-trace trace --output /dev/null -- true & pids=\"$pids $!\"; done; \
             for pid in $pids; do wait $pid || exit 1; done; done"
        ),
    );
    script.case(
        "two",
        &format!(
            "{WAIT}; iommu-trace trace --format json --output /out/outer.jsonl & outer=$!; wait_for /out/outer.jsonl; \
             iommu-trace trace --format json --output /out/inner.jsonl -- \
             guest iopf --faults 300 --threads 2 --leave-unread 2 --truth /out/two.truth || exit; \
             kill -INT $outer; wait $outer"
        ),
    );
    script.case(
        "summary",
        &format!(
            "{WAIT}; iommu-trace trace --output /out/text & pid=$!; wait_for /out/text; \
             guest iopf --faults 3 --truth /dev/null; sleep 0.5; kill -TERM $pid; wait $pid"
        ),
    );
    script.case("status", "iommu-trace trace --output /dev/null -- sh -c 'exit 7'");
    script.case("killed", "iommu-trace trace --output /dev/null -- sh -c 'kill -KILL $$'");
    // The kernel takes its time to detach, after the tracer has ended. The functions it traces are listed.
    script.case(
        "after",
        &format!(
            "for i in $(seq 60); do [ -s {TRACED} ] || {{ echo $i; exit 0; }}; sleep 1; done; cat {TRACED} >&2; exit 1"
        ),
    );
    let files = script.run(guest.vm().timeout(LIMIT))?;

    checks.check("start and stop, one after the other", files.expect_status("alone", 0));
    checks.check("start and stop, several at once", files.expect_status("at-once", 0));
    for note in times(&files.text("alone.stderr")?, alone) {
        checks.note(note);
    }
    checks.check("nothing stays attached", files.expect_status("after", 0));
    checks.note(format!("all detached {} s after the last run", files.text("after.stdout")?.trim()));
    checks.check("two tracers see the same", two(&files));
    checks.check("SIGTERM ends with the summary", summary(&files));
    checks.check("the command's exit status is passed on", files.expect_status("status", 7));
    checks.check("the command's signal is passed on", files.expect_status("killed", 137));
    Ok(())
}

/// Both traces are what the program did, and the one that SIGINT has ended says so.
fn two(files: &Files) -> Result<()> {
    files.expect_status("two", 0)?;
    let truths = [Truth::parse(&files.text("two.truth")?)?];
    let schema = Schema::load()?;
    for (name, reason) in [("outer", "interrupt"), ("inner", "command")] {
        let text = files.text(&format!("{name}.jsonl"))?;
        schema.check(&text)?;
        let trace = Trace::parse(&text).with_context(|| format!("the {name} trace"))?;
        trace.check_frame()?;
        trace.check_lossless()?;
        let (results, rest) = compare(&trace, &truths, Trust::Whole);
        for result in results.into_iter().chain([rest]) {
            result.with_context(|| format!("the {name} trace"))?;
        }
        ensure!(trace.end["exit"]["reason"] == reason, "the {name} trace ended so: {}", trace.end["exit"]);
    }
    Ok(())
}

/// The text of a run that a signal has ended has its events and its summary.
fn summary(files: &Files) -> Result<()> {
    files.expect_status("summary", 0)?;
    let text = files.text("text")?;
    let faults = text.lines().filter(|line| line.contains(" fault ") && line.contains("iommufd_mock0")).count();
    ensure!(faults == 3, "{faults} faults where there were 3:\n{text}");
    ensure!(text.contains("\n  lost      none"), "no summary:\n{text}");
    Ok(())
}

/// The medians of what the tracer says about itself.
fn times(log: &str, alone: usize) -> Vec<String> {
    let median = |line: &str, field: &str| -> Option<f64> {
        let mut times: Vec<Duration> = log
            .lines()
            .filter(|l| l.contains(line))
            .filter_map(|l| l.split(field).nth(1)?.split_whitespace().next())
            .filter_map(duration)
            .collect();
        times.sort();
        times.get(times.len() / 2).map(Duration::as_secs_f64)
    };
    [("probes attached", "all="), ("probes handed over to be detached", "took=")]
        .into_iter()
        .filter_map(|(line, field)| Some(format!("{line}: {:.2} s (median of {alone})", median(line, field)?)))
        .collect()
}

/// A duration as Rust's `Debug` writes it.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_rust_writes_them() {
        for time in [Duration::from_nanos(7), Duration::from_micros(1500), Duration::from_millis(12_345)] {
            let read = duration(&format!("{time:?}")).unwrap();
            assert!(read.abs_diff(time) < Duration::from_nanos(10), "{time:?} became {read:?}");
        }
        assert_eq!(duration("soon"), None);
    }

    #[test]
    fn medians_are_taken_of_the_tracers_own_words() {
        let log = "DEBUG probes attached types=1ms maps=2ms all=1.5s\nDEBUG probes handed over to be detached took=20ms\n\
                   DEBUG probes attached types=1ms maps=2ms all=700ms\nDEBUG probes handed over to be detached took=9ms\n\
                   DEBUG probes attached types=1ms maps=2ms all=900ms\nDEBUG probes handed over to be detached took=30ms\n";
        let notes = times(log, 3);
        assert!(notes[0].starts_with("probes attached: 0.90 s"), "{notes:?}");
        assert!(notes[1].starts_with("probes handed over to be detached: 0.02 s"), "{notes:?}");
        assert!(times("nothing", 3).is_empty());
    }
}
