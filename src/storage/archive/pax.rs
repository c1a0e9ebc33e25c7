//! The records of a pax extended header: `"%d %s=%s\n"`, the length first — man 5 pax.

use super::bounds::refused;
use crate::error::FileError;

/// What of an extended header concerns us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Whole seconds.
    pub(super) modified: Option<i64>,
}

pub(super) fn parse(mut data: &[u8]) -> Result<Records, FileError> {
    let mut records = Records::default();
    let bad = || refused("it has a bad extended header");
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let (number, _) = data.split_at_checked(space).ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        let (record, rest) = data.split_at_checked(length).ok_or_else(bad)?;
        let record = record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = record.split_at_checked(equals).ok_or_else(bad)?;
        let value = value.strip_prefix(b"=").unwrap_or(value);
        match key {
            b"path" => records.path = Some(value.to_vec()),
            b"linkpath" => records.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok());
                records.size = Some(size.ok_or_else(bad)?);
            }
            b"mtime" => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                records.modified = text.split('.').next().and_then(|n| n.parse().ok());
            }
            key if key.starts_with(b"GNU.sparse") => return Err(refused("it has a sparse file")),
            _ => {}
        }
        data = rest;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let records = parse(b"19 path=a\nb/12 x=1\n25 mtime=1700000000.5000\n11 size=42\n").unwrap();
        let expected = Records {
            path: Some(b"a\nb/12 x=1".to_vec()),
            modified: Some(1_700_000_000),
            size: Some(42),
            link: None,
        };
        assert_eq!(records, expected);
        for bad in
            ["12 path=a", "x path=a\n", "999999999999 path=a\n", "5 a\n\n", "11 size=-1\n", "3 \n", "0 =\n"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&data));
        }
    }
}
