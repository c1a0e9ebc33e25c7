//! What the network is made of.

use crate::closed::Net;
use crate::names::LinkNames;
use crate::pool::Pool;

/// What the network is made of.
#[derive(Debug, Clone)]
pub struct Config {
    pub pool: Pool,
    /// The names of bridges and cables.
    pub names: LinkNames,
    /// The name of the nftables table.
    pub table: String,
    /// What sandboxes may connect to although it is closed by default.
    pub networks_open: Vec<Net>,
}
