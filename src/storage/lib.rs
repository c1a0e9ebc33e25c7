//! Workspaces: made, used and removed.
//!
//! ```text
//! <data>/workspaces/<ID>           the home of a sandbox's user, bound into the sandbox
//!        └ workspace/app           the app directory, where the paths of the files API begin
//! <data>/overlays/<ID>             what its root has written to the root file system, where that is writable
//! <data>/staging/<ID>, tree.<n>    a workspace or tree that is being made; renamed into place when it is whole
//! <data>/trash/<ID>.<random>, …    what is being removed; renamed out of place first
//! ```
//!
//! The tenant changes his workspace while we look at it. Every name in it is resolved by the kernel
//! beneath a directory descriptor, no link out of it is followed, and nothing is ever executed.

mod archive;
mod copy;
mod edit;
mod error;
mod files;
mod limits;
mod lines;
mod logs;
mod owner;
mod path;
mod place;
mod removal;
mod reserve;
mod rootfs;
mod spool;
mod templates;
mod tree;
mod unborn;
mod upload;
mod walk;
mod watch;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};

use place::Yard;
use reserve::Reserve;

use model::{FileBase, IdBase, PathKind, SandboxId, TemplateName, manifest};
use sys::fs::{self as sysfs, Links};

pub use archive::Unpacked;
pub use error::{FileError, StorageError};
pub use files::{Content, Entry, EntryKind, Files, Listing, Opened};
pub use limits::{TreeLimits, Waiting, Wanted};
pub use logs::{Follower, Line, Logs, News, Position};
pub use owner::Owner;
pub use path::FilePath;
pub use place::Rubbish;
pub use spool::{Spool, Spooled};
pub use templates::TemplateInfo;
pub use unborn::known_workspaces;
pub use upload::Upload;
pub use walk::View;
pub use watch::{ChangeKind, Observed, Tally, Watcher, Writes};

/// The app directory beneath a workspace.
const APP: &str = "workspace/app";
/// The manifest beneath the app directory.
const MANIFEST: &str = "sandbox.yaml";
/// A directory in which nothing ever is.
const EMPTY: &str = "empty";
/// The home skeleton beneath the rootfs.
const SKELETON: &str = "etc/skel";

/// Beside the layers of a root file system: from where on their ids are stored.
const IDS_SIGN: &str = "ids";
/// How often what is left of a workspace is looked for.
const REMOVAL_ROUNDS_MAX: u32 = 8;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub rootfs: PathBuf,
    /// Holds one directory per template.
    pub templates_dir: PathBuf,
}

/// All workspaces.
#[derive(Debug)]
pub struct Storage {
    config: Config,
    yard: Arc<Yard>,
    reserve: Reserve,
}

/// A manifest as it was read.
#[derive(Debug)]
pub struct ManifestFile {
    /// At most one byte more than a manifest may have.
    pub text: Vec<u8>,
    /// From before it was read, so that whatever changes it later changes this too.
    pub stat: rustix::fs::Stat,
}

/// A workspace that was made ahead and is nobody's.
#[derive(Debug)]
pub struct Staged {
    pub name: StagedName,
    /// It, wherever it is moved to.
    pub directory: OwnedFd,
    /// Whether a start would know it for a workspace that was never recorded.
    pub is_marked: bool,
}

/// Where such a workspace is.
#[derive(Debug)]
pub struct StagedName(PathBuf);

/// What [`Storage::prepare`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    Made,
    /// It was there, and is as it was.
    Existing,
}

