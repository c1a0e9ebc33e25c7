//! The database on a real disk: what comes back, what is refused, what survives.

use model::External;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use super::*;
use model::{
    ByteSize, CpuMax, Environment, GitSource, HostHeader, IdlePolicy, IoMax, Isolation, LaunchId, Limits,
    RootFs, SandboxSpec, SleepPolicy, Status, Visibility,
};

pub(super) fn record(index: Option<u32>) -> Record {
    let spec = SandboxSpec {
        id: SandboxId::generate(),
        ports: vec![3000, 8080],
        env: Environment::new(BTreeMap::from([("A".to_owned(), "b=\"c\"".to_owned())])).unwrap(),
        template: Some("react-vite".parse().unwrap()),
        visibility: Visibility::Private,
        idle_policy: IdlePolicy::AlwaysOn,
        host_header: HostHeader::Upstream,
        sleep: Some(SleepPolicy::new(60, index.map(u64::from)).unwrap()),
        limits: Limits {
            swap_max: ByteSize::bytes(0),
            oom_group: true,
            cpu_max: Some(CpuMax::from_milli(500)),
            cpu_weight: 7,
            io_max: IoMax {
                read_bps: Some(ByteSize::mib(1)),
                write_bps: Some(ByteSize::mib(2)),
                read_iops: Some(3),
                write_iops: None,
            },
            io_weight: 9,
            ..Limits::with_memory(ByteSize::mib(512))
        },
        external: External::new(Some("u".into()), Some("p'; DROP TABLE sandboxes; --".into()), None).unwrap(),
        app_id: Some("app.1".parse().unwrap()),
        git: Some(GitSource::new("https://example.org/x.git".into(), Some("main".into())).unwrap()),
        isolation: Isolation::Gvisor,
        rootfs: RootFs::Overlay,
        nested_namespaces: true,
    };
    Record {
        spec,
        status: Status::Running,
        error_message: Some("m\u{e4}h".into()),
        address_index: index,
        launch: Some(LaunchId::generate()),
        init_pid: Some(42),
        init_start_ticks: Some(u64::from(u32::MAX) + 1),
        created_at: 1,
        updated_at: 2,
        last_active_at: 3,
        stopped_at: None,
        keepalive_until: Some(4),
    }
}

/// Writes and waits.
fn wait(write: impl FnOnce(Done)) -> Result<(), MetadataError> {
    let (sender, receiver) = mpsc::channel();
    write(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

fn put(metadata: &Metadata, record: &Record) -> Result<(), MetadataError> {
    wait(|done| metadata.put(record.clone(), Durability::Process, done))
}

fn open(path: &Path) -> Result<(Metadata, Contents), MetadataError> {
    Metadata::open(&Config { path: path.to_owned(), backup_interval: Duration::ZERO }, &Evidence::default())
}

#[test]
fn everything_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (metadata, contents) = open(&path).unwrap();
    assert!(contents.records.is_empty());
    let (first, second) = (record(Some(7)), record(None));
    put(&metadata, &first).unwrap();
    wait(|done| metadata.put(second.clone(), Durability::Power, done)).unwrap();
    let kept = Retirement::Kept(first.spec.external.clone());
    wait(|done| metadata.retire(second.spec.id, kept.clone(), Durability::Power, done)).unwrap();
    metadata.touch(vec![(first.spec.id, 99)]);
    for until in [50, 40] {
        wait(|done| metadata.reserve_events(until, Durability::Power, done)).unwrap();
    }
    metadata.close();
    let (metadata, contents) = open(&path).unwrap();
    assert_eq!(contents.records, [Record { last_active_at: 99, ..first }]);
    assert_eq!(contents.events_given_out, 50);
    assert_eq!(contents.retired, [Retired { id: second.spec.id, retirement: kept }]);
    wait(|done| metadata.forget(second.spec.id, Durability::Process, done)).unwrap();
    metadata.close();
    assert!(open(&path).unwrap().1.retired.is_empty());
}

#[test]
fn what_was_done_survives_without_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (metadata, _) = open(&path).unwrap();
    let record = record(Some(1));
    put(&metadata, &record).unwrap();
    // What a daemon that is killed leaves behind: the files as they are at this moment.
    let copy = directory.path().join("copy");
    for suffix in ["", "-wal"] {
        std::fs::copy(format!("{}{suffix}", path.display()), format!("{}{suffix}", copy.display())).unwrap();
    }
    assert_eq!(open(&copy).unwrap().1.records, [record]);
}

#[test]
fn an_address_has_one_holder_and_only_the_second_fails() {
    let directory = tempfile::tempdir().unwrap();
    let (metadata, _) = open(&directory.path().join("db")).unwrap();
    let (sender, receiver) = mpsc::channel();
    for (number, index) in [Some(5), Some(5), Some(6)].into_iter().enumerate() {
        let sender = sender.clone();
        metadata.put(
            record(index),
            Durability::Power,
            Box::new(move |r| sender.send((number, r.is_ok())).unwrap()),
        );
    }
    let mut results: Vec<_> = receiver.iter().take(3).collect();
    results.sort_unstable();
    assert_eq!(results, [(0, true), (1, false), (2, true)]);
}

