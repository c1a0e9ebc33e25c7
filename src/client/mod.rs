//! Typed client of the REST API.
//!
//! [`Client`] has one method per route; [`Transport`] below it is HTTP/1.1 over kept connections with
//! deadlines. It speaks plain HTTP: a server that is not on this machine is reached through a tunnel or
//! a proxy that ends TLS. It finds no keys and reads no environment; `cli` does.
//!
//! What a server says is bounded in size and decoded leniently: unknown fields are ignored and lists
//! may be `null`, so that this client works with older and newer servers.

mod body;
mod endpoint;
mod error;
mod exec;
mod requests;
mod transport;

pub use body::{CreateSandbox, ExecOutput, ExternalIds, Preview, Purged, Row, SandboxV1, SandboxView};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{ClientError, Refusal};
pub use exec::{ExecChunk, ExecDecoder, ExecStream, ExecStreamError};
pub use requests::{Answer, Client};
pub use transport::{Exchange, Timeouts, Transport, TransportError};

#[cfg(test)]
mod tests;
