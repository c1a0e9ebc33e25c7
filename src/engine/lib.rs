//! Asks for containers to be launched and talks to the `sandbox-init` inside.
//!
//! libcontainer is named in [`launcher`] only, which runs in a process of its own: its builder
//! changes the calling process and runs ordinary Rust after a raw `clone3`, which a threaded process
//! must not do. An exec never goes through it: `sandbox-init` forks inside the sandbox, so a command
//! inherits every restriction by construction. [`Engine`] says where the ways to run a sandbox differ.

pub mod bundle;
mod channel;
mod connection;
mod gvisor;
mod launch;
pub mod launcher;
pub mod named;
mod ring;
mod runsc;
mod tier;

pub use channel::{Attached, Channel, Event, Events, Started};
pub use connection::{Control, ControlError, Conversation, SOCKET_NAME, Way};
pub use gvisor::Gvisor;
pub use launch::{
    Config, Identity, Launch, LaunchError, Launched, Namespaces, Runtime, Staging, Support, Writable,
};
pub use ring::{Ended, Journal, MOVE_BYTES_MAX, Moved, Ring, Stream};
pub use tier::Engine;
