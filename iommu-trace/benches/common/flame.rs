//! Where the time goes: with `--profile-time SECONDS` each benchmark runs for that long, and its stacks are counted into
//! `target/criterion/GROUP/NAME/profile/stacks.folded`, of which `inferno-flamegraph` or `flamegraph.pl` draws a flame graph.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use criterion::profiler::Profiler;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};

/// Samples a second, of processor time. A prime, so that nothing that happens a round number of times a second is in step with it.
const HERTZ: i32 = 997;
/// Of a frame's name: generic arguments fill a picture otherwise.
const LONGEST: usize = 80;

/// What criterion asks.
#[derive(Default)]
pub struct Flame {
    running: Option<ProfilerGuard<'static>>,
}

impl Profiler for Flame {
    fn start_profiling(&mut self, _benchmark: &str, _dir: &Path) {
        self.running = Some(ProfilerGuardBuilder::default().frequency(HERTZ).build().unwrap());
    }

    fn stop_profiling(&mut self, _benchmark: &str, dir: &Path) {
        let Some(running) = self.running.take() else { return };
        let report = running.report().frames_post_processor(shorten).build().unwrap();
        // Outermost first; what was inlined lies innermost first in its frame.
        let mut stacks: BTreeMap<String, isize> = BTreeMap::new();
        for (stack, count) in &report.data {
            let names: Vec<String> = stack
                .frames
                .iter()
                .rev()
                .flat_map(|frame| frame.iter().rev())
                .map(|symbol| symbol.name().replace(';', ","))
                .collect();
            *stacks.entry(names.join(";")).or_default() += count;
        }
        let mut text = String::new();
        for (stack, count) in stacks {
            writeln!(text, "{stack} {count}").unwrap();
        }
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("stacks.folded"), text).unwrap();
    }
}

/// Leaves out what is the same in each stack, and the ends of long names.
fn shorten(frames: &mut pprof::Frames) {
    let measured = frames
        .frames
        .iter()
        .position(|frame| frame.iter().any(|symbol| symbol.name().contains("criterion::bencher::")));
    if let Some(measured) = measured {
        frames.frames.truncate(measured);
    }
    for symbol in frames.frames.iter_mut().flatten() {
        let mut name = symbol.name();
        if let Some((end, _)) = name.char_indices().nth(LONGEST) {
            name.truncate(end);
        }
        symbol.name = Some(name.into_bytes());
    }
    "benchmark".clone_into(&mut frames.thread_name);
}
