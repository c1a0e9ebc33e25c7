//! `sandboxctl cp`

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use client::{Base, ClientError, Exchange, FileStat, TransportError, stream_body};

use super::context::Context;
use super::copied::Copied;
use super::failure::Failure;
use super::pack::{Source, local, pack, total};
use super::pipe::{Piece, PipeReader, PipeWriter, pipe};
use super::place::{Place, Remote};
use super::resolve::resolve;
use super::session::{Typed, read_input};
use super::unpack::Unpacker;

/// A copy that does not move for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  sandboxctl cp notes.txt ID:
  sandboxctl cp -r src ID:~/backup/
  sandboxctl cp notes.txt src ID:docs/
  sandboxctl cp ID:~/.bashrc bashrc
  sandboxctl cp ID: app
  sandboxctl cp ID:. .
  echo hello | sandboxctl cp - ID:hello.txt
  sandboxctl cp ID:hello.txt - | wc -c

ID:PATH is relative to the app directory; ID:~/PATH to the whole workspace, /home/sandbox. A PATH
here that has a colon is written ./PATH. Sandboxes may sleep; they are not woken.";

/// Copy files and trees into a sandbox or out of it
///
/// Modes and times are kept, links stay links, owners are not copied. A directory that is named with /. at its end
/// stands for what is in it. Out of a sandbox, nothing is ever written beyond the destination or through a
/// link, and links that lead out of what is copied are left out, named, and make the exit code 65.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Cp {
    /// Trees are copied anyway; for hands that are used to it
    #[arg(short, long)]
    recursive: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Make links also when they lead out of what is copied
    #[arg(long)]
    keep_links: bool,
    /// What to copy, and as the last where to
    #[arg(value_name = "PATH", required = true, num_args = 2..)]
    paths: Vec<String>,
}

impl Cp {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut places = self.paths.iter().map(|path| Place::parse(path)).collect::<Result<Vec<_>, _>>()?;
        let to = places.pop().ok_or_else(|| Failure::Usage("copy: name what and where to".to_owned()))?;
        let copied = Arc::new(Copied::new(context.is_json, self.quiet));
        let result = match to {
            Place::There(to) => upload(context, places, to, &copied).await,
            to => self.download(context, places, to, &copied).await,
        };
        let skipped = copied.finish();
        result?;
        if context.is_json {
            context.emit_value(&copied.json())?;
        }
        if skipped > 0 {
            let text =
                if skipped == 1 { "1 entry was".to_owned() } else { format!("{skipped} entries were") };
            return Err(Failure::Partial(text));
        }
        Ok(())
    }

    async fn download(
        &self,
        context: &Context,
        from: Vec<Place>,
        to: Place,
        copied: &Arc<Copied>,
    ) -> Result<(), Failure> {
        let is_one = from.len() == 1;
        for place in from {
            let Place::There(mut from) = place else {
                return Err(Failure::Usage("copy: one end is in a sandbox, written ID:PATH".to_owned()));
            };
            from.id = resolve(context, &from.id).await?;
            let stat = context.client.stat_file(&from.id, from.base, &from.path).await;
            let stat = match stat {
                Ok(stat) => stat.value,
                Err(error) => return Err(failed(context, "copy", &from, error)),
            };
            match (stat.r#type.as_str(), &to) {
                ("file", Place::Standard) => print(context, &from, copied).await?,
                ("file", Place::Here(to)) => file(context, &from, &stat, to, is_one, copied).await?,
                ("dir", Place::Here(to)) => self.tree(context, &from, to, is_one, copied).await?,
                ("dir", _) => {
                    return Err(Failure::Usage(format!("print {:?}: it is a directory", from.path)));
                }
                ("link", _) => {
                    return Err(Failure::Usage(format!(
                        "copy {:?}: it is a link to {:?}; name that",
                        from.path,
                        stat.target.unwrap_or_default()
                    )));
                }
                _ => return Err(Failure::Usage(format!("copy {:?}: it is no file or directory", from.path))),
            }
        }
        Ok(())
    }

    async fn tree(
        &self,
        context: &Context,
        from: &Remote,
        to: &Path,
        is_one: bool,
        copied: &Arc<Copied>,
    ) -> Result<(), Failure> {
        let is_there = to.is_dir();
        let to = if !from.is_content && (is_there || !is_one) { to.join(from.name()) } else { to.to_owned() };
        if !to.is_dir() {
            std::fs::create_dir_all(&to).map_err(|e| local("make", &to, e))?;
        }
        let unpacker = Unpacker::new(&to, self.keep_links, Arc::clone(copied))?;
        let exchange = context.client.read_archive(&from.id, from.base, &from.path).await;
        let exchange = exchange.map_err(|e| failed(context, "copy", from, e))?;
        let (sender, receiver) = pipe();
        let unpacking = tokio::task::spawn_blocking(move || unpacker.unpack(PipeReader::new(receiver)));
        let received = receive(exchange, sender).await;
        let unpacked = unpacking.await.map_err(|e| Failure::Runtime(io::Error::other(e)))?;
        match (received, unpacked) {
            // An archive that was cut short is the connection's fault first.
            (Err(error), _) => Err(failed(context, "copy", from, error)),
            (Ok(()), unpacked) => unpacked,
        }
    }
}

