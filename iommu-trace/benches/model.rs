//! How fast the model is: events a second on one core, with and without rules; the mirror's look-up with few and with
//! very many handles; the decoding of records. docs/performance.md has the figures.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a benchmark")]

mod common;

use std::hint::black_box;

use common::{cpu::CpuTime, flame::Flame};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iommu_trace::{
    event::{self, Event, Ptr},
    model::{Effects, Model, ModelOptions, RuleSet, testing::kernel_7_3},
};
use iommu_trace_common::{ProbeId, record};
use zerocopy::IntoBytes;

/// Rounds of the stream; each is some hundred events.
const ROUNDS: u32 = 4_000;

fn fresh(options: ModelOptions, before: &[Event]) -> (Model, Effects) {
    let (mut model, mut effects) = (Model::new(kernel_7_3(), options), Effects::default());
    apply(&mut model, &mut effects, before);
    (model, effects)
}

fn apply(model: &mut Model, effects: &mut Effects, events: &[Event]) {
    for event in events {
        model.apply(event, effects);
        // As a consumer does: what was told is taken and the buffer used again.
        black_box(effects.spans.len());
        effects.clear();
    }
}

fn options(rules: RuleSet, stages: bool) -> ModelOptions {
    ModelOptions { rules, stages, ..ModelOptions::default() }
}

fn events(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("events");
    group.sample_size(20);
    println!("an event takes {} bytes", size_of::<Event>());
    for handles in [100, 10_000] {
        let (before, events) = common::stream(handles, 0..ROUNDS);
        // What is measured is the lawful path.
        let (mut model, mut effects) = fresh(ModelOptions::default(), &before);
        for event in &events {
            model.apply(event, &mut effects);
        }
        assert_eq!(effects.violations, []);
        assert_eq!(model.counts().unmatched_faults, 0);
        assert_eq!(model.counts().spans.get("fault"), u64::from(ROUNDS) * 8);
        group.throughput(Throughput::Elements(events.len() as u64));
        for (name, rules, stages) in [
            ("all rules", RuleSet::default(), false),
            ("no rules", RuleSet::NONE, false),
            ("both ownerships", RuleSet::refcounted(), false),
            ("all rules and stages", RuleSet::default(), true),
        ] {
            group.bench_function(BenchmarkId::new(name, handles), |bencher| {
                bencher.iter_batched(
                    || fresh(options(rules, stages), &before),
                    |(mut model, mut effects)| {
                        apply(&mut model, &mut effects, &events);
                        (model, effects)
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn lookup(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("lookup");
    for handles in [10, 10_000, 1_000_000] {
        let (script, live) = common::attached(handles);
        let (model, _) = fresh(ModelOptions::default(), &script.events);
        drop(script);
        let keys: Vec<(Ptr, u32, u32)> = (0..1 << 16)
            .map(|n| {
                let (device, pasid, _) = live[(common::mix(n) % u64::from(handles)) as usize];
                (device.device.group, pasid, device.id)
            })
            .collect();
        for &(group, pasid, id) in &keys {
            assert_eq!(model.mirror().device_id(group, pasid), Some(id));
        }
        let mut at = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(handles), |bencher| {
            bencher.iter(|| {
                at = (at + 1) % keys.len();
                let (group, pasid, _) = keys[at];
                black_box(model.mirror().device_id(black_box(group), black_box(pasid)))
            });
        });
    }
    group.finish();
}

/// A record as the ring holds it.
fn record<T: IntoBytes + zerocopy::Immutable>(probe: ProbeId, exit: bool, payload: &T) -> Vec<u8> {
    let header = record::Header {
        ts: 1,
        probe: probe as u16,
        phase: u16::from(exit),
        len: size_of::<T>() as _,
        ..zerocopy::FromZeros::new_zeroed()
    };
    [header.as_bytes(), payload.as_bytes()].concat()
}

fn decode(criterion: &mut Criterion<CpuTime>) {
    use zerocopy::FromZeros;
    let mut group = criterion.benchmark_group("decode");
    let records = [
        ("report", record(ProbeId::ReportDeviceFault, false, &record::Report::new_zeroed())),
        ("look-up", record(ProbeId::AttachHandleGet, true, &record::Lookup::new_zeroed())),
        ("group", record(ProbeId::IommufdIopfHandler, false, &record::Group::new_zeroed())),
        ("response", record(ProbeId::MockPageResponse, false, &record::PageResponse::new_zeroed())),
        ("attach", record(ProbeId::AttachDevicePasid, false, &record::Attach::new_zeroed())),
        ("return", record(ProbeId::AttachDevicePasid, true, &record::Return::new_zeroed())),
    ];
    for (name, bytes) in &records {
        event::decode(bytes).unwrap();
        group.throughput(Throughput::Elements(1));
        group.bench_function(*name, |bencher| bencher.iter(|| event::decode(black_box(bytes))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).with_profiler(Flame::default());
    targets = events, lookup, decode
}
criterion_main!(benches);
