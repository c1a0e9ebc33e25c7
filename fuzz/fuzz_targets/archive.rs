//! An archive that a client uploads: whatever is in it, nothing outside the workspace changes.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use model::{ArchiveFormat, FileBase, SandboxId};
use storage::{Config, FilePath, Owner, Storage, TreeLimits};

static PLACE: LazyLock<(tempfile::TempDir, Storage, SandboxId)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data_dir, rootfs) = (directory.path().join("data"), directory.path().join("rootfs"));
    std::fs::create_dir_all(rootfs.join("etc/skel")).expect("a root file system");
    let storage =
        Storage::open(Config { data_dir, templates_dir: rootfs.join("templates"), rootfs }).expect("a place");
    let id = SandboxId::generate();
    storage.prepare(id, None, Owner::HOST, || None).expect("a workspace");
    (directory, storage, id)
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, mut data)) = data.split_first() else { return };
    let (directory, storage, id) = &*PLACE;
    let format = match kind % 3 {
        0 => ArchiveFormat::Tar,
        1 => ArchiveFormat::TarGz,
        _ => ArchiveFormat::Zip,
    };
    let limits = TreeLimits { entries_max: 50, bytes_max: 1 << 20, time_max: Duration::from_secs(5) };
    let files = storage.files(*id, FileBase::App).expect("the workspace");
    let path = FilePath::parse_directory("").expect("the top");
    if let Ok(unpacked) = files.unpack(&path, format, limits, &mut data) {
        assert!(unpacked.entries <= limits.entries_max && unpacked.bytes <= limits.bytes_max);
    }
    // Nothing is left in the yard, and nothing has appeared beside the data.
    for place in ["data/staging", "data/trash"] {
        assert_eq!(std::fs::read_dir(directory.path().join(place)).expect("is there").count(), 0, "{place}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("is there").count(), 2);
});
