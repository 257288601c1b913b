//! Recordings for tests: workloads that are the same each time, recorded through the whole consumer.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use iommu_trace::{
    cli::RecordArgs,
    event::{Event, Phase, ProbeId},
    model::testing::{DEFAULT, Req, Script, bond, dev, group, hnd, kernel_7_3},
    source::{Source, SourceInfo},
};

use super::scripted::{Scripted, Step};

#[derive(clap::Parser)]
struct RecordArguments {
    #[command(flatten)]
    record: RecordArgs,
}

/// As the source of a test says of itself.
pub fn info() -> SourceInfo {
    SourceInfo {
        features: kernel_7_3(),
        started_ns: 1_000_000,
        epoch_offset_ns: 1_767_225_600_000_000_000,
        ..super::info()
    }
}

/// In batches, as a source gives them; the last is empty.
pub fn steps(events: &[Event], size: usize) -> Vec<Step> {
    events.chunks(size).map(|chunk| Step::Events(chunk.to_vec())).chain([Step::Events(vec![])]).collect()
}

/// A source of these events.
pub fn source(script: &Script) -> Box<dyn Source> {
    Scripted { info: info(), ..Scripted::new(steps(&script.events, 50)) }.boxed()
}

/// Records a script to a file of this name.
pub fn record(dir: &Path, name: &str, script: &Script) -> PathBuf {
    let path = dir.join(name);
    let record = RecordArguments::try_parse_from(["record", "-o", path.to_str().unwrap()]).unwrap().record;
    record.record(source(script)).unwrap();
    path
}

/// Two devices with two PASIDs each, faults that user space answers, one broken rule, losses, an SVA bond. All times are
/// multiplied by `slow`.
pub fn workload(faults: u32, slow: u64) -> Script {
    let devices = [dev(1), dev(2)];
    let mut script = Script { step: 1_000 * slow, ..Script::new() };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    script.by(10).snapshot_begin(&devices[1], DEFAULT).snapshot_end(&devices[1]);
    for device in &devices {
        script.by(10).bind(device).queue_add(device, 0);
        for pasid in [0, 5] {
            script.by(10).attach(device, pasid, &hnd(device.id * 10 + pasid, device));
        }
    }
    for n in 0..faults {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let device = &devices[(random >> 40) as usize % 2];
        let pasid = if random >> 50 & 1 == 0 { 0 } else { 5 };
        let request = Req::new((pasid != 0).then_some(pasid), n, 0x10_0000 + u64::from(n) * 0x1000);
        let handle = hnd(device.id * 10 + pasid, device);
        script.by(20 + (random >> 60) as u32 % 4).fault(group(n % 8), device, &request, &handle);
        script.by(30).read(device.id, &request, n + 1).pass((random >> 44) % 100_000 * slow);
        script.by(30).write(group(n % 8), device, &request, &handle, u32::from(n % 10 == 9));
        script.pass(200_000 * slow);
    }
    // Into a slot that is occupied: a rule is broken.
    script.by(11).core_attach(&devices[0], 5, &hnd(7, &devices[0]), 0);
    script.by(10).lost(ProbeId::Map, Phase::Exit, 3);
    script.by(10).detach(&devices[1], 0, &hnd(30, &devices[1]));
    script.by(41).sva(ProbeId::SvaBind, &devices[1], None, 1, 0);
    script.by(41).sva_bound(&devices[1], Some(&bond(4, &devices[1])), 1, 1, 0);
    script
}
