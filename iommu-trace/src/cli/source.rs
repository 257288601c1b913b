//! Which source a consumer reads: the running kernel, or a recording.

use super::{ConsumerOptions, run::command_words};
use crate::{
    model::span::Topic,
    probes::stretch::Stretch,
    recording::{self, Header, Target, Tee},
    source::{
        Source,
        live::{self, LiveOptions, StackLevel},
    },
};

/// Opens what the options ask for. Of a live kernel, `topics` are probed; a recording has those that it was made with.
pub fn open(options: &ConsumerOptions, topics: &[Topic]) -> anyhow::Result<Box<dyn Source>> {
    open_stretched(options, topics, &[])
}

/// As [`open`]; a live kernel is made to wait besides.
pub fn open_stretched(
    options: &ConsumerOptions,
    topics: &[Topic],
    stretch: &[Stretch],
) -> anyhow::Result<Box<dyn Source>> {
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
        stretch: stretch.to_vec(),
    })?;
    let Some(target) = target else { return Ok(source) };
    let header = Header::new(source.info(), topics, &command_words(&options.stop));
    Ok(Box::new(Tee::new(source, &target, &header)?))
}
