//! Writes the runtime-spec bundle of which all sandboxes are launched.
//!
//! The template is `oci/config.json`, the seccomp profile `oci/seccomp.json`; `oci/README.md` says why
//! each thing in them is there. The conversion is a pure function.

mod error;
mod gvisor;
pub mod seccomp;
mod spec;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

pub use error::BundleError;
pub use gvisor::{Guest, gvisor};
pub use spec::{Plan, Template, environment, root_environment};

/// Writes `config.json` into a bundle directory, anew if there is one.
///
/// # Errors
/// It cannot be written.
pub fn write(directory: &Path, spec: &Spec) -> Result<PathBuf, BundleError> {
    let path = directory.join("config.json");
    let text = serde_json::to_vec(spec).map_err(BundleError::Encode)?;
    let opened = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path);
    let written = opened.and_then(|mut file| file.write_all(&text));
    written.map_err(|source| BundleError::Write { path: path.clone(), source })?;
    Ok(path)
}
