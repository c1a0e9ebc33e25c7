//! Paths of files as clients write them, and the other values that have a text form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::{ByteSize, SandboxId};
use storage::FilePath;

fuzz_target!(|text: &str| {
    for path in [FilePath::parse(text), FilePath::parse_directory(text), FilePath::parse_entry(text)]
        .into_iter()
        .flatten()
    {
        let shown = path.as_str();
        assert!(!shown.starts_with('/') && !shown.contains('\0'));
        assert!(shown.split('/').all(|part| part != ".."), "{shown:?}");
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    if let Ok(id) = text.parse::<SandboxId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
});
