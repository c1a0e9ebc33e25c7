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
mod adjust;
mod admission;
mod agenda;
mod amend;
mod announce;
mod app;
mod assemble;
mod blank;
mod books;
mod buffers;
mod bundles;
mod charge;
mod clock;
mod command;
mod connect;
mod create;
mod driver;
mod end;
mod error;
mod etc;
mod events;
mod exec;
mod expiry;
mod fairness;
mod files;
mod ground;
mod held;
mod host;
mod ids;
mod keeper;
mod kept;
mod launching;
mod leases;
mod life;
mod lifecycle;
mod limits;
mod live;
mod logs;
mod look;
mod oom;
mod owners;
mod pause;
mod points;
mod pool;
mod ports;
mod presets;
mod process;
mod provision;
mod purge;
mod reclaim;
mod reconcile;
mod records;
mod registry;
mod relief;
mod request;
mod rules;
mod serving;
mod share;
mod spaces;
mod start;
mod supervisor;
mod sweep;
mod tally;
mod tasks;
mod throttle;
mod undo;
mod view;
mod wake;
mod watch;

pub use activity::{Busy, Counted};
pub use admission::Config as AdmissionConfig;
pub use assemble::{Config, Parts};
pub use blank::notes;
pub use connect::{Intent, Upstream};
pub use engine::Stream;
pub use error::{ConnectError, Error, Kind, RefusedReason, chain};
pub use events::{Event, Notice, Subscription, What, Why};
pub use exec::{Exec, ExecEvent};
pub use files::download::{Download, Pieces};
pub use files::kept::Kept;
pub use files::trees::{Packed, Unpacking};
pub use files::upload::Upload;
pub use files::watch::{FileNews, FileWatch};
pub use logs::{LINES_MAX as LOG_LINES_MAX, LogFollower, LogLine, LogNews, LogStart};
pub use points::{POINTS, STEPS};
pub use pool::Config as PoolConfig;
pub use presets::Preset;
pub use process::child::Process;
pub use process::follow::{Follower, Piece};
pub use process::nouns::{Config as ProcessConfig, ProcessEnd, ProcessId, ProcessSnapshot, Purpose};
pub use process::start::ProcessRequest;
pub use protocol::Target;
pub use request::{CreateRequest, Created, ExecRequest, Filter, SleepRequest, Started, UpdateRequest};
pub use spaces::UserSpaces;
pub use storage::{Entry as FileEntry, EntryKind, Listing, Spool};
pub use supervisor::Supervisor;
pub use view::{
    AppView, Counts, Ids, LiveView, MemoryUsage, PressureUsage, Preview, PreviewStatus, ProcessKind,
    ProcessView, Snapshot, Stats, Usage,
};
