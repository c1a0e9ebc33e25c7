//! Files in and out, against what would move them on the host itself, on the same file system.
//!
//! What a user of the API waits for goes over loopback HTTP twice through the kernel, from file to file as cp(1)
//! does; the client is the benchmark itself and hands the file to the kernel (sendfile(2)), so that it costs little.
//! An upload is durable when it is answered: `cp + sync` does the same, `cp` does less.
//!
//! Nothing is deleted before the end: ext4 without a journal does not use an inode again for a minute and searches
//! past all those for each new file, which would measure how much was deleted before.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use super::stats::Operation;
use super::stream::Api;
use super::{Contender, Recorder, Trouble, spawn};

/// The large file.
const LARGE_BYTES: u64 = 256 * 1024 * 1024;
/// The small ones: so many directories with so many files each.
const DIRECTORIES: u32 = 100;
const FILES_EACH: u32 = 100;
/// One in so many rounds: each leaves twenty thousand files until the end.
const ROUNDS_EACH: u32 = 5;
const BUFFER_BYTES: usize = 256 * 1024;

/// What is moved, and where to.
#[derive(Debug)]
pub(crate) struct Yard {
    directory: PathBuf,
}

impl Yard {
    /// Makes what is moved, beside the server's data.
    pub(crate) fn make(data_dir: &Path) -> Result<Self, Trouble> {
        let failed = |e: io::Error| Trouble::because("make files to move", &e);
        let directory = data_dir.with_file_name(format!("sandboxd-bench-files-{}", std::process::id()));
        fs::create_dir(&directory).map_err(failed)?;
        let yard = Self { directory };
        let mut random = File::open("/dev/urandom").map_err(failed)?.take(LARGE_BYTES);
        let mut large = File::create(yard.path("large")).map_err(failed)?;
        io::copy(&mut random, &mut large).map_err(failed)?;
        for directory in 0..DIRECTORIES {
            let path = yard.directory.join(format!("small/{directory}"));
            fs::create_dir_all(&path).map_err(failed)?;
            for file in 0..FILES_EACH {
                let content = format!("file {file} of directory {directory}\n");
                fs::write(path.join(file.to_string()), content).map_err(failed)?;
            }
        }
        spawn::run(&["tar", "-C", &yard.path("small"), "-cf", &yard.path("small.tar"), "."])?;
        Ok(yard)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Whether this round moves files; what was written before is on the disk then.
    pub(crate) fn has_turn(&self, recorder: &Recorder<'_>) -> Result<bool, Trouble> {
        let turn = recorder.round.is_multiple_of(ROUNDS_EACH);
        if turn {
            self.settle()?;
        }
        Ok(turn)
    }

    fn settle(&self) -> Result<(), Trouble> {
        spawn::run(&["sync", "-f", &self.path("large")]).map(drop)
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// Moves files by the API, which are timed.
pub(crate) fn round(
    api: &Api,
    sandbox: &str,
    yard: &Yard,
    recorder: &mut Recorder<'_>,
) -> Result<(), Trouble> {
    if !yard.has_turn(recorder)? {
        return Ok(());
    }
    let files = format!("/v1/sandboxes/{sandbox}/files");
    recorder.time(Operation::Upload, || put(api, &format!("{files}?path=large"), &yard.path("large")))?;
    let got = yard.path("got");
    recorder.time(Operation::Download, || get(api, &format!("{files}/content?path=large"), &got))?;
    if fs::metadata(&got).map(|m| m.len()).ok() != Some(LARGE_BYTES) {
        return Err(Trouble::new("download a file: it is not whole"));
    }
    yard.settle()?;
    let target = format!("{files}/archive?path=small-{}&format=tar", recorder.round);
    recorder.time(Operation::TreeIn, || put(api, &target, &yard.path("small.tar")))
}

fn put(api: &Api, path: &str, file: &str) -> Result<(), Trouble> {
    let failed = |e: io::Error| Trouble::because(format!("put {file}"), &e);
    let mut content = File::open(file).map_err(failed)?;
    let length = content.metadata().map_err(failed)?.len();
    let mut stream = api.connect().map_err(failed)?;
    api.send_head(&mut stream, "PUT", path, length).map_err(failed)?;
    io::copy(&mut content, &mut stream).map_err(failed)?;
    answer(&mut stream, &mut Vec::new()).map_err(failed).map(drop)
}

fn get(api: &Api, path: &str, file: &str) -> Result<(), Trouble> {
    let failed = |e: io::Error| Trouble::because(format!("get {path}"), &e);
    let mut content = File::create(file).map_err(failed)?;
    let mut stream = api.connect().map_err(failed)?;
    api.send_head(&mut stream, "GET", path, 0).map_err(failed)?;
    let mut buffer = Vec::new();
    let (mut left, begun) = answer(&mut stream, &mut buffer).map_err(failed)?;
    content.write_all(&buffer[begun..]).map_err(failed)?;
    left -= (buffer.len() - begun) as u64;
    buffer.resize(BUFFER_BYTES, 0);
    while left > 0 {
        let count = stream.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        content.write_all(&buffer[..count]).map_err(failed)?;
        left -= count as u64;
    }
    Ok(())
}

/// Reads the head of an answer that must be a good one; returns the length of its body, and where in the buffer
/// that begins.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<(u64, usize)> {
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece)?;
        buffer.extend_from_slice(&piece[..count]);
        let end = buffer.windows(4).position(|w| w == b"\r\n\r\n");
        let head = String::from_utf8_lossy(&buffer[..end.unwrap_or(buffer.len())]).to_lowercase();
        if count == 0 || end.is_some() && !head.starts_with("http/1.1 200 ") {
            return Err(io::Error::other(String::from_utf8_lossy(buffer)));
        }
        if let Some(end) = end {
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
            let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
            return Ok((length, end + 4));
        }
    }
}

/// How the host moves files itself.
#[derive(Debug)]
pub(crate) struct Host {
    yard: std::rc::Rc<Yard>,
    /// Waits for the disk, as an upload does.
    syncs: bool,
}

impl Host {
    pub(crate) fn new(yard: std::rc::Rc<Yard>, syncs: bool) -> Self {
        Self { yard, syncs }
    }
}

impl Contender for Host {
    fn name(&self) -> &'static str {
        if self.syncs { "cp + sync" } else { "cp, tar x" }
    }

    fn set_up(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    fn round(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Trouble> {
        let yard = &self.yard;
        if !yard.has_turn(recorder)? {
            return Ok(());
        }
        let (large, copy) = (yard.path("large"), yard.path("copy"));
        if self.syncs {
            return recorder.time(Operation::Upload, || {
                spawn::run(&["cp", &large, &copy])?;
                spawn::run(&["sync", &copy])
            });
        }
        recorder.pause();
        let took = spawn::run(&["cp", &large, &copy])?;
        recorder.add(Operation::Upload, took);
        recorder.add(Operation::Download, took);
        yard.settle()?;
        let tree = yard.path(&format!("small-{}", recorder.round));
        fs::create_dir(&tree).map_err(|e| Trouble::because("make a directory", &e))?;
        let archive = yard.path("small.tar");
        recorder.time(Operation::TreeIn, || spawn::run(&["tar", "-C", &tree, "-xf", &archive]))
    }
}
