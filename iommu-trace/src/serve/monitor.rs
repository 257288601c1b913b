//! The thread on which the model lives: it takes batches, judges them, and answers questions in between.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::usage;
use crate::{
    cli::mirror,
    event::Event,
    metrics::{DeviceLimit, Look, Snapshot, Watcher},
    model::{Effects, Model, ModelOptions, RuleSet, Severity, Violation, span::Topic},
    output::{Clock, JsonSink, Sink as _, TimeForm},
    source::{Batch, Cost, Frame, SourceInfo, Stacks, Stream, StreamControl},
};

/// Questions that may wait.
const QUESTIONS: usize = 64;
/// How long an answer may take. A batch takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Violations that are kept to be shown.
const KEPT: usize = 100;
/// Violations that are told on standard error within [`VOICE_TIME`]: a storm of them must not fill the journal.
const VOICE: u32 = 20;
/// See [`VOICE`].
const VOICE_TIME: Duration = Duration::from_secs(60);

/// How the model is to work, and what is told of it.
#[derive(Clone, Debug)]
pub struct MonitorOptions {
    /// The topics that the source was asked for.
    pub topics: Vec<Topic>,
    /// The rules that are judged.
    pub rules: RuleSet,
    /// A page request without a response for this long is a violation.
    pub answer_timeout: Duration,
    /// How many devices have series of their own.
    pub devices: DeviceLimit,
    /// Whether stacks are resolved for violations.
    pub stacks: bool,
}

/// Where the source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It gives events.
    Reading,
    /// It has given all it had.
    Over,
    /// It failed, with this message.
    Failed(String),
}

/// The violations so far.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    /// Broken rules.
    pub errors: u64,
    /// What later kernels forbid.
    pub warnings: u64,
    /// The last of them, the newest first, as docs/events.md has them.
    pub latest: VecDeque<serde_json::Value>,
}

enum Question {
    Metrics(oneshot::Sender<Snapshot>),
    Violations(oneshot::Sender<Violations>),
    Ping(oneshot::Sender<()>),
}

/// Asks the model, from any task.
#[derive(Clone)]
pub struct Monitor {
    questions: mpsc::Sender<Question>,
    state: watch::Receiver<State>,
    control: StreamControl,
}

