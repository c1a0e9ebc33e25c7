//! Bytes cut into lines, bounded whatever comes.

/// The most bytes of a line that are kept.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Puts lines together from the pieces in which they arrive. Of a line that is too long the beginning is
/// kept, and how much was left out is said.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    left_out: u64,
}

impl Lines {
    /// Adds what was read; returns the lines that are complete now, each with how much of it was read up to
    /// its end.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<(String, usize)> {
        let mut complete = Vec::new();
        let mut end = 0;
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            end += piece.len();
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LINE_BYTES_MAX.saturating_sub(self.begun.len()).min(text.len());
            let (kept, left_out) = text.split_at(room);
            self.begun.extend_from_slice(kept);
            self.left_out += u64::try_from(left_out.len()).unwrap_or_default();
            if ends {
                complete.push((self.take(), end));
            }
        }
        complete
    }

    /// Takes a last line that has no end.
    pub(super) fn rest(&mut self) -> Option<String> {
        (!self.begun.is_empty()).then(|| self.take())
    }

    /// How much has come of a line that has no end yet.
    pub(super) fn begun(&self) -> u64 {
        self.left_out + u64::try_from(self.begun.len()).unwrap_or_default()
    }

    fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.begun);
        let text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(&bytes)).into_owned();
        match std::mem::take(&mut self.left_out) {
            0 => text,
            n => format!("{text} … {n} bytes more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"one\r\n\ntw\xff\nfour";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut all = lines.push(&text[..cut]);
            let later = lines.push(&text[cut..]);
            all.extend(later.into_iter().map(|(line, end)| (line, cut + end)));
            let expected = [("one", 5), ("", 6), ("tw\u{fffd}", 10)];
            assert_eq!(all, expected.map(|(line, end)| (line.to_owned(), end)));
            assert_eq!(lines.rest().as_deref(), Some("four"));
        }
    }

    #[test]
    fn an_endless_line_takes_no_more_than_it_may() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            assert!(lines.push(&[b'x'; 4096]).is_empty());
        }
        let line = lines.push(b"\nnext\n");
        assert_eq!(line[0].0.len(), LINE_BYTES_MAX + " … 4079616 bytes more".len());
        assert_eq!(line[1].0, "next");
    }
}
