//! The processes that clients run in a sandbox.
//!
//! ```text
//!  process ─pipe─► pump ──► ring ──► follower ──► client       (as many followers as there are clients)
//!     ▲              ╰── waits while the slowest follower would be overtaken
//!     └─ started, signalled, told of by ─ link ◄─ sandbox-init, which keeps copies of the pipes
//! ```
//!
//! A process belongs to nobody: a client that goes away changes nothing, and anybody who knows its id can
//! follow its output from any offset that the ring still has. While somebody follows, nothing is dropped:
//! the process is slowed down instead. With nobody there the oldest bytes make way and are counted. The
//! daemon's memory holds one piece per follower, however much is written.
//!
//! The daemon may be killed at any moment: the rings are files, and `sandbox-init` keeps the pipes and
//! the exit status until they have been written down. [`hold`] finds all of it again.

pub(crate) mod child;
pub(crate) mod follow;
pub(crate) mod hold;
pub(crate) mod link;
pub(crate) mod nouns;
pub(crate) mod output;
pub(crate) mod pump;
pub(crate) mod relay;
pub(crate) mod rings;
pub(crate) mod streams;
pub(crate) mod table;
