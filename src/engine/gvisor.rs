//! What the daemon has to know of gVisor's program, `runsc`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use sys::process;

/// What is said where it is missing.
const REMEDY: &str =
    "install Debian's package runsc (bookworm-backports, trixie or later), or name it by SANDBOXD_RUNSC";

/// Whether there is a `runsc` that can be used; looked for when it is first wanted.
#[derive(Debug)]
pub struct Gvisor {
    name: PathBuf,
    /// Only a success is remembered: what is missing may be installed.
    found: Mutex<Option<PathBuf>>,
}

impl Gvisor {
    /// Takes a path, or a name that is looked for in `PATH`.
    pub fn new(name: PathBuf) -> Self {
        Self { name, found: Mutex::default() }
    }

    /// Where it is. It must be able to pass descriptors into a sandbox, as it has since 2023.
    ///
    /// # Errors
    /// What is missing and how to get it, for clients.
    pub fn program(&self) -> Result<PathBuf, String> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = found.as_ref().filter(|program| program.exists()) {
            return Ok(program.clone());
        }
        let program = find(&self.name)
            .ok_or_else(|| format!("isolation \"gvisor\" needs runsc, which this host has not: {REMEDY}"))?;
        let options = output(&program, &["run", "-h"])?;
        if !options.contains("-pass-fd") {
            return Err(format!("isolation \"gvisor\" needs a newer runsc than this host has: {REMEDY}"));
        }
        *found = Some(program.clone());
        Ok(program)
    }

    /// Its version, for people.
    ///
    /// # Errors
    /// As [`Gvisor::program`].
    pub fn version(&self) -> Result<String, String> {
        let text = output(&self.program()?, &["--version"])?;
        Ok(text.lines().next().unwrap_or_default().trim_start_matches("runsc version ").to_owned())
    }
}

fn find(name: &Path) -> Option<PathBuf> {
    if name.is_absolute() {
        return name.is_file().then(|| name.to_owned());
    }
    let places = process::PATH.split(':').map(|directory| Path::new(directory).join(name));
    places.into_iter().find(|path| path.is_file())
}

/// What it prints on either stream.
fn output(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = process::command(program);
    let ran = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let ran = ran.map_err(|error| format!("isolation \"gvisor\": runsc cannot be run: {error}"))?;
    Ok(String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
}
