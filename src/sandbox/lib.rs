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

mod activity;
mod admission;
mod agenda;
mod app;
mod blank;
mod buffers;
mod bundles;
mod clock;
mod command;
mod connect;
mod driver;
mod error;
mod etc;
mod events;
mod exec;
mod expiry;
mod fairness;
mod files;
mod ids;
mod leases;
mod lifecycle;
mod limits;
mod live;
mod logs;
mod oom;
mod owners;
mod pause;
mod points;
mod pool;
mod ports;
mod presets;
mod process;
mod provision;
mod reclaim;
mod reconcile;
mod registry;
mod relief;
mod request;
mod share;
mod sleep;
mod supervisor;
mod sweep;
mod tally;
mod tasks;
mod throttle;
mod undo;
mod view;

pub use activity::{Busy, Counted};
pub use admission::Config as AdmissionConfig;
pub use blank::notes;
pub use connect::{Intent, Upstream};
pub use error::{ConnectError, Error, Kind, RefusedReason, chain};
pub use events::{Event, Notice, Subscription, What, Why};
pub use exec::{Exec, ExecEvent};
pub use files::{Download, FileNews, FileWatch, Kept, Packed, Pieces, Unpacking, Upload};
pub use ids::UserSpaces;
pub use logs::{LINES_MAX as LOG_LINES_MAX, LogFollower, LogLine, LogNews, LogStart};
pub use points::{POINTS, STEPS};
pub use pool::Config as PoolConfig;
pub use presets::Preset;
pub use process::{
    Config as ProcessConfig, Follower, Piece, Process, ProcessEnd, ProcessId, ProcessRequest,
    ProcessSnapshot, Purpose, Stream, Target,
};
pub use request::{CreateRequest, Created, ExecRequest, Filter, SleepRequest, Started, UpdateRequest};
pub use storage::{Entry as FileEntry, EntryKind, Listing, Spool};
pub use supervisor::{Config, Parts, Supervisor};
pub use view::{
    AppView, Counts, Ids, LiveView, MemoryUsage, PressureUsage, Preview, PreviewStatus, ProcessKind,
    ProcessView, Snapshot, Stats, Usage,
};
