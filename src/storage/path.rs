//! Paths that clients name.

use std::path::Path;

use crate::error::FileError;

const BYTES_MAX: usize = 4096;
const COMPONENT_BYTES_MAX: usize = 255;
const COMPONENTS_MAX: usize = 64;

/// A path beneath the base: relative, without `..`; the kernel resolves it beneath a descriptor all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(String);

impl FilePath {
    /// Parses the path of a file.
    ///
    /// # Errors
    /// [`FileError::Path`].
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let path = Self::parse_directory(text)?;
        if path.0 == "." || text.ends_with('/') {
            return Err(FileError::Path { reason: "it names a directory" });
        }
        Ok(path)
    }

    /// Parses the path of a directory; empty and `.` are the base itself.
    ///
    /// # Errors
    /// [`FileError::Path`].
    pub fn parse_directory(text: &str) -> Result<Self, FileError> {
        let refuse = |reason| Err(FileError::Path { reason });
        if text.len() > BYTES_MAX {
            return refuse("it is too long");
        }
        if text.contains('\0') {
            return refuse("it has a NUL character");
        }
        if text.starts_with('/') {
            return refuse("it is absolute; paths are relative to the base");
        }
        let components: Vec<&str> = text.split('/').filter(|c| !matches!(*c, "" | ".")).collect();
        if components.contains(&"..") {
            return refuse("it has a component \"..\"");
        }
        if components.iter().any(|c| c.len() > COMPONENT_BYTES_MAX) {
            return refuse("a component has more than 255 bytes");
        }
        if components.len() > COMPONENTS_MAX {
            return refuse("it has more than 64 components");
        }
        Ok(Self(if components.is_empty() { ".".to_owned() } else { components.join("/") }))
    }

    /// Parses the path of a file or directory that is not the root.
    ///
    /// # Errors
    /// [`FileError::Path`].
    pub fn parse_entry(text: &str) -> Result<Self, FileError> {
        let path = Self::parse_directory(text)?;
        if path.is_root() {
            return Err(FileError::Path { reason: "it names the top directory itself" });
        }
        Ok(path)
    }

    /// Says whether it is the top directory itself.
    pub fn is_root(&self) -> bool {
        self.0 == "."
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The directory above and the last component.
    pub(super) fn split(&self) -> (Option<&str>, &str) {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => (Some(parent), name),
            None => (None, &self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_confined() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "a/..",
            "./..",
            "a\0b",
            ".",
            "a/",
            "a//",
            &"x".repeat(256),
        ] {
            assert!(matches!(FilePath::parse(bad), Err(FileError::Path { .. })), "{bad:?}");
        }
        for (good, shown) in
            [("a", "a"), ("./a//b/./c", "a/b/c"), ("..a/b..", "..a/b.."), ("%2e%2e/x", "%2e%2e/x")]
        {
            assert_eq!(FilePath::parse(good).unwrap().as_str(), shown);
        }
        assert_eq!(FilePath::parse_directory("").unwrap().as_str(), ".");
        assert!(FilePath::parse(&vec!["a"; 65].join("/")).is_err());
    }

    proptest! {
        #[test]
        fn no_path_leads_out(text in "[a-z./\\\\%]{0,40}") {
            if let Ok(path) = FilePath::parse_directory(&text) {
                prop_assert!(!path.as_str().starts_with('/'));
                prop_assert!(path.as_str().split('/').all(|c| c != ".." && !c.is_empty()));
            }
        }
    }
}
