//! Which source a consumer reads: the running kernel, or a recording.

use std::path::Path;

use super::{ConsumerOptions, Filter, run::command_words};
use crate::{
    model::span::Topic,
    probes::stretch::Stretch,
    recording::{self, Header, Recording, Tee},
    sandbox::{self, Needs},
    source::{
        Source,
        live::{self, Groups, LiveOptions, StackLevel},
    },
};

/// Opens what the options ask for. Of a live kernel, `topics` are probed; a recording has those that it was made with.
///
/// A recording is read without privileges from its first byte on: but for what is open by then, this thread has `needs` alone
/// afterwards. With a live source, privileges are dropped once everything that takes them is done.
pub fn open(options: &ConsumerOptions, topics: &[Topic], needs: &Needs) -> anyhow::Result<Box<dyn Source>> {
    open_of(options, topics, needs, Groups::All, &[])
}

/// The same for who shows only what the filter lets pass: what cannot pass does not leave the kernel, unless it is recorded.
pub fn open_filtered(
    options: &ConsumerOptions,
    topics: &[Topic],
    needs: &Needs,
    filter: &Filter,
) -> anyhow::Result<Box<dyn Source>> {
    if options.live.from.record.is_some() {
        return open(options, topics, needs);
    }
    open_of(options, &filter.passing_topics(topics), needs, filter.passing_groups(), &[])
}

/// As [`open`]; a live kernel is made to wait besides.
pub fn open_stretched(
    options: &ConsumerOptions,
    topics: &[Topic],
    needs: &Needs,
    stretch: &[Stretch],
) -> anyhow::Result<Box<dyn Source>> {
    open_of(options, topics, needs, Groups::All, stretch)
}

fn open_of(
    options: &ConsumerOptions,
    topics: &[Topic],
    needs: &Needs,
    groups: Groups,
    stretch: &[Stretch],
) -> anyhow::Result<Box<dyn Source>> {
    if let Some(path) = &options.live.from.from {
        return Ok(Box::new(recorded(path, needs)?));
    }
    let record = &options.live.from.record;
    let target = record.as_deref().map(recording::target).transpose()?;
    let stacks = options.output.stacks.level;
    let source = live::open(&LiveOptions {
        topics: topics.to_vec(),
        // Who reads the recording may ask for them.
        stacks: if target.is_some() { stacks.max(StackLevel::Rare) } else { stacks },
        buffer_size: options.live.buffer_size.unwrap_or_else(live::default_ring),
        verbose: options.live.verbose > 0,
        track_frees: options.live.track_frees,
        snapshot: true,
        sums: options.live.sums,
        groups,
        stretch: stretch.to_vec(),
    })?;
    let Some(target) = target else { return Ok(source) };
    let header = Header::new(source.info(), topics, &command_words(&options.stop));
    Ok(Box::new(Tee::new(source, &target, &header)?))
}

/// Opens a recording and gives up what reading it does not need.
pub fn recorded(path: &Path, needs: &Needs) -> anyhow::Result<Recording> {
    let opened = recording::Opened::at(path)?;
    sandbox::enter(needs)?;
    opened.read()
}