#[test]
fn what_goes_before_a_write_is_done_first_and_decides() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (metadata, _) = open(&path).unwrap();
    let (kept, refused) = (record(None), record(None));
    for (record, says) in [(&kept, true), (&refused, false)] {
        let (sender, seen) = mpsc::channel();
        let (path, id) = (path.clone(), record.spec.id);
        // A reader of its own sees what is committed.
        let step = Box::new(move || {
            let other = rusqlite::Connection::open(&path).unwrap();
            let count = "SELECT count(*) FROM sandboxes WHERE id = ?1";
            sender
                .send(other.query_row(count, [id.to_string()], |row| row.get::<_, u32>(0)).unwrap())
                .unwrap();
            says
        });
        let written = wait(|done| metadata.put_after(step, record.clone(), Durability::Power, done));
        assert_eq!(seen.recv(), Ok(0), "it was written before");
        assert_eq!(written.is_ok(), says);
        assert!(says || matches!(written, Err(MetadataError::NotReached)));
    }
    metadata.close();
    assert_eq!(open(&path).unwrap().1.records, [kept]);
}

#[test]
fn many_writers_keep_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (metadata, _) = open(&path).unwrap();
    let mut last = record(None);
    let (sender, receiver) = mpsc::channel();
    for time in 0..1000 {
        last.updated_at = time;
        let sender = sender.clone();
        metadata.put(last.clone(), Durability::Process, Box::new(move |r| sender.send(r.is_ok()).unwrap()));
    }
    assert_eq!(receiver.iter().take(1000).filter(|ok| *ok).count(), 1000);
    metadata.close();
    assert_eq!(open(&path).unwrap().1.records, [last]);
}

#[test]
fn damaged_foreign_and_newer_files_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().join("good");
    let (metadata, _) = open(&good).unwrap();
    for _ in 0..50 {
        put(&metadata, &record(None)).unwrap();
    }
    metadata.close();
    let bytes = std::fs::read(&good).unwrap();
    let mut zeroed = bytes.clone();
    zeroed[4096..].fill(0);
    let damaged: [(&str, Vec<u8>); 4] = [
        ("garbage", vec![b'x'; 8192]),
        ("truncated", bytes[..bytes.len() / 2].to_vec()),
        ("zeroed", zeroed),
        ("header", [b"nonsense", &bytes[8..]].concat()),
    ];
    for (name, content) in damaged {
        let path = directory.path().join(name);
        std::fs::write(&path, &content).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, MetadataError::Damaged { .. }), "{name}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "{name}");
    }
    let connection = rusqlite::Connection::open(&good).unwrap();
    connection.pragma_update(None, "user_version", 999).unwrap();
    drop(connection);
    assert!(matches!(open(&good).unwrap_err(), MetadataError::Newer { found: 999, .. }));
}

#[test]
fn a_row_that_makes_no_sense_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (metadata, _) = open(&path).unwrap();
    let record = record(None);
    put(&metadata, &record).unwrap();
    metadata.close();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("UPDATE sandboxes SET spec = json_set(spec, '$.ports', 'x')", []).unwrap();
    drop(connection);
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains(&record.spec.id.to_string()), "{error}");
}

#[test]
fn a_damaged_record_is_kept_aside_and_its_copy_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let config = Config { path: path.clone(), backup_interval: Duration::from_secs(3600) };
    let (metadata, _) = Metadata::open(&config, &Evidence::default()).unwrap();
    let record = record(Some(3));
    put(&metadata, &record).unwrap();
    wait(|done| metadata.reserve_events(7, Durability::Power, done)).unwrap();
    metadata.close();
    let damaged = vec![b'x'; 8192];
    std::fs::write(&path, &damaged).unwrap();
    let (metadata, contents) = Metadata::open(&config, &Evidence::default()).unwrap();
    assert_eq!(contents.records, [record]);
    assert_eq!(contents.events_given_out, 7 + EVENTS_LEAP);
    let recovered = contents.recovered.unwrap();
    assert_eq!(std::fs::read(recovered.kept_as.unwrap()).unwrap(), damaged);
    metadata.close();
    let (metadata, contents) = Metadata::open(&config, &Evidence::default()).unwrap();
    assert!(contents.recovered.is_none());
    metadata.close();
    // A copy that is damaged too is no copy; nothing is changed then.
    for file in ["db", "db.backup", "db.backup.1"].map(|name| directory.path().join(name)) {
        std::fs::write(file, &damaged).unwrap();
    }
    assert!(matches!(
        Metadata::open(&config, &Evidence::default()).unwrap_err(),
        MetadataError::Damaged { .. }
    ));
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
}

#[test]
fn copies_are_made_while_it_is_used_and_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("db"), directory.path().join("copy"));
    let (metadata, _) = open(&path).unwrap();
    let first = record(Some(1));
    put(&metadata, &first).unwrap();
    save(&path, &copy).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&copy).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    put(&metadata, &record(Some(2))).unwrap();
    metadata.close();
    let nothing = Evidence::default();
    let kept = restore(&path, &copy, &nothing).unwrap().unwrap();
    // Closed each time: a writer that has not ended yet holds the file.
    let read = |path: &Path| {
        let (metadata, contents) = open(path).unwrap();
        metadata.close();
        contents.records
    };
    assert_eq!(read(&path), [first]);
    assert_eq!(read(&kept).len(), 2);
    std::fs::write(&copy, "x").unwrap();
    assert!(restore(&path, &copy, &nothing).is_err());
    assert!(restore(&path, Path::new("/nonexistent"), &nothing).is_err());
    assert_eq!(read(&path).len(), 1, "a bad copy changed something");
}

#[test]
fn a_database_that_another_program_holds_is_busy_not_broken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (metadata, _) = open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(put(&metadata, &record(None)).unwrap_err().is_busy());
    other.execute_batch("ROLLBACK").unwrap();
    put(&metadata, &record(None)).unwrap();
}
