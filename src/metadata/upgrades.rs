//! Databases and notes of every earlier version, made by the SQL of then: each is brought up to date with all that it
//! says, and what is written by a later version is refused and kept.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::tests::record;
use super::*;
use model::{
    ByteSize, CpuMax, HostHeader, IoMax, Isolation, LaunchId, Limits, RootFs, SandboxSpec, SleepPolicy,
    Status,
};

/// What each version's columns hold for [`expected`]; the position is the version less one.
fn cells(record: &Record) -> [Vec<(&'static str, Value)>; 10] {
    let SandboxSpec { env, external, .. } = &record.spec;
    let first = vec![
        ("id", json!(record.spec.id.to_string())),
        ("status", json!("running")),
        ("error_message", json!(record.error_message)),
        ("ports", json!("[3000,8080]")),
        ("env", json!(serde_json::to_string(env.entries()).unwrap())),
        ("template", json!("react-vite")),
        ("visibility", json!("private")),
        ("idle_policy", json!("always_on")),
        ("memory_max", json!(512 << 20)),
        ("memory_high", json!(400 << 20)),
        ("pids_max", json!(99)),
        ("nofile", json!(4096)),
        ("external_user_id", json!("u")),
        ("external_project_id", json!(external.project_id())),
        ("external_workspace_id", Value::Null),
        ("app_id", json!("app.1")),
        ("git_repo_url", json!("https://example.org/x.git")),
        ("git_branch", json!("main")),
        ("address_index", json!(7)),
        ("init_pid", json!(42)),
        ("init_start_ticks", json!(u64::from(u32::MAX) + 1)),
        ("created_at", json!(1)),
        ("updated_at", json!(2)),
        ("last_active_at", json!(3)),
        ("stopped_at", Value::Null),
        ("keepalive_until", json!(4)),
    ];
    [
        first,
        vec![("sleep_after", json!(60)), ("sleep_then_stop_after", json!(7))],
        vec![("host_header", json!("upstream"))],
        vec![],
        vec![("launch", json!(record.launch.unwrap().to_string()))],
        vec![("cpu_max", json!(500))],
        vec![("isolation", json!("gvisor"))],
        vec![
            ("swap_max", json!(0)),
            ("oom_group", json!(1)),
            ("cpu_weight", json!(7)),
            ("io_weight", json!(9)),
            ("io_read_bps", json!(1 << 20)),
            ("io_write_bps", json!(2 << 20)),
            ("io_read_iops", json!(3)),
            ("io_write_iops", Value::Null),
        ],
        vec![("rootfs", json!("overlay"))],
        vec![("nested_namespaces", json!(1))],
    ]
}

/// What a database of a version says, with the defaults of what came later.
fn expected(full: &Record, version: usize) -> Record {
    let had = |since: usize| version >= since;
    let mut record = full.clone();
    let spec = &mut record.spec;
    let memory_max = ByteSize::mib(512);
    let mut limits = Limits {
        memory_high: ByteSize::mib(400),
        pids_max: 99,
        nofile: 4096,
        ..Limits::with_memory(memory_max)
    };
    limits.cpu_max = had(6).then(|| CpuMax::from_milli(500));
    if had(8) {
        limits.swap_max = ByteSize::bytes(0);
        limits.oom_group = true;
        (limits.cpu_weight, limits.io_weight) = (7, 9);
        limits.io_max = IoMax {
            read_bps: Some(ByteSize::mib(1)),
            write_bps: Some(ByteSize::mib(2)),
            read_iops: Some(3),
            write_iops: None,
        };
    }
    spec.limits = limits;
    spec.sleep = had(2).then(|| SleepPolicy::new(60, Some(7)).unwrap());
    spec.host_header = if had(3) { HostHeader::Upstream } else { HostHeader::Preview };
    spec.isolation = if had(7) { Isolation::Gvisor } else { Isolation::Container };
    spec.rootfs = if had(9) { RootFs::Overlay } else { RootFs::ReadOnly };
    spec.nested_namespaces = had(10);
    if !had(5) {
        // A launch then had the name of its sandbox.
        record.launch = Some(spec.id.to_string().to_lowercase().parse::<LaunchId>().unwrap());
    }
    record
}

fn row(full: &Record, version: usize) -> Map<String, Value> {
    let cells = cells(full).into_iter().take(version).flatten();
    cells.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A database as a daemon of that version left it.
fn database(path: &Path, row: &Map<String, Value>, version: usize) -> Connection {
    let connection = Connection::open(path).unwrap();
    for step in schema::MIGRATIONS.iter().take(version) {
        connection.execute_batch(step).unwrap();
    }
    connection.pragma_update(None, "user_version", i64::try_from(version).unwrap()).unwrap();
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
    note::insert(&connection, row.clone()).unwrap();
    connection
}

fn open(path: &Path) -> Result<Contents, MetadataError> {
    let config = Config { path: path.to_owned(), backup_interval: Duration::ZERO };
    let (metadata, contents) = Metadata::open(&config, &Evidence::default())?;
    metadata.close();
    Ok(contents)
}

#[test]
fn a_database_of_every_earlier_version_is_brought_up_to_date() {
    for version in 1..=schema::COLUMNS_VERSION {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let full = record(Some(7));
        drop(database(&path, &row(&full, version), version));
        // The second time it is read as it was written the first time.
        for round in 0..2 {
            let records = open(&path).unwrap().records;
            assert_eq!(records, [expected(&full, version)], "version {version}, round {round}");
        }
        let connection = Connection::open(&path).unwrap();
        let second = "INSERT INTO sandboxes SELECT 'x', spec, status, NULL, address_index, NULL, NULL, NULL, 1, 1, 1, \
                      NULL, NULL FROM sandboxes";
        assert!(connection.execute(second, []).is_err(), "version {version}: two may have one address");
    }
}

#[test]
fn what_is_absent_stays_absent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let full = record(None);
    let mut row = row(&full, schema::COLUMNS_VERSION);
    let absent = "error_message template external_user_id external_project_id app_id git_repo_url git_branch \
                  address_index init_pid init_start_ticks keepalive_until sleep_after launch cpu_max swap_max \
                  io_read_bps io_write_bps io_read_iops";
    for name in absent.split_whitespace() {
        row.insert(name.to_owned(), Value::Null);
    }
    row.insert("status".to_owned(), json!("stopped"));
    drop(database(&path, &row, schema::COLUMNS_VERSION));
    let found = open(&path).unwrap().records.pop().unwrap();
    let spec = &found.spec;
    assert_eq!((found.status, found.launch, found.init_pid), (Status::Stopped, None, None));
    assert_eq!((&spec.template, &spec.app_id, &spec.git, spec.sleep), (&None, &None, &None, None));
    assert_eq!(spec.external, model::External::default());
    assert_eq!((spec.limits.cpu_max, spec.limits.io_max), (None, IoMax::default()));
    assert_eq!(spec.limits.swap_max, spec.limits.memory_max);
}

#[test]
fn a_row_that_makes_no_sense_is_named_and_kept_when_it_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    for (name, value) in [("ports", "x"), ("env", "[1]"), ("isolation", "none")] {
        let path = directory.path().join(name);
        let full = record(Some(7));
        let mut row = row(&full, schema::COLUMNS_VERSION);
        row.insert(name.to_owned(), json!(value));
        drop(database(&path, &row, schema::COLUMNS_VERSION));
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains(&full.spec.id.to_string()), "{name}: {error}");
        let text: String = Connection::open(&path)
            .unwrap()
            .query_row("SELECT spec FROM sandboxes", [], |row| row.get(0))
            .unwrap();
        assert!(text.contains(value), "{name}: {text}");
    }
}

