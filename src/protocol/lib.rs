//! What the daemon says to `sandbox-init` and to the launcher, and what they answer.
//!
//! Frames are a 32-bit little-endian length and that many bytes of JSON, on unix stream sockets;
//! descriptors ride with the first byte of a frame. Nothing here does I/O. What comes from a sandbox
//! is hostile: a frame is bounded, and one that does not parse ends the connection.

mod frame;
mod init;
mod launch;

pub use frame::{Decoder, FRAME_BYTES_MAX, FrameError, encode};
pub use init::{
    App, Build, CONTROL_DESCRIPTOR, ExitStatus, Kept, Process, ProcessKind, ProcessState, Reply, Request,
    Spawn, Stamp, Target, VERSION,
};
pub use launch::{
    Extent, LaunchReply, LaunchRequest, LaunchStep, LauncherRequest, NamespacesRequest, Overlay,
    ProbeRequest, Runsc, Stage,
};
