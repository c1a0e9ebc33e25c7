//! What a request means in each state: a pure table, without locks and without I/O.
//!
//! ```text
//! creating ─► running ⇄ stopped        running: start, wake, exec     stopped: idle, stop, init lost
//!     │          │         │
//!     ▼          └────┬────┘
//!   (gone)            ▼ delete, purge
//!                  (gone) · error (leftovers remain; delete may be tried again)
//! ```

use crate::model::Status;

/// What is asked of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Start,
    Stop,
    Delete,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Launch,
    Stop,
    /// Stop first if it runs, then remove every trace.
    Delete,
    /// It is as asked already.
    Already,
    /// The state does not allow it.
    Refuse,
}

/// What happens unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// PID 1 of the sandbox has ended.
    InitLost,
    /// Something of it could not be removed.
    Leftovers,
}

/// Decides about a request.
pub(super) const fn decide(status: Status, request: Request) -> Decision {
    match (status, request) {
        (Status::Running, Request::Start) | (Status::Stopped, Request::Stop) => Decision::Already,
        (Status::Stopped, Request::Start) => Decision::Launch,
        (Status::Running, Request::Stop) => Decision::Stop,
        (Status::Running | Status::Stopped | Status::Error, Request::Delete) => Decision::Delete,
        (Status::Creating, Request::Start | Request::Stop | Request::Delete)
        | (Status::Error, Request::Start | Request::Stop) => Decision::Refuse,
    }
}

/// Says what a sandbox is after an event.
pub(super) const fn observe(status: Status, event: Event) -> Status {
    match (status, event) {
        (Status::Running | Status::Stopped, Event::InitLost) => Status::Stopped,
        (Status::Creating | Status::Error, Event::InitLost)
        | (Status::Creating | Status::Running | Status::Stopped | Status::Error, Event::Leftovers) => {
            Status::Error
        }
    }
}

impl Request {
    /// The verb for messages.
    pub(super) const fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [Request; 3] = [Request::Start, Request::Stop, Request::Delete];

    #[test]
    fn the_whole_table() {
        let row = |status: Status| REQUESTS.map(|r| decide(status, r));
        assert_eq!(row(Status::Creating), [Decision::Refuse; 3]);
        assert_eq!(row(Status::Running), [Decision::Already, Decision::Stop, Decision::Delete]);
        assert_eq!(row(Status::Stopped), [Decision::Launch, Decision::Already, Decision::Delete]);
        assert_eq!(row(Status::Error), [Decision::Refuse, Decision::Refuse, Decision::Delete]);
    }

    #[test]
    fn a_lost_init_never_counts_as_running() {
        for status in Status::ALL {
            assert_ne!(observe(status, Event::InitLost), Status::Running);
            assert_eq!(observe(status, Event::Leftovers), Status::Error);
        }
    }
}
