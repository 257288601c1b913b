//! The consumer's loop: batches of a source go through the model, what it tells goes through the filter to a sink,
//! until a limit, a signal, the command's end or the source's end.
//!
//! Works with any source. Everything runs on one thread, but for the source's reader ([`crate::source::spawn`]); a
//! second signal ends the process from within the handler, and so even when a write blocks.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep_until};

use super::{
    ConsumerOptions, Filter, FromArgs, StopArgs,
    command::{Workload, find_command},
    consumer::Consumer,
    processes::Descendants,
    session::{Judging, Session},
    signals::Signals,
};
use crate::{
    output::{Exit, Output, Reason, Start, is_closed_pipe, quoted},
    sandbox::{self, Grant},
    source::{self, Source, Stream, live::hurry},
};

/// A run that is checked and may begin: nothing has been traced or printed.
pub struct Run<'a> {
    options: &'a ConsumerOptions,
    filter: Filter,
    program: Option<PathBuf>,
    output: Output,
    judging: Option<Judging>,
}

impl<'a> Run<'a> {
    /// Checks what was asked for and opens the output.
    pub fn new(options: &'a ConsumerOptions) -> anyhow::Result<Self> {
        let filter = Filter::new(&options.select)?;
        let program = options.stop.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        if filter.follows_command() && program.is_none() {
            bail!("`--pid command` stands for the command after `--`, and there is none");
        }
        refuse_same_file(&options.live.from, options.output.output.as_deref())?;
        let output = Output::open(options.output.output.as_ref())?;
        Ok(Run { options, filter, program, output, judging: None })
    }

    /// Makes it a run for its verdict.
    #[must_use]
    pub fn judging(self, judging: Judging) -> Self {
        Run { judging: Some(judging), ..self }
    }

    /// What is shown.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Runs it to its end. The source has its probes attached.
    pub fn consume(self, source: Box<dyn Source>) -> anyhow::Result<ExitCode> {
        let Run { options, filter, program, output, judging } = self;
        let followed = filter.follows_command();
        let drive = Drive { stop: &options.stop, program, followed };
        drive.run(source, |stream| {
            let info = Arc::clone(stream.info());
            let stacks = options.output.stacks.level.is_any().then(|| Arc::clone(stream.stacks()));
            let session = Session::new(options, &info, stacks, filter, output, judging);
            let mut session = session.waiting_by(stream.waits().cloned());
            let command = command_words(&options.stop);
            let start = Start { info: &info, topics: &options.select.events, command: &command };
            session.start(&start)?;
            Ok(session)
        })
    }
}

/// A recording is not written over while it is read.
pub fn refuse_same_file(from: &FromArgs, output: Option<&Path>) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let id =
        |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|of| (of.dev(), of.ino()));
    if let (Some(from), Some(output)) = (&from.from, output)
        && let (Some(a), Some(b)) = (id(from), id(output))
        && a == b
    {
        bail!("--output {} is the recording that --from reads: name another file", quoted(output));
    }
    Ok(())
}

/// The command after `--`, as texts.
pub fn command_words(stop: &StopArgs) -> Vec<String> {
    stop.command.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Gives the batches of a source to a consumer, until a limit, a signal, the command's end or the source's end.
pub struct Drive<'a> {
    /// When it ends.
    pub stop: &'a StopArgs,
    /// The command, found.
    pub program: Option<PathBuf>,
    /// Whether descendants of the command stay known as such.
    pub followed: bool,
}

