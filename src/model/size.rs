//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

/// A number of bytes; its text form has an optional binary unit: `512M`, `4G`, `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a size is a whole number of bytes with an optional unit K, M, G or T, for example 512M, not {0:?}")]
pub struct SizeError(String);

impl ByteSize {
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn mib(mib: u64) -> Self {
        Self(mib * 1024 * 1024)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    /// Reads `4G`, `4GB`, `4GiB`, `4g` and `4294967296` as the same size.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SizeError(text.chars().take(32).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
        let number: u64 = number.parse().map_err(|_e| error())?;
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(error()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    /// Writes the largest unit that divides the size: `4G`, `1536M`, `1000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let check = |text: &str, bytes: u64, shown: &str| {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.as_u64(), size.to_string().as_str()), (bytes, shown));
        };
        check("4G", 4 << 30, "4G");
        check("1536m", 1536 << 20, "1536M");
        check("1000", 1000, "1000");
        check("2GiB", 2 << 30, "2G");
        check("0", 0, "0");
    }

    #[test]
    fn refuses_what_is_not_a_size() {
        for text in
            ["", "G", "-1", "1.5G", "4 G", "4X", "99999999999999999999", "18446744073709551615K", "\u{664}G"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
