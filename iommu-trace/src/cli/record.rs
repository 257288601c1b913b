//! `iommu-trace record`: writes what happens to a file, to be looked at later and elsewhere.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use signal_hook::consts::SIGUSR1;
use tokio::time::Instant;

use super::{
    ConsumerOptions, LiveArgs, OutputArgs, RareStacksArgs, SelectArgs, StopArgs, command::find_command, complain,
    consumer::Consumer, log, mirror, parse, run, run::Drive, source,
};
use crate::{
    event::{Body, Event, ProbeId},
    model::{Effects, Model, ModelOptions, RuleSet, Violation, span::Topic},
    output::{self, Exit, Reason, Target},
    recording::{self, Files, Flight, Header, Limits, numbered},
    sandbox::Needs,
    source::{Batch, SourceInfo, Stacks, Stream},
};

/// How long events wait until they are written.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How long it is told that nothing happens.
const IDLE_FLUSH: Duration = Duration::from_secs(5);
/// A flight recorder that has just written for a violation waits this long before it does again.
const AGAIN: Duration = Duration::from_secs(5);

/// Record what happens to a file, to look at it later and elsewhere.
///
/// Everything that the probes tell is written, unfiltered, with what was attached before and with the names in kernel stacks.
/// All other commands read it with --from, without privileges, on any machine, and tell what they would have told live. What
/// was seen before a crash is in the file: events wait half a second at most, and none when a rule was broken.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace record -o run.itr -- ./my_test
  iommu-trace record -o run.itr --events attach,fault,dma --duration 1m
  iommu-trace record -o day.itr --max-size 100M --keep 10
  iommu-trace record -o last.itr --last 30s
  iommu-trace record -o - | ssh me@there iommu-trace trace --from -")]
pub struct Record {
    #[command(flatten)]
    arguments: RecordArgs,
}

/// What `record` takes.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// The file, readable by its owner alone; one that is there is replaced. `-` is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Topics to record; what is not among them costs nothing. `dma` and `invalidate` are many.
    #[arg(
        short,
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "attach,fault,sva,iommufd,reset"
    )]
    pub events: Vec<Topic>,

    /// Whose kernel stacks are taken.
    #[command(flatten)]
    pub stacks: RareStacksArgs,

    /// End when the file is as large as this, as 100M; with --keep go on in a new one.
    #[arg(long, value_name = "SIZE", value_parser = parse::file_size)]
    pub max_size: Option<u64>,

    /// Keep this many files: FILE is the newest, FILE.1 the one before, and so on. Each opens by itself.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub keep: Option<u32>,

    /// Keep only the newest in memory, as 30s, and write it when a rule was broken, on SIGUSR1, and at the end. --max-size
    /// then bounds the memory (64M otherwise), and --keep the recordings that stay.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub last: Option<Duration>,

    /// End after this time.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, conflicts_with = "from")]
    pub duration: Option<Duration>,

    /// Do not judge by the rules while recording: page faults then cost a third less. What is recorded is the same, and can be
    /// judged later, by `check --from`; but no violation is told when it happens, and none has --last write.
    #[arg(long)]
    pub no_rules: bool,

    /// Record on for this long when the command has ended: what it left behind is taken down then.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, default_value = "1s")]
    pub settle: Duration,

    /// A command to start once everything is attached; the recording ends with it and takes its exit status. If the
    /// recording ends first, the command gets SIGTERM.
    #[arg(last = true, value_name = "CMD", conflicts_with = "from")]
    pub command: Vec<OsString>,

    /// How it is traced.
    #[command(flatten)]
    pub live: LiveArgs,
}

impl RecordArgs {
    fn consumer(&self) -> ConsumerOptions {
        ConsumerOptions {
            select: SelectArgs { events: self.events.clone(), ..SelectArgs::default() },
            stop: StopArgs { duration: self.duration, count: None, command: self.command.clone() },
            output: OutputArgs { stacks: self.stacks.level().into(), ..OutputArgs::default() },
            live: self.live.clone(),
        }
    }

    /// Records from a source to its end.
    pub fn record(&self, source: Box<dyn crate::source::Source>) -> anyhow::Result<ExitCode> {
        let options = self.consumer();
        let program = options.stop.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        let target = self.target()?;
        let drive = Drive { stop: &options.stop, program, followed: false };
        drive.run(source, |stream| Recorder::new(self, target, stream, &options.stop))
    }

