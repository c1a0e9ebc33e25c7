//! Writing results: to a pipe that may close, and for terminals that must not be driven by what others wrote.

use std::io::{self, IsTerminal as _, Write};

use super::failure::Failure;

/// Writes a result and flushes it.
///
/// # Errors
/// The write failed; [`Failure::BrokenPipe`] when the reader has gone, which `ls | head` makes normal.
pub(super) fn emit(out: &mut dyn Write, bytes: &[u8]) -> Result<(), Failure> {
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::output)
}

/// Whether to colour what goes to standard output (<https://no-color.org>).
pub(super) fn is_colour_wanted() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(io::ErrorKind);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_full_disk() {
        assert!(matches!(emit(&mut Full(io::ErrorKind::BrokenPipe), b"x"), Err(Failure::BrokenPipe)));
        assert!(matches!(emit(&mut Full(io::ErrorKind::StorageFull), b"x"), Err(Failure::Output(_))));
    }

    #[test]
    fn control_characters_are_shown_as_such() {
        assert_eq!(crate::text::printable("a\x1b[31m\u{9b}b\n"), "a\u{fffd}[31m\u{fffd}b\u{fffd}");
    }
}