impl Storage {
    /// Makes the directories.
    ///
    /// # Errors
    /// They cannot be made, or are links.
    pub fn open(config: Config) -> Result<Self, StorageError> {
        let directory = |name: &str| {
            let path = config.data_dir.join(name);
            let failed = StorageError::at("make the directory", &path);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(&failed)?;
            // One of an earlier version may be open to others. A program in there that a tenant has given the bit for
            // set-user-id would run as a user of the host for whoever reaches it.
            sysfs::set_directory_mode(&path, 0o700).map_err(&failed)?;
            sysfs::open_directory(&path).map_err(&failed)
        };
        drop(directory("workspaces")?);
        drop(directory("overlays")?);
        drop(directory(EMPTY)?);
        let yard = Arc::new(Yard { staging: directory("staging")?, trash: directory("trash")? });
        let reserve = Reserve::find(&config.data_dir);
        Ok(Self { yard, config, reserve })
    }

    /// A directory with nothing in it, on the file system of the workspaces.
    pub fn empty_dir(&self) -> PathBuf {
        self.config.data_dir.join(EMPTY)
    }

    pub fn workspaces_dir(&self) -> PathBuf {
        self.config.data_dir.join("workspaces")
    }

    pub fn workspace_path(&self, id: SandboxId) -> PathBuf {
        self.workspaces_dir().join(id.to_string())
    }

    /// Says whether there is a workspace, with or without a sandbox.
    pub fn has_workspace(&self, id: SandboxId) -> bool {
        self.workspace_path(id).symlink_metadata().is_ok()
    }

    /// Makes a workspace that is nobody's yet, from the skeleton alone; the name is the caller's.
    ///
    /// # Errors
    /// The disk is full or fails; then nothing is left in place.
    pub fn stage_ahead(&self, name: &str, owner: Owner) -> Result<Staged, StorageError> {
        let staging = self.config.data_dir.join("staging").join(name);
        match self.stage(&staging, owner) {
            Ok((directory, is_marked)) => Ok(Staged { name: StagedName(staging), directory, is_marked }),
            Err(error) => {
                // Whatever is left is swept at the next start.
                let _ignored: Result<(), StorageError> = self.discard(&staging);
                Err(error)
            }
        }
    }

