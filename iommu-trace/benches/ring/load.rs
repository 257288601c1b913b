//! What the producers send: records of a lawful stream, over and over, at a rate or as fast as they can.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use iommu_trace::{
    event::{self, Body, Event, Phase, ProbeId},
    model::{Effects, Model, ModelOptions, testing::kernel_7_3},
};

use super::{common, shared::Ring};

/// Handles that are live of each producer.
const HANDLES: u32 = 100;
/// Rounds of all producers' laps together: some hundred thousand records.
const ROUNDS: u32 = 1_024;

/// A record, and which loss counter it has.
struct Record {
    bytes: Vec<u8>,
    counter: usize,
    /// A page fault begins when no other is under way: what belongs together comes at once, as it does in a kernel, however low the
    /// rate is.
    begins: bool,
}

/// What one producer sends: first what it needs, then the same lap again and again.
pub struct Lap {
    before: Vec<Record>,
    records: Vec<Record>,
}

/// For each producer its own.
pub fn laps(producers: u32) -> Vec<Lap> {
    let rounds = (ROUNDS / producers).max(16);
    (0..producers)
        .map(|number| {
            let (before, events) = common::lap(common::Part(number), HANDLES, 0..rounds);
            if number == 0 {
                assert_is_lawful(&before, &events);
            }
            Lap { before: records(&before), records: records(&events) }
        })
        .collect()
}

/// A second lap follows a first one without breaking a rule.
fn assert_is_lawful(before: &[Event], events: &[Event]) {
    let (mut model, mut effects) = (Model::new(kernel_7_3(), ModelOptions::default()), Effects::default());
    let mut ts = 0;
    for event in before.iter().chain(events).chain(events) {
        ts += 100;
        model.apply(&Event { ts, stack: None, ..event.clone() }, &mut effects);
    }
    assert_eq!(effects.violations, []);
    assert_eq!(model.counts().unmatched_faults, 0);
}

fn records(events: &[Event]) -> Vec<Record> {
    let mut under_way = 0u32;
    let mut records = Vec::new();
    for event in events {
        let reported = event.probe == ProbeId::ReportDeviceFault && matches!(event.body, Body::Report(_));
        let begins = reported && under_way == 0;
        under_way += u32::from(reported);
        under_way -= u32::from(event.probe == ProbeId::GroupFree && event.phase == Phase::Enter);
        let mut bytes = Vec::new();
        event::encode(&Event { stack: None, ..event.clone() }, &mut bytes).expect("a lawful stream has no losses");
        let counter = event.probe as usize * 2 + usize::from(event.phase == Phase::Exit);
        records.push(Record { bytes, counter, begins });
    }
    assert_eq!(under_way, 0, "each fault is freed");
    records
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Records, with those that are lost.
    pub made: u64,
    /// Those that there was no room for.
    pub lost: u64,
}

/// Sends what comes before all laps; all of it, however long it takes.
pub fn begin(ring: &Ring, laps: &[Lap]) -> u64 {
    let mut sent = 0;
    for record in laps.iter().flat_map(|lap| &lap.before) {
        while !ring.send(&record.bytes) {
            thread::sleep(Duration::from_millis(1));
        }
        sent += 1;
    }
    sent
}

/// Sends laps from a thread for each, `rate` records a second together if there is one, for this long or until it is to stop.
pub fn run(ring: &Ring, laps: &[Lap], rate: Option<f64>, time: Duration, stop: &AtomicBool) -> Sent {
    let each = rate.map(|rate| rate / laps.len() as f64);
    thread::scope(|scope| {
        let threads: Vec<_> =
            laps.iter().map(|lap| scope.spawn(move || produce(ring, lap, each, time, stop))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a producer has no reason to panic"))
            .fold(Sent::default(), |sum, sent| Sent { made: sum.made + sent.made, lost: sum.lost + sent.lost })
    })
}

fn produce(ring: &Ring, lap: &Lap, rate: Option<f64>, time: Duration, stop: &AtomicBool) -> Sent {
    let began = Instant::now();
    let mut sent = Sent::default();
    let mut records = lap.records.iter().cycle().peekable();
    loop {
        let elapsed = began.elapsed();
        if elapsed >= time || stop.load(Ordering::Relaxed) {
            return sent;
        }
        if let Some(rate) = rate {
            let early = sent.made as f64 / rate - elapsed.as_secs_f64();
            if early > 0.0 {
                thread::sleep(
                    Duration::from_secs_f64(early).min(time.saturating_sub(elapsed)).min(Duration::from_secs(1)),
                );
                continue;
            }
        }
        // All that belongs together.
        while let Some(record) = records.next() {
            if !ring.send(&record.bytes) {
                ring.shared.lost(record.counter).fetch_add(1, Ordering::Relaxed);
                sent.lost += 1;
            }
            sent.made += 1;
            if records.peek().is_none_or(|next| next.begins) {
                break;
            }
        }
    }
}