async fn upload(
    context: &Context,
    from: Vec<Place>,
    mut to: Remote,
    copied: &Arc<Copied>,
) -> Result<(), Failure> {
    to.id = resolve(context, &to.id).await?;
    let mut sources = Vec::new();
    for place in &from {
        match place {
            Place::Here(path) => sources.push(path.clone()),
            Place::Standard if from.len() == 1 => return send_input(context, &to, copied).await,
            Place::Standard => return Err(Failure::Usage("copy standard input: alone".to_owned())),
            Place::There(_) => {
                return Err(Failure::Usage(
                    "copy from sandbox to sandbox: copy to a directory here first".to_owned(),
                ));
            }
        }
    }
    let (directory, sources) = plan(context, &to, sources).await?;
    let (sender, receiver) = pipe();
    let packing = {
        let copied = Arc::clone(copied);
        tokio::task::spawn_blocking(move || {
            if copied.is_shown() {
                copied.expect(total(&sources));
            }
            pack(&sources, PipeWriter::new(sender), &copied)
        })
    };
    let sending = context.client.write_archive(&to.id, to.base, &directory, stream_body(receiver));
    let sent = while_moving(context, copied, sending).await;
    let packed = packing.await.map_err(|e| Failure::Runtime(io::Error::other(e)))?;
    match (sent, packed) {
        // What the server says of it comes first: a pipe that nobody reads any more is only the consequence.
        (Err(error), packed) if error.refusal().is_some() || packed.is_ok() => {
            Err(failed(context, "copy to", &to, error))
        }
        (_, packed) => packed,
    }
}

