//! What a launch takes from the room that launches.

use crate::launch::admission::Admission;
use crate::launch::ground::Ground;
use crate::launch::pool::Pool;

/// What a launch needs beside the ground: what is ready, and whether there is memory for one more.
#[derive(Debug)]
pub(crate) struct Launching {
    pub(crate) ground: Ground,
    pub(crate) pool: Pool,
    pub(crate) admission: Admission,
}
