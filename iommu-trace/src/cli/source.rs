//! Which source a consumer reads: the running kernel, or a recording.

use super::ConsumerOptions;
use crate::{
    model::span::Topic,
    recording,
    source::{
        Source,
        live::{self, LiveOptions},
    },
};

/// Opens what the options ask for. Of a live kernel, `topics` are probed; a recording has those that it was made with.
pub fn open(options: &ConsumerOptions, topics: &[Topic]) -> anyhow::Result<Box<dyn Source>> {
    if let Some(path) = &options.live.from.from {
        return recording::open(path);
    }
    live::open(&LiveOptions {
        topics: topics.to_vec(),
        stacks: options.output.stacks,
        buffer_size: options.live.buffer_size,
        verbose: options.live.verbose > 0,
        track_frees: options.live.track_frees,
        snapshot: true,
    })
}
