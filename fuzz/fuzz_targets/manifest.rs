//! A tenant's `sandbox.yaml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::manifest::{Manifest, is_process_name};

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data) {
        assert!(manifest.workers.iter().all(|w| is_process_name(&w.name)));
    }
});
