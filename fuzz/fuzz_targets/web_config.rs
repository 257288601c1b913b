//! Any text as the web configuration of `serve`.
#![no_main]

use iommu_trace::serve::{Access, WebConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(mut config) = WebConfig::parse(text) {
        // What it names is not opened: the fuzzer is to find no files.
        config.tls_server_config = None;
        let _ = Access::new(&config);
    }
});
