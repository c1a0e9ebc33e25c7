//! What a launch takes from the room that launches.

use super::admission::Admission;
use super::ground::Ground;
use super::pool::Pool;

/// What a launch needs beside the ground: what is ready, and whether there is memory for one more.
#[derive(Debug)]
pub(super) struct Launching {
    pub(super) ground: Ground,
    pub(super) pool: Pool,
    pub(super) admission: Admission,
}
