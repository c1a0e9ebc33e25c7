//! What every room to the right of the books stands on.

use std::sync::Arc;

use crate::base::tasks::Tasks;
use crate::books::ledger::Books;
use crate::launch::host::Host;

/// The instance's tasks, its host and its books; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) tasks: Tasks,
    pub(crate) host: Arc<Host>,
    pub(crate) books: Arc<Books>,
}
