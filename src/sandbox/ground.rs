//! What every room to the right of the books stands on.

use std::sync::Arc;

use super::books::Books;
use super::host::Host;
use super::tasks::Tasks;

/// The instance's tasks, its host and its books; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) tasks: Tasks,
    pub(super) host: Arc<Host>,
    pub(super) books: Arc<Books>,
}
