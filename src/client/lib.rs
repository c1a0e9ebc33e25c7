//! Typed client of the REST API.
//!
//! [`Client`] has one method per route; [`Transport`] below it is HTTP/1.1 over kept connections with
//! deadlines, and WebSockets and streams over it. It speaks plain HTTP: a server that is not on this machine is reached through a tunnel or
//! a proxy that ends TLS. It finds no keys and reads no environment; `cli` does.
//!
//! What a server says is bounded in size and decoded leniently: unknown fields are ignored and lists
//! may be `null`, so that this client works with older and newer servers.

mod body;
mod endpoint;
mod error;
mod files;
mod output;
mod processes;
mod requests;
mod sandboxes;
mod sse;
mod transport;

pub use body::{
    AppProcess, CreateSandbox, ExecOutput, ExternalIds, Logs, Memory, Preset, Presets, Preview, Purged, Row,
    SandboxV1, SandboxView, Stats,
};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{ClientError, EventError, OutputError, Refusal};
pub use files::{Base, FileStat, Unpacked, stream_body};
pub use output::{OutputStream, ProcessEvent, ProcessExit, ProcessInput, ProcessOutput};
pub use processes::{OutputRange, Process, ProcessList, SignalTarget, StartProcess, TerminalSize};
pub use requests::{Answer, Client};
pub use sse::{EventDecoder, EventStream, ServerEvent};
pub use transport::{Exchange, RequestBody, Timeouts, Transport, TransportError};

#[cfg(test)]
use transport::full;

#[cfg(test)]
mod tests;
