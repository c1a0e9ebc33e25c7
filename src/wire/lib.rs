//! Bodies of the REST API: the compatibility promise.
//!
//! Each type says in its field order how it is written. Conversions from the domain lie in `api`.

mod apps;
mod error;
mod events;
mod files;
mod paths;
mod process;
mod request;
mod row;
mod v1;

pub use apps::{LogLine, LogLines, LogQuery, ManifestBody, ManifestReport, Preset, PresetList};
pub use error::{CompatError, V1Error, V1ErrorBody};
pub use events::{EventData, EventsQuery};
pub use files::{
    ArchiveQuery, BaseQuery, ChmodBody, ContentQuery, EntryQuery, ExportQuery, FileChange, FileEntry,
    FileList, FileQuery, FileStat, MkdirBody, MoveBody, Unpacked, WrittenFile,
};
pub use process::{
    OutputQuery, ProcessBody, ProcessList, ProcessOutput, RunningProcess, SignalBody, SizeBody, StdinQuery,
    TerminalQuery,
};
pub use request::{
    ClaimBody, CreateBody, CreateV1Body, ExecBody, ExternalBody, GitBody, IoMaxBody, KeepaliveBody,
    LimitsBody, ListQuery, ListV1Query, PatchBody, PreviewBody, ProjectBody, SleepBody,
};
pub use row::{
    Claimed, Exec, KeptAlive, LiveState, Purged, PurgedMany, Row, RuntimeState, SandboxDetail, UserNamespace,
    Woken,
};
pub use v1::{
    CpuStats, IoMax, IoStats, Limits, MemoryEvents, MemoryStats, PidsStats, Pressure, PressureStats, Preview,
    Process, Sandbox, SandboxList, Sleep, Stats,
};