/// Decides into which directory to unpack, and under which names.
async fn plan(context: &Context, to: &Remote, from: Vec<PathBuf>) -> Result<(String, Vec<Source>), Failure> {
    let what = match context.client.stat_file(&to.id, to.base, &to.path).await {
        Ok(stat) => Some(stat.value.r#type),
        Err(error) if error.refusal().is_some_and(|refusal| refusal.status.as_u16() == 404) => {
            // Either the sandbox or the path.
            if let Err(error) = context.client.show_v1(&to.id).await {
                return Err(context.failure_about(&to.id, "copy to", error).await);
            }
            None
        }
        Err(error) => return Err(failed(context, "copy to", to, error)),
    };
    let is_content =
        |path: &Path| path.as_os_str().as_encoded_bytes().ends_with(b"/.") || path == Path::new(".");
    let into = |sources: Vec<PathBuf>| {
        let named = |path: PathBuf| {
            if is_content(&path) {
                return Ok(Source { path, name: String::new() });
            }
            // `..` and `a/..` have a name too, that of the directory they are.
            let real = if path.file_name().is_none() { path.canonicalize() } else { Ok(path.clone()) };
            let real = real.map_err(|e| local("read", &path, e))?;
            let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if name.is_empty() {
                return Err(Failure::Usage(format!("copy {}: its name is not UTF-8", path.display())));
            }
            Ok(Source { path, name })
        };
        sources.into_iter().map(named).collect::<Result<Vec<_>, _>>()
    };
    let is_into = from.len() > 1 || to.is_directory || from.first().is_some_and(|path| is_content(path));
    let directory = match what.as_deref() {
        Some("dir") => return Ok((to.path.clone(), into(from)?)),
        Some(kind) if is_into || from.first().is_some_and(|path| path.is_dir()) => {
            return Err(Failure::Usage(format!("copy to {:?}: it is a {kind}, not a directory", to.path)));
        }
        None if is_into => to.path.as_str(),
        _ => to.parent(),
    };
    if !directory.is_empty() {
        let made = context.client.make_directory(&to.id, to.base, directory).await;
        made.map_err(|e| failed(context, "copy to", to, e))?;
    }
    if is_into {
        return Ok((directory.to_owned(), into(from)?));
    }
    let renamed = |path| Source { path, name: to.name().to_owned() };
    Ok((directory.to_owned(), from.into_iter().map(renamed).collect()))
}

/// Sends standard input as a file.
async fn send_input(context: &Context, to: &Remote, copied: &Arc<Copied>) -> Result<(), Failure> {
    if to.is_directory {
        return Err(Failure::Usage("copy standard input: give it a name, as in ID:name".to_owned()));
    }
    let mut input = read_input()?;
    let (sender, receiver) = pipe();
    let counted = Arc::clone(copied);
    let passing = async move {
        while let Some(Typed::Data(data)) = input.recv().await {
            counted.add_bytes(data.len() as u64);
            if sender.send(Ok(data)).await.is_err() {
                break;
            }
        }
    };
    let sending = context.client.put_file_stream(&to.id, to.base, &to.path, stream_body(receiver));
    let (sent, ()) = tokio::join!(sending, passing);
    sent.map_err(|e| failed(context, "copy to", to, e))?;
    copied.add_entry();
    Ok(())
}

/// Writes a file to standard output.
async fn print(context: &Context, from: &Remote, copied: &Arc<Copied>) -> Result<(), Failure> {
    let exchange = context.client.read_file(&from.id, from.base, &from.path).await;
    let mut exchange = exchange.map_err(|e| failed(context, "copy", from, e))?;
    let mut out = tokio::io::stdout();
    while let Some(data) = next(&mut exchange).await.map_err(|e| failed(context, "copy", from, e))? {
        copied.add_bytes(data.len() as u64);
        out.write_all(&data).await.map_err(Failure::output)?;
    }
    out.flush().await.map_err(Failure::output)?;
    copied.add_entry();
    Ok(())
}

/// Copies a file here: whole or not at all.
async fn file(
    context: &Context,
    from: &Remote,
    stat: &FileStat,
    to: &Path,
    is_one: bool,
    copied: &Arc<Copied>,
) -> Result<(), Failure> {
    let names_directory = to.as_os_str().as_encoded_bytes().ends_with(b"/");
    let into = to.is_dir() || !is_one || names_directory;
    let to = if into { to.join(from.name()) } else { to.to_owned() };
    // A link that the user names is followed, as cp(1) does; one that does not lead anywhere is replaced.
    let to = to.canonicalize().unwrap_or(to);
    let failed_here = |e| local("write", &to, e);
    let exchange = context.client.read_file(&from.id, from.base, &from.path).await;
    let mut exchange = exchange.map_err(|e| failed(context, "copy", from, e))?;
    copied.name(from.name());
    if let Some(size) = stat.size.filter(|_| copied.is_shown() && is_one) {
        copied.expect(size);
    }
    if to.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        let mut device =
            tokio::fs::File::from_std(File::options().write(true).open(&to).map_err(failed_here)?);
        receive_file(context, from, &mut exchange, &mut device, copied).await?;
    } else {
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        if into {
            std::fs::create_dir_all(parent).map_err(|e| local("make", parent, e))?;
        }
        let mut temporary = Temporary::new(parent, &to).map_err(failed_here)?;
        receive_file(context, from, &mut exchange, &mut temporary.file, copied).await?;
        temporary.keep(&to, stat).await.map_err(failed_here)?;
    }
    copied.add_entry();
    Ok(())
}

