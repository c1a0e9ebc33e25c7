//! What a check of the host finds.

/// One feature of the host.
#[derive(Debug, Clone)]
pub struct Finding {
    pub feature: &'static str,
    pub found: bool,
    /// What was seen.
    pub detail: String,
    /// What is weaker or impossible without it.
    pub consequence: &'static str,
    /// How to get it.
    pub remedy: &'static str,
    /// Without it the server does not start.
    pub required: bool,
}

/// What a path of the rootfs has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    Directory,
    File,
}
