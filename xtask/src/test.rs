//! `cargo xtask test`: every check and test, in one list.

mod built;
mod lanes;

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    arch::Arch,
    cargo,
    command::{self, tail},
    grafana,
    guest_tests::{self, Checks, Ctx, GuestTest},
    kernel,
    progress::{elapsed, say},
    prometheus, setup, workspace,
};

/// Lines of a failed step's output that are shown.
const TAIL: usize = 60;

/// Steps that are run only when they are asked for.
const BY_NAME_ONLY: &[&str] = &[
    "broken",
    "long",
    "arm64",
    "package",
    "deny",
    "dropped-stock-7.3",
    // For their time.
    "disturbed",
    // The same on other kernels is run every day.
    "lifecycle-built-6.12",
    "privileges-built-6.12",
    "privileges-stock-6.12",
];

/// The BPF crate builds for its own target only; iommu-trace's build script sees to that.
const HOST_PACKAGES: &[&str] = &["--workspace", "--exclude", "iommu-trace-ebpf"];

/// Options of `cargo xtask test`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Run only the steps of this name, or whose names start with it; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Show the steps, and run none
    #[arg(long)]
    list: bool,
    /// Steps at a time: cargo's are one after the other in any case
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Take what is installed as it is, and install nothing
    #[arg(long)]
    no_setup: bool,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn of(passed: bool) -> Self {
        Self { passed: usize::from(passed), failed: usize::from(!passed) }
    }
}

/// How a step went.
#[derive(Default)]
struct Report {
    /// Its tests.
    tally: Tally,
    /// What to show if any failed.
    output: String,
    /// What to show in any case.
    notes: Vec<String>,
}

