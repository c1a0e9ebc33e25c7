//! Notes: the record of one sandbox that runs, as a text that is kept beside what runs.
//!
//! A row of the database in JSON. It is used only where the database has lost that row. Columns that are not known any
//! more are left out, and new ones have their defaults.

use rusqlite::types::{Value as Cell, ValueRef};
use rusqlite::{Connection, params_from_iter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::MetadataError;
use crate::{rows, schema};
use model::Record;
use sys::pidfd::PidFd;

#[derive(Debug, Serialize, Deserialize)]
struct Form {
    identity: i64,
    generation: u64,
    row: Map<String, Value>,
}

/// A note that was read.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) identity: i64,
    /// The database had this generation when the note was written, and a later one with its row.
    pub(super) generation: u64,
    pub(super) record: Record,
}

impl Note {
    /// Whether what it was written for still runs: the same process, not another of its number.
    pub(super) fn is_alive(&self) -> bool {
        let Record { init_pid, init_start_ticks, .. } = &self.record;
        init_pid.zip(*init_start_ticks).is_some_and(|(pid, ticks)| PidFd::open_exactly(pid, ticks).is_ok())
    }
}

/// Writes a note, by a database in memory that has nothing else to do.
pub(super) fn encode(
    scratch: &Connection,
    record: &Record,
    identity: i64,
    generation: u64,
) -> Result<String, MetadataError> {
    rows::put(scratch, record).map_err(MetadataError::Note)?;
    let row = scratch
        .prepare_cached("SELECT * FROM sandboxes WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([record.spec.id.to_string()], to_json));
    rows::delete(scratch, record.spec.id).map_err(MetadataError::Note)?;
    let form = Form { identity, generation, row: row.map_err(MetadataError::Note)? };
    serde_json::to_string(&form).map_err(|error| bad(&error))
}

/// Reads a note, by a database in memory that has nothing in it.
///
/// # Errors
/// It is not one, or says something that no record can.
pub(super) fn decode(scratch: &Connection, text: &str) -> Result<Note, MetadataError> {
    let Form { identity, generation, row } = serde_json::from_str(text).map_err(|error| bad(&error))?;
    let record = if row.contains_key("spec") {
        insert(scratch, row)?;
        let contents = rows::read_all(scratch);
        scratch.execute("DELETE FROM sandboxes", []).map_err(MetadataError::Note)?;
        contents?.records.pop()
    } else {
        // Written by a daemon before this one, whose sandboxes still run: it takes the way of its database.
        let mut earlier = schema::scratch_of_columns()?;
        insert(&earlier, row)?;
        schema::upgrade(&mut earlier)?;
        rows::read_all(&earlier)?.records.pop()
    };
    let record = record.ok_or_else(|| bad(&"it has no row"))?;
    Ok(Note { identity, generation, record })
}

pub(super) fn insert(connection: &Connection, row: Map<String, Value>) -> Result<(), MetadataError> {
    let known = columns(connection).map_err(MetadataError::Note)?;
    let cells: Vec<_> = row.into_iter().filter(|(name, _)| known.contains(name)).collect();
    // The names are those of the table, so nothing of the note becomes SQL.
    let names = cells.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let places = vec!["?"; cells.len()].join(", ");
    let insert = format!("INSERT INTO sandboxes ({names}) VALUES ({places})");
    let values = params_from_iter(cells.into_iter().map(|(_, value)| to_cell(value)));
    connection.execute(&insert, values).map_err(MetadataError::Note).map(drop)
}

fn columns(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let statement = connection.prepare("SELECT * FROM sandboxes")?;
    Ok(statement.column_names().map(str::to_owned).collect())
}

fn to_json(row: &rusqlite::Row<'_>) -> rusqlite::Result<Map<String, Value>> {
    let statement: &rusqlite::Statement<'_> = row.as_ref();
    let cells = statement.column_names().enumerate().map(|(index, name)| {
        let value = match row.get_ref(index)? {
            ValueRef::Null | ValueRef::Blob(_) => Value::Null,
            ValueRef::Integer(number) => number.into(),
            ValueRef::Real(number) => number.into(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        };
        Ok((name.to_owned(), value))
    });
    cells.collect()
}

fn to_cell(value: Value) -> Cell {
    match value {
        Value::Bool(flag) => Cell::Integer(flag.into()),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Cell::Integer(integer),
            None => Cell::Real(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cell::Text(text),
        Value::Null | Value::Array(_) | Value::Object(_) => Cell::Null,
    }
}

fn bad(problem: &impl std::fmt::Display) -> MetadataError {
    MetadataError::Row { id: "a note".to_owned(), problem: problem.to_string() }
}
