//! Files of the run directory that all sandboxes share.

use std::io;

use crate::base::error::Error;
use crate::launch::host::Host;
use engine::launcher;

/// Writes the files that are the same in all sandboxes: the resolver, the names of the loopback device, and a copy of
/// the operator's certificates. They are a layer of what each launch has of its own, see [`sys::mount::own_files`].
pub(crate) fn write_etc(host: &Host) -> Result<(), Error> {
    let (directory, resolver) = (&host.etc_dir, host.network.resolver());
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        copy_certificates(host)?;
        storage::write_file(&directory.join("resolv.conf"), format!("nameserver {resolver}\n").as_bytes())?;
        storage::write_file(&directory.join("hosts"), b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    };
    write().map_err(|source| Error::RunDirectory { path: directory.display().to_string(), source })
}

/// Copies the operator's certificates, if there are any, unless the copy is as old and as long as they are.
pub(crate) fn copy_certificates(host: &Host) -> io::Result<()> {
    let Some(bundle) = &host.config.ca_bundle else { return Ok(()) };
    let copy = host.etc_dir.join(launcher::CERTIFICATES);
    let (theirs, ours) = (std::fs::metadata(bundle)?, std::fs::metadata(&copy));
    let changed = theirs.modified()?;
    if ours.is_ok_and(|ours| ours.len() == theirs.len() && ours.modified().is_ok_and(|at| at == changed)) {
        return Ok(());
    }
    storage::write_file(&copy, &std::fs::read(bundle)?)?;
    std::fs::File::open(&copy)?.set_modified(changed)
}
