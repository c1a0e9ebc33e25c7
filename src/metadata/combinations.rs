//! Every file of the record is removed, emptied, cut or zeroed, in all combinations: what was acknowledged is there, or is
//! named, or the start is refused and says what to do.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;

use super::tests::record;
use super::*;
use model::Status;
use sys::pidfd::start_ticks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Removed,
    Emptied,
    Cut,
    Zeroed,
}

use Fault::{Cut, Emptied, None as Whole, Removed, Zeroed};

fn inflict(path: &Path, fault: Fault) {
    let Ok(bytes) = std::fs::read(path) else { return };
    match fault {
        Fault::None => {}
        Fault::Removed => std::fs::remove_file(path).unwrap(),
        Fault::Emptied => std::fs::write(path, "").unwrap(),
        Fault::Cut => std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
        Fault::Zeroed => std::fs::write(path, vec![0; bytes.len()]).unwrap(),
    }
}

fn config(directory: &Path) -> Config {
    Config { path: directory.join("db"), backup_interval: Duration::from_secs(3600) }
}

fn put(metadata: &Metadata, record: &Record) {
    let (sender, receiver) = mpsc::channel();
    metadata.put(record.clone(), Durability::Process, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap();
}

/// A data directory as a daemon leaves it.
struct Left {
    directory: tempfile::TempDir,
    ids: BTreeSet<SandboxId>,
    running: Record,
    note: String,
}

/// One that was killed, or that closed the record: the copy has the first of three, or all.
fn left(is_killed: bool) -> Left {
    let base = tempfile::tempdir_in("/dev/shm").unwrap();
    let (copied, late) = (stopped(), stopped());
    // The process of this test stands for what runs.
    let pid = i32::try_from(std::process::id()).unwrap();
    let running =
        Record { init_pid: Some(pid), init_start_ticks: Some(start_ticks(pid).unwrap()), ..record(Some(3)) };
    let (metadata, _) = Metadata::open(&config(base.path()), &Evidence::default()).unwrap();
    put(&metadata, &copied);
    metadata.close();
    let (metadata, _) = Metadata::open(&config(base.path()), &Evidence::default()).unwrap();
    put(&metadata, &late);
    let note = metadata.note(&running).unwrap();
    put(&metadata, &running);
    if !is_killed {
        metadata.close();
    }
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    copy_all(base.path(), directory.path());
    let ids = [&copied, &late, &running].map(|record| record.spec.id).into();
    Left { directory, ids, running, note }
}

fn stopped() -> Record {
    let (init_pid, init_start_ticks, launch) = (None, None, None);
    Record { status: Status::Stopped, init_pid, init_start_ticks, launch, ..record(None) }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// All combinations of what can happen to the files.
fn cases() -> impl Iterator<Item = [(&'static str, Fault); 5]> {
    let database = [Whole, Removed, Emptied, Cut, Zeroed];
    let log = [Whole, Removed, Cut, Zeroed];
    let all = database.into_iter().flat_map(move |db| log.into_iter().map(move |wal| (db, wal)));
    all.flat_map(|(db, wal)| {
        let copies = [Whole, Removed, Zeroed].into_iter();
        copies.flat_map(move |copy| {
            [(Removed, Whole), (Whole, Removed), (Zeroed, Zeroed)].into_iter().map(move |(shm, mark)| {
                [("", db), ("-wal", wal), ("-shm", shm), (".backup", copy), (".mark", mark)]
            })
        })
    })
}

fn check(left: &Left, faults: [(&str, Fault); 5], runs: bool) -> &'static str {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    copy_all(left.directory.path(), directory.path());
    let path = |suffix: &str| -> PathBuf { directory.path().join(format!("db{suffix}")) };
    for (suffix, fault) in faults {
        inflict(&path(suffix), fault);
        if suffix == ".backup" {
            // The older ones share its fate: the latest is not all that there is to lose.
            inflict(&path(".backup.1"), fault);
        }
    }
    let notes = if runs { vec![left.note.clone()] } else { Vec::new() };
    let evidence = Evidence { workspaces: left.ids.clone(), notes };
    match Metadata::open(&config(directory.path()), &evidence) {
        Ok((metadata, contents)) => {
            metadata.close();
            let known: BTreeSet<_> = contents.records.iter().map(|record| record.spec.id).collect();
            let named = contents.recovered.iter().flat_map(|recovered| recovered.unknown.iter().copied());
            let all: BTreeSet<_> = known.iter().copied().chain(named).collect();
            assert_eq!(all, left.ids, "{faults:?}: something is lost without a word");
            assert!(contents.recovered.is_some() || known == left.ids, "{faults:?}");
            if runs {
                let found = contents.records.iter().find(|record| record.spec.id == left.running.spec.id);
                assert_eq!(found, Some(&left.running), "{faults:?}: what runs would be ended");
            }
            // The next start finds nothing to complain of, once the found ones are recorded as they are by the core.
            let evidence = Evidence { workspaces: known.clone(), ..evidence };
            let (metadata, again) = Metadata::open(&config(directory.path()), &evidence).unwrap();
            metadata.close();
            assert!(again.recovered.is_none() && again.records.len() == known.len(), "{faults:?}");
            if contents.recovered.is_some() { "recovered" } else { "as it was" }
        }
        Err(error) => {
            assert!(error.to_string().contains("sandboxd restore"), "{faults:?}: {error}");
            "refused"
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_without_a_word() {
    for (is_killed, runs) in [(true, true), (true, false), (false, false)] {
        let left = left(is_killed);
        let mut outcomes = std::collections::BTreeMap::new();
        for faults in cases() {
            *outcomes.entry(check(&left, faults, runs)).or_insert(0) += 1;
        }
        // Each outcome is met, or the combinations are not what they are thought to be.
        assert_eq!(outcomes.len(), 3, "{outcomes:?}");
    }
}

#[test]
fn a_full_copy_never_gives_way_to_an_empty_one() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let one = stopped();
    let (metadata, _) = Metadata::open(&config(directory.path()), &Evidence::default()).unwrap();
    put(&metadata, &one);
    metadata.close();
    for _round in 0..3 {
        let (metadata, _) = Metadata::open(&config(directory.path()), &Evidence::default()).unwrap();
        let (sender, receiver) = mpsc::channel();
        metadata.delete(one.spec.id, Durability::Power, Box::new(move |done| sender.send(done).unwrap()));
        receiver.recv().unwrap().unwrap();
        metadata.close();
    }
    let copies = ["db.backup", "db.backup.1"].map(|name| {
        let text = std::fs::read(directory.path().join(name)).unwrap();
        let id = one.spec.id.to_string();
        text.windows(id.len()).any(|window| window == id.as_bytes())
    });
    assert_eq!(copies, [false, true]);
    // The record is the truth all the same: what was deleted does not come back.
    std::fs::remove_file(directory.path().join("db")).unwrap();
    let (metadata, contents) = Metadata::open(&config(directory.path()), &Evidence::default()).unwrap();
    metadata.close();
    assert!(contents.records.is_empty() && contents.recovered.is_some());
}

#[test]
fn a_note_says_what_the_record_says() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (metadata, _) = Metadata::open(&config(directory.path()), &Evidence::default()).unwrap();
    for index in [None, Some(7)] {
        let record = record(index);
        let text = metadata.note(&record).unwrap();
        let read = note::decode(&schema::scratch().unwrap(), &text).unwrap();
        assert_eq!(read.record, record);
        // A column that nobody knows any more.
        let text = text.replacen("\"row\":{", "\"row\":{\"forgotten\":1,", 1);
        assert_eq!(note::decode(&schema::scratch().unwrap(), &text).unwrap().record, record);
    }
    for bad in ["", "{}", "{\"identity\":1,\"generation\":1,\"row\":{}}", "nonsense"] {
        assert!(note::decode(&schema::scratch().unwrap(), bad).is_err(), "{bad}");
    }
}
