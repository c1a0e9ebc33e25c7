//! What can go wrong with a bundle.

use std::io;
use std::path::PathBuf;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("parse the runtime-spec template")]
    Template(#[source] serde_json::Error),
    #[error("use the runtime-spec template: it has no {0}")]
    Incomplete(&'static str),
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the runtime spec as JSON")]
    Encode(#[source] serde_json::Error),
}
