//! What becomes of events: lines of text and of JSON, a recording and its replay, a snapshot. docs/performance.md has the figures.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a benchmark")]

mod common;

use std::{
    fs::File,
    hint::black_box,
    io::{self, Seek as _, Write as _},
    time::Duration,
};

use common::{cpu::CpuTime, flame::Flame};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iommu_trace::{
    event::Event,
    model::{Effects, Model, ModelOptions, snapshot_events, span::Span, testing::kernel_7_3},
    output::{Clock, JsonSink, Palette, Sink, TextOptions, TextSink, TimeForm},
    recording::{Header, Recording, Writer},
    source::{Batch, Progress, Source as _, SourceInfo},
};

/// Handles that are live.
const HANDLES: u32 = 100;
/// Rounds of the stream; each is some hundred events.
const ROUNDS: u32 = 1_000;
/// Events that a live source gives out at once.
const BATCH: usize = 2_000;

fn info() -> SourceInfo {
    SourceInfo {
        kernel: "7.3.4".into(),
        machine: "x86_64".into(),
        host: "guest".into(),
        features: kernel_7_3(),
        probes: Vec::new(),
        epoch_offset_ns: 0,
        started_ns: 0,
        settled: false,
        stretched: Vec::new(),
    }
}

/// The faults of the stream, as they are told.
fn faults() -> Vec<Span> {
    let (before, events) = common::stream(HANDLES, 0..ROUNDS);
    let (mut model, mut effects) = (Model::new(kernel_7_3(), ModelOptions::default()), Effects::default());
    for event in before.iter().chain(&events) {
        model.apply(event, &mut effects);
    }
    let faults: Vec<Span> = effects.spans.drain(..).filter(|span| span.kind.name() == "fault").collect();
    assert_eq!(faults.len(), ROUNDS as usize * 8);
    faults
}

fn lines(criterion: &mut Criterion<CpuTime>) {
    let faults = faults();
    let clock = || Clock::new(TimeForm::Relative, &info());
    let mut group = criterion.benchmark_group("line of a fault");
    group.throughput(Throughput::Elements(faults.len() as u64));
    let mut each = |name: &str, sink: &mut dyn Sink| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| faults.iter().for_each(|fault| sink.span(black_box(fault), &[]).unwrap()));
        });
    };
    let options = TextOptions { palette: Palette::plain(), columns: 100, wrap: false, heads: true };
    each("text", &mut TextSink::new(io::sink(), clock(), options));
    each("JSON", &mut JsonSink::new(io::sink(), clock(), false));
    group.finish();
}

/// As a live source gives them out.
fn batches(events: &[Event]) -> Vec<Batch> {
    events.chunks(BATCH).map(|chunk| Batch { events: chunk.to_vec(), upto: chunk.last().unwrap().ts }).collect()
}

fn write(file: &mut File, batches: &[Batch]) -> u64 {
    let mut writer = Writer::new(file, &Header::new(&info(), &[], &[])).unwrap();
    for batch in batches {
        writer.batch(batch, None).unwrap();
    }
    writer.close().unwrap()
}

/// Reads all of a recording, and has the model follow it if there is one; how many events it has.
fn read(file: &File, mut model: Option<Model>) -> usize {
    let mut file = file.try_clone().unwrap();
    file.rewind().unwrap();
    let mut source = Recording::from_file(file, "bench".into()).unwrap();
    let (mut batch, mut effects, mut seen) = (Batch::default(), Effects::default(), 0);
    loop {
        batch.events.clear();
        let progress = source.poll(Duration::ZERO, &mut batch).unwrap();
        seen += batch.events.len();
        if let Some(model) = &mut model {
            for event in &batch.events {
                model.apply(event, &mut effects);
                effects.clear();
            }
        }
        if progress == Progress::End {
            return seen;
        }
    }
}

fn recording(criterion: &mut Criterion<CpuTime>) {
    let (mut events, more) = common::stream(HANDLES, 0..ROUNDS);
    events.extend(more);
    let batches = batches(&events);
    let mut group = criterion.benchmark_group("recording");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("written", |bencher| {
        bencher.iter_batched_ref(
            || tempfile::tempfile().unwrap(),
            |file| write(file, &batches),
            BatchSize::PerIteration,
        );
    });
    let mut file = tempfile::tempfile().unwrap();
    let bytes = write(&mut file, &batches);
    file.flush().unwrap();
    println!("{} events, {bytes} bytes: {:.2} an event", events.len(), bytes as f64 / events.len() as f64);
    assert_eq!(read(&file, None), events.len());
    group.bench_function("read", |bencher| bencher.iter(|| read(&file, None)));
    group.bench_function("replayed into the model", |bencher| {
        bencher.iter(|| read(&file, Some(Model::new(kernel_7_3(), ModelOptions::default()))));
    });
    group.finish();
}

fn snapshot(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("snapshot");
    for handles in [100, 10_000] {
        let (script, _) = common::attached(handles);
        let (mut model, mut effects) = (Model::new(kernel_7_3(), ModelOptions::default()), Effects::default());
        for event in &script.events {
            model.apply(event, &mut effects);
            effects.clear();
        }
        assert!(snapshot_events(model.mirror(), 1).len() >= handles as usize);
        group.throughput(Throughput::Elements(u64::from(handles)));
        group.bench_function(BenchmarkId::new("handles", handles), |bencher| {
            bencher.iter(|| snapshot_events(black_box(model.mirror()), 1));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).with_profiler(Flame::default()).sample_size(20);
    targets = lines, recording, snapshot
}
criterion_main!(benches);
