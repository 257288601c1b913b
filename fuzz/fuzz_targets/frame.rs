//! Any bytes as frames behind a good header, with checksums that are right.
#![no_main]

use std::{fs::File, io::Write as _, time::Duration};

use iommu_trace::{
    model::{Effects, Model, ModelOptions},
    recording::{Header, Recording, testing},
    source::{Batch, Progress, Source},
};
use libfuzzer_sys::fuzz_target;

fn file(bytes: &[u8]) -> File {
    let fd = rustix::fs::memfd_create("recording", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = File::from(fd);
    file.write_all(bytes).expect("it takes bytes");
    std::io::Seek::rewind(&mut file).expect("it has a beginning");
    file
}

fuzz_target!(|frames: &[u8]| {
    let mut bytes = Vec::new();
    Header::default().write(&mut bytes).expect("a header is written");
    let mut frames = frames.to_vec();
    testing::repair(&mut frames);
    bytes.extend_from_slice(&frames);
    let mut source = Recording::from_file(file(&bytes), "fuzz".into()).expect("the header is good");
    let mut model = Model::new(source.info().features.clone(), ModelOptions::default());
    let mut effects = Effects::default();
    let mut last = 0;
    for _ in 0..10_000 {
        let mut batch = Batch::default();
        match source.poll(Duration::ZERO, &mut batch) {
            Ok(progress) => {
                for event in &batch.events {
                    last = event.ts;
                    model.apply(event, &mut effects);
                    effects.clear();
                }
                model.advance(batch.upto, &mut effects);
                effects.clear();
                if progress == Progress::End {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    model.finish(last, &mut effects);
    let _ = source.index();
    let _ = source.seek(last);
    let _ = source.poll(Duration::ZERO, &mut Batch::default());
});
