//! Any bytes as what a client says to `serve`. Who has no password is never shown anything.
#![no_main]

use std::{fs::File, sync::OnceLock};

use iommu_trace::{
    recording::{Header, Recording},
    serve::{WebConfig, testing::Answers},
};
use libfuzzer_sys::fuzz_target;

/// Of a password that is not in the corpus.
const USERS: &str = "basic_auth_users: {alice: $2b$04$M0vHVNvwNlzKzVl0JHfLyOMDaMdeRW1VLSIC.1uO5v948s8.nyHXC}";

fn answers(config: &str) -> Answers {
    let fd = rustix::fs::memfd_create("recording", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = File::from(fd);
    Header::default().write(&mut file).expect("it takes bytes");
    std::io::Seek::rewind(&mut file).expect("it has a beginning");
    let source = Recording::from_file(file, "fuzz".into()).expect("the header is good");
    Answers::new(Box::new(source), &WebConfig::parse(config).expect("lawful")).expect("nothing is in its way")
}

fuzz_target!(|bytes: &[u8]| {
    static OPEN: OnceLock<Answers> = OnceLock::new();
    static LOCKED: OnceLock<Answers> = OnceLock::new();
    let answer = OPEN.get_or_init(|| answers("")).answer(bytes).expect("it ends");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", answer.escape_ascii());
    let answer = LOCKED.get_or_init(|| answers(USERS)).answer(bytes).expect("it ends");
    let shown = |words: &[u8]| answer.windows(words.len()).any(|window| window == words);
    assert!(!shown(b"200 OK") && !shown(b"iommu_trace_"), "{}", answer.escape_ascii());
});
