//! `iommu-trace stats`: what happened, in one screen; or what differs between two recordings.

use std::{ffi::OsString, fmt::Write as _, io::Write as _, path::PathBuf, process::ExitCode};

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
    analysis::{Comparison, Observer, Stats as Collected, StatsDocument},
    event::Event,
    model::{Violation, span::Span},
    output::{Format, Output},
    recording::Opened,
    sandbox::{self, Needs},
    source::Source,
};

/// Tell what happened in numbers: counts, rates, latencies by stage, device and PASID, the slowest faults.
///
/// Of one recording, of the running kernel, or of two recordings side by side.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace stats run.itr
  iommu-trace stats before.itr after.itr
  iommu-trace stats --duration 1m
  iommu-trace stats --format json run.itr | jq '.latencies.response.p99_ns'
  ssh there cat run.itr | iommu-trace stats -")]
pub struct Stats {
    #[command(flatten)]
    arguments: StatsArgs,
}

/// What `stats` takes.
#[derive(Clone, Debug, Args)]
pub struct StatsArgs {
    /// A recording (as with --from), or two to be compared; `-` is standard input. Without one, the running kernel.
    #[arg(value_name = "FILE", num_args = 0..=2, conflicts_with_all = ["from", "record", "buffer_size", "track_frees", "duration", "command"])]
    pub files: Vec<PathBuf>,

    /// What is counted.
    #[command(flatten)]
    pub select: SelectArgs,
    /// When it ends.
    #[command(flatten)]
    pub stop: StopArgs,

    /// Text for people, or JSON for programs: one document.
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "How it looks")]
    pub format: Format,

    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "FILE", help_heading = "How it looks")]
    pub output: Option<PathBuf>,

    /// How it is traced.
    #[command(flatten)]
    pub live: LiveArgs,
}

impl StatsArgs {
    fn consumer(&self) -> ConsumerOptions {
        ConsumerOptions {
            select: self.select.clone(),
            stop: self.stop.clone(),
            output: OutputArgs::default(),
            live: self.live.clone(),
        }
    }

    /// What a source came to, and with which status the run ends.
    pub fn collect(&self, source: Box<dyn Source>) -> anyhow::Result<(Option<StatsDocument>, ExitCode)> {
        let filter = Filter::new(&self.select)?;
        let program = self.stop.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        let followed = filter.follows_command();
        if followed && program.is_none() {
            bail!("`--pid command` stands for the command after `--`, and there is none");
        }
        let mut document = None;
        let drive = Drive { stop: &self.stop, program, followed };
        let code = drive.run(source, |stream| {
            let told = Told { stats: Collected::default(), document: &mut document };
            Ok(Flow::new(stream, filter, self.stop.count, told))
        })?;
        Ok((document, code))
    }
}

impl Stats {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut arguments = self.arguments.clone();
        arguments.live.settle_sums(&mut arguments.select.events, true);
        let arguments = &arguments;
        log::to_stderr(arguments.live.verbose);
        let filter = Filter::new(&arguments.select)?;
        for file in &arguments.files {
            refuse_same_file(&FromArgs { from: Some(file.clone()), record: None }, arguments.output.as_deref())?;
        }
        refuse_same_file(&arguments.live.from, arguments.output.as_deref())?;
        let mut output = Output::open(arguments.output.as_ref())?;
        let live = || {
            let options = arguments.consumer();
            arguments.collect(source::open_filtered(&options, &options.select.events, &Needs::NOTHING, &filter)?)
        };
        let palette = output.palette();
        let mut text = String::new();
        let code = match &arguments.files[..] {
            [a, b] => {
                // Both are opened before anything is read of either: nothing can be opened then.
                let (a, b) = (Opened::at(a)?, Opened::at(b)?);
                sandbox::enter(&Needs::NOTHING)?;
                let of = |file: Opened| arguments.collect(Box::new(file.read()?));
                let ((Some(a), _), (Some(b), code)) = (of(a)?, of(b)?) else {
                    return Ok(ExitCode::SUCCESS);
                };
                let comparison = Comparison::new(a, b);
                match arguments.format {
                    Format::Text => comparison.write_text(palette, &mut text)?,
                    Format::Json => writeln!(text, "{}", serde_json::to_string_pretty(&comparison)?)?,
                }
                code
            }
            files => {
                let (document, code) = match files.first() {
                    Some(file) => arguments.collect(Box::new(source::recorded(file, &Needs::NOTHING)?))?,
                    None => live()?,
                };
                let Some(document) = document else { return Ok(code) };
                match arguments.format {
                    Format::Text => document.write_text(palette, &mut text)?,
                    Format::Json => writeln!(text, "{}", serde_json::to_string_pretty(&document)?)?,
                }
                code
            }
        };
        output.write_all(text.as_bytes())?;
        output.flush()?;
        Ok(code)
    }
}

/// Statistics that are put where they are waited for.
struct Told<'a> {
    stats: Collected,
    document: &'a mut Option<StatsDocument>,
}

impl Observer for Told<'_> {
    fn event(&mut self, event: &Event) {
        self.stats.event(event);
    }

    fn span(&mut self, span: &Span) {
        self.stats.span(span);
    }

    fn violation(&mut self, violation: &Violation) {
        self.stats.violation(violation);
    }
}

impl Teller for Told<'_> {
    fn left_out(&mut self) {
        self.stats.leave_out();
    }

    fn end(&mut self, whole: &Whole<'_>) -> anyhow::Result<()> {
        *self.document = Some(self.stats.document(whole.info, whole.upto, whole.exit));
        Ok(())
    }
}
