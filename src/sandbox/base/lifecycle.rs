//! What a request means in each state: a pure table, without locks and without I/O.
//!
//! ```text
//! creating ─► running ⇄ stopped        running: start, wake, exec     stopped: idle, stop, init lost
//!     │        ⇅   │       ▲ │
//!     │      paused ───────┘ │         paused: idle, pause; every use resumes
//!     ▼         └─────┬──────┘
//!   (gone)            ▼ delete, purge
//!                  (gone) · error (leftovers remain; delete may be tried again)
//! ```

use model::Status;

/// What is asked of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Pause,
    Resume,
    Stop,
    Delete,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Launch,
    Freeze,
    Thaw,
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
pub(crate) enum Event {
    /// PID 1 of the sandbox has ended.
    InitLost,
    /// Something of it could not be removed.
    Leftovers,
}

/// Decides about a request.
pub(crate) const fn decide(status: Status, request: Request) -> Decision {
    match (status, request) {
        (Status::Running, Request::Start | Request::Resume)
        | (Status::Paused, Request::Pause)
        | (Status::Stopped, Request::Stop) => Decision::Already,
        (Status::Stopped, Request::Start) => Decision::Launch,
        (Status::Running, Request::Pause) => Decision::Freeze,
        (Status::Paused, Request::Start | Request::Resume) => Decision::Thaw,
        (Status::Running | Status::Paused, Request::Stop) => Decision::Stop,
        (Status::Running | Status::Paused | Status::Stopped | Status::Error, Request::Delete) => {
            Decision::Delete
        }
        (
            Status::Creating,
            Request::Start | Request::Pause | Request::Resume | Request::Stop | Request::Delete,
        )
        | (Status::Stopped, Request::Pause | Request::Resume)
        | (Status::Error, Request::Start | Request::Pause | Request::Resume | Request::Stop) => {
            Decision::Refuse
        }
    }
}

/// Says what a sandbox is after an event.
pub(crate) const fn observe(status: Status, event: Event) -> Status {
    match (status, event) {
        (Status::Running | Status::Paused | Status::Stopped, Event::InitLost) => Status::Stopped,
        (Status::Creating | Status::Error, Event::InitLost)
        | (
            Status::Creating | Status::Running | Status::Paused | Status::Stopped | Status::Error,
            Event::Leftovers,
        ) => Status::Error,
    }
}

impl Request {
    /// The verb for messages.
    pub(crate) const fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [Request; 5] =
        [Request::Start, Request::Pause, Request::Resume, Request::Stop, Request::Delete];

    #[test]
    fn the_whole_table() {
        use Decision::{Already, Delete, Freeze, Launch, Refuse, Stop, Thaw};
        let row = |status: Status| REQUESTS.map(|r| decide(status, r));
        assert_eq!(row(Status::Creating), [Refuse; 5]);
        assert_eq!(row(Status::Running), [Already, Freeze, Already, Stop, Delete]);
        assert_eq!(row(Status::Paused), [Thaw, Already, Thaw, Stop, Delete]);
        assert_eq!(row(Status::Stopped), [Launch, Refuse, Refuse, Already, Delete]);
        assert_eq!(row(Status::Error), [Refuse, Refuse, Refuse, Refuse, Delete]);
    }

    #[test]
    fn a_lost_init_never_counts_as_running() {
        for status in Status::ALL {
            assert!(!matches!(observe(status, Event::InitLost), Status::Running | Status::Paused));
            assert_eq!(observe(status, Event::Leftovers), Status::Error);
        }
    }
}
