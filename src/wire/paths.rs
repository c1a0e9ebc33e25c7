//! How the document describes paths in a sandbox.
//!
//! The patterns have no lookahead, which many regex engines lack, so they spell out every name that is not `..`.
//! They count characters where the server counts bytes; the descriptions say the rest.

use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A name other than `.` and `..`, of at most 255 characters.
const NAME: &str = r"([^./\x00][^/\x00]{0,254}|\.[^./\x00][^/\x00]{0,253}|\.\.[^/\x00]{1,253})";
const BYTES_MAX: usize = 4096;
const LIMITS: &str = "Relative to the base, without `..`; at most 255 bytes a name, 64 names and 4096 bytes.";

/// A path that may be the base itself.
pub(super) struct AnyPath;

/// A path that is not the base itself.
pub(super) struct EntryPath;

/// A path that does not end with `/`, and is not the base itself.
pub(super) struct RegularPath;

impl PartialSchema for AnyPath {
    fn schema() -> RefOr<Schema> {
        path(&format!(r"^(({NAME}|\.)(/+({NAME}|\.))*/*)?$"), 0, &format!("{LIMITS} Empty: the base itself."))
    }
}

impl PartialSchema for EntryPath {
    fn schema() -> RefOr<Schema> {
        path(&format!(r"^(\./+)*{NAME}(/+({NAME}|\.))*/*$"), 1, &format!("{LIMITS} Not the base itself."))
    }
}

impl PartialSchema for RegularPath {
    fn schema() -> RefOr<Schema> {
        path(&format!(r"^(\./+)*{NAME}(/+({NAME}|\.))*$"), 1, &format!("{LIMITS} It does not end with `/`."))
    }
}

impl ToSchema for AnyPath {}
impl ToSchema for EntryPath {}
impl ToSchema for RegularPath {}

fn path(pattern: &str, length_min: usize, description: &str) -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    let text = text.pattern(Some(pattern)).max_length(Some(BYTES_MAX));
    let text = if length_min > 0 { text.min_length(Some(length_min)) } else { text };
    text.build().into()
}
