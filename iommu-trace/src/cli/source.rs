//! Which source a consumer reads: the running kernel, or a recording.

use super::{ConsumerOptions, Filter, run::command_words};
use crate::{
    model::span::Topic,
    recording::{self, Header, Target, Tee},
    source::{
        Source,
        live::{self, Groups, LiveOptions, StackLevel},
    },
};

/// Opens what the options ask for. Of a live kernel, `topics` are probed; a recording has those that it was made with.
pub fn open(options: &ConsumerOptions, topics: &[Topic]) -> anyhow::Result<Box<dyn Source>> {
    open_of(options, topics, Groups::All)
}

/// The same for who shows only what the filter lets pass: what cannot pass does not leave the kernel, unless it is recorded.
pub fn open_filtered(options: &ConsumerOptions, topics: &[Topic], filter: &Filter) -> anyhow::Result<Box<dyn Source>> {
    if options.live.from.record.is_some() {
        return open(options, topics);
    }
    open_of(options, &filter.passing_topics(topics), filter.passing_groups())
}

fn open_of(options: &ConsumerOptions, topics: &[Topic], groups: Groups) -> anyhow::Result<Box<dyn Source>> {
    if let Some(path) = &options.live.from.from {
        return recording::open(path);
    }
    let record = &options.live.from.record;
    let target = record.as_deref().map(Target::new).transpose()?;
    let stacks = options.output.stacks.level;
    let source = live::open(&LiveOptions {
        topics: topics.to_vec(),
        // Who reads the recording may ask for them.
        stacks: if target.is_some() { stacks.max(StackLevel::Rare) } else { stacks },
        buffer_size: options.live.buffer_size,
        verbose: options.live.verbose > 0,
        track_frees: options.live.track_frees,
        snapshot: true,
        sums: options.live.sums,
        groups,
    })?;
    let Some(target) = target else { return Ok(source) };
    let header = Header::new(source.info(), topics, &command_words(&options.stop));
    Ok(Box::new(Tee::new(source, &target, &header)?))
}
