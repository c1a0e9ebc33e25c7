//! Where `cp` copies from and to: `PATH` here, `ID:PATH` in a sandbox, `-` the standard streams.

use std::path::PathBuf;

use client::Base;

use super::failure::Failure;

/// The workspace as a sandbox sees it.
const HOME: &str = "/home/sandbox";

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Here(PathBuf),
    There(Remote),
    Standard,
}

/// A path in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// As it was given; a shortened id too.
    pub(super) id: String,
    pub(super) base: Base,
    /// Without `.` and empty parts; empty for the base itself.
    pub(super) path: String,
    /// Whether it was written as a directory.
    pub(super) is_directory: bool,
    /// Whether what is in it is meant: `ID:dir/.`
    pub(super) is_content: bool,
}

impl Place {
    /// Reads one end of a copy.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a path outside the workspace.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            return Ok(Self::Standard);
        }
        match text.split_once(':') {
            Some((id, path)) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Remote::parse(id, path).map(Self::There)
            }
            _ => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

impl Remote {
    fn parse(id: &str, path: &str) -> Result<Self, Failure> {
        let at_home = |rest: &str| rest.is_empty() || rest.starts_with('/');
        let (base, rest) = match (path.strip_prefix('~'), path.strip_prefix(HOME)) {
            (Some(rest), _) | (None, Some(rest)) if at_home(rest) => (Base::Home, rest),
            _ if path.starts_with('/') => {
                return Err(Failure::Usage(format!(
                    "copy {path:?}: only the workspace can be copied; name a path relative to the app \
                     directory, or one beneath ~ ({HOME})"
                )));
            }
            _ => (Base::App, path),
        };
        let parts: Vec<&str> = rest.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(Failure::Usage(format!("copy {path:?}: a path in a sandbox has no `..`")));
        }
        Ok(Self {
            id: id.to_owned(),
            base,
            is_directory: parts.is_empty() || rest.ends_with('/') || rest.ends_with("/."),
            is_content: rest == "." || rest.ends_with("/."),
            path: parts.join("/"),
        })
    }

    /// Returns the name of what is there: that of the directory for a base itself.
    pub(super) fn name(&self) -> &str {
        match (self.path.rsplit('/').next().filter(|name| !name.is_empty()), self.base) {
            (Some(name), _) => name,
            (None, Base::App) => "app",
            (None, Base::Home) => "sandbox",
        }
    }

    /// Returns the path of the directory above; that of the base for the base itself.
    pub(super) fn parent(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(text: &str) -> Remote {
        match Place::parse(text).unwrap() {
            Place::There(remote) => remote,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn both_ends_are_told_apart() {
        for here in ["a", "./01A:b", "/x:y", "../c", "~/d", "a b:c"] {
            assert_eq!(Place::parse(here).unwrap(), Place::Here(here.into()));
        }
        assert_eq!(Place::parse("-").unwrap(), Place::Standard);
        assert_eq!(there("01A:x").id, "01A");
    }

    #[test]
    fn paths_are_of_the_app_or_of_the_workspace() {
        let check = |text: &str, base: Base, path: &str, is_directory: bool, is_content: bool, name: &str| {
            let remote = there(text);
            assert_eq!(
                (remote.base, remote.path.as_str(), remote.is_directory, remote.is_content, remote.name()),
                (base, path, is_directory, is_content, name),
                "{text}"
            );
        };
        check("1:", Base::App, "", true, false, "app");
        check("1:.", Base::App, "", true, true, "app");
        check("1:src/a.txt", Base::App, "src/a.txt", false, false, "a.txt");
        check("1:./src//", Base::App, "src", true, false, "src");
        check("1:src/.", Base::App, "src", true, true, "src");
        check("1:~", Base::Home, "", true, false, "sandbox");
        check("1:~/x", Base::Home, "x", false, false, "x");
        check("1:~x", Base::App, "~x", false, false, "~x");
        check("1:/home/sandbox/workspace/y", Base::Home, "workspace/y", false, false, "y");
        assert_eq!((there("1:a/b/c").parent(), there("1:a").parent()), ("a/b", ""));
        for text in ["1:/etc/passwd", "1:/home/sandboxes", "1:../x", "1:a/../b", "1:~/.."] {
            assert!(matches!(Place::parse(text), Err(Failure::Usage(_))), "{text}");
        }
    }
}
