//! Where the key for the API came from.

use std::path::PathBuf;

/// Where the key came from, or why there is none: it decides what to say to a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyState {
    /// By `SANDBOXD_TOKEN`.
    Given,
    Found(PathBuf),
    Missing(PathBuf),
    Unreadable(PathBuf),
    /// The server is on another machine.
    NotRemote,
}

impl KeyState {
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::Given => "the server does not know the key in SANDBOXD_TOKEN: set the right one, or unset it to use the key on this machine".to_owned(),
            Self::Found(path) => format!(
                "the server does not know the key in {}: it may run with another data directory; set SANDBOXD_DATA_DIR or SANDBOXD_TOKEN",
                path.display()
            ),
            Self::Missing(path) => format!(
                "no key was sent: there is none at {}; set SANDBOXD_TOKEN, or SANDBOXD_DATA_DIR to the server's data directory",
                path.display()
            ),
            Self::Unreadable(path) => format!(
                "no key was sent: {} can be read by root only; run as root, or set SANDBOXD_TOKEN",
                path.display()
            ),
            Self::NotRemote => {
                "no key was sent: the key on this machine is not for a server elsewhere; set SANDBOXD_TOKEN".to_owned()
            }
        }
    }
}
