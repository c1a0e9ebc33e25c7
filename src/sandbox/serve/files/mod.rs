//! The files of a sandbox, whether it runs or sleeps; using them does not wake it.

pub(crate) mod download;
pub(crate) mod entries;
pub(crate) mod hubs;
pub(crate) mod kept;
pub(crate) mod trees;
pub(crate) mod upload;
pub(crate) mod watch;
