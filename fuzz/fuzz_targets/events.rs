//! Any bytes as the payload of a frame of events, and of stacks.
#![no_main]

use iommu_trace::{
    event::{decode, encode},
    recording::testing,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let mut record = Vec::new();
    let _ = testing::events(payload, 1_000_000, |event| {
        record.clear();
        // A loss has no record.
        if encode(event, &mut record).is_ok() {
            assert_eq!(decode(&record).as_ref(), Ok(event));
        }
    });
    let _ = testing::stacks(payload);
});