#[test]
fn a_spec_of_a_later_version_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (name, change, says) in [
        ("version", "json_set(spec, '$.version', 2, '$.dream', 'x')", "newer version (document 2"),
        ("field", "json_set(spec, '$.dream', 'x')", "dream"),
        ("limit", "json_set(spec, '$.limits.dream', 'x')", "dream"),
    ] {
        let path = directory.path().join(name);
        let full = record(Some(7));
        drop(database(&path, &row(&full, schema::COLUMNS_VERSION), schema::COLUMNS_VERSION));
        open(&path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute(&format!("UPDATE sandboxes SET spec = {change}"), []).unwrap();
        drop(connection);
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(&full.spec.id.to_string()), "{name}: {error}");
        let kept = "SELECT json_extract(spec, '$.dream') IS NOT NULL OR json_extract(spec, '$.limits.dream') \
                    IS NOT NULL FROM sandboxes";
        let kept = Connection::open(&path).unwrap().query_row(kept, [], |row| row.get::<_, bool>(0));
        assert_eq!(kept, Ok(true), "{name}");
    }
}

#[test]
fn a_note_of_every_earlier_version_is_read() {
    let scratch = schema::scratch().unwrap();
    // Notes are written since version 10; an earlier row is one whose later columns are not there.
    for version in 1..=schema::COLUMNS_VERSION {
        let full = record(Some(7));
        let text = json!({"identity": 5, "generation": 6, "row": row(&full, version)}).to_string();
        let note = note::decode(&scratch, &text).unwrap();
        assert_eq!((note.identity, note.generation), (5, 6));
        let mut wanted = expected(&full, version);
        wanted.launch = (version >= 5).then_some(full.launch).flatten();
        assert_eq!(note.record, wanted, "version {version}");
    }
}
