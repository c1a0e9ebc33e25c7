//! Files of a workspace, as clients see them.

use std::str::FromStr;

/// Where the paths of a client begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileBase {
    /// The app directory.
    #[default]
    App,
    /// The home of the sandbox's user, which is the workspace.
    Home,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Dir,
    Link,
    /// A FIFO, a socket, a device.
    Other,
}

/// A file, directory or link as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Relative to the base.
    pub path: String,
    pub kind: FileKind,
    pub size: u64,
    /// The permission bits.
    pub mode: u32,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// Where a link leads, as it says itself.
    pub target: Option<String>,
}

/// How a tree is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    Tar,
    TarGz,
    Zip,
}

/// A text that names none of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is {0}")]
pub struct Unknown(pub &'static str);

impl FromStr for FileBase {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "app" => Ok(Self::App),
            "home" => Ok(Self::Home),
            _ => Err(Unknown("app or home")),
        }
    }
}

impl FromStr for ArchiveFormat {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tar" => Ok(Self::Tar),
            "tar.gz" | "tgz" => Ok(Self::TarGz),
            "zip" => Ok(Self::Zip),
            _ => Err(Unknown("tar, tar.gz or zip")),
        }
    }
}

impl FileKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Link => "link",
            Self::Other => "other",
        }
    }
}

impl ArchiveFormat {
    /// How the names of such files end.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarGz => "tar.gz",
            Self::Zip => "zip",
        }
    }

    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::TarGz => "application/gzip",
            Self::Zip => "application/zip",
        }
    }
}