impl Monitor {
    /// Runs the model of what the stream gives on a thread of its own.
    pub fn start(stream: Stream, options: MonitorOptions) -> anyhow::Result<(Monitor, JoinHandle<()>)> {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (told, state) = watch::channel(State::Reading);
        let control = stream.control();
        let runtime = tokio::runtime::Builder::new_current_thread().build().context("cannot set up the event loop")?;
        let thread = std::thread::Builder::new()
            .name("iommu-trace-mon".into())
            .spawn(move || runtime.block_on(Watch::new(stream, &options).run(asked, &told)))
            .context("cannot start the thread that runs the model")?;
        Ok((Monitor { questions, state, control }, thread))
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let asking = async {
            self.questions.send(question(sender)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
    }

    /// All metrics now; `None` when the model does not answer.
    pub async fn metrics(&self) -> Option<Snapshot> {
        self.ask(Question::Metrics).await
    }

    /// The violations so far; `None` when the model does not answer.
    pub async fn violations(&self) -> Option<Violations> {
        self.ask(Question::Violations).await
    }

    /// Whether the model answers.
    pub async fn answers(&self) -> bool {
        self.ask(Question::Ping).await.is_some()
    }

    /// Where the source is now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the source is over or failed.
    pub async fn ended(&mut self) -> State {
        match self.state.wait_for(|state| *state != State::Reading).await {
            Ok(state) => state.clone(),
            Err(_) => State::Failed("the thread that runs the model is gone".to_owned()),
        }
    }

    /// Stops the source; what it has left is still taken.
    pub fn stop(&self) {
        self.control.stop();
    }
}

/// Tells violations on standard error, which a service manager keeps.
struct Voice {
    since: Instant,
    told: u32,
}

impl Voice {
    fn tell(&mut self, violation: &Violation) {
        if self.since.elapsed() > VOICE_TIME {
            *self = Voice { since: Instant::now(), told: 0 };
        }
        self.told = self.told.saturating_add(1);
        let (rule, severity) = (violation.rule.slug(), violation.severity.name());
        if self.told <= VOICE {
            crate::cli::complain(&format!("{severity} {rule}"), &violation.message);
        }
        if self.told == VOICE {
            crate::cli::complain("note", "more within this minute are counted, and shown at /violations only");
        }
    }
}

/// What lives on the thread.
struct Watch {
    stream: Stream,
    info: Arc<SourceInfo>,
    stacks: Option<Arc<dyn Stacks>>,
    model: Model,
    watcher: Watcher,
    effects: Effects,
    violations: Violations,
    voice: Voice,
    upto: u64,
}

impl Watch {
    fn new(stream: Stream, options: &MonitorOptions) -> Self {
        let info = Arc::clone(stream.info());
        let model = ModelOptions {
            answer_timeout: options.answer_timeout,
            clock: Some(Box::new(mirror::clock())),
            rules: options.rules,
            ..mirror::options(&info)
        };
        Watch {
            model: Model::new(info.features.clone(), model),
            watcher: Watcher::new(&info, &options.topics, options.rules, options.devices, SystemTime::now()),
            stacks: options.stacks.then(|| Arc::clone(stream.stacks())),
            effects: Effects::default(),
            violations: Violations::default(),
            voice: Voice { since: Instant::now(), told: 0 },
            upto: info.started_ns,
            info,
            stream,
        }
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Question>, told: &watch::Sender<State>) {
        let mut state = State::Reading;
        loop {
            tokio::select! {
                // A storm of events must not starve who asks about it.
                biased;
                question = asked.recv() => match question {
                    Some(question) => self.answer(question, state == State::Reading),
                    // Nobody can ask any more.
                    None => return,
                },
                batch = self.stream.next(), if state == State::Reading => {
                    match batch {
                        Some(Ok(batch)) => {
                            self.take(&batch);
                            self.stream.give_back(batch);
                        }
                        Some(Err(error)) => state = State::Failed(format!("{error:#}")),
                        None => {
                            self.model.finish(self.upto, &mut self.effects);
                            self.note();
                            state = State::Over;
                        }
                    }
                    if state != State::Reading {
                        told.send_replace(state.clone());
                    }
                }
            }
        }
    }

    fn answer(&mut self, question: Question, up: bool) {
        // Who asked may be gone, which is as well.
        match question {
            Question::Metrics(sender) => drop(sender.send(self.metrics(up))),
            Question::Violations(sender) => drop(sender.send(self.violations.clone())),
            Question::Ping(sender) => drop(sender.send(())),
        }
    }

    fn metrics(&mut self, up: bool) -> Snapshot {
        let cost: Cost = self.stream.cost();
        self.watcher.look(&Look {
            info: &self.info,
            model: &self.model,
            cost: &cost,
            usage: usage::now(),
            up,
            now: SystemTime::now(),
        })
    }

    fn take(&mut self, batch: &Batch) {
        for event in &batch.events {
            self.event(event);
        }
        self.upto = self.upto.max(batch.upto);
        self.model.advance(batch.upto, &mut self.effects);
        self.note();
    }

    fn event(&mut self, event: &Event) {
        self.watcher.before(event, &self.model);
        self.model.apply(event, &mut self.effects);
        self.upto = self.upto.max(event.ts);
        self.note();
    }

    fn note(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        self.watcher.after(&self.effects);
        let violations = std::mem::take(&mut self.effects.violations);
        for violation in &violations {
            self.violation(violation);
        }
        self.effects.clear();
    }

    fn violation(&mut self, violation: &Violation) {
        match violation.severity {
            Severity::Error => self.violations.errors += 1,
            Severity::Warning => self.violations.warnings += 1,
        }
        // At once: the machine may be about to crash.
        self.voice.tell(violation);
        let frames = self.stacks.as_ref().map_or_else(Vec::new, |stacks| {
            let of = |stack: Option<u32>| stack.map_or_else(Vec::new, |id| own_frames_left_out(stacks.as_ref(), id));
            violation.evidence.iter().map(|piece| of(piece.stack)).collect::<Vec<_>>()
        });
        let mut line = Vec::new();
        let mut sink = JsonSink::new(&mut line, Clock::new(TimeForm::Utc, &self.info), self.stacks.is_some());
        // Into memory, and of what serializes: there is nothing that could fail.
        let _ = sink.violation(violation, &frames);
        if let Ok(value) = serde_json::from_slice(&line) {
            self.violations.latest.truncate(KEPT - 1);
            self.violations.latest.push_front(value);
        }
    }
}

/// A stack without our own BPF program and its trampoline, which are innermost.
fn own_frames_left_out(stacks: &dyn Stacks, id: u32) -> Vec<Frame> {
    stacks.frames(id).into_iter().skip_while(|frame| frame.symbol.ends_with("[bpf]")).collect()
}
