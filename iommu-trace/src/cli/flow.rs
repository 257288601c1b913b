//! From a source through the model and the filter to whoever takes note: for commands that tell only at the end.

use std::sync::Arc;

use super::{Filter, consumer::Consumer, mirror, processes::Descendants};
use crate::{
    analysis::Observer,
    model::{Effects, Model},
    output::Exit,
    source::{Batch, SourceInfo, Stacks, Stream},
};

/// Takes note, and tells at the end.
pub trait Teller: Observer {
    /// A span that the filters leave out.
    fn left_out(&mut self) {}

    /// There will be no more; `upto` is the last time known.
    fn end(&mut self, whole: &Whole<'_>) -> anyhow::Result<()>;
}

/// What is known when a run is over.
pub struct Whole<'a> {
    /// The source.
    pub info: &'a SourceInfo,
    /// The last time known.
    pub upto: u64,
    /// How it ended.
    pub exit: Exit,
    /// Where stacks are resolved.
    pub stacks: &'a dyn Stacks,
}

/// The model and the filter in between.
pub struct Flow<T> {
    model: Model,
    effects: Effects,
    filter: Filter,
    processes: Descendants,
    info: Arc<SourceInfo>,
    stacks: Arc<dyn Stacks>,
    limit: Option<u64>,
    seen: u64,
    upto: u64,
    teller: T,
}

impl<T: Teller> Flow<T> {
    /// For a stream that has not begun; ends after `limit` spans.
    pub fn new(stream: &Stream, filter: Filter, limit: Option<u64>, teller: T) -> Self {
        let info = Arc::clone(stream.info());
        Flow {
            model: Model::new(info.features.clone(), mirror::options(&info)),
            effects: Effects::default(),
            filter,
            processes: Descendants::none(),
            stacks: Arc::clone(stream.stacks()),
            limit,
            seen: 0,
            upto: info.started_ns,
            info,
            teller,
        }
    }

    fn tell(&mut self) {
        for span in self.effects.spans.drain(..) {
            let is_loss = span.kind.topic().is_none();
            if !is_loss && self.limit.is_some_and(|limit| self.seen >= limit) {
                continue;
            }
            if self.filter.matches(&span, &mut self.processes) {
                self.seen += u64::from(!is_loss);
                self.teller.span(&span);
            } else {
                self.teller.left_out();
            }
        }
        for violation in self.effects.violations.drain(..) {
            self.teller.violation(&violation);
        }
    }
}

impl<T: Teller> Consumer for Flow<T> {
    fn take(&mut self, batch: &Batch) -> anyhow::Result<()> {
        for event in &batch.events {
            self.teller.event(event);
            self.model.apply(event, &mut self.effects);
            self.upto = self.upto.max(event.ts);
            self.tell();
        }
        self.upto = self.upto.max(batch.upto);
        self.model.advance(batch.upto, &mut self.effects);
        self.tell();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.seen >= limit)
    }

    fn processes(&mut self) -> Option<&mut Descendants> {
        Some(&mut self.processes)
    }

    fn end(&mut self, exit: Exit) -> anyhow::Result<()> {
        self.model.finish(self.upto, &mut self.effects);
        self.tell();
        let whole = Whole { info: &self.info, upto: self.upto, exit, stacks: self.stacks.as_ref() };
        self.teller.end(&whole)
    }
}
