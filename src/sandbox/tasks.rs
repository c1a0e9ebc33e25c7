//! Background work of the instance.

use super::error::Error;

/// Runs a step that waits for the kernel on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(step).await.unwrap_or(Err(Error::Panicked))
}