    /// Removes a workspace that nobody has needed.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn unstage(&self, staged: StagedName) -> Result<(), StorageError> {
        self.discard(&staged.0)
    }

    /// Puts a workspace that was made ahead in its place, where nothing is.
    ///
    /// # Errors
    /// Something is there, or the disk fails; the workspace is gone.
    pub fn place(&self, staged: StagedName, id: SandboxId) -> Result<(), StorageError> {
        let target = self.workspace_path(id);
        let placed = rename_fail_point().and_then(|()| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &staged.0, CWD, &target, RenameFlags::NOREPLACE)
                .map_err(|errno| StorageError::at("put in place the workspace", &target)(errno.into()))
        });
        if placed.is_err() {
            // Whatever is left is swept at the next start.
            let _ignored: Result<(), StorageError> = self.unstage(staged);
        }
        placed
    }

    /// Makes a workspace from the skeleton and a template; one that is there is left as it is, but for its owner on the
    /// disk. `ready` is asked for one that was made ahead, with this owner.
    ///
    /// # Errors
    /// There is no such template, or the disk is full or fails; then nothing is left in place.
    pub fn prepare(
        &self,
        id: SandboxId,
        template: Option<&TemplateName>,
        owner: Owner,
        ready: impl FnOnce() -> Option<Staged>,
    ) -> Result<Prepared, StorageError> {
        let target = self.workspace_path(id);
        if target.symlink_metadata().is_ok() {
            let workspace = sysfs::open_directory(&target);
            let workspace = workspace.map_err(StorageError::at("open the workspace", &target))?;
            convert(&workspace, owner).map_err(StorageError::at("change the owner of", &target))?;
            // Commands begin there, and a tenant may have removed it. What is there instead is theirs to see to.
            let _ignored: io::Result<(OwnedFd, bool)> = place::make_directories(&workspace, APP, owner);
            return Ok(Prepared::Existing);
        }
        let template = template.filter(|t| !t.is_blank()).map(|t| self.template(t)).transpose()?;
        let (staging, staged) = match ready() {
            Some(Staged { name: StagedName(staging), .. }) => (staging, Ok(())),
            None => {
                let staging = self.config.data_dir.join("staging").join(id.to_string());
                let staged = self.stage(&staging, owner).map(drop);
                (staging, staged)
            }
        };
        let made = staged.and_then(|()| {
            if let Some(template) = template {
                tree::copy(&template, &staging.join(APP), owner)?;
            }
            rename_fail_point()?;
            fs::rename(&staging, &target).map_err(StorageError::at("put in place the workspace", &target))
        });
        if let Err(error) = made {
            // Whatever is left is swept at the next start.
            let _ignored: Result<(), StorageError> = self.discard(&staging);
            return Err(error);
        }
        Ok(Prepared::Made)
    }

    /// Makes the directory with the layers of a writable root file system, if it is not there: `upper`, which
    /// belongs to root of the sandbox as it is stored, and `work`, the kernel's.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn prepare_overlay(&self, id: SandboxId, base: IdBase) -> Result<PathBuf, StorageError> {
        let path = self.config.data_dir.join("overlays").join(id.to_string());
        let failed = StorageError::at("make the layers in", &path);
        // Anybody may pass, who gets past the directory above: root of the sandbox has to.
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(&failed)?;
        let directory = sysfs::open_directory(&path).map_err(&failed)?;
        convert_layers(&path, base).map_err(StorageError::at("change the owners in", &path))?;
        let root = base.first();
        for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
            match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(mode)) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => continue,
                Err(errno) => return Err(failed(errno.into())),
            }
            sysfs::give_name(&directory, name, root, root).map_err(&failed)?;
        }
        drop(failed);
        Ok(path)
    }

    /// Removes a workspace and what belongs to it; returns the bytes that it took. One that is not there is no error.
    ///
    /// # Errors
    /// Something in it, or in what an earlier attempt left, cannot be removed; what is left is out of the way.
    pub fn remove(&self, id: SandboxId) -> Result<u64, StorageError> {
        self.displace(id)?;
        self.remove_displaced(id)
    }

    /// Takes a workspace and what belongs to it out of the way at once, whatever is in it.
    ///
    /// # Errors
    /// The disk fails.
    pub fn displace(&self, id: SandboxId) -> Result<(), StorageError> {
        let overlay = self.config.data_dir.join("overlays").join(id.to_string());
        let (workspace, overlay) = (self.take_away(&self.workspace_path(id)), self.take_away(&overlay));
        workspace.and(overlay).map(drop)
    }

    /// Removes everything of a sandbox that was taken out of the way, by this daemon or an earlier one; returns the bytes
    /// that it took.
    ///
    /// # Errors
    /// Something cannot be removed; the rest is gone.
    pub fn remove_displaced(&self, id: SandboxId) -> Result<u64, StorageError> {
        fail::fail_point!("storage-remove", |_| Err(StorageError::FailPoint("storage-remove")));
        let prefix = format!("{id}.");
        let mut freed = 0;
        // What is being removed by the sweep of a start meanwhile is moved about by it.
        for _round in 0..REMOVAL_ROUNDS_MAX {
            let names: Vec<_> =
                self.names_in("trash")?.filter(|name| name.to_string_lossy().starts_with(&prefix)).collect();
            if names.is_empty() {
                return Ok(freed);
            }
            let mut failure = None;
            for name in names {
                match removal::remove_at(&self.yard.trash, &name, &|| true) {
                    Ok(bytes) => freed += bytes,
                    Err(error) => {
                        failure = Some(StorageError::at("remove", &self.trash_dir().join(&name))(error));
                    }
                }
            }
            failure.map_or(Ok(()), Err)?;
        }
        let left = io::ErrorKind::DirectoryNotEmpty.into();
        Err(StorageError::at("remove everything in", &self.trash_dir())(left))
    }

    /// Notes that the record of a new workspace is on the disk.
    ///
    /// # Errors
    /// The disk is full or fails; then the next start does it.
    pub fn is_recorded(&self, id: SandboxId) -> Result<(), StorageError> {
        let path = self.workspace_path(id);
        unborn::clear(&path).map_err(StorageError::at("take the mark off", &path))
    }

    /// Takes the workspaces of creates that nobody was told of out of the way; `is_known` says which have a record. Returns
    /// how many. What cannot be looked at or moved is told in the log and left.
    ///
    /// # Errors
    /// The workspaces cannot be listed.
    pub fn sweep_unborn(&self, is_known: impl Fn(SandboxId) -> bool) -> Result<usize, StorageError> {
        let mut removed = 0;
        for name in self.names_in("workspaces")? {
            let Some(id) = name.to_str().and_then(|name| name.parse::<SandboxId>().ok()) else { continue };
            if !unborn::is_marked(&self.workspace_path(id)) {
                continue;
            }
            let result = if is_known(id) { self.is_recorded(id) } else { self.displace(id) };
            match result {
                Ok(()) => removed += usize::from(!is_known(id)),
                Err(error) => {
                    tracing::error!(%id, error = %error, cause = ?std::error::Error::source(&error), "failed to settle a workspace that bears the mark of a new one");
                }
            }
        }
        Ok(removed)
    }

    /// Returns once what was removed stays so, whatever happens to the power.
    ///
    /// # Errors
    /// The disk fails.
    pub fn settle_removals(&self) -> Result<(), StorageError> {
        let path = self.workspaces_dir();
        let failed = StorageError::at("sync", &path);
        fs::File::open(&path).and_then(|directory| directory.sync_all()).map_err(failed)
    }

    /// Moves what a crash left half made to what it left half removed, and lists that, for [`Storage::sweep`].
    ///
    /// # Errors
    /// The directories cannot be listed.
    pub fn leftovers(&self) -> Result<Vec<OsString>, StorageError> {
        let staging = self.config.data_dir.join("staging");
        for name in self.names_in("staging")? {
            if let Err(error) = self.take_away(&staging.join(&name)) {
                tracing::error!(?name, error = %error, cause = ?std::error::Error::source(&error), "failed to take away what an earlier daemon left half made");
            }
        }
        Ok(self.names_in("trash")?.collect())
    }

    /// Removes leftovers while `go_on` says so; returns the bytes that they took. What cannot be removed is told in the log
    /// and tried again at the next start.
    pub fn sweep(&self, leftovers: &[OsString], go_on: &dyn Fn() -> bool) -> u64 {
        let mut freed = 0;
        for name in leftovers {
            match removal::remove_at(&self.yard.trash, name, go_on) {
                Ok(bytes) => freed += bytes,
                Err(error) if go_on() => {
                    tracing::error!(?name, %error, "failed to remove what an earlier daemon left; the next start tries again");
                }
                Err(_) => return freed,
            }
        }
        freed
    }

    /// Opens a workspace for its files.
    ///
    /// # Errors
    /// There is no workspace, or the tenant has removed the app directory or put something else in its place.
    pub fn files(&self, id: SandboxId, base: FileBase) -> Result<Files, FileError> {
        let path = self.workspace_path(id);
        let failed = FileError::at("open", "the workspace");
        let workspace = sysfs::open_directory(&path).map_err(&failed)?;
        let owner = Owner::of(&rustix::fs::fstat(&workspace).map_err(|errno| failed(errno.into()))?);
        let directory = match base {
            FileBase::Home => workspace,
            FileBase::App => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let app = sysfs::open_beneath(&workspace, Path::new(APP), flags, 0, Links::Refuse);
                app.map_err(FileError::at("open", "the app directory"))?
            }
        };
        Ok(Files::new(directory, owner, Arc::clone(&self.yard)))
    }

    /// Begins to keep what is to be sent.
    pub fn spool(&self) -> Spool {
        Spool::new(Arc::clone(&self.yard))
    }

    /// Opens the logs of a workspace.
    ///
    /// # Errors
    /// There is no workspace.
    pub fn logs(&self, id: SandboxId) -> Result<Logs, StorageError> {
        let path = self.workspace_path(id);
        let workspace = sysfs::open_directory(&path);
        Ok(Logs::new(workspace.map_err(StorageError::at("open the workspace", &path))?))
    }

    /// Reads the manifest; `None` when there is none.
    ///
    /// # Errors
    /// The disk fails. A tenant who puts something strange there has no manifest.
    pub fn manifest(&self, id: SandboxId) -> Result<Option<ManifestFile>, StorageError> {
        let Ok(files) = self.files(id, FileBase::App) else { return Ok(None) };
        let workspace = self.workspace_path(id);
        let (file, stat) =
            match sysfs::open_file_beneath(files.directory(), Path::new(MANIFEST), Links::FollowBeneath) {
                Ok(opened) => opened,
                // It is there, and an app must not be taken down because it cannot be read at the moment.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(StorageError::at("open the manifest in", &workspace)(error));
                }
                Err(_) => return Ok(None),
            };
        let mut text = Vec::new();
        let limit = u64::try_from(manifest::BYTES_MAX + 1).unwrap_or(u64::MAX);
        let read = io::Read::read_to_end(&mut io::Read::take(file, limit), &mut text);
        read.map_err(StorageError::at("read the manifest in", &workspace))?;
        Ok(Some(ManifestFile { text, stat }))
    }

    /// Makes sure that every mount destination is in the rootfs and that no link is on the way to it.
    ///
    /// # Errors
    /// The first that is missing, is a link or is of the wrong kind.
    pub fn check_rootfs(&self, destinations: &[(&Path, PathKind)]) -> Result<(), StorageError> {
        rootfs::check(&self.config.rootfs, destinations)
    }

    /// Makes sure that a workspace could be made: the disk takes writes, has room and an inode left.
    ///
    /// # Errors
    /// The kernel's, or that the disk is full.
    pub fn check_writable(&self) -> Result<(), StorageError> {
        let staging = self.config.data_dir.join("staging");
        sysfs::check_writable(&self.yard.staging).map_err(StorageError::at("make a file in", &staging))?;
        self.reserve.check_free().map_err(StorageError::at("find room in", &self.config.data_dir))
    }

    /// Makes sure that there is room for a new sandbox.
    ///
    /// # Errors
    /// The reserve was released, and there is no room to keep it again: the disk is full.
    pub fn check_room(&self) -> Result<(), StorageError> {
        self.reserve.check().map_err(StorageError::at("find room in", &self.config.data_dir))
    }

    /// On a full disk, makes room for what must not fail: a delete, a stop, a start.
    pub fn lend_reserve(&self) {
        self.reserve.lend();
    }

    /// Keeps the reserve again once there is room.
    pub fn restore_reserve(&self) {
        self.reserve.restore();
    }

    /// Makes room on a full disk before there is a storage: a start has to write.
    pub fn make_room(data_dir: &Path) {
        Reserve::find(data_dir).lend();
    }

    fn template(&self, name: &TemplateName) -> Result<PathBuf, StorageError> {
        let path = self.config.templates_dir.join(name.as_str());
        if sysfs::open_directory(&path).is_ok() {
            return Ok(path);
        }
        let entries = fs::read_dir(&self.config.templates_dir).into_iter().flatten().flatten();
        let mut known: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        known.sort();
        Err(StorageError::UnknownTemplate { name: name.to_string(), known: known.join(", ") })
    }

    /// Returns it, and whether it could be marked.
    fn stage(&self, staging: &Path, owner: Owner) -> Result<(OwnedFd, bool), StorageError> {
        self.discard(staging)?;
        let failed = StorageError::at("make the workspace", staging);
        fs::DirBuilder::new().mode(0o750).create(staging).map_err(&failed)?;
        // The umask may have taken bits away.
        fs::set_permissions(staging, fs::Permissions::from_mode(0o750)).map_err(&failed)?;
        let is_marked = unborn::mark(staging).map_err(&failed)?;
        let skeleton = self.config.rootfs.join(SKELETON);
        if skeleton.exists() {
            tree::copy(&skeleton, staging, owner)?;
        }
        let root = sysfs::open_directory(staging).map_err(&failed)?;
        for directory in ["workspace", APP] {
            match rustix::fs::mkdirat(&root, directory, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
            owner.take_name(&root, directory).map_err(&failed)?;
        }
        owner.take(&root).map_err(&failed)?;
        Ok((root, is_marked))
    }

    /// Renames a tree out of the way, so that it is gone at once, then removes it.
    fn discard(&self, path: &Path) -> Result<(), StorageError> {
        let Some(name) = self.take_away(path)? else { return Ok(()) };
        let failed = StorageError::at("remove", path);
        removal::remove_at(&self.yard.trash, &name, &|| true).map(drop).map_err(failed)
    }

    /// Renames a tree into the trash; returns its name there. Where there is no room for one more name it is removed in
    /// its place, which gives some.
    fn take_away(&self, path: &Path) -> Result<Option<String>, StorageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The part before the dot says whose it is, and the other one cannot be foreseen.
        let rubbish = format!("{}.{}", name.split('.').next().unwrap_or_default(), ulid::Ulid::new());
        match fs::rename(path, self.trash_dir().join(&rubbish)) {
            Ok(()) => Ok(Some(rubbish)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                let failed = StorageError::at("remove", path);
                let parent = path.parent().unwrap_or_else(|| Path::new("/"));
                let parent = sysfs::open_directory(parent).map_err(&failed)?;
                removal::remove_at(&parent, name.as_ref(), &|| true).map_err(&failed)?;
                Ok(None)
            }
            Err(error) => Err(StorageError::at("move away", path)(error)),
        }
    }

    fn trash_dir(&self) -> PathBuf {
        self.config.data_dir.join("trash")
    }

    fn names_in(&self, directory: &str) -> Result<impl Iterator<Item = OsString> + use<>, StorageError> {
        let directory = self.config.data_dir.join(directory);
        let entries = fs::read_dir(&directory).map_err(StorageError::at("list", &directory))?;
        Ok(entries.flatten().map(|entry| entry.file_name()))
    }
}

