//! Records as rows, and back: the spec as a document, and columns for what changes while a sandbox runs.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::str::FromStr;

use rusqlite::{Connection, Row, named_params};

use crate::document;
use crate::error::MetadataError;
use crate::types::{Contents, Retired, Retirement};
use model::{External, Record, SandboxId, Status};

const PUT: &str = "INSERT OR REPLACE INTO sandboxes VALUES (:id, :spec, :status, :error_message, :address_index, \
:launch, :init_pid, :init_start_ticks, :created_at, :updated_at, :last_active_at, :stopped_at, :keepalive_until)";
/// The constraint on addresses must refuse a second holder, not silently replace the first.
const TAKEN: &str = "SELECT count(*) FROM sandboxes WHERE address_index = ?1 AND id <> ?2";

/// Reads everything.
pub(super) fn read_all(connection: &Connection) -> Result<Contents, MetadataError> {
    let mut contents = Contents::default();
    let mut statement =
        connection.prepare("SELECT * FROM sandboxes ORDER BY id").map_err(super::error::classify)?;
    let mut rows = statement.query([]).map_err(super::error::classify)?;
    while let Some(row) = rows.next().map_err(super::error::classify)? {
        contents.records.push(parse(row)?);
    }
    let mut statement =
        connection.prepare("SELECT * FROM retired ORDER BY id").map_err(super::error::classify)?;
    let mut rows = statement.query([]).map_err(super::error::classify)?;
    while let Some(row) = rows.next().map_err(super::error::classify)? {
        contents.retired.push(parse_retired(row)?);
    }
    let given_out = connection
        .query_row("SELECT value FROM counters WHERE name = 'events'", [], |row| row.get::<_, i64>(0));
    contents.events_given_out = match given_out {
        Ok(value) => u64::try_from(value).unwrap_or_default(),
        Err(rusqlite::Error::QueryReturnedNoRows) => 0,
        Err(error) => return Err(super::error::classify(error)),
    };
    Ok(contents)
}

/// Writes a record.
pub(super) fn put(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    let spec = &record.spec;
    let id = spec.id.to_string();
    if let Some(index) = record.address_index {
        let taken: i64 = connection.prepare_cached(TAKEN)?.query_row((index, &id), |row| row.get(0))?;
        if taken > 0 {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE);
            return Err(rusqlite::Error::SqliteFailure(code, Some("the address is taken".to_owned())));
        }
    }
    let document = document::encode(spec).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    connection.prepare_cached(PUT)?.execute(named_params! {
        ":id": id,
        ":spec": document,
        ":status": record.status.as_str(),
        ":error_message": record.error_message,
        ":address_index": record.address_index,
        ":launch": record.launch.map(|l| l.to_string()),
        ":init_pid": record.init_pid,
        ":init_start_ticks": record.init_start_ticks.and_then(|t| i64::try_from(t).ok()),
        ":created_at": record.created_at,
        ":updated_at": record.updated_at,
        ":last_active_at": record.last_active_at,
        ":stopped_at": record.stopped_at,
        ":keepalive_until": record.keepalive_until,
    })?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: SandboxId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?.execute([id.to_string()]).map(drop)
}

pub(super) fn retire(connection: &Connection, id: SandboxId, to: &Retirement) -> rusqlite::Result<()> {
    delete(connection, id)?;
    let nobody = External::default();
    let (purging, owner) = match to {
        Retirement::Kept(owner) => (false, owner),
        Retirement::Purging => (true, &nobody),
    };
    connection.prepare_cached("INSERT OR REPLACE INTO retired VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((
        id.to_string(),
        purging,
        owner.user_id(),
        owner.project_id(),
        owner.workspace_id(),
    ))?;
    Ok(())
}

pub(super) fn forget(connection: &Connection, id: SandboxId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM retired WHERE id = ?1")?.execute([id.to_string()]).map(drop)
}

pub(super) fn reserve_events(connection: &Connection, until: u64) -> rusqlite::Result<()> {
    let until = i64::try_from(until).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "INSERT INTO counters VALUES ('events', ?1) ON CONFLICT (name) DO UPDATE SET value = max(value, ?1)",
    )?;
    statement.execute([until]).map(drop)
}

pub(super) fn touch(connection: &Connection, times: &[(SandboxId, i64)]) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("UPDATE sandboxes SET last_active_at = ?2 WHERE id = ?1")?;
    times.iter().try_for_each(|(id, time)| statement.execute((id.to_string(), time)).map(drop))
}

/// Which database it is, and how many transactions it has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Chosen by chance; 0: it has none yet.
    pub(super) identity: i64,
    pub(super) generation: u64,
}

/// Reads the stamp; one of an older version has none.
pub(super) fn stamp(connection: &Connection) -> rusqlite::Result<Stamp> {
    let has_counters = "SELECT count(*) FROM sqlite_schema WHERE name = 'counters'";
    if connection.query_row(has_counters, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Stamp::default());
    }
    let counter = |name: &str| {
        let value = "SELECT coalesce((SELECT value FROM counters WHERE name = ?1), 0)";
        connection.query_row(value, [name], |row| row.get::<_, i64>(0))
    };
    Ok(Stamp {
        identity: counter("identity")?,
        generation: u64::try_from(counter("writes")?).unwrap_or_default(),
    })
}

