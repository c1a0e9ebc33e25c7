//! sandboxd: runs many people's code on one Linux machine.
//!
//! The modules in reading order; `ARCHITECTURE.md` says how they fit together.

#[cfg(feature = "daemon")]
pub mod model;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod client;
