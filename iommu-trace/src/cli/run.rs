//! The consumer's loop: batches of a source go through the model, what it tells goes through the filter to a sink,
//! until a limit, a signal, the command's end or the source's end.
//!
//! Works with any source. Everything runs on one thread, but for the source's reader ([`crate::source::spawn`]); a
//! second signal ends the process from within the handler, and so even when a write blocks.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until, timeout},
};

use super::{ConsumerOptions, Filter, complain, processes::Descendants};
use crate::{
    event::ProbeId,
    model::{Effects, Model, ModelOptions, ProbeSet},
    output::{
        Clock, CommandEnd, Exit, Format, JsonSink, Output, Reason, Sink, Start, Tally, TextOptions, TextSink, quoted,
    },
    probes::Verdict,
    source::{self, Batch, Frame, Source, SourceInfo, Stacks},
};

/// How long written lines may wait when the output is no terminal.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// How long a command may take to end once it was told to.
const COMMAND_GRACE: Duration = Duration::from_secs(5);

/// A run that is checked and may begin: nothing has been traced or printed.
pub struct Run<'a> {
    options: &'a ConsumerOptions,
    filter: Filter,
    program: Option<PathBuf>,
    output: Output,
}

impl<'a> Run<'a> {
    /// Checks what was asked for and opens the output.
    pub fn new(options: &'a ConsumerOptions) -> anyhow::Result<Self> {
        let filter = Filter::new(&options.select)?;
        let program = options.stop.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        if filter.follows_command() && program.is_none() {
            bail!("`--pid command` stands for the command after `--`, and there is none");
        }
        let output = Output::open(options.output.output.as_ref())?;
        Ok(Run { options, filter, program, output })
    }

