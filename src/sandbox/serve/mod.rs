//! What clients do with a sandbox.

pub(crate) mod app;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod logs;
pub(crate) mod presets;
pub(crate) mod preview;
pub(crate) mod processes;
pub(crate) mod serving;
