//! Removing a workspace whose purge is recorded.

use std::sync::Arc;

use crate::base::error::Error;
use crate::base::tasks::blocking;
use crate::launch::ground::Ground;
use model::SandboxId;

/// Deletes a workspace whose purge is recorded, and then that record.
pub(crate) async fn purge_workspace(ground: &Ground, id: SandboxId) -> Result<u64, Error> {
    let host = Arc::clone(&ground.host);
    blocking(move || host.storage.displace(id).map_err(Error::Storage)).await?;
    finish_purge(ground, id).await
}

/// Deletes a workspace that is out of the way, and then the record of its purge.
pub(crate) async fn finish_purge(ground: &Ground, id: SandboxId) -> Result<u64, Error> {
    let host = Arc::clone(&ground.host);
    // As large as a tenant has made it.
    let _turn = ground.books.threads.removal().await?;
    let freed = blocking(move || {
        let freed = host.storage.remove_displaced(id).map_err(Error::Storage)?;
        // Before it is forgotten that it is to be removed: the two are synced by different hands.
        host.storage.settle_removals().map_err(Error::Storage)?;
        host.storage.restore_reserve();
        Ok(freed)
    });
    let freed = freed.await?;
    ground.books.kept.remove(id);
    // If this is lost, the next start purges once more, and finds nothing.
    ground.books.records.forget(id).await?;
    Ok(freed)
}
