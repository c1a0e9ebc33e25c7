//! Descriptors that tokio waits for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pidfd::PidFd;

/// A descriptor that is registered with the runtime for as long as the value lives.
#[derive(Debug)]
pub struct Watched<T: Owned>(AsyncFd<T>);

/// Owns one open descriptor and keeps it until it is dropped.
pub trait Owned: AsRawFd {}

impl Owned for OwnedFd {}
impl Owned for PidFd {}

impl<T: Owned> Watched<T> {
    /// Registers a descriptor; must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(inner: T) -> io::Result<Self> {
        // SAFETY: `Owned` types keep their descriptor open until they are dropped, and the value is only
        // ever lent out immutably, so it cannot be replaced.
        Ok(Self(unsafe { AsyncFd::register(inner) }?))
    }

    pub fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Waits until it is readable; a process, until it has ended.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }

    /// Waits until it is readable and then reads; again if it was not after all.
    ///
    /// # Errors
    /// That of the read.
    pub async fn read_with<R>(&self, mut read: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.0.async_io(Interest::READABLE, |inner| read(inner)).await
    }

    /// Waits until it is writable and then writes; again if it was not after all.
    ///
    /// # Errors
    /// That of the write.
    pub async fn write_with<R>(&self, mut write: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.0.async_io(Interest::WRITABLE, |inner| write(inner)).await
    }
}
