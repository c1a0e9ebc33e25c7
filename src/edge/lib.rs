//! What clients and browsers reach: the REST API, and the previews.
//!
//! The two do not know one another; `daemon` gives each its listener.

pub mod api;
pub mod proxy;
