//! `iommu-trace report`: one page that shows what happened, to send with a bug report.

use std::{ffi::OsString, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::Args;

use super::{
    ConsumerOptions, Filter, FromArgs, LiveArgs, OutputArgs, SelectArgs, StopArgs,
    command::find_command,
    flow::{Flow, Teller, Whole},
    log,
    run::{Drive, refuse_same_file},
    source,
};
use crate::{
    analysis::Observer,
    event::Event,
    model::{Violation, span::Span},
    output::Output,
    report::Report as Collected,
    sandbox::Needs,
    source::live::StackLevel,
};

/// Make one HTML page of what happened: the lives of handles with the faults on them, latencies, violations with evidence.
///
/// The page needs no network and no other file, follows the reader's light or dark theme, and can be printed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace report -o run.html run.itr
  iommu-trace report -o run.html --device '0000:3b:*' run.itr
  iommu-trace report -o run.html -- ./my_test")]
pub struct Report {
    /// The recording (as with --from); `-` is standard input. Without one, the running kernel.
    #[arg(value_name = "FILE", conflicts_with_all = ["from", "record", "buffer_size", "track_frees", "duration", "command"])]
    file: Option<PathBuf>,

    /// The page; `-` is standard output.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// What is shown.
    #[command(flatten)]
    select: SelectArgs,
    /// When it ends.
    #[command(flatten)]
    stop: StopArgs,
    /// How it is traced.
    #[command(flatten)]
    live: LiveArgs,
}

impl Report {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        log::to_stderr(self.live.verbose);
        let from =
            FromArgs { from: self.file.clone().or_else(|| self.live.from.from.clone()), ..self.live.from.clone() };
        refuse_same_file(&from, Some(&self.output))?;
        let options = ConsumerOptions {
            select: self.select.clone(),
            stop: self.stop.clone(),
            // The evidence of violations has stacks.
            output: OutputArgs { stacks: StackLevel::Rare.into(), ..OutputArgs::default() },
            live: LiveArgs { from, ..self.live.clone() },
        };
        let filter = Filter::new(&options.select)?;
        let program = options.stop.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        let followed = filter.follows_command();
        if followed && program.is_none() {
            bail!("`--pid command` stands for the command after `--`, and there is none");
        }
        let output = Output::create(&self.output)?;
        let source = source::open(&options, &options.select.events, &Needs::NOTHING)?;
        let drive = Drive { stop: &options.stop, program, followed };
        drive.run(source, |stream| {
            Ok(Flow::new(stream, filter, options.stop.count, ToPage { report: Collected::default(), output }))
        })
    }
}

struct ToPage {
    report: Collected,
    output: Output,
}

impl Observer for ToPage {
    fn event(&mut self, event: &Event) {
        self.report.event(event);
    }

    fn span(&mut self, span: &Span) {
        self.report.span(span);
    }

    fn violation(&mut self, violation: &Violation) {
        self.report.violation(violation);
    }
}

impl Teller for ToPage {
    fn left_out(&mut self) {
        self.report.leave_out();
    }

    fn end(&mut self, whole: &Whole<'_>) -> anyhow::Result<()> {
        let page = std::mem::take(&mut self.report).page(whole.info, whole.upto, whole.exit, whole.stacks);
        self.output.write_all(page.as_bytes())?;
        Ok(self.output.flush()?)
    }
}