    /// What is shown.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Runs it to its end. The source has its probes attached.
    pub fn consume(self, source: Box<dyn Source>) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the event loop")?;
        runtime.block_on(self.consume_async(source))
    }

    async fn consume_async(self, source: Box<dyn Source>) -> anyhow::Result<ExitCode> {
        let Run { options, filter, program, output } = self;
        let mut signals = Signals::new().context("cannot handle signals")?;
        let mut stream = source::spawn(source)?;
        let control = stream.control();
        let info = Arc::clone(stream.info());
        let terminal = output.is_terminal();
        let mut session = Session {
            model: Model::new(
                info.features.clone(),
                ModelOptions { stages: options.output.stages, unseen: unseen(&info), ..ModelOptions::default() },
            ),
            effects: Effects::default(),
            tally: Tally::default(),
            processes: Descendants::none(),
            stacks: options.output.stacks.then(|| Arc::clone(stream.stacks())),
            sink: sink(options, &info, output),
            filter,
            limit: options.stop.count,
            shown: 0,
            upto: info.started_ns,
            terminal,
            waiting: None,
        };

        let command: Vec<String> =
            options.stop.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let start = Start { info: &info, topics: &options.select.events, command: &command };
        // Out before the command can write to the same terminal or pipe.
        session.sink.start(&start)?;
        session.sink.flush()?;

        let mut ending: Option<Reason> = None;
        let mut failed: Option<anyhow::Error> = None;
        // After a failed write there is nobody to tell the end to.
        let mut writable = true;
        let mut workload = None;
        if let Some(program) = program {
            match Workload::start(&program, &options.stop.command, &mut session) {
                Ok(started) => workload = Some(started),
                Err(error) => {
                    failed = Some(error);
                    ending = Some(Reason::Error);
                    control.stop();
                }
            }
        }
        let deadline = options.stop.duration.and_then(|duration| Instant::now().checked_add(duration));

        loop {
            let running = workload.as_ref().is_some_and(|workload| workload.end.is_none());
            let reason = tokio::select! {
                // A storm of events must not starve what ends it.
                biased;
                reason = signals.next(), if ending.is_none() => Some(reason),
                ended = wait(workload.as_mut()), if running => {
                    ended?;
                    Some(Reason::Command)
                }
                () = until(deadline), if ending.is_none() && deadline.is_some() => Some(Reason::Duration),
                () = until(session.waiting), if session.waiting.is_some() => {
                    if let Err(error) = session.flush() {
                        failed.get_or_insert(error.into());
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
                    Some(Ok(batch)) => match session.take(&batch) {
                        Ok(()) => session.is_full().then_some(Reason::Count),
                        Err(error) => {
                            failed.get_or_insert(error.into());
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
            session.end(Exit { reason, command: end }, info.started_ns)?;
        }
        match (failed, reason, end) {
            (Some(error), ..) => Err(error),
            (None, Reason::Command, Some(end)) => Ok(ExitCode::from(end.exit_code())),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

/// Functions that the kernel has and that are not probed: the model must not take silence for absence.
fn unseen(info: &SourceInfo) -> ProbeSet {
    info.probes
        .iter()
        .filter(|probe| matches!(probe.verdict, Verdict::Broken | Verdict::NotApplicable))
        .filter_map(|probe| ProbeId::ALL.iter().copied().find(|id| id.function() == probe.function))
        .collect()
}

fn sink(options: &ConsumerOptions, info: &SourceInfo, output: Output) -> Box<dyn Sink> {
    let clock = Clock::new(options.output.time, info);
    match options.output.format {
        Format::Text => {
            let text = TextOptions { palette: output.palette(), columns: output.columns(), wrap: output.is_terminal() };
            Box::new(TextSink::new(output, clock, text))
        }
        Format::Json => Box::new(JsonSink::new(output, clock, options.output.stacks)),
    }
}

/// A stack without our own BPF program and its trampoline, which are innermost.
fn frames(stacks: &dyn Stacks, id: u32) -> Vec<Frame> {
    stacks.frames(id).into_iter().skip_while(|frame| frame.symbol.ends_with("[bpf]")).collect()
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

/// What goes from the model to the sink.
struct Session {
    model: Model,
    effects: Effects,
    filter: Filter,
    processes: Descendants,
    tally: Tally,
    sink: Box<dyn Sink>,
    stacks: Option<Arc<dyn Stacks>>,
    limit: Option<u64>,
    shown: u64,
    /// The events' clock, as far as it is known.
    upto: u64,
    terminal: bool,
    /// When what was written must be flushed.
    waiting: Option<Instant>,
}

impl Session {
    fn take(&mut self, batch: &Batch) -> io::Result<()> {
        for event in &batch.events {
            self.model.apply(event, &mut self.effects);
            self.upto = self.upto.max(event.ts);
            self.show()?;
        }
        self.upto = self.upto.max(batch.upto);
        self.model.advance(batch.upto, &mut self.effects);
        self.show()?;
        // A source that always has more leaves no time for the timer.
        if self.waiting.is_some_and(|due| self.terminal || due <= Instant::now()) {
            self.flush()?;
        }
        Ok(())
    }

    fn show(&mut self) -> io::Result<()> {
        let mut effects = std::mem::take(&mut self.effects);
        for span in &effects.spans {
            let is_loss = span.kind.topic().is_none();
            if self.is_full() && !is_loss {
                continue;
            }
            if !self.filter.matches(span, &mut self.processes) {
                self.tally.leave_out();
                continue;
            }
            let frames = match (&self.stacks, span.stack) {
                (Some(stacks), Some(id)) => frames(stacks.as_ref(), id),
                _ => Vec::new(),
            };
            self.tally.count(span);
            self.sink.span(span, &frames)?;
            self.shown += u64::from(!is_loss);
            self.waiting.get_or_insert_with(|| Instant::now() + FLUSH_EVERY);
        }
        for violation in &effects.violations {
            let stacks = self.stacks.as_ref().map_or_else(Vec::new, |stacks| {
                let of = |stack: Option<u32>| stack.map_or_else(Vec::new, |id| frames(stacks.as_ref(), id));
                violation.evidence.iter().map(|piece| of(piece.stack)).collect()
            });
            self.tally.violation(violation);
            self.sink.violation(violation, &stacks)?;
        }
        if !effects.violations.is_empty() {
            // The machine may be about to crash for that very reason.
            self.flush()?;
        }
        effects.clear();
        self.effects = effects;
        Ok(())
    }

    /// Whether as many were shown as were asked for.
    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.shown >= limit)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.waiting = None;
        self.sink.flush()
    }

    fn end(&mut self, exit: Exit, started_ns: u64) -> io::Result<()> {
        self.model.finish(self.upto, &mut self.effects);
        self.show()?;
        self.sink.end(&self.tally.summary(started_ns, self.upto, exit))?;
        self.flush()
    }
}

/// The command after `--`.
struct Workload {
    child: Child,
    end: Option<CommandEnd>,
}

impl Workload {
    fn start(program: &Path, words: &[OsString], session: &mut Session) -> anyhow::Result<Self> {
        let name = words.first().cloned().unwrap_or_default();
        if session.filter.follows_command() {
            // Orphans of the command become our children, and so stay its descendants.
            rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
                .context("cannot follow the descendants of the command")?;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let child = Command::new(program)
            .arg0(&name)
            .args(words.get(1..).unwrap_or_default())
            .spawn()
            .with_context(|| format!("cannot start the command {}", quoted(Path::new(&name))))?;
        if let Some(pid) = child.id() {
            session.processes.started(pid, now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64);
        }
        Ok(Workload { child, end: None })
    }

    /// Waits for its end. Cancel safe.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await.context("cannot wait for the command")?;
        self.end = Some(CommandEnd { status: status.code(), signal: status.signal() });
        Ok(())
    }

    /// Asks it to end, if it has not.
    fn terminate(&self) {
        // Until it was waited for, its process id is not used again.
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let (Some(pid), None) = (pid, self.end) {
            // It may end at this very moment, which is as well.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Sees to it that it ends, or says that it does not.
    async fn finish(&mut self) {
        if self.end.is_some() {
            return;
        }
        self.terminate();
        if timeout(COMMAND_GRACE, self.wait()).await.is_err() {
            let pid = self.child.id().unwrap_or_default();
            complain("warning", &format!("the command (process {pid}) does not end on SIGTERM and is left running"));
        }
    }
}

/// Finds a command before anything is traced, so that a slip of the finger costs nothing.
fn find_command(name: &OsStr) -> anyhow::Result<PathBuf> {
    let named = Path::new(name);
    let name = quoted(named);
    let executable = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if named.components().count() > 1 || named.is_absolute() {
        if !named.exists() {
            bail!("cannot start the command {name}: there is no such file");
        }
        if !executable(named) {
            bail!("cannot start the command {name}: it is not executable");
        }
        return Ok(named.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(named))
        .find(|candidate| executable(candidate))
        .with_context(|| format!("cannot start the command {name}: it is not in any directory of PATH"))
}

/// SIGINT and SIGTERM. A second one ends the process at once.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let first = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset, then sets it.
            signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&first))?;
            signal_hook::flag::register(number, Arc::clone(&first))?;
        }
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Reason {
        tokio::select! {
            _ = self.interrupt.recv() => Reason::Interrupt,
            _ = self.terminate.recv() => Reason::Terminate,
        }
    }
}
