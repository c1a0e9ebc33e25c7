//! Follows the bytes of a client's connection from head to head, and finds a request with two lengths.
//!
//! RFC 9112, 6.3 lets a server drop `Content-Length` when `Transfer-Encoding` is there too, and hyper does so
//! before anybody sees the head. Such a request is an attempt at smuggling or a broken sender; it is refused, and
//! only the bytes tell. Nothing is refused here: hyper parses the same bytes, and whatever it does not accept ends
//! the connection, so this follows well-formed messages only and may lose its place in others.

/// The longest part of a line that is kept, without blanks: a name and the digits of a length.
const LINE_BYTES_MAX: usize = 48;

/// The place in the stream of one client's bytes.
#[derive(Debug, Default)]
pub(super) struct Heads {
    place: Place,
    line: Line,
    /// How many heads have ended.
    heads: u64,
    has_chunks: bool,
    /// A value that does not parse is refused by hyper.
    length: Option<u64>,
    /// The number of the first head with two lengths, from 1.
    ambiguous: Option<u64>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    /// Empty lines before a request do not count — RFC 9112, 2.2.
    #[default]
    Begin,
    Head,
    Skip(u64),
    /// In the line of a chunk's size.
    Size,
    /// In a chunk; its own line end included.
    Chunk(u64),
    Trailers,
    /// Nothing that follows is looked at.
    Deaf,
}

/// The beginning of a line, in lower case and without blanks.
#[derive(Debug)]
struct Line {
    bytes: [u8; LINE_BYTES_MAX],
    have: usize,
    is_empty: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; LINE_BYTES_MAX], have: 0, is_empty: true }
    }
}

impl Line {
    fn push(&mut self, byte: u8) {
        if byte == b'\r' {
            return;
        }
        self.is_empty = false;
        if matches!(byte, b' ' | b'\t') {
            return;
        }
        if let Some(place) = self.bytes.get_mut(self.have) {
            *place = byte.to_ascii_lowercase();
            self.have += 1;
        }
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.have).unwrap_or_default()
    }
}

impl Heads {
    /// Reads on.
    pub(super) fn feed(&mut self, mut input: &[u8]) {
        while let Some((first, rest)) = input.split_first() {
            match &mut self.place {
                Place::Deaf => return,
                Place::Skip(left) | Place::Chunk(left) => {
                    let here = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= here as u64;
                    input = input.get(here..).unwrap_or_default();
                    if *left == 0 {
                        self.place =
                            if matches!(self.place, Place::Chunk(_)) { Place::Size } else { Place::Begin };
                    }
                }
                Place::Begin | Place::Head | Place::Size | Place::Trailers => {
                    input = rest;
                    if *first == b'\n' {
                        let line = std::mem::take(&mut self.line);
                        self.end_line(&line);
                    } else {
                        self.line.push(*first);
                    }
                }
            }
        }
    }

    /// The number of the first head with two lengths, from 1.
    pub(super) fn ambiguous(&self) -> Option<u64> {
        self.ambiguous
    }

    fn end_line(&mut self, line: &Line) {
        match self.place {
            Place::Begin if line.is_empty => {}
            Place::Begin => self.place = Place::Head,
            Place::Head if line.is_empty => self.end_head(),
            Place::Head => self.header(line.text()),
            Place::Size => self.place = chunk(line.text()),
            Place::Trailers if line.is_empty => self.place = Place::Begin,
            Place::Trailers | Place::Skip(_) | Place::Chunk(_) | Place::Deaf => {}
        }
    }

    fn header(&mut self, line: &[u8]) {
        if line.starts_with(b"transfer-encoding:") {
            self.has_chunks = true;
        } else if let Some(digits) = line.strip_prefix(b"content-length:") {
            self.length =
                Some(std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()).unwrap_or(u64::MAX));
            // Cut off, so its value is not known: refused like two lengths. No sender needs so many digits.
            self.has_chunks |= line.len() == LINE_BYTES_MAX;
        }
    }

    fn end_head(&mut self) {
        self.heads += 1;
        let (has_chunks, length) = (std::mem::take(&mut self.has_chunks), self.length.take());
        self.place = match (has_chunks, length) {
            (true, Some(_)) => {
                self.ambiguous = Some(self.heads);
                Place::Deaf
            }
            (true, None) => Place::Size,
            (false, Some(length)) if length > 0 => Place::Skip(length),
            (false, _) => Place::Begin,
        };
    }
}

/// What follows the line of a chunk's size — RFC 9112, 7.1.
fn chunk(line: &[u8]) -> Place {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let digits = line.get(..digits).and_then(|d| std::str::from_utf8(d).ok()).unwrap_or_default();
    match u64::from_str_radix(digits, 16) {
        Ok(0) => Place::Trailers,
        // Its line end too.
        Ok(size) => size.checked_add(2).map_or(Place::Deaf, Place::Chunk),
        Err(_) => Place::Deaf,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ambiguous(text: &str) -> Option<u64> {
        let mut heads = Heads::default();
        heads.feed(text.as_bytes());
        // The same in single bytes.
        let mut single = Heads::default();
        for byte in text.as_bytes() {
            single.feed(std::slice::from_ref(byte));
        }
        assert_eq!(heads.ambiguous(), single.ambiguous());
        heads.ambiguous()
    }

    #[test]
    fn two_lengths_are_found_in_either_order() {
        for both in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "TRANSFER-ENCODING:chunked\r\nX: y\r\ncontent-length:\t 5 \r\n",
            "Transfer-Encoding: chunked\nContent-Length: 0\n",
        ] {
            assert_eq!(ambiguous(&format!("POST / HTTP/1.1\r\nHost: x\r\n{both}\r\n")), Some(1), "{both}");
        }
        let zeros = "0".repeat(60);
        assert_eq!(ambiguous(&format!("POST / HTTP/1.1\r\nContent-Length: {zeros}5\r\n\r\n")), Some(1));
        for one in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "X-Content-Length: 5\r\n", ""]
        {
            assert_eq!(ambiguous(&format!("POST / HTTP/1.1\r\nHost: x\r\n{one}\r\n")), None, "{one}");
        }
    }

    #[test]
    fn what_a_body_says_is_no_head() {
        let fake = "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = fake.len();
        let sized = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{fake}");
        let chunked = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{length:X} ;x=y\r\n{fake}\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n"
        );
        assert_eq!((ambiguous(&sized), ambiguous(&chunked)), (None, None));
        let empty = "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n\r\n";
        assert_eq!(ambiguous(&format!("{sized}{chunked}{empty}{fake}")), Some(4));
    }

    proptest! {
        #[test]
        fn any_bytes_are_followed(pieces in proptest::collection::vec("(\\PC|\r\n|\n|0|5){0,40}", 0..8)) {
            let whole = pieces.concat();
            let mut heads = Heads::default();
            for piece in &pieces {
                heads.feed(piece.as_bytes());
            }
            prop_assert_eq!(heads.ambiguous(), ambiguous(&whole));
        }
    }
}
