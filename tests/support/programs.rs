//! Programs of other packages, which Cargo does not build together with these tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// What `sandboxctl` is made of.
const SOURCES: [&str; 5] = ["src/cli", "src/client", "src/model", "src/sys", "src/wire"];

/// `sandboxctl`, which lies beside the server; panics when it is older than its sources.
pub(crate) fn sandboxctl() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_sandboxd")).with_file_name("sandboxctl");
        let remedy = "cargo build --locked --features failpoints --bin sandboxctl";
        let Ok(built) = path.metadata().and_then(|found| found.modified()) else {
            panic!("{} is not there: {remedy}", path.display());
        };
        let sources = SOURCES.map(|source| newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source)));
        let changed = sources.into_iter().max().unwrap();
        assert!(changed <= built, "{} is older than its sources: {remedy}", path.display());
        path
    })
}

/// When a file beneath a directory was last changed.
fn newest(directory: &Path) -> SystemTime {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let changed = entries.map(|entry| match entry.metadata().unwrap() {
        found if found.is_dir() => newest(&entry.path()),
        found => found.modified().unwrap(),
    });
    changed.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
