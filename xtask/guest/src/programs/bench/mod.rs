//! `bench`: what a tracer costs, by the CPU time of everybody who runs meanwhile.
//!
//! To be run under `cargo xtask vm --icount`, where a nanosecond is an instruction of the guest's one CPU. Each case starts a
//! tracer, waits until it is attached, runs a workload with nothing to do and then with `n` operations, waits each time until
//! all that was traced is dealt with, and stops the tracer. What an operation costs is the difference of the two by `n`, so that
//! set-up, tear-down and an idle tracer's work cancel out.
//!
//! A case is a line of the file of cases, its result a line of standard output.

mod case;
mod clocks;
mod programs;
mod pty;
mod tool;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::case::{Case, Outcome, Window};
use self::clocks::Clocks;
use self::tool::Tool;
use crate::sys;

/// What `bench` does.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cases: a JSON object a line.
    cases: PathBuf,
}

/// What `gate` does.
#[derive(Debug, clap::Args)]
pub struct GateArgs {
    /// Where `bench` waits.
    dir: PathBuf,
}

/// Says that the tracer is attached, and stays until it is to end.
pub fn gate(args: &GateArgs) -> ExitCode {
    match tool::gate(&args.dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest gate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long a tracer has to deal with what it was given. The guest's CPU is idle most of it, and a guest's idle time takes none.
const SETTLE: Duration = Duration::from_millis(1500);
/// How often a workload is run before it is measured.
const WARM_UPS: u32 = 1;

/// Runs the cases; a case that fails is told and costs no other.
pub fn run(args: &Args) -> ExitCode {
    match run_all(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(args: &Args) -> Result<()> {
    let file = File::open(&args.cases).with_context(|| format!("cannot open {}", args.cases.display()))?;
    for line in BufReader::new(file).lines() {
        let line = line.context("cannot read the cases")?;
        let case: Case = serde_json::from_str(&line).with_context(|| format!("{line:?} is no case"))?;
        let mut outcome = Outcome::of(&case);
        if let Err(error) = run_case(&case, &mut outcome) {
            outcome.error = Some(format!("{error:#}"));
        }
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &outcome)?;
        writeln!(out)?;
    }
    Ok(())
}

fn run_case(case: &Case, outcome: &mut Outcome) -> Result<()> {
    for command in &case.before {
        shell(command)?;
    }
    let tool = if case.tool.is_empty() { None } else { Some(Tool::start(case, outcome)?) };
    let result = measure(case, tool.as_ref(), outcome);
    let stopped = tool.map_or(Ok(()), |tool| tool.stop(case, outcome));
    result.and(stopped)?;
    if !case.verify.is_empty() {
        outcome.verified = shell(&case.verify)?;
    }
    for command in &case.after {
        shell(command)?;
    }
    Ok(())
}

/// Runs the workload without and with operations.
fn measure(case: &Case, tool: Option<&Tool>, outcome: &mut Outcome) -> Result<()> {
    for _ in 0..WARM_UPS {
        workload(case, case.warm_up)?;
    }
    thread::sleep(SETTLE);
    outcome.idle = window(case, tool, None)?;
    outcome.empty = window(case, tool, Some(0))?;
    outcome.full = window(case, tool, Some(case.n))?;
    if tool.is_some() && case.n_statistics > 0 {
        // Apart, because measuring costs two readings of the clock a run.
        let statistics = programs::keep_statistics()?;
        let before = programs::all()?;
        workload(case, case.n_statistics)?;
        outcome.programs = programs::since(&before, &programs::all()?);
        drop(statistics);
        thread::sleep(SETTLE);
    }
    if let Some(tool) = tool {
        outcome.memory = tool.memory()?;
    }
    Ok(())
}

/// Runs the workload with so many operations (or not at all), and tells who ran for how long until all was dealt with.
fn window(case: &Case, tool: Option<&Tool>, n: Option<u32>) -> Result<Window> {
    let own = tool.map(Tool::processes).transpose()?.unwrap_or_default();
    let before = Clocks::read(&own)?;
    let started = sys::now();
    let workload = n.map_or(Ok(0), |n| workload(case, n))?;
    let elapsed = sys::now() - started;
    thread::sleep(SETTLE);
    Ok(Window { workload, elapsed, ..Clocks::read(&own)?.since(&before) })
}

/// Runs it; nanoseconds on the CPU.
fn workload(case: &Case, n: u32) -> Result<u64> {
    let words = case.workload.iter().map(|word| if word == "{n}" { n.to_string() } else { word.clone() });
    let words: Vec<String> = words.collect();
    let (program, arguments) = words.split_first().context("no workload")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    clocks::wait_unreaped(child.id())?;
    let time = clocks::process(child.id())?;
    let status = child.wait()?;
    ensure!(status.success(), "{} ended with {status}", words.join(" "));
    Ok(time)
}

/// Runs a line of shell; its standard output.
fn shell(line: &str) -> Result<String> {
    let output = Command::new("sh").arg("-c").arg(line).stdin(Stdio::null()).output().context("cannot start sh")?;
    if !output.status.success() {
        bail!("{line:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
