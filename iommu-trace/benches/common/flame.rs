//! Flame graphs: with `--profile-time SECONDS` each benchmark runs for that long, and where the time goes is drawn into
//! `target/criterion/GROUP/NAME/profile/flamegraph.svg`.

use std::{fs::File, path::Path};

use criterion::profiler::Profiler;
use pprof::{ProfilerGuard, ProfilerGuardBuilder, flamegraph};

/// Samples a second, of processor time. A prime, so that nothing that happens a round number of times a second is in step with it.
const HERTZ: i32 = 997;
/// Of a frame's name: generic arguments fill the picture otherwise.
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

    fn stop_profiling(&mut self, benchmark: &str, dir: &Path) {
        let Some(running) = self.running.take() else { return };
        let report = running.report().frames_post_processor(shorten).build().unwrap();
        std::fs::create_dir_all(dir).unwrap();
        let file = File::create(dir.join("flamegraph.svg")).unwrap();
        let mut options = flamegraph::Options::default();
        benchmark.clone_into(&mut options.title);
        options.deterministic = true;
        // What is too narrow to be read.
        options.min_width = 0.3;
        report.flamegraph_with_options(file, &mut options).unwrap();
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
