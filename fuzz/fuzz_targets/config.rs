//! A configuration file.
#![no_main]

use std::collections::BTreeMap;
use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use daemon::config::{Config, collect};

fuzz_target!(|data: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(data).expect("room for it");
    if let Ok(sources) = collect(&[], &BTreeMap::new(), Some(file.path())) {
        // All complaints, or a configuration; never a panic.
        let _ = Config::parse(&sources);
    }
});
