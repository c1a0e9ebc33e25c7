//! Starting a program without a copy of the caller's memory: clone(2) with `CLONE_VM` and `CLONE_VFORK`.
//!
//! The child works in the caller's memory, on a stack of its own, while the caller stands still until the child has
//! executed its program or ended — man 2 vfork. So nothing is copied, and no page of the caller's has to be copied
//! afterwards because it was shared: a start costs a quarter of what it does by fork(2). What the child does in
//! between must leave nothing behind in that memory; descriptors, credentials, directory and signal mask are its own.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use rustix::io::Errno;

/// The child's stack: it makes system calls and nothing else. So large that the allocator maps it by itself, and
/// only the pages that are used are ever there.
const STACK_BYTES: usize = 256 * 1024;

thread_local! {
    /// Kept from one start to the next: to clear a new one takes as long as the rest.
    static STACK: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Where programs are looked for without a `PATH`, as by execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// What runs a file that the kernel does not know how to execute, as by execvp(3).
const SHELL: &CStr = c"/bin/sh";

/// A program with everything that execve(2) needs, so that the child allocates nothing.
#[derive(Debug)]
pub(super) struct Program {
    /// Where it may be, in the order in which that is tried.
    places: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Pointers to strings, with a null at the end.
struct Pointers(Vec<*const libc::c_char>);

impl Program {
    /// Looks up nothing yet: that is the child's, in its directory and as whom it is then.
    ///
    /// # Errors
    /// `EINVAL`: there is no program, or a NUL in a string.
    pub(super) fn new(argv: &[String], environment: &[(OsString, OsString)]) -> io::Result<Self> {
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_nul| io::Error::from(Errno::INVAL));
        let name = argv.first().filter(|name| !name.is_empty()).ok_or(Errno::INVAL)?;
        let path =
            environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
        let path = path.unwrap_or_else(|| OsStr::new(DEFAULT_PATH));
        let places: io::Result<_> = if name.contains('/') {
            text(name.clone().into_bytes()).map(|place| vec![place])
        } else {
            let place = |directory: &[u8]| match directory {
                // The current one.
                [] => text(name.clone().into_bytes()),
                _ => text([directory, b"/", name.as_bytes()].concat()),
            };
            path.as_bytes().split(|&byte| byte == b':').map(place).collect()
        };
        let arguments: io::Result<_> =
            argv.iter().map(|argument| text(argument.clone().into_bytes())).collect();
        let variable = |(name, value): &(OsString, OsString)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            text(variable.into_vec())
        };
        let environment: io::Result<_> = environment.iter().map(variable).collect();
        Ok(Self { places: places?, arguments: arguments?, environment: environment? })
    }

    /// Starts it after a step of the child's, which makes system calls and must neither allocate nor take a lock. No
    /// signal is blocked in it, and SIGPIPE ends it as by default. Returns its pid.
    ///
    /// # Errors
    /// That of the step, or of execve(2); then there is no child.
    pub(super) fn start(&self, mut prepare: impl FnMut() -> io::Result<()>) -> io::Result<i32> {
        let (arguments, environment) = (Pointers::to(&self.arguments), Pointers::to(&self.environment));
        let mut of_shell = Pointers::to(&self.arguments);
        // The file goes before the first argument, in the place of its name.
        of_shell.0.insert(0, SHELL.as_ptr());
        let failure = Cell::new(None);
        let child = || {
            let prepared = as_by_default().and_then(|()| prepare());
            let errno = match prepared {
                Ok(()) => self.execute(&arguments, &environment, &mut of_shell),
                Err(error) => Errno::from_io_error(&error).unwrap_or(Errno::IO),
            };
            failure.set(Some(errno));
            1
        };
        let mut stack = STACK.take();
        if stack.is_empty() {
            stack = vec![0; STACK_BYTES];
        }
        let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        // SAFETY: the child runs the closure on a stack that outlives it, since this thread goes on only once the
        // child has executed a program or ended; no signal handler is set that could run in it, and what it writes here
        // is one `Cell` and one array, both of this frame.
        let pid = unsafe { nix::sched::clone(Box::new(child), &mut stack, flags, Some(libc::SIGCHLD)) };
        STACK.set(stack);
        let pid = pid?;
        match failure.get() {
            None => Ok(pid.as_raw()),
            Some(errno) => {
                nix::sys::wait::waitpid(pid, None)?;
                Err(errno.into())
            }
        }
    }

    /// Becomes the program; returns why it cannot. As execvp(3): what may not be executed is told only if there is
    /// nothing else, and what is no program is one of the shell's.
    fn execute(&self, arguments: &Pointers, environment: &Pointers, of_shell: &mut Pointers) -> Errno {
        let mut found = Errno::NOENT;
        for place in &self.places {
            let mut errno = execve(place, arguments, environment);
            if errno == Errno::NOEXEC {
                if let Some(file) = of_shell.0.get_mut(1) {
                    *file = place.as_ptr();
                }
                errno = execve(SHELL, of_shell, environment);
            }
            match errno {
                Errno::ACCESS => found = errno,
                Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::STALE | Errno::NODEV => {}
                other => return other,
            }
        }
        found
    }
}

