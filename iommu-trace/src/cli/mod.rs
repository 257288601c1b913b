//! The command line: one file a subcommand, and what they share.
//!
//! Exit statuses: 0 for success, 2 for bad usage or a failed set-up, the started command's own where there is one,
//! and what a subcommand says of itself (`doctor` has 1, `check` 3).

mod check;
mod command;
mod completions;
mod consumer;
mod doctor;
mod export;
mod filter;
mod flow;
mod handles;
mod log;
mod man;
pub(crate) mod mirror;
mod options;
mod parse;
mod processes;
mod record;
mod report;
mod run;
mod serve;
mod session;
mod signals;
mod source;
mod stats;
mod top;
mod trace;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{event::harmless, output::is_closed_pipe, sandbox};

pub use check::CheckArgs;
pub use doctor::{Check, Report, State, Unit};
pub use filter::{Filter, Pids, Processes};
pub use handles::{holdings, holdings_at};
pub use options::{ConsumerOptions, FromArgs, LiveArgs, OutputArgs, RareStacksArgs, SelectArgs, StacksArgs, StopArgs};
pub use parse::Moment;
pub use processes::{Descendants, parent_in};
pub use record::RecordArgs;
pub use run::Run;
pub use serve::ServeArgs;
pub use session::Judging;
pub use stats::StatsArgs;

/// Bad usage or a failed set-up.
pub const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Exit status: 0 for success, 2 for bad usage or a failed set-up; with `-- CMD` the command's own (128 + signal if it was killed).

Tracing needs CAP_BPF and CAP_PERFMON, or root; `iommu-trace doctor` tells what this machine has and lacks.";

/// Watch the IOMMU's attach handles and I/O page faults on a running kernel.
#[derive(Debug, Parser)]
#[command(name = "iommu-trace", version, long_version = crate::version::LONG, about, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Trace(Box<trace::Trace>),
    Top(Box<top::Top>),
    Check(Box<check::Check>),
    Handles(handles::Handles),
    Record(Box<record::Record>),
    Stats(Box<stats::Stats>),
    Report(Box<report::Report>),
    Export(Box<export::Export>),
    Serve(Box<serve::Serve>),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Everything that `main` does.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help into a closed pipe is success, and nobody is there for a message.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    sandbox::take_over();
    let done = match cli.command {
        Command::Trace(trace) => trace.run(),
        Command::Top(top) => top.run(),
        Command::Check(check) => check.run(),
        Command::Handles(handles) => handles.run(),
        Command::Record(record) => record.run(),
        Command::Stats(stats) => stats.run(),
        Command::Report(report) => report.run(),
        Command::Export(export) => export.run(),
        Command::Serve(serve) => serve.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
    };
    match done {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain("error", &format!("{error:#}"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The whole command line, for tests and for the makers of documentation.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Says something on standard error. That nobody reads it is no reason to fail.
pub(crate) fn complain(what: &str, message: &str) {
    use std::io::Write as _;
    // What is quoted in it may be from a file that nobody vouches for. Some messages have lines of their own.
    let message: Vec<_> = message.lines().map(harmless).collect();
    let _ = writeln!(std::io::stderr(), "iommu-trace: {what}: {}", message.join("\n"));
}
