//! What the log holds: which entries, where each of them stands, and the rows beside them.
//!
//! Twelve bytes of memory for each entry; Raft bounds how many there are. The same changes bring it about whether
//! they are written or read again at the next start.

use std::collections::{BTreeMap, VecDeque};

use super::super::StorageError;

/// Rows beside the entries.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where an entry's record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's number.
    pub(super) segment: u32,
    /// Where the record begins.
    pub(super) at: u32,
    /// The length of its body.
    pub(super) len: u32,
}

/// Which entries there are: from `base` on, below `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) base: u64,
    pub(super) end: u64,
}

impl Bounds {
    /// One more entry. It follows the last one; the first one after none may leave some out.
    pub(super) fn append(&mut self, index: u64) -> Result<(), StorageError> {
        let Self { base, end } = *self;
        if index != end && (base < end || index < base) {
            return Err(StorageError::corrupt(format!("entry {index} in a log of entries {base} to {end}")));
        }
        if base == end {
            self.base = index;
        }
        self.end = index + 1;
        Ok(())
    }

    /// Those from `from` on are gone.
    pub(super) fn truncate(&mut self, from: u64) {
        self.end = self.end.min(from).max(self.base);
    }

    /// Those below `end` are gone.
    pub(super) fn purge(&mut self, end: u64) {
        self.base = self.base.max(end);
        self.end = self.end.max(self.base);
    }
}

/// One thing that a record changes.
#[derive(Debug)]
pub(super) enum Change {
    Entry(u64, Place),
    Row(Vec<u8>, Vec<u8>),
    Truncate(u64),
    Purge(u64),
}

/// What the log holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    bounds: Bounds,
    /// Of the entries from `bounds.base` on.
    places: VecDeque<Place>,
    pub(super) rows: Rows,
}

impl Contents {
    /// Entries whose places are not known, and rows: what a segment's first record says about those before it.
    pub(super) fn opened(bounds: Bounds, rows: Rows, unknown: Place) -> Self {
        let places = (bounds.base..bounds.end).map(|_| unknown).collect();
        Self { bounds, places, rows }
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(super) fn apply(&mut self, change: Change) -> Result<(), StorageError> {
        match change {
            Change::Entry(index, place) => {
                self.bounds.append(index)?;
                self.places.push_back(place);
            }
            Change::Row(key, value) => {
                self.rows.insert(key, value);
            }
            Change::Truncate(from) => {
                self.bounds.truncate(from);
                self.places.truncate((self.bounds.end - self.bounds.base) as usize);
            }
            Change::Purge(end) => {
                let gone = end.saturating_sub(self.bounds.base).min(self.places.len() as u64);
                self.places.drain(..gone as usize);
                self.bounds.purge(end);
            }
        }
        Ok(())
    }

    /// The place of an entry.
    pub(super) fn place(&self, index: u64) -> Option<Place> {
        let at = index.checked_sub(self.bounds.base)?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// The place of the first entry.
    pub(super) fn first_place(&self) -> Option<Place> {
        self.places.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(at: u32) -> Place {
        Place { segment: 1, at, len: 0 }
    }

    #[test]
    fn entries_follow_one_another_and_are_found_by_their_index() {
        let mut contents = Contents::default();
        for index in 5..10 {
            contents.apply(Change::Entry(index, place(index as u32))).unwrap();
        }
        for wrong in [4, 9, 11] {
            contents.apply(Change::Entry(wrong, place(0))).unwrap_err();
        }
        assert_eq!(contents.bounds(), Bounds { base: 5, end: 10 });
        assert_eq!(contents.place(4), None);
        assert_eq!(contents.place(9), Some(place(9)));
        assert_eq!(contents.place(10), None);
        contents.apply(Change::Truncate(8)).unwrap();
        contents.apply(Change::Purge(6)).unwrap();
        assert_eq!(contents.bounds(), Bounds { base: 6, end: 8 });
        assert_eq!(contents.first_place(), Some(place(6)));
        assert_eq!(contents.place(7), Some(place(7)));
        assert_eq!(contents.place(8), None);
    }

    #[test]
    fn purging_and_truncating_beyond_what_there_is_leaves_nothing() {
        let mut contents = Contents::default();
        contents.apply(Change::Entry(1, place(1))).unwrap();
        contents.apply(Change::Purge(100)).unwrap();
        assert_eq!(contents.bounds(), Bounds { base: 100, end: 100 });
        contents.apply(Change::Truncate(50)).unwrap();
        contents.apply(Change::Truncate(200)).unwrap();
        assert_eq!(contents.bounds(), Bounds { base: 100, end: 100 });
        contents.apply(Change::Entry(99, place(1))).unwrap_err();
        contents.apply(Change::Entry(101, place(1))).unwrap();
        assert_eq!(contents.bounds(), Bounds { base: 101, end: 102 });
        assert_eq!(contents.first_place(), Some(place(1)));
    }
}