impl Pointers {
    fn to(strings: &[CString]) -> Self {
        Self(strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect())
    }
}

/// What the child must not have of its parent's: blocked signals, and the SIGPIPE that Rust's runtime ignores.
fn as_by_default() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    // SAFETY: SIG_DFL is not a handler function, so nothing runs in signal context; the child has its own table.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// `execve(path, argv, envp)`; returns only if it fails.
fn execve(path: &CStr, arguments: &Pointers, environment: &Pointers) -> Errno {
    // SAFETY: both arrays end with a null pointer, as `Pointers` are made, and their strings belong to the program
    // that the caller borrows for all of the call.
    unsafe { libc::execve(path.as_ptr(), arguments.0.as_ptr(), environment.0.as_ptr()) };
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;
    use std::os::unix::fs::PermissionsExt as _;

    /// The exit status, or why it could not be started.
    fn run(argv: &[&str], path: &str) -> Result<i32, Errno> {
        let argv: Vec<_> = argv.iter().map(ToString::to_string).collect();
        let program = Program::new(&argv, &[("A".into(), "b".into()), ("PATH".into(), path.into())]);
        let pid = program.unwrap().start(|| Ok(())).map_err(|e| Errno::from_io_error(&e).unwrap())?;
        match waitpid(Pid::from_raw(pid), None).unwrap() {
            WaitStatus::Exited(_, status) => Ok(status),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn programs_are_found_and_started_as_by_execvp() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let script = file("of-the-shell", "test \"$A\" = b && exit $1\n", 0o755);
        let closed = file("closed", "", 0o644);
        let ours = directory.path().to_str().unwrap();
        let path = format!("/nowhere:{ours}/closed:{ours}:/usr/bin:/bin");
        assert_eq!(run(&["sh", "-c", "test \"$A\" = b && exit 7"], &path), Ok(7));
        assert_eq!(run(&["of-the-shell", "8"], &path), Ok(8), "without a first line it is the shell's");
        assert_eq!(run(&[&script, "9"], ""), Ok(9));
        assert_eq!(run(&["of-the-shell", "1"], "/usr/bin:/bin"), Err(Errno::NOENT));
        assert_eq!(run(&["closed"], &path), Err(Errno::ACCESS));
        assert_eq!(run(&[&closed], &path), Err(Errno::ACCESS));
        assert!(Program::new(&[], &[]).is_err() && Program::new(&[String::new()], &[]).is_err());
        assert!(Program::new(&["a\0".to_owned()], &[]).is_err());
    }

    #[test]
    fn what_the_child_does_to_itself_is_its_own_and_its_failure_is_told() {
        let argv = ["sh", "-c", "test $PWD = / && kill -PIPE $$"].map(str::to_owned);
        let program = Program::new(&argv, &[]).unwrap();
        let before = std::env::current_dir().unwrap();
        let pid = program.start(|| Ok(rustix::process::chdir(c"/")?)).unwrap();
        let ended = waitpid(Pid::from_raw(pid), None).unwrap();
        assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGPIPE, _)), "{ended:?}");
        assert_eq!(std::env::current_dir().unwrap(), before);
        let failed = program.start(|| Ok(rustix::process::chdir(c"/nowhere")?)).unwrap_err();
        assert_eq!(Errno::from_io_error(&failed), Some(Errno::NOENT));
    }
}
