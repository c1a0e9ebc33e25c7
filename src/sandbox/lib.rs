//! The core: every sandbox's life, from the request that creates it to the purge.
//!
//! ```text
//!  API, proxy ──► Supervisor ──► Entry (one per sandbox) ──mailbox──► driver task ──► provision
//!                    │             ▲ published state                    │ owns what runs
//!                    │             └──────────────── watch ◄────────────┤
//!                    ├─ expiry: idle sandboxes are frozen, then stopped              └─ app task: manifest, readiness
//!                    └─ reconcile: at start, record and host are made to agree
//! ```
//!
//! One driver task changes a sandbox, nobody else; what readers see is published by it. A request
//! that was begun is finished whether or not its client waits.

mod assemble;
mod base;
mod books;
mod keep;
mod launch;
mod life;
mod running;
mod serve;
mod supervisor;

pub use assemble::{Config, Parts};
pub use base::activity::{Busy, Counted};
pub use base::error::{ConnectError, Error, Kind, RefusedReason, chain};
pub use base::events::{Event, Notice, Subscription, What, Why};
pub use base::points::{POINTS, STEPS};
pub use base::request::{CreateRequest, Created, ExecRequest, Filter, SleepRequest, Started, UpdateRequest};
pub use base::view::{
    AppView, Counts, Ids, LiveView, MemoryUsage, PressureUsage, Preview, PreviewStatus, ProcessKind,
    ProcessView, Snapshot, Stats, Usage,
};
pub use engine::Stream;
pub use launch::admission::Config as AdmissionConfig;
pub use launch::blank::notes;
pub use launch::pool::Config as PoolConfig;
pub use launch::spaces::UserSpaces;
pub use protocol::Target;
pub use running::process::child::Process;
pub use running::process::follow::{Follower, Piece};
pub use running::process::nouns::{Config as ProcessConfig, ProcessEnd, ProcessId, ProcessSnapshot, Purpose};
pub use serve::exec::{Exec, ExecEvent};
pub use serve::files::download::{Download, Pieces};
pub use serve::files::kept::Kept;
pub use serve::files::trees::{Packed, Unpacking};
pub use serve::files::upload::Upload;
pub use serve::files::watch::{FileNews, FileWatch};
pub use serve::logs::{LINES_MAX as LOG_LINES_MAX, LogFollower, LogLine, LogNews, LogStart};
pub use serve::presets::Preset;
pub use serve::preview::{Intent, Upstream};
pub use serve::processes::ProcessRequest;
pub use storage::{Entry as FileEntry, EntryKind, Listing, Spool};
pub use supervisor::Supervisor;
