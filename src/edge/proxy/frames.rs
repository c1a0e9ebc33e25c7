//! Where the frames of a WebSocket begin, and which of them carry data: RFC 6455, 5.2.

/// The longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;
/// The bit of an opcode that tells a close, ping or pong from data.
const CONTROL: u8 = 0x8;

/// Follows one direction of a connection. Nothing is kept but the place in the current frame.
#[derive(Debug)]
pub(super) enum Frames {
    Head { bytes: [u8; HEAD_BYTES_MAX], have: usize },
    Payload { left: u64, is_data: bool },
}

impl Default for Frames {
    fn default() -> Self {
        Self::Head { bytes: [0; HEAD_BYTES_MAX], have: 0 }
    }
}

impl Frames {
    /// Reads on; true if some of it belongs to a frame of data.
    pub(super) fn feed(&mut self, mut input: &[u8]) -> bool {
        let mut has_data = false;
        while let Some((first, rest)) = input.split_first() {
            match self {
                Self::Head { bytes, have } => {
                    if let Some(place) = bytes.get_mut(*have) {
                        *place = *first;
                    }
                    *have += 1;
                    input = rest;
                    if let Some((is_data, left)) = head(bytes, *have) {
                        has_data |= is_data;
                        *self = if left == 0 { Self::default() } else { Self::Payload { left, is_data } };
                    }
                }
                Self::Payload { left, is_data } => {
                    let here = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    has_data |= *is_data;
                    *left -= here as u64;
                    input = input.get(here..).unwrap_or_default();
                    if *left == 0 {
                        *self = Self::default();
                    }
                }
            }
        }
        has_data
    }
}

/// Reads a head that is complete: whether it is one of data, and how many bytes follow it.
fn head(bytes: &[u8; HEAD_BYTES_MAX], have: usize) -> Option<(bool, u64)> {
    let [first, second, rest @ ..] = bytes;
    if have < 2 {
        return None;
    }
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if have < 2 + extended + mask {
        return None;
    }
    let length = match extended {
        0 => u64::from(second & 0x7f),
        count => rest.iter().take(count).fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
    };
    Some((first & CONTROL == 0, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match payload {
            0..=125 => bytes.push(bit | u8::try_from(payload).unwrap()),
            126..=65_535 => {
                bytes.push(bit | 126);
                bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(bit | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        // What would be taken for a frame of data if it were read as one.
        bytes.extend(std::iter::repeat_n(0x81, payload));
        bytes
    }

    #[test]
    fn pings_pongs_and_closes_are_no_data() {
        let mut frames = Frames::default();
        for opcode in [8, 9, 10] {
            assert!(!frames.feed(&frame(opcode, 125, true)), "{opcode}");
        }
        for opcode in [0, 1, 2] {
            assert!(frames.feed(&frame(opcode, 0, true)), "{opcode}");
        }
        assert!(!frames.feed(&[]));
    }

    proptest! {
        #[test]
        fn the_place_is_kept_however_it_is_cut(
            opcodes in prop::collection::vec(prop::sample::select(vec![1_u8, 2, 9, 10]), 1..6),
            payload in prop::sample::select(vec![0_usize, 5, 125, 126, 300, 65_535, 65_536]),
            masked: bool,
            cut in 1_usize..5000,
        ) {
            let mut frames = Frames::default();
            for opcode in opcodes {
                let mut has_data = false;
                for piece in frame(opcode, payload, masked).chunks(cut) {
                    has_data |= frames.feed(piece);
                }
                prop_assert_eq!(has_data, opcode & CONTROL == 0);
                let at_a_head = matches!(frames, Frames::Head { have: 0, .. });
                prop_assert!(at_a_head);
            }
        }
    }
}
