//! A recording is played in its own time: faster, slower, held, from another time on.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::time::{Duration, Instant};

use common::scripted::{Scripted, Step, fault};
use iommu_trace::{
    source::{Batch, Progress, Source},
    tui::playback::Player,
};

/// Faults of the millisecond of their number.
fn player(faults: std::ops::Range<u32>, speed: f64) -> Player {
    let open = move || Ok(Scripted::new(faults.clone().map(|n| Step::Events(fault(n))).collect()).boxed());
    Player::new(Box::new(open), common::info().started_ns, None, speed)
}

/// What comes within a time, and whether that was all.
fn read(source: &mut dyn Source, time: Duration) -> (Vec<u64>, bool) {
    let (until, mut times) = (Instant::now() + time, Vec::new());
    loop {
        let mut batch = Batch::default();
        let progress = source.poll(Duration::from_millis(5), &mut batch).unwrap();
        times.extend(batch.events.iter().map(|event| event.ts - common::info().started_ns));
        assert!(batch.events.iter().all(|event| event.ts <= batch.upto), "{batch:?}");
        if progress == Progress::End || Instant::now() > until {
            return (times, progress == Progress::End);
        }
    }
}

#[test]
fn events_come_in_their_time() {
    // 40 ms of events at a twentieth of real time take 800 ms.
    let player = player(0..40, 0.05);
    let mut source = player.play_from(0).unwrap();
    let (times, ended) = read(source.as_mut(), Duration::from_millis(200));
    assert!(!ended && !times.is_empty() && *times.last().unwrap() < 40_000_000, "{times:?}");
    player.set_speed(1000.0);
    let (rest, ended) = read(source.as_mut(), Duration::from_secs(20));
    assert!(ended);
    assert_eq!(times.len() + rest.len(), 40 * 3, "nothing is lost on the way");
}

#[test]
fn held_it_stands_still() {
    let player = player(0..40, 1.0);
    player.hold(true);
    let mut source = player.play_from(common::info().started_ns + 10_500_000).unwrap();
    let (times, ended) = read(source.as_mut(), Duration::from_millis(300));
    // The 11 faults of the first 10.5 ms came at once, and nothing after.
    assert_eq!((times.len(), ended), (33, false), "{times:?}");
    assert!(player.played().paused);
    player.hold(false);
    assert!(read(source.as_mut(), Duration::from_secs(20)).1);
}

#[test]
fn it_is_played_from_another_time_on_as_often_as_one_likes() {
    let player = player(0..40, 1.0);
    player.hold(true);
    for (ms, events) in [(20, 63), (5, 18), (0, 3), (1_000_000, 120)] {
        // The fault that begins at this very millisecond is over 6 µs later.
        let mut source = player.play_from(common::info().started_ns + ms * 1_000_000 + 6_000).unwrap();
        let (times, _) = read(source.as_mut(), Duration::from_millis(100));
        assert_eq!(times.len(), events, "from {ms} ms on");
        assert!(times.is_sorted());
    }
    let mut source = player.play_from(u64::MAX).unwrap();
    assert_eq!(
        read(source.as_mut(), Duration::from_secs(20)),
        ((0..40).flat_map(|n| [0, 5_000, 6_000].map(|at| n * 1_000_000 + at)).collect(), true)
    );
}
