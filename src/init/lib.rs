//! PID 1 in a sandbox: starts processes, watches the app, reaps, and ends the sandbox when told to.
//!
//! It is one loop over a signalfd, the listening control socket and its connections; no second
//! waiter exists. It runs as the sandbox's user without any capability, so it can do nothing that
//! the workload cannot; what it must not be is *used by* the workload: it is not dumpable (no
//! ptrace, no `/proc/1/fd`), and acts on no signal but SIGCHLD. The control socket has a name on the
//! host only; whoever connects is the daemon.
//!
//! ```text
//! poll ─┬─ SIGCHLD ──────► reap until nothing is left ─► tell the attached daemon, or the app
//!       ├─ listener ─────► accept
//!       ├─ app's pipe ───► its log, a bounded piece at a time
//!       ├─ connection ───► frames ─► attach · spawn · signal · supervise · terminate
//!       └─ deadline ─────► restarts, kills, the manifest's stamp
//! ```

mod app;
mod connection;
mod log;
mod processes;
mod relay;
mod server;

pub use server::run;