/// Gives a workspace to another owner, if it has not this one.
fn convert(workspace: &OwnedFd, owner: Owner) -> io::Result<()> {
    if !owner::differs(workspace, &["workspace", APP], owner)? {
        return Ok(());
    }
    let begun = Instant::now();
    let converted = owner::convert(workspace, owner)?;
    tracing::info!(?converted, took = ?begun.elapsed(), "the files of a workspace are stored with other ids");
    Ok(())
}

/// The same of the layers of a root file system. They bear no sign of it, since what is in them is mostly root's: so a file
/// beside them says from where on ids are stored.
fn convert_layers(path: &Path, base: IdBase) -> io::Result<()> {
    let sign = path.join(IDS_SIGN);
    let text = base.to_string();
    if fs::read_to_string(&sign).is_ok_and(|found| found == text) {
        return Ok(());
    }
    match sysfs::open_directory(&path.join("upper")) {
        Ok(upper) => drop(owner::convert(&upper, Owner::mapped(base))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    sysfs::write_state(&sign, text.as_bytes(), 0o600)
}

/// Writes a small file of the host's own whole or not at all.
///
/// # Errors
/// The kernel's.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    sysfs::write_state(path, bytes, 0o644)
}

/// Before a workspace that is whole gets its name.
fn rename_fail_point() -> Result<(), StorageError> {
    fail::fail_point!("storage-prepare-rename", |_| Err(StorageError::FailPoint("storage-prepare-rename")));
    Ok(())
}