    /// What it takes to make all files.
    fn needs(&self) -> Needs {
        let older = (1..self.keep.unwrap_or(1)).map(|n| numbered(&self.output, n));
        let files: Vec<PathBuf> = std::iter::once(self.output.clone()).chain(older).collect();
        Needs::NOTHING.and_creating(files.iter().map(PathBuf::as_path))
    }

    fn target(&self) -> anyhow::Result<Target> {
        let target = recording::target(&self.output)?;
        if self.keep.is_some() && self.max_size.is_none() && self.last.is_none() {
            bail!("--keep needs --max-size, which says when a new file begins, or --last");
        }
        if !matches!(target, Target::File(_)) && (self.keep.is_some() || self.last.is_some()) {
            bail!("{} cannot be written anew, as --keep and --last ask for: name a file", target.name());
        }
        Ok(target)
    }
}

impl Record {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut arguments = self.arguments.clone();
        arguments.live.settle_sums(&mut arguments.events, false);
        let arguments = &arguments;
        log::to_stderr(arguments.live.verbose);
        // Before anything is attached, so that a slip of the finger costs nothing.
        arguments.target()?;
        let options = arguments.consumer();
        options.stop.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        run::refuse_same_file(&arguments.live.from, Some(&arguments.output))?;
        let source = source::open(&options, &arguments.events, &arguments.needs())?;
        arguments.record(source)
    }
}

/// Where events go.
enum Keeper {
    /// To files, as they come.
    Files(Box<Files>),
    /// To memory, until something happens.
    Flight(Box<Flight>),
}

/// Records: what comes is written, and judged by the rules.
struct Recorder {
    keeper: Keeper,
    name: String,
    model: Model,
    effects: Effects,
    info: Arc<SourceInfo>,
    stacks: Option<Arc<dyn Stacks>>,
    /// Whether the model sees page faults, too: what is attached it must always know, for whatever begins in the middle.
    judges: bool,
    settle: Duration,
    needs: Needs,
    /// When what was taken in must be written.
    waiting: Option<Instant>,
    /// Somebody asked for a recording of the last.
    asked: Arc<AtomicBool>,
    /// A violation waits to be written by the flight recorder, and when it may.
    due: Option<Instant>,
    again: Option<Instant>,
    events: u64,
    violations: u64,
    upto: u64,
}

impl Recorder {
    fn new(arguments: &RecordArgs, target: Target, stream: &Stream, stop: &StopArgs) -> anyhow::Result<Self> {
        let info = Arc::clone(stream.info());
        let model = || {
            let defaults = mirror::options(&info);
            let rules = if arguments.no_rules { RuleSet::NONE } else { defaults.rules };
            Model::new(info.features.clone(), ModelOptions { rules, latencies: false, ..defaults })
        };
        let header = Header::new(&info, &arguments.events, &run::command_words(stop));
        let name = target.name();
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGUSR1, Arc::clone(&asked)).context("cannot handle SIGUSR1")?;
        let keeper = if let Some(last) = arguments.last {
            /// What the flight recorder may take without being told otherwise.
            const MEMORY: u64 = 64 << 20;
            let size = arguments.max_size.unwrap_or(MEMORY);
            let keep = arguments.keep.unwrap_or(1);
            let flight = Flight::new(target, header, last, size, keep, model()).context("cannot begin to record")?;
            Keeper::Flight(Box::new(flight))
        } else {
            let limits = Limits { max_size: arguments.max_size, keep: arguments.keep };
            let mut files = Files::new(target, header, limits)?;
            // Whoever waits for the file to begin sees it begin.
            files.flush()?;
            Keeper::Files(Box::new(files))
        };
        Ok(Recorder {
            keeper,
            name,
            model: model(),
            effects: Effects::default(),
            stacks: arguments.stacks.level().is_any().then(|| Arc::clone(stream.stacks())),
            judges: !arguments.no_rules,
            settle: arguments.settle,
            // A file that stays the only one is open by now.
            needs: if arguments.keep.is_some() || arguments.last.is_some() {
                arguments.needs()
            } else {
                Needs::NOTHING
            },
            waiting: None,
            asked,
            due: None,
            again: None,
            events: 0,
            violations: 0,
            upto: info.started_ns,
            info,
        })
    }

    /// Tells what was broken, and sees to it that what proves it is written at once.
    fn tell(&mut self) -> bool {
        for violation in &self.effects.violations {
            let Violation { rule, severity, message, ts, .. } = violation;
            let at = ts.saturating_sub(self.info.started_ns);
            complain(
                "violation",
                &format!("{} ({}) at {}: {message}", rule.slug(), severity.name(), output::duration(at)),
            );
        }
        self.violations += self.effects.violations.len() as u64;
        let broken = !self.effects.violations.is_empty();
        self.effects.clear();
        broken
    }

    fn keep(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let stacks = self.stacks.as_deref();
        let mut broken = false;
        for event in &batch.events {
            match &mut self.keeper {
                Keeper::Files(files) => files.event(event, stacks)?,
                Keeper::Flight(flight) => flight.event(event, stacks)?,
            }
            if self.judges || !is_of_a_fault(event) {
                self.model.apply(event, &mut self.effects);
            }
            broken |= !self.effects.violations.is_empty();
            self.effects.spans.clear();
        }
        self.events += batch.events.len() as u64;
        self.upto = self.upto.max(batch.upto);
        self.model.advance(batch.upto, &mut self.effects);
        broken |= self.tell();
        let now = Instant::now();
        match &mut self.keeper {
            Keeper::Files(files) => {
                files.batch_end(batch.upto, self.model.mirror())?;
                let wait = if files.waiting() > 0 { FLUSH_EVERY } else { IDLE_FLUSH };
                let due = self.waiting.map_or(now + wait, |due| due.min(now + wait));
                self.waiting = Some(due);
                if broken || due <= now || self.asked.swap(false, Ordering::Relaxed) {
                    self.flush()?;
                }
            }
            Keeper::Flight(flight) => {
                flight.batch_end(batch.upto)?;
                if broken {
                    self.due.get_or_insert(self.again.map_or(now, |again| again.max(now)));
                }
                if self.asked.swap(false, Ordering::Relaxed) || self.due.is_some_and(|due| due <= now) {
                    flight.write()?;
                    (self.due, self.again) = (None, Some(now + AGAIN));
                }
            }
        }
        Ok(())
    }
}

