//! What goes from the model to the sink, and what a run for its verdict adds.

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{ConsumerOptions, Filter, mirror, processes::Descendants};
use crate::{
    event::{Body, Event, ProbeId, SlotWhat},
    model::{Effects, Measure, Model, ModelOptions, RULES, RuleId, RuleSet},
    output::{
        Blind, Clock, Exit, Format, JsonSink, Judged, Mirrored, Output, Percentiles, Refcounted, Sink, Start, Tally,
        TextOptions, TextSink, Unjudged, Watched,
    },
    probes::Verdict,
    source::{Batch, Frame, SourceInfo, Stacks, StepWaits, Waits},
};

/// How long written lines may wait when the output is no terminal.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

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

/// What goes from the model to the sink.
pub struct Session {
    model: Model,
    effects: Effects,
    filter: Filter,
    /// Who descends from the command.
    pub processes: Descendants,
    tally: Tally,
    sink: Box<dyn Sink>,
    stacks: Option<Arc<dyn Stacks>>,
    waits: Option<Arc<dyn Waits>>,
    limit: Option<u64>,
    shown: u64,
    /// The events' clock, as far as it is known.
    upto: u64,
    terminal: bool,
    /// When what was written must be flushed.
    pub waiting: Option<Instant>,
    judging: Option<Judging>,
    info: Arc<SourceInfo>,
    watched: Watched,
    mirrored: Mirrored,
}

impl Session {
    /// Nothing has been seen yet.
    pub fn new(
        options: &ConsumerOptions,
        info: &Arc<SourceInfo>,
        stacks: Option<Arc<dyn Stacks>>,
        filter: Filter,
        output: Output,
        judging: Option<Judging>,
    ) -> Self {
        let terminal = output.is_terminal();
        // A recording says by itself whether frees were watched.
        let frees = ProbeId::Kfree.function();
        let sees_frees = info.probes.iter().any(|probe| probe.function == frees && probe.verdict == Verdict::Ok);
        let judging = judging.map(|judging| Judging { track_frees: judging.track_frees || sees_frees, ..judging });
        let defaults = mirror::options(info);
        let model = ModelOptions {
            stages: options.output.stages,
            answer_timeout: judging.as_ref().map_or(defaults.answer_timeout, |judging| judging.answer_timeout),
            clock: Some(Box::new(mirror::clock())),
            rules: judging.as_ref().map_or(defaults.rules, |judging| judging.rules),
            // The summary counts what it shows, by itself.
            latencies: false,
            ..defaults
        };
        Session {
            model: Model::new(info.features.clone(), model),
            effects: Effects::default(),
            tally: Tally::default(),
            processes: Descendants::none(),
            stacks,
            waits: None,
            sink: sink(options, info, output, judging.is_none()),
            judging,
            info: Arc::clone(info),
            watched: Watched::default(),
            mirrored: Mirrored::default(),
            filter,
            limit: options.stop.count,
            shown: 0,
            upto: info.started_ns,
            terminal,
            waiting: None,
        }
    }

    /// Has it tell what is waited for the sake of the trace.
    #[must_use]
    pub fn waiting_by(self, waits: Option<Arc<dyn Waits>>) -> Self {
        Session { waits, ..self }
    }

    /// Says what is about to be traced, at once: the command may write to the same terminal or pipe.
    pub fn start(&mut self, start: &Start<'_>) -> io::Result<()> {
        self.sink.start(start)?;
        self.sink.flush()
    }

    /// Takes what a source gave.
    pub fn take(&mut self, batch: &Batch) -> io::Result<()> {
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
        // Of most events nothing is to be told.
        if self.effects.is_empty() {
            return Ok(());
        }
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
    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.shown >= limit)
    }

    /// Hands on what was written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.waiting = None;
        self.sink.flush()
    }

    /// There will be no more: tells the summary.
    pub fn end(&mut self, exit: Exit) -> io::Result<()> {
        self.model.finish(self.upto, &mut self.effects);
        self.show()?;
        let mut summary = self.tally.summary(self.info.started_ns, self.upto, exit);
        summary.mirror = self.mirrored();
        summary.check = self.judging.as_ref().map(|judging| self.judged(judging));
        self.sink.end(&summary)?;
        self.flush()
    }

    /// Until when to watch on, the command having ended now.
    pub fn settled_at(&self) -> Option<Instant> {
        let settle = self.judging.as_ref()?.settle;
        Instant::now().checked_add(settle).filter(|_| !settle.is_zero())
    }

    /// The exit status for the violations found, `None` when there is none.
    pub fn verdict(&self) -> Option<ExitCode> {
        let judging = self.judging.as_ref()?;
        let (errors, warnings) = self.tally.violations();
        (errors > 0 || (judging.strict && warnings > 0)).then(|| ExitCode::from(judging.violations_exit))
    }

    fn mirrored(&self) -> Mirrored {
        let lookup = self.model.latencies().overall().get(Measure::Mirror);
        Mirrored { lookup: lookup.map(|histogram| Percentiles::of(histogram, histogram.max())), ..self.mirrored }
    }

    /// What was waited at each step; of a recording only where and how long each time.
    fn stretched(&self) -> Vec<StepWaits> {
        let announced = self.info.stretched.iter();
        self.waits.as_ref().map_or_else(
            || {
                announced
                    .map(|of| StepWaits { step: of.step.clone(), wait_ns: of.wait_ns, ..StepWaits::default() })
                    .collect()
            },
            |waits| waits.waits(),
        )
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
            stretched: self.stretched(),
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

/// Rules that rest on what is not seen at all.
fn blind(judging: &Judging, info: &SourceInfo) -> Vec<Blind> {
    let unseen = mirror::unseen(info);
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

fn sink(options: &ConsumerOptions, info: &SourceInfo, output: Output, heads: bool) -> Box<dyn Sink> {
    let clock = Clock::new(options.output.time, info);
    match options.output.format {
        Format::Text => {
            let (palette, columns, wrap) = (output.palette(), output.columns(), output.is_terminal());
            let text = TextOptions { palette, columns, wrap, heads };
            Box::new(TextSink::new(output, clock, text))
        }
        Format::Json => Box::new(JsonSink::new(output, clock, options.output.stacks.level.is_any())),
    }
}
