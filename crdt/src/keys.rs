//! Addresses, and the rows that belong to them.
//!
//! ```text
//! HEADER  space | 00 | key                      a space has no NUL, so this sorts by (space, bytes of the key)
//! CELL    space | 00 | ordered(key) | generation | path      ordered() ends where no longer key can go on
//! ```
//!
//! The *generation* is the number of clears of a collection whose cells were left for the sweep: its cells of now stand
//! apart from those that are gone. It is bookkeeping of one datacenter, encoded so that it sorts as a number.

use std::cell::OnceCell;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{DecodeError, Reader, Writer};
use crate::digest::BUCKETS;
use crate::value::{decode_ordered, encode_ordered};

/// The longest name of a space, in bytes.
pub const SPACE_BYTES_MAX: usize = 64;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// The address of one value: a space, and a key in it. The fields are read freely; build it with [`Key::new`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Key {
    /// The unit of access control and quotas: 1 to 64 of `a-z A-Z 0-9 _ . -`.
    pub space: String,
    /// 1 to 1024 bytes of UTF-8; NUL is allowed.
    pub key: String,
}

#[derive(Deserialize)]
struct Unchecked {
    space: String,
    key: String,
}

impl TryFrom<Unchecked> for Key {
    type Error = KeyError;

    fn try_from(from: Unchecked) -> Result<Self, KeyError> {
        Key::new(from.space, from.key)
    }
}

/// Why something is no address. The caller has to correct it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The space is empty, too long, or has other characters than a space may have.
    #[error("a space is 1 to {SPACE_BYTES_MAX} characters of a-z, A-Z, 0-9, '_', '.' and '-'")]
    Space,
    /// The key is empty or too long.
    #[error("a key is 1 to {KEY_BYTES_MAX} bytes")]
    Key,
}

/// Whether `space` is the name of a space.
pub fn check_space(space: &str) -> Result<(), KeyError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let ok = (1..=SPACE_BYTES_MAX).contains(&space.len()) && space.bytes().all(allowed);
    if ok { Ok(()) } else { Err(KeyError::Space) }
}

impl Key {
    /// The address of `key` in `space`, if both are well formed.
    pub fn new(space: impl Into<String>, key: impl Into<String>) -> Result<Key, KeyError> {
        let (space, key) = (space.into(), key.into());
        check_space(&space)?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(KeyError::Key);
        }
        Ok(Key { space, key })
    }

    /// The key of this address's row in [`Table::HEADER`](crate::Table::HEADER).
    pub fn header_row(&self) -> Vec<u8> {
        header_row(&self.space, &self.key)
    }

    /// What every row of this address in [`Table::CELL`](crate::Table::CELL) starts with; generation and path follow.
    pub fn cell_prefix(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.space.len() + self.key.len() + 3);
        out.raw(self.space.as_bytes());
        out.u8(0);
        encode_ordered(self.key.as_bytes(), &mut out);
        out.finish()
    }

    /// Reads the key of a row in [`Table::HEADER`](crate::Table::HEADER).
    pub fn from_header_row(row: &[u8]) -> Result<Key, DecodeError> {
        let (space, key) = split_space(row)?;
        Self::decoded(space, key.to_vec())
    }

    /// Splits what starts with [`Key::cell_prefix`] into the address and what follows.
    pub fn from_cell_row(row: &[u8]) -> Result<(Key, &[u8]), DecodeError> {
        let (space, rest) = split_space(row)?;
        let mut input = Reader::new(rest);
        let key = decode_ordered(&mut input)?;
        Ok((Self::decoded(space, key)?, input.rest()))
    }

    fn decoded(space: &[u8], key: Vec<u8>) -> Result<Key, DecodeError> {
        let space = String::from_utf8(space.to_vec()).map_err(|_| DecodeError::Malformed)?;
        let key = String::from_utf8(key).map_err(|_| DecodeError::Malformed)?;
        Key::new(space, key).map_err(|_| DecodeError::Malformed)
    }

    /// The bucket whose digest this key counts in, below [`BUCKETS`].
    pub fn bucket(&self) -> u16 {
        bucket_of(&self.header_row())
    }
}

