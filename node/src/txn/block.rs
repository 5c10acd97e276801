//! Rows of the oplog: a txn as it is, or several of one entry together.
//!
//! ```text
//! row     txn, which begins with its version, 1
//!         | 0xb1 | (txn bytes) ...     of successive positions; the row's key is that of the first
//! ```
//!
//! A row costs a node the same whether it has one txn or ten: a place in two maps, a page in the file, and all of that
//! again when it goes. No row goes on beyond a multiple of [`OPLOG_ROW_TXNS`], so that whoever looks for a position
//! begins to read at the multiple below it.

use bytes::Bytes;
use meridian_crdt::codec::{Reader, Writer};

use super::bounds::{OPLOG_ROW_BYTES_MAX, OPLOG_ROW_TXNS};

/// What a row of several txns begins with; no txn does.
const SEVERAL: u8 = 0xb1;
/// The length of a txn in a row, at most.
const LEN_BYTES: usize = 5;

/// The lowest key of a row in which a position can be.
pub fn lowest_row(position: u64) -> u64 {
    position.saturating_sub(1) / OPLOG_ROW_TXNS * OPLOG_ROW_TXNS + 1
}

/// A row as it is read.
#[derive(Clone, Copy, Debug)]
pub struct Row<'r> {
    /// The position of its first txn, which is its key.
    pub first: u64,
    /// The row.
    pub bytes: &'r [u8],
}

impl<'r> Row<'r> {
    /// Its txns from a position upwards, with their positions.
    pub fn txns_from(self, position: u64) -> impl Iterator<Item = (u64, &'r [u8])> {
        let (one, mut several) = match self.bytes.split_first() {
            Some((&SEVERAL, rest)) => (None, Reader::new(rest)),
            _ => (Some(self.bytes), Reader::new(&[])),
        };
        // What does not decode ends the row: checksums guard the bytes, so that nothing but another program wrote it.
        let rest = std::iter::from_fn(move || if several.is_empty() { None } else { several.bytes().ok() });
        (self.first..).zip(one.into_iter().chain(rest)).skip_while(move |(at, _)| *at < position)
    }
}

/// Txns at the end of the oplog that have no row yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unwritten(Vec<Bytes>);

impl Unwritten {
    /// Whether the next txn, of so many bytes and at this position, needs a row of its own.
    pub fn ends_before(&self, position: u64, bytes: usize) -> bool {
        let goes_beyond = lowest_row(position) != lowest_row(position - self.0.len() as u64);
        !self.0.is_empty() && (goes_beyond || self.bytes() + LEN_BYTES + bytes > OPLOG_ROW_BYTES_MAX)
    }

    /// How much room they take in a row, at most.
    fn bytes(&self) -> usize {
        self.0.iter().map(|txn| LEN_BYTES + txn.len()).sum()
    }

    /// Adds the next txn.
    pub fn push(&mut self, txn: Bytes) {
        self.0.push(txn);
    }

    /// The key and the value of the row that the txns make, of which the last is at `end`, if there are any; none are left.
    pub fn take(&mut self, end: u64) -> Option<(u64, Bytes)> {
        let row = match &self.0[..] {
            [] => return None,
            [one] => one.clone(),
            several => {
                let mut row = Writer::with_capacity(1 + self.bytes());
                row.u8(SEVERAL);
                several.iter().for_each(|txn| row.bytes(txn));
                row.finish().into()
            }
        };
        let first = end + 1 - self.0.len() as u64;
        self.0.clear();
        Some((first, row))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes_do_not_change() {
        let mut unwritten = Unwritten::default();
        unwritten.push(Bytes::from_static(&[1, 7]));
        assert_eq!(unwritten.take(1), Some((1, Bytes::from_static(&[1, 7]))), "one txn stands as it is");
        unwritten.push(Bytes::from_static(&[1, 7]));
        unwritten.push(Bytes::from_static(&[1]));
        assert_eq!(unwritten.take(3), Some((2, Bytes::from_static(&[0xb1, 2, 1, 7, 1, 1]))));
        assert_eq!(unwritten.take(3), None);
    }

    proptest! {
        /// Whatever lengths they have, all are found again from the lowest row on, and no row is larger than it may be.
        #[test]
        fn txns_are_found_under_their_positions(
            entries in prop::collection::vec(prop::collection::vec(1usize..2_000, 1..40), 1..10),
        ) {
            let (mut rows, mut end) = (std::collections::BTreeMap::new(), 0u64);
            let mut unwritten = Unwritten::default();
            let mut all = Vec::new();
            for lens in entries {
                for len in lens {
                    end += 1;
                    let mut txn = vec![1u8; len];
                    txn[len - 1] = end as u8;
                    if unwritten.ends_before(end, len) {
                        rows.extend(unwritten.take(end - 1));
                    }
                    unwritten.push(txn.clone().into());
                    all.push(txn);
                }
                rows.extend(unwritten.take(end));
            }
            prop_assert!(rows.values().all(|row| row.len() <= OPLOG_ROW_BYTES_MAX + 1));
            for position in 1..=end {
                let mut found = rows
                    .range(lowest_row(position)..=position)
                    .flat_map(|(first, bytes)| Row { first: *first, bytes }.txns_from(position));
                prop_assert_eq!(found.next(), Some((position, &all[position as usize - 1][..])));
                prop_assert!(found.all(|(at, _)| at > position));
            }
        }
    }
}