/// A file that is not yet what it will be; removed unless it is kept.
struct Temporary {
    file: tokio::fs::File,
    path: PathBuf,
    is_kept: bool,
}

impl Temporary {
    fn new(parent: &Path, to: &Path) -> io::Result<Self> {
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(format!(".{name}.{}.part", std::process::id()));
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Self { file: tokio::fs::File::from_std(file), path, is_kept: false })
    }

    async fn keep(&mut self, to: &Path, stat: &FileStat) -> io::Result<()> {
        self.file.flush().await?;
        let mode = stat.mode.as_deref().and_then(|mode| u32::from_str_radix(mode, 8).ok());
        let permissions = std::fs::Permissions::from_mode(mode.unwrap_or(0o644) & 0o777);
        self.file.set_permissions(permissions).await?;
        std::fs::rename(&self.path, to)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

async fn receive_file(
    context: &Context,
    from: &Remote,
    exchange: &mut Exchange<'_>,
    out: &mut tokio::fs::File,
    copied: &Copied,
) -> Result<(), Failure> {
    while let Some(data) = next(exchange).await.map_err(|e| failed(context, "copy", from, e))? {
        out.write_all(&data).await.map_err(Failure::Output)?;
        copied.add_bytes(data.len() as u64);
    }
    out.flush().await.map_err(Failure::Output)
}

/// Passes a body on to a thread; one that is cut short ends as an error there too.
async fn receive(mut exchange: Exchange<'_>, sender: mpsc::Sender<Piece>) -> Result<(), ClientError> {
    loop {
        match next(&mut exchange).await {
            Ok(Some(data)) => {
                if sender.send(Ok(data)).await.is_err() {
                    // The thread has failed and says why.
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                // A thread that has gone needs not be told.
                sender.send(Err(io::ErrorKind::ConnectionAborted.into())).await.ok();
                return Err(error);
            }
        }
    }
}

async fn next(exchange: &mut Exchange<'_>) -> Result<Option<Bytes>, ClientError> {
    match tokio::time::timeout(STALL_MAX, exchange.chunk()).await {
        Ok(chunk) => Ok(chunk?),
        Err(_elapsed) => Err(stalled("the server")),
    }
}

/// Waits for an upload as long as it moves.
async fn while_moving<T>(
    context: &Context,
    copied: &Copied,
    sending: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let watching = async {
        let mut seen = copied.bytes();
        loop {
            tokio::time::sleep(STALL_MAX).await;
            let now = copied.bytes();
            if std::mem::replace(&mut seen, now) == now {
                return;
            }
        }
    };
    tokio::select! {
        sent = sending => sent,
        () = watching => Err(stalled(&context.client.endpoint().to_string())),
    }
}

fn stalled(server: &str) -> ClientError {
    TransportError::AnswerTimeout { server: server.to_owned(), after: STALL_MAX }.into()
}

fn failed(context: &Context, action: &str, place: &Remote, error: ClientError) -> Failure {
    let base = match place.base {
        Base::App => "",
        Base::Home => "~/",
    };
    context.failure(format!("{action} {}:{base}{}", place.id, place.path), error)
}