/// The bucket of the key that has this row in [`Table::HEADER`](crate::Table::HEADER).
pub(crate) fn bucket_of(header_row: &[u8]) -> u16 {
    (xxh3_64(header_row) % u64::from(BUCKETS)) as u16
}

/// [`Key::cell_prefix`], once something asks for it: the cells of single-valued types have no rows.
#[derive(Debug)]
pub(crate) struct CellPrefix<'k> {
    key: &'k Key,
    bytes: OnceCell<Vec<u8>>,
}

impl<'k> CellPrefix<'k> {
    pub fn new(key: &'k Key) -> Self {
        Self { key, bytes: OnceCell::new() }
    }
}

impl std::ops::Deref for CellPrefix<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get_or_init(|| self.key.cell_prefix())
    }
}

/// The key of a row in [`Table::CELL`](crate::Table::CELL), or with less than a whole path what such keys start with.
pub(crate) fn cell_row(cell_prefix: &[u8], generation: u64, path: &[u8]) -> Vec<u8> {
    let number = generation.to_be_bytes();
    let number = &number[generation.leading_zeros() as usize / 8..];
    // The count of bytes comes first, so that longer numbers sort behind shorter ones.
    [cell_prefix, &[number.len() as u8], number, path].concat()
}

/// Where the headers of `space` whose key starts with (or is at or after) `key` begin.
pub(crate) fn header_row(space: &str, key: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(space.len() + 1 + key.len());
    row.extend_from_slice(space.as_bytes());
    row.push(0);
    row.extend_from_slice(key.as_bytes());
    row
}

fn split_space(row: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let end = row.iter().position(|b| *b == 0).ok_or(DecodeError::Truncated)?;
    Ok((&row[..end], &row[end + 1..]))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> Key {
        Key::new("default", key).expect("well formed")
    }

    #[test]
    fn rows_round_trip_and_sort_by_the_bytes_of_the_key() {
        let keys = ["a", "a\0", "a\0b", "a\u{1}", "ab", "b", "é"].map(key);
        assert!(keys.windows(2).all(|w| w[0].header_row() < w[1].header_row()));
        assert!(keys.windows(2).all(|w| w[0].cell_prefix() < w[1].cell_prefix()));
        for key in keys {
            assert_eq!(Key::from_header_row(&key.header_row()), Ok(key.clone()));
            let row = [key.cell_prefix(), vec![6, 1]].concat();
            assert_eq!(Key::from_cell_row(&row), Ok((key, [6, 1].as_slice())));
        }
    }

    #[test]
    fn golden_bytes_do_not_change() {
        assert_eq!(key("a\0b").header_row(), b"default\0a\0b");
        assert_eq!(key("a\0b").cell_prefix(), b"default\0a\0\xffb\0\0");
    }

    #[test]
    fn golden_bytes_of_the_rows_of_cells_do_not_change() {
        assert_eq!(cell_row(b"p", 0, &[6, 1]), b"p\0\x06\x01");
        assert_eq!(cell_row(b"p", 1, &[6, 1]), b"p\x01\x01\x06\x01");
        assert_eq!(cell_row(b"p", 0x1234, &[6]), b"p\x02\x12\x34\x06");
        let generations = [0, 1, 255, 256, 65_535, 65_536, u64::MAX];
        assert!(generations.windows(2).all(|w| cell_row(b"p", w[0], b"z") < cell_row(b"p", w[1], b"a")));
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for space in ["", "a b", "a/b", "ü", &"x".repeat(65)] {
            assert_eq!(Key::new(space, "k"), Err(KeyError::Space));
        }
        for k in [String::new(), "x".repeat(1025)] {
            assert_eq!(Key::new("s", k), Err(KeyError::Key));
        }
        assert!(Key::new("A-z_0.9", "x".repeat(1024)).is_ok());
    }

    #[test]
    fn an_address_is_checked_also_when_it_is_deserialized() {
        let bad = rmp_serde::to_vec(&("a b", "k")).expect("encodes");
        assert!(rmp_serde::from_slice::<Key>(&bad).is_err());
        let good = rmp_serde::to_vec(&key("k")).expect("encodes");
        assert_eq!(rmp_serde::from_slice::<Key>(&good).expect("own encoding"), key("k"));
    }
}
