//! sandboxd: runs many people's code on one Linux machine.
//!
//! The modules in reading order; `ARCHITECTURE.md` says how they fit together.

#[cfg(feature = "daemon")]
pub mod model;
pub mod sys;

pub mod protocol;

pub mod init;

#[cfg(feature = "daemon")]
pub mod bundle;
#[cfg(feature = "daemon")]
pub mod metadata;
#[cfg(feature = "daemon")]
pub mod network;
#[cfg(feature = "daemon")]
pub mod storage;

#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod telemetry;

#[cfg(feature = "daemon")]
pub mod runtime;
#[cfg(feature = "daemon")]
pub mod sandbox;

#[cfg(feature = "daemon")]
pub mod api;
#[cfg(feature = "daemon")]
pub mod proxy;
#[cfg(feature = "daemon")]
pub mod wire;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod client;

#[cfg(feature = "daemon")]
pub mod daemon;