/// Whether an event is a page fault's, and changes nothing that is attached.
fn is_of_a_fault(event: &Event) -> bool {
    match &event.body {
        Body::Report(_)
        | Body::Lookup(_)
        | Body::FaultGroup(_)
        | Body::PageResponse(_)
        | Body::File(_)
        | Body::Delivered(_)
        | Body::Interrupt { .. } => true,
        Body::Return { .. } => event.probe == ProbeId::ReportDeviceFault,
        _ => false,
    }
}

impl Consumer for Recorder {
    fn take(&mut self, batch: &Batch) -> anyhow::Result<()> {
        self.keep(batch)
    }

    fn is_full(&self) -> bool {
        matches!(&self.keeper, Keeper::Files(files) if files.is_full())
    }

    fn waiting(&self) -> Option<Instant> {
        self.waiting
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.waiting = None;
        match &mut self.keeper {
            Keeper::Files(files) => files.flush(),
            Keeper::Flight(_) => Ok(()),
        }
    }

    fn needs(&self) -> Needs {
        self.needs.clone()
    }

    fn settled_at(&self) -> Option<Instant> {
        Instant::now().checked_add(self.settle).filter(|_| !self.settle.is_zero())
    }

    fn end(&mut self, exit: Exit) -> anyhow::Result<()> {
        self.model.finish(self.upto, &mut self.effects);
        self.tell();
        let took = output::duration(self.upto.saturating_sub(self.info.started_ns));
        let lost: u64 = self.model.counts().lost.values().sum();
        let why = if exit.reason == Reason::Count { ", as large as it may become" } else { "" };
        let (events, violations) = (self.events, self.violations);
        let told = match &mut self.keeper {
            Keeper::Files(files) => {
                let bytes = files.close()?;
                let parts = if files.count > 1 { format!(" in {} files", files.count) } else { String::new() };
                let each =
                    if events > 0 { format!(", {:.1} an event", bytes as f64 / events as f64) } else { String::new() };
                format!("{bytes} bytes{each}{parts}{why}")
            }
            Keeper::Flight(flight) => {
                flight.write()?;
                format!("written {} times", flight.written)
            }
        };
        let name = &self.name;
        complain(
            "recorded",
            &format!("{events} events in {took} to {name}: {told}; {lost} lost, {violations} violations"),
        );
        Ok(())
    }
}
