//! How a sandbox comes to be.

pub(crate) mod admission;
pub(crate) mod blank;
pub(crate) mod bundles;
pub(crate) mod etc;
pub(crate) mod ground;
pub(crate) mod host;
pub(crate) mod ids;
pub(crate) mod keeper;
pub(crate) mod launching;
pub(crate) mod limits;
pub(crate) mod pool;
pub(crate) mod provision;
pub(crate) mod spaces;
pub(crate) mod undo;
