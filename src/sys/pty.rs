//! Pseudo-terminals: pts(4), ptmx(4), ioctl_tty(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};

/// The device number of `/dev/ptmx`, which is that of every master — Documentation/admin-guide/devices.txt.
const MASTER: (u32, u32) = (5, 2);

/// `open("/dev/ptmx")`, `ioctl(TIOCSPTLCK, 0)`, `ioctl(TIOCGPTPEER)`: makes a terminal in the caller's
/// own devpts; returns the master and the side for the process.
///
/// # Errors
/// The kernel's; `ENOSPC` when the devpts has no more.
pub fn open(columns: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    // By descriptor: no path of the sandbox's is followed.
    let slave = match rustix::pty::ioctl_tiocgptpeer(&master, flags) {
        // gVisor has names only; its devpts is its own, and nobody in there can mount over it.
        Err(rustix::io::Errno::NOTTY) => {
            let name = rustix::pty::ptsname(&master, Vec::new())?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            rustix::fs::open(name.as_c_str(), flags, Mode::empty())?
        }
        other => other?,
    };
    resize(&master, columns, rows)?;
    // Off by default, and then a backspace takes one byte of a character of several: termios(3).
    let mut settings = rustix::termios::tcgetattr(&slave)?;
    settings.input_modes.insert(InputModes::IUTF8);
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings)?;
    Ok((master, slave))
}

/// `ioctl(TIOCSWINSZ)`: sets the size; the foreground process group gets SIGWINCH.
///
/// # Errors
/// The kernel's.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Says whether a descriptor that came from somebody else is the master of a terminal.
pub fn is_master(descriptor: impl AsFd) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|stat| {
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && number == MASTER
    })
}

/// Says whether a descriptor that came from somebody else is a pipe.
pub fn is_pipe(descriptor: impl AsFd) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}
