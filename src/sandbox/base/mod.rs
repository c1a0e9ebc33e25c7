//! Leaves that every room needs.

pub(crate) mod activity;
pub(crate) mod command;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod lifecycle;
pub(crate) mod points;
pub(crate) mod records;
pub(crate) mod request;
pub(crate) mod share;
pub(crate) mod tasks;
pub(crate) mod view;
