//! Streams of events that are opened again where they broke off.

use std::time::Duration;

use tokio::time::Instant;

use client::{ClientError, EventStream, OutputError, ServerEvent};

use super::context::Context;

/// Servers send a comment now and then; without anything for so long the connection is made again.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How long to try to reach a server that has gone.
const RECONNECT_FOR: Duration = Duration::from_secs(60);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long a server that has gone is still waited for.
#[derive(Debug, Default)]
pub(super) struct Patience {
    end: Option<Instant>,
}

impl Patience {
    /// A connection has been made.
    pub(super) fn renew(&mut self) {
        self.end = None;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The given one, if no further attempt would help.
    pub(super) async fn wait(&mut self, context: &Context, error: ClientError) -> Result<(), ClientError> {
        let is_refused = error.refusal().is_some_and(|refusal| !refusal.retryable);
        let end = *self.end.get_or_insert_with(|| {
            context.note("the connection was lost; connecting again");
            Instant::now() + RECONNECT_FOR
        });
        if is_refused || Instant::now() > end {
            return Err(error);
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
        Ok(())
    }
}

/// The next events of a connection.
///
/// # Errors
/// It is over, broken or silent.
pub(super) async fn next(stream: &mut EventStream<'_>) -> Result<Vec<ServerEvent>, ClientError> {
    match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
        Ok(Ok(Some(events))) => Ok(events),
        Ok(Err(error)) => Err(error),
        Ok(Ok(None)) | Err(_) => Err(OutputError::Closed.into()),
    }
}
