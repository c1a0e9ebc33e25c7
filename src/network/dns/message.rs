//! What of a message is looked at, RFC 1035 and RFC 6891: its header, its one question, and how much answer its
//! sender takes.
//!
//! A question is not passed on but asked anew: what goes to the host's servers is written by [`Question::ask`] from a
//! name, a type and four bits. A parser of whole messages would know a hundred kinds of records that are not needed
//! for it. Answers are not parsed beyond their question: the sandbox that asked is the one that reads them.

/// The header, and so the least, of a message.
pub(super) const HEADER_BYTES: usize = 12;
/// The largest question: a header, a name of 255 bytes, type and class, and an option record of moderate size.
pub(super) const QUESTION_BYTES_MAX: usize = 1024;
/// What a sender takes over UDP that does not say, and the most that is sent to one that takes more: that fits
/// into one packet everywhere (RFC 9715).
const PAYLOAD_LEAST: u16 = 512;
const PAYLOAD_MOST: u16 = 1232;

const LABEL_BYTES_MAX: u8 = 63;
const NAME_BYTES_MAX: usize = 255;
const CLASS_INTERNET: u16 = 1;
const TYPE_OPT: u16 = 41;
/// Types from here on are no data but requests to a server (RFC 6895): transfers of whole zones, keys, signatures.
const TYPE_META_FIRST: u16 = 128;
const TYPE_META_LAST: u16 = 255;
/// All that is known of a name, which is data.
const TYPE_ANY: u16 = 255;

/// Bits of the header's third byte.
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
/// Bits of its fourth.
const RECURSION_AVAILABLE: u8 = 0x80;
const AUTHENTIC: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;
/// The bit of an option record's fields that asks for signatures.
const SIGNATURES: u8 = 0x80;

/// How a message that is not passed on is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Malformed = 1,
    ServerFailed = 2,
    NotImplemented = 4,
    Refused = 5,
}

/// A standard query with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    id: [u8; 2],
    bits: [u8; 2],
    /// Name, type, class, as they were sent.
    asked: Vec<u8>,
    /// What the sender takes over UDP, and whether it wants signatures; without an option record it takes 512.
    options: Option<(u16, bool)>,
}

