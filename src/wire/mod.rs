//! Bodies of the REST API: the compatibility promise.
//!
//! Each type says in its field order how it is written. Conversions from the domain lie in `api`.

mod error;
mod events;
mod files;
mod request;
mod row;
mod v1;

pub use error::{CompatError, V1Error, V1ErrorBody};
pub use events::{EventData, EventsQuery};
pub use files::{
    ArchiveQuery, BaseQuery, ChmodBody, ExportQuery, FileEntry, FileList, FileQuery, FileStat, MkdirBody,
    MoveBody, Unpacked, WrittenFile,
};
pub use request::{
    ClaimBody, CreateBody, CreateV1Body, ExecBody, ExternalBody, GitBody, KeepaliveBody, ListQuery,
    ListV1Query, ManifestBody, PatchBody, PreviewBody, ProjectBody, SleepBody,
};
pub use row::{
    Claimed, Exec, KeptAlive, LiveState, Purged, PurgedMany, Row, RuntimeState, SandboxDetail, Woken,
};
pub use v1::{
    CpuStats, ManifestReport, MemoryEvents, MemoryStats, PidsStats, Preview, Process, Sandbox, SandboxList,
    Sleep, Stats,
};