/// What a step does.
enum Action {
    /// One check: cargo with these arguments and variables succeeds.
    Check(Vec<&'static str>, &'static [(&'static str, &'static str)]),
    /// `cargo test` with these arguments: as many tests as it counts.
    CargoTest(Vec<&'static str>),
    /// The exporter's tests with Prometheus' programs, and its unit by systemd's.
    Prometheus,
    /// The dashboards are as Grafana wants them.
    Grafana,
    /// The dependencies are what `deny.toml` allows.
    Deny,
    /// One test in a guest.
    Guest(&'static GuestTest),
}

/// One step.
struct Step {
    name: String,
    about: &'static str,
    action: Action,
}

fn steps(only: &[String]) -> Vec<Step> {
    let step = |name: &str, about, action| Step { name: name.to_owned(), about, action };
    let hosted = |before: &[&'static str], after: &[&'static str]| [before, HOST_PACKAGES, after].concat();
    let mut steps = vec![
        step("fmt", "formatting", Action::Check(vec!["fmt", "--all", "--check"], &[])),
        step("bpf", "the BPF object builds", Action::Check(vec!["build", "--package", "iommu-trace"], &[])),
        step(
            "clippy",
            "lints",
            Action::Check(hosted(&["clippy"], &["--all-targets", "--", "--deny", "warnings"]), &[]),
        ),
        step(
            "docs",
            "documentation builds without warnings",
            Action::Check(hosted(&["doc"], &["--no-deps"]), &[("RUSTDOCFLAGS", "--deny warnings")]),
        ),
        step("unit", "unit and documentation tests", Action::CargoTest(hosted(&["test"], &["--no-fail-fast"]))),
        step("prometheus", "a real Prometheus scrapes the exporter", Action::Prometheus),
        step("grafana", "the dashboards fit Grafana's schema", Action::Grafana),
        step("deny", "licences, sources and advisories of the dependencies", Action::Deny),
    ];
    // Kernels with a bug put in take their time to build: without being asked for, only those in the cache are run.
    let wanted = |test: &GuestTest| !only.is_empty() || kernel::ready(test.kernel);
    steps.extend(guest_tests::all().filter(|test| wanted(test)).map(|test| Step {
        name: format!("guest/{}", test.name),
        about: test.about,
        action: Action::Guest(test),
    }));
    steps
}

/// Runs the steps; the exit status is 1 if a test failed. The last line printed is `N passed, N failed`.
pub fn main(arguments: &Arguments) -> Result<u8> {
    let steps = select(steps(&arguments.only), &arguments.only)?;
    if arguments.list {
        for step in &steps {
            say(&format!("{:<28} {}\n", step.name, step.about));
        }
        return Ok(0);
    }
    let started = Instant::now();
    let mut total = Tally::default();
    let mut failures = Vec::new();
    if !arguments.no_setup
        && let Err(error) = needed(&steps).into_iter().try_for_each(setup::ensure)
    {
        total.failed += 1;
        failures.push(("setup".to_owned(), format!("{error:#}")));
    } else {
        if let Err(error) = built::bring() {
            say(&format!("what was built of others' crates is not brought: {error:#}\n"));
        }
        let ctx = Ctx::default();
        let (guests, cargo) = steps.into_iter().partition(|step| matches!(step.action, Action::Guest(_)));
        let timed = |step: &Step| {
            let at = Instant::now();
            (run(step, &ctx), at.elapsed())
        };
        lanes::run(cargo, guests, arguments.jobs, timed, |step, (Report { tally, output, notes }, time)| {
            say(&format!("{:<28} {}\n", step.name, line(tally, time)));
            for note in notes {
                say(&format!("  {note}\n"));
            }
            total.passed += tally.passed;
            total.failed += tally.failed;
            if tally.failed > 0 {
                // At once for who waits; at the end again, where who comes later looks.
                say(&format!("{output}\n"));
                failures.push((step.name, output));
            }
        });
        // What all steps need: one alone would keep a part.
        if arguments.only.is_empty()
            && total.failed == 0
            && let Err(error) = built::keep()
        {
            say(&format!("what was built of others' crates is not kept: {error:#}\n"));
        }
    }
    for (name, output) in &failures {
        say(&format!("\n---- {name} failed; its output ends\n{output}\n"));
    }
    say(&format!("\ntook {}\n", elapsed(started.elapsed())));
    say(&format!("{} passed, {} failed\n", total.passed, total.failed));
    Ok(u8::from(total.failed > 0))
}

fn select(steps: Vec<Step>, only: &[String]) -> Result<Vec<Step>> {
    for name in only {
        if !steps.iter().any(|step| is_called(step, name)) {
            bail!("no step is called {name}: `cargo xtask test --list` shows them");
        }
    }
    // Kernels with a bug put in are built one by one, and some tests take long: jobs of their own, run by name.
    let by_name_only = |step: &Step| BY_NAME_ONLY.iter().any(|name| is_called(step, name));
    let wanted = |step: &Step| {
        if only.is_empty() { !by_name_only(step) } else { only.iter().any(|name| is_called(step, name)) }
    };
    Ok(steps.into_iter().filter(wanted).collect())
}

/// The architectures whose guests are run: what others need is not installed. This machine's own is always among them.
fn needed(steps: &[Step]) -> Vec<Arch> {
    let of =
        |arch: Arch| steps.iter().any(|step| matches!(&step.action, Action::Guest(test) if test.iommu.arch() == arch));
    [Arch::Amd64].into_iter().chain(of(Arch::Arm64).then_some(Arch::Arm64)).collect()
}

/// Whether a step's name starts so, with or without `guest/`.
fn is_called(step: &Step, name: &str) -> bool {
    step.name.starts_with(name) || step.name.strip_prefix("guest/").is_some_and(|rest| rest.starts_with(name))
}

fn run(step: &Step, ctx: &Ctx) -> Report {
    let report = match &step.action {
        Action::Check(args, variables) => cargo(args, variables).map(|(ok, output)| Report {
            tally: Tally::of(ok),
            output: tail(&output, TAIL),
            ..Report::default()
        }),
        Action::CargoTest(args) => cargo(args, &[]).map(|(ok, output)| counted(ok, &output)),
        Action::Prometheus => with_prometheus(),
        Action::Grafana => Ok(with_grafana()),
        Action::Deny => denied(),
        Action::Guest(test) => Ok(guest_report(test.run(ctx))),
    };
    report.unwrap_or_else(|error| Report { tally: Tally::of(false), output: format!("{error:#}"), ..Report::default() })
}

/// The report on what `cargo test` said.
fn counted(ok: bool, output: &str) -> Report {
    let mut tally = count(output);
    if !ok && tally.failed == 0 {
        // It did not compile, or a test ended its whole process.
        tally.failed = 1;
    }
    Report { tally, output: tail(&failed_tests(output), TAIL), ..Report::default() }
}

/// cargo-deny's checks, one by one. The advisories are fetched; where they cannot be, those of last time do.
fn denied() -> Result<Report> {
    /// The version that is known to work.
    const VERSION: &str = "0.20.2";
    let program = cargo::tool("cargo-deny", VERSION)?;
    // Those for other systems, too, which nothing else fetches. Where they cannot be had, cargo-deny says which it lacks.
    let _ = command::output(cargo::command().current_dir(workspace::root()).args(["fetch", "--locked"]));
    let check = |options: &[&str], what: &str| {
        let mut deny = Command::new(&program);
        deny.current_dir(workspace::root()).args(options).args(["check", what]);
        command::output(&mut deny)
    };
    let mut checks = Checks::default();
    for what in ["licenses", "bans", "sources"] {
        checks.check(what, check(&["--offline"], what).map(drop));
    }
    match check(&[], "advisories").or_else(|_| check(&["--offline"], "advisories")) {
        Err(error) if format!("{error:#}").contains("advisory-db") => {
            checks.note("not run: RustSec's advisories cannot be fetched, and were not before");
        }
        result => checks.check("advisories", result.map(drop)),
    }
    Ok(guest_report(checks))
}

/// What cannot be had here is left out, and that is said.
fn with_prometheus() -> Result<Report> {
    let mut args = vec!["test", "--package", "iommu-trace"];
    let mut notes = Vec::new();
    let dir = prometheus::get();
    match &dir {
        Ok(_) => args.extend(["--test", "prometheus"]),
        Err(error) => notes.push(format!("not run: Prometheus cannot be had from Debian's archive: {error:#}")),
    }
    if command::find("systemd-analyze").is_some() {
        args.extend(["--test", "unit_file"]);
    } else {
        notes.push("not run: the unit's judgement by systemd-analyze, which is not there".to_owned());
    }
    if !args.contains(&"--test") {
        return Ok(Report { notes, ..Report::default() });
    }
    args.extend(["--", "--include-ignored"]);
    let dir = dir.unwrap_or_default();
    let dir = dir.to_str().context("the cache's path is no text")?;
    let (ok, output) = cargo(&args, &[("IOMMU_TRACE_PROMETHEUS", dir)])?;
    Ok(Report { notes, ..counted(ok, &output) })
}

fn with_grafana() -> Report {
    if let Some(missing) = grafana::NEEDS.iter().find(|program| command::find(program).is_none()) {
        return Report { notes: vec![format!("not run: there is no {missing}")], ..Report::default() };
    }
    match grafana::check() {
        Ok(()) => Report { tally: Tally::of(true), ..Report::default() },
        Err(error) => {
            Report { tally: Tally::of(false), output: tail(&format!("{error:#}"), TAIL), ..Report::default() }
        }
    }
}

fn guest_report(checks: Checks) -> Report {
    let tally = Tally { passed: checks.passed, failed: checks.failed.len() };
    let output: Vec<String> = checks.failed.iter().map(|(name, why)| format!("{name}: {}", tail(why, TAIL))).collect();
    Report { tally, output: output.join("\n"), notes: checks.notes }
}

/// Runs cargo; whether it succeeded, and all that it said.
fn cargo(args: &[&str], variables: &[(&str, &str)]) -> Result<(bool, String)> {
    let output = tempfile::NamedTempFile::new().context("cannot make a file for the output")?;
    // Both append to one file, so that their lines come in the order they were said.
    let append = || fs::OpenOptions::new().append(true).open(output.path());
    let mut cargo = cargo::command();
    cargo
        .current_dir(workspace::root())
        .args(args)
        .envs(variables.iter().copied())
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .stdout(append()?)
        .stderr(append()?);
    let status = cargo.status().map_err(|error| command::cannot_start(&cargo, &error))?;
    let said = fs::read(output.path()).context("cannot read the output")?;
    Ok((status.success(), format!("{}\n$ {}", String::from_utf8_lossy(&said), command::shown(&cargo))))
}

/// Adds up the `test result:` lines of `cargo test`.
fn count(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output.lines().filter_map(|l| l.strip_prefix("test result: ")) {
        let number = |what: &str| -> usize {
            line.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or_default()
        };
        tally.passed += number("passed");
        tally.failed += number("failed");
    }
    tally
}

/// What matters of a failed `cargo test`: what the failed tests said, or everything if it did not come to tests.
fn failed_tests(output: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in output.lines() {
        if line == "failures:" {
            inside = true;
        } else if line.starts_with("test result: ") {
            inside = false;
        }
        if inside {
            text.push_str(line);
            text.push('\n');
        }
    }
    if text.is_empty() { output.to_owned() } else { text }
}

/// One line about a step.
fn line(tally: Tally, time: Duration) -> String {
    let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
    let count = if tally.passed + tally.failed > 1 {
        format!("{} passed, {} failed, ", tally.passed, tally.failed)
    } else {
        String::new()
    };
    format!("{verdict:<7} ({count}{})", elapsed(time))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OUTPUT: &str = "\
running 2 tests
test a ... ok
test b ... FAILED

failures:

---- b stdout ----
thread 'b' panicked: expected 1 failed; 9 passed

failures:
    b

test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s

   Doc-tests x
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn the_results_of_several_test_programs_are_added_up() {
        assert_eq!(count(OUTPUT), Tally { passed: 16, failed: 1 });
        assert_eq!(count("error: could not compile"), Tally::default());
    }

    #[test]
    fn only_what_failed_tests_said_is_shown() {
        let text = failed_tests(OUTPUT);
        assert!(text.contains("panicked") && !text.contains("test a"), "{text}");
        assert_eq!(failed_tests("error: could not compile"), "error: could not compile");
    }

    #[test]
    fn steps_are_selected_by_name_or_its_beginning() {
        let names = |only: &str| -> Vec<String> {
            select(steps(&[]), &[only.to_owned()]).unwrap().into_iter().map(|s| s.name).collect()
        };
        assert_eq!(names("fmt"), ["fmt"]);
        assert!(names("guest/").len() > 2 && names("guest/").iter().all(|n| n.starts_with("guest/")));
        assert!(select(steps(&[]), &["nothing".to_owned()]).is_err());
    }

    #[test]
    fn what_arm64_needs_is_installed_for_its_guests_alone() {
        let needed = |only: &[String]| needed(&select(steps(only), only).unwrap());
        assert_eq!(needed(&[]), [Arch::Amd64]);
        assert_eq!(needed(&["arm64".to_owned()]), [Arch::Amd64, Arch::Arm64]);
    }

    #[test]
    fn step_names_are_unique() {
        let all = steps(&[]);
        let names: BTreeSet<_> = all.iter().map(|s| &s.name).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn a_step_of_one_test_needs_no_count() {
        assert_eq!(line(Tally::of(true), Duration::from_millis(1500)), "ok      (1.5 s)");
        assert!(line(Tally { passed: 2, failed: 1 }, Duration::ZERO).starts_with("FAILED  (2 passed, 1 failed"));
    }
}