/// Writes a stamp; without an identity it gets one.
pub(super) fn stamped(connection: &Connection, stamp: Stamp) -> Result<Stamp, MetadataError> {
    let identity = if stamp.identity == 0 { new_identity()? } else { stamp.identity };
    let generation = i64::try_from(stamp.generation).unwrap_or(i64::MAX);
    let set = "INSERT OR REPLACE INTO counters VALUES ('identity', ?1), ('writes', ?2)";
    connection.execute(set, (identity, generation)).map_err(super::error::classify)?;
    Ok(Stamp { identity, ..stamp })
}

/// Reads the stamp, and writes one where there is none.
pub(super) fn identified(connection: &Connection) -> Result<Stamp, MetadataError> {
    match stamp(connection).map_err(super::error::classify)? {
        stamp if stamp.identity == 0 => stamped(connection, stamp),
        stamp => Ok(stamp),
    }
}

/// Counts a transaction; returns its generation.
pub(super) fn count_write(connection: &Connection) -> rusqlite::Result<u64> {
    let count = "INSERT INTO counters VALUES ('writes', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value";
    let generation: i64 = connection.prepare_cached(count)?.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(generation).unwrap_or_default())
}

pub(super) fn holds_nothing(connection: &Connection) -> rusqlite::Result<bool> {
    let count = "SELECT (SELECT count(*) FROM sandboxes) + (SELECT count(*) FROM retired)";
    Ok(connection.query_row(count, [], |row| row.get::<_, i64>(0))? == 0)
}

/// The ids of all sandboxes and of workspaces without one.
pub(super) fn known_ids(connection: &Connection) -> rusqlite::Result<BTreeSet<SandboxId>> {
    let mut statement = connection.prepare("SELECT id FROM sandboxes UNION SELECT id FROM retired")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    ids.filter_map(|id| id.map(|id| id.parse().ok()).transpose()).collect()
}

/// The launch of a sandbox, if it is known and has one.
pub(super) fn launch_of(connection: &Connection, id: SandboxId) -> rusqlite::Result<Option<String>> {
    let found = connection
        .query_row("SELECT launch FROM sandboxes WHERE id = ?1", [id.to_string()], |row| row.get(0));
    match found {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        other => other,
    }
}

/// Takes an address from whoever is recorded with it.
pub(super) fn release(connection: &Connection, index: Option<u32>) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE sandboxes SET address_index = NULL WHERE address_index = ?1", [index])
        .map(drop)
}

/// Chance that no other database has, above 0.
fn new_identity() -> Result<i64, MetadataError> {
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(MetadataError::File)?;
    Ok((i64::from_le_bytes(bytes) & i64::MAX).max(1))
}

fn parse(row: &Row<'_>) -> Result<Record, MetadataError> {
    let id: String = row.get("id").map_err(MetadataError::Write)?;
    let fields = Fields { row, id: &id };
    let text: String = fields.get("spec")?;
    let spec = document::decode(fields.parse("id")?, &text)
        .map_err(|problem| MetadataError::Row { id: id.clone(), problem: problem.to_string() })?;
    let status: String = fields.get("status")?;
    Ok(Record {
        spec,
        status: Status::from_str(&status).map_err(|()| fields.bad("status", &status))?,
        error_message: fields.get("error_message")?,
        address_index: fields.get("address_index")?,
        launch: fields.parse_optional("launch")?,
        init_pid: fields.get("init_pid")?,
        init_start_ticks: fields.get::<Option<i64>>("init_start_ticks")?.and_then(|t| u64::try_from(t).ok()),
        created_at: fields.get("created_at")?,
        updated_at: fields.get("updated_at")?,
        last_active_at: fields.get("last_active_at")?,
        stopped_at: fields.get("stopped_at")?,
        keepalive_until: fields.get("keepalive_until")?,
    })
}

fn parse_retired(row: &Row<'_>) -> Result<Retired, MetadataError> {
    let id: String = row.get("id").map_err(MetadataError::Write)?;
    let fields = Fields { row, id: &id };
    let purging: bool = fields.get("purging")?;
    let retirement = if purging { Retirement::Purging } else { Retirement::Kept(fields.external()?) };
    Ok(Retired { id: fields.parse("id")?, retirement })
}

/// The columns of a row; what cannot be used is named with the sandbox that it belongs to.
struct Fields<'a> {
    row: &'a Row<'a>,
    id: &'a str,
}

impl Fields<'_> {
    fn get<T: rusqlite::types::FromSql>(&self, name: &str) -> Result<T, MetadataError> {
        self.row.get(name).map_err(|e| self.bad(name, &e))
    }

    fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, MetadataError> {
        self.get::<String>(name)?.parse().map_err(|e| self.bad(name, &e))
    }

    fn parse_optional<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, MetadataError> {
        let text: Option<String> = self.get(name)?;
        text.map(|text| text.parse().map_err(|e| self.bad(name, &e))).transpose()
    }

    fn external(&self) -> Result<External, MetadataError> {
        let get = |name| self.get::<Option<String>>(name);
        let external = External::new(
            get("external_user_id")?,
            get("external_project_id")?,
            get("external_workspace_id")?,
        );
        external.map_err(|e| self.bad("external", &e))
    }

    fn bad(&self, name: &str, problem: &impl Display) -> MetadataError {
        MetadataError::Row { id: self.id.to_owned(), problem: format!("column {name}: {problem}") }
    }
}