impl Question {
    /// Reads a message.
    ///
    /// # Errors
    /// How to answer it; `None` for what must not be answered.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Option<Code>> {
        let header: &[u8; HEADER_BYTES] = message.first_chunk().ok_or(None)?;
        let [id_high, id_low, bits, more, counts @ ..] = *header;
        if bits & RESPONSE != 0 {
            return Err(None);
        }
        if bits & OPCODE != 0 {
            return Err(Some(Code::NotImplemented));
        }
        // One question, no answers, no authorities, at most one further record.
        let ([0, 1, 0, 0, 0, 0, 0, further @ 0..=1], 0) = (counts, bits & TRUNCATED) else {
            return Err(Some(Code::Malformed));
        };
        let rest = message.get(HEADER_BYTES..).unwrap_or_default();
        let name = name_bytes(rest).ok_or(Some(Code::Malformed))?;
        let (asked, records) = rest.split_at_checked(name + 4).ok_or(Some(Code::Malformed))?;
        let (kind, class) = (number(asked, name), number(asked, name + 2));
        let options = match further {
            0 if records.is_empty() => None,
            1 => Some(options(records).ok_or(Some(Code::Malformed))?),
            _ => return Err(Some(Code::Malformed)),
        };
        let is_meta = (TYPE_META_FIRST..=TYPE_META_LAST).contains(&kind) && kind != TYPE_ANY;
        if is_meta || kind == TYPE_OPT || kind == 0 || class != CLASS_INTERNET {
            return Err(Some(Code::Refused));
        }
        let bits = [bits & RECURSION_DESIRED, more & (AUTHENTIC | CHECKING_DISABLED)];
        Ok(Self { id: [id_high, id_low], bits, asked: asked.to_vec(), options })
    }

    /// How much answer the sender takes over UDP, in bytes.
    pub(super) fn payload(&self) -> usize {
        self.options.map_or(PAYLOAD_LEAST, |(payload, _)| payload).into()
    }

    /// The same question under another id.
    pub(super) fn ask(&self, id: [u8; 2]) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER_BYTES + self.asked.len() + 11);
        message.extend(id);
        message.extend(self.bits);
        message.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.options.is_some())]);
        message.extend(&self.asked);
        if let Some((payload, wants_signatures)) = self.options {
            message.push(0);
            message.extend(TYPE_OPT.to_be_bytes());
            message.extend(payload.to_be_bytes());
            message.extend([0, 0, if wants_signatures { SIGNATURES } else { 0 }, 0, 0, 0]);
        }
        message
    }

    /// Whether a message answers what was asked under an id.
    pub(super) fn is_answered_by(&self, id: [u8; 2], answer: &[u8]) -> bool {
        let Some([high, low, bits, _, questions @ ..]) = answer.first_chunk::<6>() else { return false };
        let end = HEADER_BYTES + self.asked.len();
        // Servers may write the name in other letters.
        let asks_the_same =
            || answer.get(HEADER_BYTES..end).is_some_and(|asked| asked.eq_ignore_ascii_case(&self.asked));
        [*high, *low] == id
            && bits & (RESPONSE | OPCODE) == RESPONSE
            && *questions == [0, 1]
            && asks_the_same()
    }

    /// Makes an answer the sender's, over UDP cut to what it takes: without records, and saying so, it asks again
    /// over TCP.
    pub(super) fn deliver(&self, mut answer: Vec<u8>, bytes_max: usize) -> Vec<u8> {
        if answer.len() > bytes_max {
            answer.truncate(HEADER_BYTES + self.asked.len());
            if let Some([_, _, bits, _, _, _, counts @ ..]) = answer.first_chunk_mut::<HEADER_BYTES>() {
                *bits |= TRUNCATED;
                *counts = [0; 6];
            }
        }
        if let Some(id) = answer.first_chunk_mut() {
            *id = self.id;
        }
        answer
    }

    /// The answer when no server gives one.
    pub(super) fn fail(&self) -> Vec<u8> {
        let [first, second] = self.bits;
        let code = RECURSION_AVAILABLE | second & CHECKING_DISABLED | Code::ServerFailed as u8;
        let mut message = self.id.to_vec();
        message.extend([RESPONSE | first, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(&self.asked);
        message
    }
}

/// The answer to a message that is not passed on: a header, without what was sent.
pub(super) fn refuse(message: &[u8], code: Code) -> Vec<u8> {
    let [high, low, bits] = message.first_chunk().copied().unwrap_or_default();
    let answer = RESPONSE | bits & (OPCODE | RECURSION_DESIRED);
    vec![high, low, answer, RECURSION_AVAILABLE | code as u8, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The length of a name; `None` if it is malformed, or points elsewhere: a question is the first to bear a name.
fn name_bytes(text: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        match *text.get(end)? {
            0 => return (end < NAME_BYTES_MAX).then_some(end + 1),
            label @ 1..=LABEL_BYTES_MAX => end += 1 + usize::from(label),
            _ => return None,
        }
        if end >= NAME_BYTES_MAX {
            return None;
        }
    }
}

/// An option record that is the rest of a message: what the sender takes, and whether it wants signatures. The
/// options themselves, such as cookies and its network, are between a sender and its server, which we are.
fn options(record: &[u8]) -> Option<(u16, bool)> {
    const FIXED_BYTES: usize = 11;
    let fixed: &[u8; FIXED_BYTES] = record.first_chunk()?;
    let is_whole = record.len() == FIXED_BYTES + usize::from(number(record, 9));
    // The root's name, the type, and version 0.
    let is_known = fixed[0] == 0 && number(record, 1) == TYPE_OPT && fixed[6] == 0;
    let payload = number(record, 3).clamp(PAYLOAD_LEAST, PAYLOAD_MOST);
    (is_whole && is_known).then_some((payload, fixed[7] & SIGNATURES != 0))
}

/// Two bytes at an offset; 0 where there are none.
fn number(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &[u8] = b"\x07example\x03com\0\0\x01\0\x01";

    fn message(header: [u8; HEADER_BYTES], rest: &[u8]) -> Vec<u8> {
        [&header[..], rest].concat()
    }

    fn question(rest: &[u8]) -> Vec<u8> {
        message([7, 9, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 0], rest)
    }

    fn with_options(options: &[u8]) -> Vec<u8> {
        message([7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1], &[EXAMPLE, options].concat())
    }

    #[test]
    fn a_question_is_asked_anew_and_its_answer_is_the_sender_s() {
        let asked = Question::parse(&question(EXAMPLE)).unwrap();
        assert_eq!(asked.payload(), 512);
        let anew = asked.ask([1, 2]);
        assert_eq!(anew, message([1, 2, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 0], EXAMPLE));
        let mut answer = anew.clone();
        answer[2] |= RESPONSE;
        answer[13] = b'E';
        answer.extend([0; 600]);
        assert!(asked.is_answered_by([1, 2], &answer));
        assert!(!asked.is_answered_by([1, 3], &answer) && !asked.is_answered_by([1, 2], &anew));
        let cut = asked.deliver(answer.clone(), asked.payload());
        assert_eq!((&cut[..2], cut[2] & TRUNCATED, cut.len()), (&[7, 9][..], TRUNCATED, 12 + EXAMPLE.len()));
        assert_eq!(asked.deliver(answer.clone(), 65_535)[2..], answer[2..]);
        assert_eq!(asked.fail()[..4], [7, 9, 0x81, 0x82]);
    }

    #[test]
    fn options_are_not_passed_on_but_for_size_and_signatures() {
        let cookie = b"\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x0a\0\x08secrets!";
        let asked = Question::parse(&with_options(cookie)).unwrap();
        assert_eq!(asked.payload(), 1232);
        let anew = asked.ask([0, 0]);
        assert!(anew.ends_with(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"), "{anew:?}");
        for cut in 0..cookie.len() {
            assert_eq!(Question::parse(&with_options(&cookie[..cut])), Err(Some(Code::Malformed)), "{cut}");
        }
    }

    #[test]
    fn what_is_no_standard_question_is_refused() {
        let header = |at: usize, value: u8| {
            let mut header = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            header[at] = value;
            Question::parse(&message(header, EXAMPLE)).unwrap_err()
        };
        // Inverse queries, status, NOTIFY, UPDATE, stateful operations.
        for opcode in [1, 2, 4, 5, 6] {
            assert_eq!(header(2, opcode << 3), Some(Code::NotImplemented), "{opcode}");
        }
        assert_eq!(header(2, RESPONSE), None);
        assert_eq!(header(2, TRUNCATED), Some(Code::Malformed));
        for (at, value) in [(4, 1), (5, 0), (5, 2), (7, 1), (9, 1), (10, 1), (11, 1), (11, 2)] {
            assert_eq!(header(at, value), Some(Code::Malformed), "{at}");
        }
        for asked in [
            // A transfer of a zone, a part of one, keys, the server's version, no name, no class.
            &b"\x07example\x03com\0\0\xfc\0\x01"[..],
            b"\x07example\x03com\0\0\xfb\0\x01",
            b"\x07example\x03com\0\0\xf9\0\x01",
            b"\x07version\x04bind\0\0\x10\0\x03",
            b"\x07example\x03com\0\0\x01\0\xff",
        ] {
            assert_eq!(Question::parse(&question(asked)), Err(Some(Code::Refused)), "{asked:?}");
        }
        for asked in [&b""[..], b"\xc0\x0c\0\x01\0\x01", b"\x40a\0\0\x01\0\x01", b"\x07exam", b"\0\0\x01\0"] {
            assert_eq!(Question::parse(&question(asked)), Err(Some(Code::Malformed)), "{asked:?}");
        }
        let trailing = [EXAMPLE, b"x"].concat();
        assert_eq!(Question::parse(&question(&trailing)), Err(Some(Code::Malformed)));
        let long = [[&[63_u8][..], &[b'a'; 63]].concat().repeat(4), b"\0\0\x01\0\x01".to_vec()].concat();
        assert_eq!(Question::parse(&question(&long)), Err(Some(Code::Malformed)));
    }

    proptest! {
        #[test]
        fn nothing_passes_but_a_question(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            // Mostly with a header that is not refused at once.
            for message in [bytes.clone(), question(&bytes), with_options(&bytes)] {
                match Question::parse(&message) {
                    Ok(asked) => {
                        let anew = asked.ask([1, 2]);
                        prop_assert!(anew.len() <= HEADER_BYTES + NAME_BYTES_MAX + 4 + 11);
                        let again = Question::parse(&anew).unwrap();
                        prop_assert_eq!((&again.asked, again.bits, again.options), (&asked.asked, asked.bits, asked.options));
                        prop_assert!(asked.fail().len() <= message.len());
                    }
                    Err(Some(code)) => prop_assert!(refuse(&message, code).len() <= message.len()),
                    Err(None) => {}
                }
            }
        }

        #[test]
        fn an_answer_never_panics(answer in prop::collection::vec(any::<u8>(), 0..600), most in 0..700_usize) {
            let asked = Question::parse(&question(EXAMPLE)).unwrap();
            asked.is_answered_by([1, 2], &answer);
            prop_assert!(asked.deliver(answer, most).len() <= most.max(HEADER_BYTES + EXAMPLE.len()));
        }
    }
}
