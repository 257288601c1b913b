//! `iommu-trace export`: what happened, in the forms of other tools.

use std::{ffi::OsString, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{
    ConsumerOptions, Filter, FromArgs, LiveArgs, OutputArgs, SelectArgs, StacksArgs, StopArgs,
    command::find_command,
    complain,
    flow::{Flow, Teller, Whole},
    log,
    run::{Drive, Run, refuse_same_file},
    source,
};
use crate::{
    analysis::Observer,
    event::Event,
    export::Perfetto,
    model::{Violation, span::Span},
    output::{Format, Output, TimeForm},
    sandbox::Needs,
};

/// Convert a recording for other tools.
///
/// `json` is one event a line, as `trace --format json` has them. `perfetto` is for ui.perfetto.dev: the lives of handles and the
/// faults with their stages by device and PASID, the calls by task, violations. `parquet` makes a directory of tables for DuckDB,
/// ClickHouse or Spark.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace export --format perfetto -o run.pftrace run.itr
  iommu-trace export --format json run.itr | jq -c 'select(.event == \"fault\")'
  iommu-trace export --format parquet -o tables/ run.itr
  iommu-trace export --format perfetto -o run.pftrace -- ./my_test", mut_arg("events", |arg| arg.default_value("attach,fault,sva,iommufd,dma,invalidate,reset")))]
pub struct Export {
    #[command(flatten)]
    arguments: ExportArgs,
}

/// What `export` takes.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// The recording (as with --from); `-` is standard input. Without one, the running kernel.
    #[arg(value_name = "FILE", conflicts_with_all = ["from", "record", "buffer_size", "track_frees", "duration", "command"])]
    pub file: Option<PathBuf>,

    /// The form.
    #[arg(long, value_enum)]
    pub format: Form,

    /// Write to this file instead of standard output; of `parquet`, the directory, in which there must be no tables yet.
    #[arg(short, long, value_name = "FILE", required_if_eq("format", "parquet"))]
    pub output: Option<PathBuf>,

    /// Whose kernel stacks are told (json).
    #[command(flatten)]
    pub stacks: StacksArgs,

    /// What is exported; everything that was recorded unless told otherwise.
    #[command(flatten)]
    pub select: SelectArgs,
    /// When it ends.
    #[command(flatten)]
    pub stop: StopArgs,
    /// How it is traced.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// Forms of other tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// One object a line.
    Json,
    /// A Perfetto trace.
    Perfetto,
    /// Tables in a directory; needs a build with that feature.
    Parquet,
}

impl Export {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let arguments = &self.arguments;
        log::to_stderr(arguments.live.verbose);
        let from = FromArgs {
            from: arguments.file.clone().or_else(|| arguments.live.from.from.clone()),
            ..arguments.live.from.clone()
        };
        refuse_same_file(&from, arguments.output.as_deref())?;
        let options = ConsumerOptions {
            select: arguments.select.clone(),
            stop: arguments.stop.clone(),
            output: OutputArgs {
                format: Format::Json,
                output: arguments.output.clone(),
                stacks: arguments.stacks,
                stages: false,
                time: TimeForm::Utc,
            },
            live: LiveArgs { from, ..arguments.live.clone() },
        };
        if arguments.format == Form::Json {
            let run = Run::new(&options)?;
            let source = source::open_filtered(&options, &options.select.events, &Needs::NOTHING, run.filter())?;
            return run.consume(source);
        }
        let filter = Filter::new(&options.select)?;
        let program = options.stop.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        if arguments.format == Form::Parquet {
            return parquet(&options, filter, program);
        }
        let output = Output::open(arguments.output.as_ref())?;
        let followed = filter.follows_command();
        let source = source::open(&options, &options.select.events, &Needs::NOTHING)?;
        let drive = Drive { stop: &options.stop, program, followed };
        drive.run(source, |stream| {
            let told = ToPerfetto { perfetto: Perfetto::default(), output };
            Ok(Flow::new(stream, filter, options.stop.count, told))
        })
    }
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &ConsumerOptions, _: Filter, _: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    anyhow::bail!(
        "this iommu-trace was built without Parquet: `cargo build --release -p iommu-trace --features parquet` makes one with it"
    )
}

#[cfg(feature = "parquet")]
fn parquet(options: &ConsumerOptions, filter: Filter, program: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let dir = options.output.output.clone().context("--output must name a directory")?;
    let place = if dir.is_dir() { dir.join("table") } else { dir.clone() };
    let needs = Needs::NOTHING.and_creating([place.as_path()]);
    let source = source::open(options, &options.select.events, &needs)?;
    let drive = Drive { stop: &options.stop, program, followed: filter.follows_command() };
    drive.run(source, |stream| {
        let tables = crate::export::Tables::create(&dir, stream.info())?;
        Ok(Flow::new(stream, filter, options.stop.count, ToTables(Some(tables))))
    })
}

#[cfg(feature = "parquet")]
struct ToTables(Option<crate::export::Tables>);

#[cfg(feature = "parquet")]
impl Observer for ToTables {
    fn event(&mut self, event: &Event) {
        self.0.iter_mut().for_each(|tables| tables.event(event));
    }

    fn span(&mut self, span: &Span) {
        self.0.iter_mut().for_each(|tables| tables.span(span));
    }

    fn violation(&mut self, violation: &Violation) {
        self.0.iter_mut().for_each(|tables| tables.violation(violation));
    }
}

#[cfg(feature = "parquet")]
impl Teller for ToTables {
    fn end(&mut self, _: &Whole<'_>) -> anyhow::Result<()> {
        self.0.take().map_or(Ok(()), crate::export::Tables::close)
    }
}

struct ToPerfetto {
    perfetto: Perfetto,
    output: Output,
}

impl Observer for ToPerfetto {
    fn event(&mut self, event: &Event) {
        self.perfetto.event(event);
    }

    fn span(&mut self, span: &Span) {
        self.perfetto.span(span);
    }

    fn violation(&mut self, violation: &Violation) {
        self.perfetto.violation(violation);
    }
}

impl Teller for ToPerfetto {
    fn end(&mut self, whole: &Whole<'_>) -> anyhow::Result<()> {
        let perfetto = std::mem::take(&mut self.perfetto);
        if perfetto.left_out > 0 {
            complain("warning", &format!("{} events were too many and are left out: filter them", perfetto.left_out));
        }
        perfetto.write(whole.info, whole.upto, &mut self.output).context("cannot export")?;
        Ok(self.output.flush()?)
    }
}