impl Drive<'_> {
    /// Runs it to its end. What `begin` writes is out before the command can write to the same terminal or pipe.
    pub fn run<C: Consumer>(
        self,
        source: Box<dyn Source>,
        begin: impl FnOnce(&Stream) -> anyhow::Result<C>,
    ) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the event loop")?;
        runtime.block_on(self.run_async(source, begin))
    }

    async fn run_async<C: Consumer>(
        self,
        source: Box<dyn Source>,
        begin: impl FnOnce(&Stream) -> anyhow::Result<C>,
    ) -> anyhow::Result<ExitCode> {
        let Drive { stop, program, followed } = self;
        let mut signals = Signals::new().context("cannot handle signals")?;
        let mut stream = source::spawn(source)?;
        let control = stream.control();
        let mut consumer = begin(&stream)?;

        let mut ending: Option<Reason> = None;
        let mut failed: Option<anyhow::Error> = None;
        // After a failed write there is nobody to tell the end to.
        let mut writable = true;
        let mut workload = None;
        if let Some(program) = program {
            let mut nobody = Descendants::none();
            let processes = consumer.processes().unwrap_or(&mut nobody);
            match Workload::start(&program, &stop.command, followed, processes) {
                Ok(started) => workload = Some(started),
                Err(error) => {
                    failed = Some(error);
                    ending = Some(Reason::Error);
                    control.stop();
                }
            }
        }
        // Not before the command is started, which would inherit it.
        if stream.is_live() {
            hurry();
        }
        // The command has what its caller had; from here on, we have not.
        let mut needs = stream.needs().and_all(consumer.needs());
        if workload.is_some() {
            needs = needs.and(Grant::Command);
        }
        if followed {
            // Whose parent somebody is, is in procfs.
            needs = needs.and(Grant::Read);
        }
        if let Err(error) = sandbox::enter(&needs) {
            failed.get_or_insert(error);
            ending.get_or_insert(Reason::Error);
            control.stop();
        }
        let deadline = stop.duration.and_then(|duration| Instant::now().checked_add(duration));
        // Until when to watch on after the command's end.
        let mut settled: Option<Instant> = None;

        loop {
            let running = workload.as_ref().is_some_and(|workload| workload.end.is_none());
            let reason = tokio::select! {
                // A storm of events must not starve what ends it.
                biased;
                // The command's status stands, however the rest is cut short.
                reason = signals.next(), if ending.is_none() => Some(settled.map_or(reason, |_| Reason::Command)),
                ended = wait(workload.as_mut()), if running => {
                    ended?;
                    settled = consumer.settled_at().filter(|_| ending.is_none());
                    settled.is_none().then_some(Reason::Command)
                }
                () = until(settled), if ending.is_none() && settled.is_some() => Some(Reason::Command),
                () = until(deadline), if ending.is_none() && deadline.is_some() => {
                    Some(settled.map_or(Reason::Duration, |_| Reason::Command))
                }
                () = until(consumer.waiting()), if consumer.waiting().is_some() => {
                    if let Err(error) = consumer.flush() {
                        failed.get_or_insert(error);
                        writable = false;
                        break;
                    }
                    None
                }
                batch = stream.next() => match batch {
                    None => {
                        ending.get_or_insert(Reason::EndOfSource);
                        break;
                    }
                    Some(Err(error)) => {
                        failed.get_or_insert(error);
                        ending = Some(Reason::Error);
                        None
                    }
                    Some(Ok(batch)) => match consumer.take(&batch) {
                        Ok(()) => {
                            stream.give_back(batch);
                            consumer.is_full().then_some(Reason::Count)
                        }
                        Err(error) => {
                            failed.get_or_insert(error);
                            writable = false;
                            break;
                        }
                    },
                },
            };
            if let (Some(reason), None) = (reason, ending) {
                ending = Some(reason);
                control.stop();
                if let Some(workload) = &workload {
                    workload.terminate();
                }
            }
        }

        // Detaches, if the loop ended by an error of writing.
        drop(stream);
        if let Some(workload) = &mut workload {
            workload.finish().await;
        }
        let reason = ending.unwrap_or(Reason::Error);
        let end = workload.and_then(|workload| workload.end);
        if writable {
            let exit = Exit { reason, command: end };
            if let Err(error) = consumer.end(exit) {
                failed.get_or_insert(error);
            }
        }
        match (failed, reason, end) {
            // That nobody reads on does not make it clean.
            (Some(error), ..) if is_closed_pipe(&error) => consumer.verdict().ok_or(error),
            (Some(error), ..) => Err(error),
            (None, ..) if consumer.verdict().is_some() => Ok(consumer.verdict().unwrap_or(ExitCode::SUCCESS)),
            (None, Reason::Command, Some(end)) => Ok(ExitCode::from(end.exit_code())),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        sleep_until(deadline).await;
    }
}

async fn wait(workload: Option<&mut Workload>) -> anyhow::Result<()> {
    match workload {
        Some(workload) => workload.wait().await,
        None => std::future::pending().await,
    }
}
