//! Which sandboxes there are, and what is written down of them.

pub(crate) mod agenda;
pub(crate) mod kept;
pub(crate) mod leases;
pub(crate) mod ledger;
pub(crate) mod owners;
pub(crate) mod registry;
pub(crate) mod tally;
