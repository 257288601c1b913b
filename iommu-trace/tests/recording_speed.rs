//! How large recordings are and how fast they are written and replayed, on one core. Figures for people, run by name:
//! `cargo test --release -p iommu-trace --test recording_speed -- --ignored --nocapture`
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    io::{Seek as _, Write as _},
    time::{Duration, Instant},
};

use iommu_trace::{
    event::Event,
    model::{
        Effects, Model, ModelOptions,
        testing::{Req, Script, dev, group, hnd, kernel_7_3},
    },
    recording::{Header, Recording, Writer},
    source::{Batch, Progress, Source, SourceInfo},
};

/// Faults answered by user space, from four threads over three devices with two PASIDs each, as `guest iopf` makes them.
fn faults(count: u32) -> Vec<Event> {
    let devices = [dev(1), dev(2), dev(3)];
    let mut script = Script::new();
    let mut random = 0x1234_5678_u64;
    for device in &devices {
        script.by(10).bind(device);
        for pasid in [0, 5] {
            script.by(10).attach(device, pasid, &hnd(device.id * 10 + pasid, device));
        }
    }
    for n in 0..count {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let device = &devices[(random >> 40) as usize % 3];
        let pasid = if random >> 50 & 1 == 0 { 0 } else { 5 };
        let request = Req::new((pasid != 0).then_some(pasid), n % 512, 0x1000_0000 + u64::from(n) * 0x1000);
        let handle = hnd(device.id * 10 + pasid, device);
        // What is freed is taken again soon.
        let at = group((random >> 33) as u32 % 64);
        script.step = 150 + (random >> 20) % 700;
        script.by(20 + (random >> 60) as u32 % 4).fault(at, device, &request, &handle);
        script.by(30).read(device.id, &request, n + 1);
        script.by(30).write(at, device, &request, &handle, 0).pass((random >> 10) % 20_000);
    }
    let mut events = script.events;
    for event in &mut events {
        event.stack = None;
    }
    events
}

#[test]
#[ignore = "measures"]
fn size_and_speed() {
    let events = faults(120_000);
    let info = SourceInfo { features: kernel_7_3(), started_ns: 1_000_000, ..common::info() };
    let rate = |took: Duration| events.len() as f64 / took.as_secs_f64() / 1e6;

    let begin = Instant::now();
    let mut file = tempfile::tempfile().unwrap();
    let mut writer = Writer::new(&mut file, &Header::new(&info, &[], &[])).unwrap();
    for chunk in events.chunks(2000) {
        let batch = Batch { events: chunk.to_vec(), upto: chunk.last().unwrap().ts };
        writer.batch(&batch, None).unwrap();
    }
    let bytes = writer.close().unwrap();
    println!("{} events, {bytes} bytes: {:.2} an event", events.len(), bytes as f64 / events.len() as f64);
    println!("written:  {:.2} million events a second", rate(begin.elapsed()));
    file.flush().unwrap();

    for (what, with_model) in [("read", false), ("replayed into the model", true)] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let mut file = file.try_clone().unwrap();
            file.rewind().unwrap();
            let mut source = Recording::from_file(file, "test".into()).unwrap();
            let mut model = Model::new(info.features.clone(), ModelOptions::default());
            let mut effects = Effects::default();
            let mut seen = 0;
            let mut batch = Batch::default();
            let begin = Instant::now();
            loop {
                batch.events.clear();
                let progress = source.poll(Duration::ZERO, &mut batch).unwrap();
                seen += batch.events.len();
                if with_model {
                    for event in &batch.events {
                        model.apply(event, &mut effects);
                        effects.clear();
                    }
                    model.advance(batch.upto, &mut effects);
                }
                if progress == Progress::End {
                    break;
                }
            }
            best = best.min(begin.elapsed());
            assert_eq!(seen, events.len());
            assert!(!with_model || model.counts().spans.get("fault") == 120_000);
        }
        println!("{what}: {:.2} million events a second", rate(best));
    }
    let mut model = Model::new(info.features.clone(), ModelOptions::default());
    let mut effects = Effects::default();
    let begin = Instant::now();
    for event in &events {
        model.apply(event, &mut effects);
        effects.clear();
    }
    println!("the model alone: {:.2} million events a second", rate(begin.elapsed()));
    println!("an Event takes {} bytes", size_of::<Event>());
}
