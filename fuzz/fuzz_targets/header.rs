//! Any bytes as the header document.
#![no_main]

use iommu_trace::recording::testing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    if let Ok(header) = testing::header(document) {
        let control = |text: &str| text.chars().any(char::is_control);
        assert!(!control(&header.source.kernel) && !header.command.iter().any(|word| control(word)));
    }
});
