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
    event::{Body, Event, ProbeId, SlotWhat},
    model::{Effects, Measure, Model, ModelOptions, ProbeSet, RULES, RuleId, RuleSet},
    output::{
        Blind, Clock, CommandEnd, Exit, Format, JsonSink, Judged, Mirrored, Output, Quantiles, Reason, Refcounted,
        Sink, Start, Tally, TextOptions, TextSink, Unjudged, Watched, is_closed_pipe, quoted,
    },
    probes::{CATALOGUE, Verdict},
    source::{self, Batch, Frame, Source, SourceInfo, Stacks},
};

/// How long written lines may wait when the output is no terminal.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// How long a command may take to end once it was told to.
const COMMAND_GRACE: Duration = Duration::from_secs(5);

/// A run that is there for its verdict: violations are shown, and what happened otherwise is only counted.
#[derive(Clone, Debug)]
pub struct Judging {
    /// The rules that are judged.
    pub rules: RuleSet,
    /// Whether the first proposal's rules are among them because that ownership was asked for.
    pub refcounted: bool,
    /// A page request without a response for this long is a violation.
    pub answer_timeout: Duration,
    /// How long to watch on when the command has ended.
    pub settle: Duration,
    /// The exit status when there is a violation.
    pub violations_exit: u8,
    /// Whether a warning is a violation, too.
    pub strict: bool,
    /// Whether frees are watched.
    pub track_frees: bool,
}

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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the event loop")?;
        runtime.block_on(self.consume_async(source))
    }

    async fn consume_async(self, source: Box<dyn Source>) -> anyhow::Result<ExitCode> {
        let Run { options, filter, program, output, judging } = self;
        let mut signals = Signals::new().context("cannot handle signals")?;
        let mut stream = source::spawn(source)?;
        let control = stream.control();
        let info = Arc::clone(stream.info());
        let terminal = output.is_terminal();
        let defaults = ModelOptions::default();
        let model = ModelOptions {
            stages: options.output.stages,
            unseen: unseen(&info),
            answer_timeout: judging.as_ref().map_or(defaults.answer_timeout, |judging| judging.answer_timeout),
            clock: Some(Box::new(clock())),
            rules: judging.as_ref().map_or(defaults.rules, |judging| judging.rules),
        };
        let mut session = Session {
            model: Model::new(info.features.clone(), model),
            effects: Effects::default(),
            tally: Tally::default(),
            processes: Descendants::none(),
            stacks: options.output.stacks.then(|| Arc::clone(stream.stacks())),
            sink: sink(options, &info, output, judging.is_none()),
            judging,
            info: Arc::clone(&info),
            watched: Watched::default(),
            mirrored: Mirrored::default(),
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
                    settled = session.settled_at().filter(|_| ending.is_none());
                    settled.is_none().then_some(Reason::Command)
                }
                () = until(settled), if ending.is_none() && settled.is_some() => Some(Reason::Command),
                () = until(deadline), if ending.is_none() && deadline.is_some() => {
                    Some(settled.map_or(Reason::Duration, |_| Reason::Command))
                }
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
            let exit = Exit { reason, command: end };
            if let Err(error) = session.end(exit, info.started_ns) {
                failed.get_or_insert(error.into());
            }
        }
        match (failed, reason, end) {
            // That nobody reads on does not make it clean.
            (Some(error), ..) if is_closed_pipe(&error) => session.verdict().ok_or(error),
            (Some(error), ..) => Err(error),
            (None, ..) if session.verdict().is_some() => Ok(session.verdict().unwrap_or(ExitCode::SUCCESS)),
            (None, Reason::Command, Some(end)) => Ok(ExitCode::from(end.exit_code())),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

/// Functions that the kernel has and that are not probed: the model must not take silence for absence.
///
/// Those of a driver that is not at work here are never called, and so hide nothing.
fn unseen(info: &SourceInfo) -> ProbeSet {
    let has_driver = |id| CATALOGUE.iter().any(|probe| probe.id == id && !probe.driver.is_empty());
    info.probes
        .iter()
        .filter_map(|probe| {
            Some((probe.verdict, ProbeId::ALL.iter().copied().find(|id| id.function() == probe.function)?))
        })
        .filter(|&(verdict, id)| match verdict {
            Verdict::Ok | Verdict::Missing => false,
            Verdict::Broken => true,
            Verdict::NotApplicable => !has_driver(id),
        })
        .map(|(_, id)| id)
        .collect()
}

/// Nanoseconds since now, for the model to time its own look-ups with.
fn clock() -> impl FnMut() -> u64 + Send {
    let begin = std::time::Instant::now();
    move || begin.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

fn sink(options: &ConsumerOptions, info: &SourceInfo, output: Output, heads: bool) -> Box<dyn Sink> {
    let clock = Clock::new(options.output.time, info);
    match options.output.format {
        Format::Text => {
            let (palette, columns, wrap) = (output.palette(), output.columns(), output.is_terminal());
            let text = TextOptions { palette, columns, wrap, heads };
            Box::new(TextSink::new(output, clock, text))
        }
        Format::Json => Box::new(JsonSink::new(output, clock, options.output.stacks)),
    }
}

/// Rules that rest on what is not seen at all.
fn blind(judging: &Judging, info: &SourceInfo) -> Vec<Blind> {
    let unseen = unseen(info);
    let frees = [RuleId::UseAfterFree, RuleId::FreedWhileAttached];
    RULES
        .iter()
        .filter(|rule| judging.rules.contains(rule.id))
        .filter_map(|rule| {
            let reason = match rule.needs.intersection(unseen).iter().next() {
                Some(probe) => format!("{} is not probed", probe.function()),
                None if frees.contains(&rule.id) && !judging.track_frees => {
                    "frees are not watched (see --track-frees)".to_owned()
                }
                None => return None,
            };
            Some(Blind { rule: rule.id, reason })
        })
        .collect()
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
    judging: Option<Judging>,
    info: Arc<SourceInfo>,
    watched: Watched,
    mirrored: Mirrored,
}

impl Session {
    fn take(&mut self, batch: &Batch) -> io::Result<()> {
        for event in &batch.events {
            self.watched(event);
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

    /// Takes note of what is counted before the model sees it.
    fn watched(&mut self, event: &Event) {
        match &event.body {
            Body::Slot(state) if state.what == SlotWhat::Entry && !state.handle.ptr.is_null() => {
                self.watched.handles_found += 1;
            }
            Body::Lookup(lookup) => {
                self.watched.lookups += 1;
                let ours = self.model.mirror().device_id(lookup.group, lookup.pasid);
                if let (0, Some(ours), Some(theirs)) = (lookup.ret, ours, lookup.handle.device_id) {
                    self.mirrored.compared += 1;
                    self.mirrored.differed += u64::from(ours != theirs);
                }
            }
            _ => {}
        }
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
            if self.judging.is_some() && !is_loss {
                self.tally.count(span);
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
        let mut summary = self.tally.summary(started_ns, self.upto, exit);
        summary.mirror = self.mirrored();
        summary.check = self.judging.as_ref().map(|judging| self.judged(judging));
        self.sink.end(&summary)?;
        self.flush()
    }

    /// Until when to watch on, the command having ended now.
    fn settled_at(&self) -> Option<Instant> {
        let settle = self.judging.as_ref()?.settle;
        Instant::now().checked_add(settle).filter(|_| !settle.is_zero())
    }

    /// The exit status for the violations found, `None` when there is none.
    fn verdict(&self) -> Option<ExitCode> {
        let judging = self.judging.as_ref()?;
        let (errors, warnings) = self.tally.violations();
        (errors > 0 || (judging.strict && warnings > 0)).then(|| ExitCode::from(judging.violations_exit))
    }

    fn mirrored(&self) -> Mirrored {
        let lookup = self.model.latencies().overall().get(Measure::Mirror);
        Mirrored { lookup: lookup.map(|histogram| Quantiles::of(histogram, histogram.max())), ..self.mirrored }
    }

    fn judged(&self, judging: &Judging) -> Judged {
        let (counts, mirror, judgements) = (self.model.counts(), self.model.mirror(), self.model.judgements());
        let (errors, warnings) = self.tally.violations();
        let of = |rule| judgements.violations.get(&rule).copied().unwrap_or(0);
        let attached = |slot: &&crate::model::Slot| slot.attachment().is_some_and(|held| held.handle.is_some());
        let probes = |verdict| self.info.probes.iter().filter(move |probe| probe.verdict == verdict);
        Judged {
            ownership: if judging.refcounted { "refcounted" } else { "caller-owned" },
            rules: judging.rules.iter().collect(),
            errors,
            warnings,
            watched: Watched {
                records: counts.events,
                groups: mirror.groups().count() as u64,
                handles_found: self.watched.handles_found,
                handles_left: mirror.slots().filter(attached).count() as u64,
                lookups: self.watched.lookups,
                ..self.tally.watched()
            },
            features: self.info.features.clone(),
            unjudged: judgements
                .unjudged
                .iter()
                .map(|(&(rule, doubt), &count)| Unjudged { rule, reason: doubt.to_string(), count })
                .collect(),
            blind: blind(judging, &self.info),
            broken: probes(Verdict::Broken)
                .map(|probe| {
                    let reason = probe.reason.as_deref().unwrap_or("the reason is not known");
                    format!("{} ({reason}): {}", probe.function, probe.cost)
                })
                .collect(),
            absent: probes(Verdict::Missing).map(|probe| probe.function.clone()).collect(),
            unmatched_returns: counts.unmatched_returns,
            unmatched_faults: counts.unmatched_faults,
            forgotten: counts.forgotten,
            refcounted: judging.refcounted.then(|| Refcounted {
                priv_unfreeable: of(RuleId::PrivUnfreeable),
                freed_while_referenced: of(RuleId::FreedWhileReferenced),
            }),
        }
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
