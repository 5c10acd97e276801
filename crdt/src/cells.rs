//! The storage seam: ordered rows of bytes in a few tables.
//!
//! `crdt` and the node's apply see storage only through [`ReadCells`] and [`Cells`]; a `BTreeMap` stands behind them
//! in tests, redb in the node. [`Overlay`] collects the writes of something that may still be given up.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;

use bytes::Bytes;

/// One table of ordered rows. Numbers below 16 belong to this crate, 16 to 31 to the node; they are part of the
/// format on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub u8);

impl Table {
    /// How many tables there may be.
    pub const COUNT: usize = 32;
    /// (space, key) -> header, with the cells of a single-valued type inside.
    pub const HEADER: Table = Table(0);
    /// (space, key, path) -> cell.
    pub const CELL: Table = Table(1);
    /// What stability may drop, in the order in which it was noticed; and what clears left behind.
    pub const SWEEP: Table = Table(2);
    /// Page of buckets -> the digests of the keys that hash to each.
    pub const BUCKET: Table = Table(3);
}

/// Visits one row of a scan: key, value; breaks to stop.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// Rows as they are at one moment. An error means that storage failed, never that a row is absent.
pub trait ReadCells {
    /// What reading can fail with.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The row under `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;

    /// What `see` makes of the row under `key`, which it is shown where it stands.
    fn look<T>(
        &self,
        table: Table,
        key: &[u8],
        see: impl FnOnce(Option<&Bytes>) -> T,
    ) -> Result<T, Self::Error> {
        Ok(see(self.get(table, key)?.as_ref()))
    }

    /// Visits the rows with `from <= key`, and `key < to` where `to` is given, in ascending byte order, until
    /// `visit` breaks.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Self::Error>;
}

impl<C: ReadCells> ReadCells for &C {
    type Error = C::Error;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Self::Error> {
        (**self).get(table, key)
    }

    fn look<T>(
        &self,
        table: Table,
        key: &[u8],
        see: impl FnOnce(Option<&Bytes>) -> T,
    ) -> Result<T, Self::Error> {
        (**self).look(table, key, see)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Self::Error> {
        (**self).scan(table, from, to, visit)
    }
}

/// Rows that can be changed. A reader of the same value sees its own writes.
pub trait Cells: ReadCells {
    /// Puts a row, replacing the one under `key`. The value may be kept as it is given, so it should neither be a slice
    /// of something larger nor have much room to spare.
    fn put(&mut self, table: Table, key: &[u8], value: Bytes) -> Result<(), Self::Error>;

    /// Removes the row under `key`, if there is one.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Self::Error>;
}

/// The end of the range of keys that start with `prefix`; `None` if it has no end.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}

/// Rows in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemCells {
    rows: BTreeMap<(Table, Vec<u8>), Bytes>,
}

impl MemCells {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rows `table` has.
    pub fn count(&self, table: Table) -> usize {
        self.rows.keys().filter(|(t, _)| *t == table).count()
    }

    /// Every row in the order of tables and keys.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &[u8], &Bytes)> {
        self.rows.iter().map(|((table, key), value)| (*table, key.as_slice(), value))
    }
}

fn in_range(key: &[u8], to: Option<&[u8]>) -> bool {
    to.is_none_or(|to| key < to)
}

impl ReadCells for MemCells {
    type Error = Infallible;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Infallible> {
        for ((t, key), value) in self.rows.range((table, from.to_vec())..) {
            if *t != table || !in_range(key, to) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Cells for MemCells {
    fn put(&mut self, table: Table, key: &[u8], value: Bytes) -> Result<(), Infallible> {
        self.rows.insert((table, key.to_vec()), value);
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Infallible> {
        self.rows.remove(&(table, key.to_vec()));
        Ok(())
    }
}

/// The rows that an [`Overlay`] has changed; `None` is a removed one.
pub type Changes = BTreeMap<(Table, Vec<u8>), Option<Bytes>>;

/// Writes kept apart from the rows below them until they are [written](Overlay::changes) or dropped.
#[derive(Debug)]
pub struct Overlay<'a, C> {
    base: &'a C,
    rows: Changes,
}

impl<'a, C: ReadCells> Overlay<'a, C> {
    /// No changes above `base`.
    pub fn new(base: &'a C) -> Self {
        Self::resume(base, Changes::new())
    }

    /// Goes on where an overlay above the same rows was taken apart.
    pub fn resume(base: &'a C, rows: Changes) -> Self {
        Self { base, rows }
    }

    /// Takes the overlay apart.
    pub fn changes(self) -> Changes {
        self.rows
    }
}

impl<C: ReadCells> ReadCells for Overlay<'_, C> {
    type Error = C::Error;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, C::Error> {
        match self.rows.get(&(table, key.to_vec())) {
            Some(row) => Ok(row.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), C::Error> {
        let mut changed = self
            .rows
            .range((table, from.to_vec())..)
            .take_while(|((t, key), _)| *t == table && in_range(key, to))
            .map(|((_, key), row)| (key.as_slice(), row))
            .peekable();
        let mut stopped = false;
        self.base.scan(table, from, to, &mut |key, value| {
            while let Some((k, row)) = changed.next_if(|(k, _)| *k < key) {
                if let Some(row) = row
                    && visit(k, row).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match changed.next_if(|(k, _)| *k == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((k, Some(row))) => visit(k, row),
                None => visit(key, value),
            };
            stopped = flow.is_break();
            flow
        })?;
        if !stopped {
            for (key, row) in changed {
                if let Some(row) = row
                    && visit(key, row).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl<C: ReadCells> Cells for Overlay<'_, C> {
    fn put(&mut self, table: Table, key: &[u8], value: Bytes) -> Result<(), C::Error> {
        self.rows.insert((table, key.to_vec()), Some(value));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), C::Error> {
        self.rows.insert((table, key.to_vec()), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<C: ReadCells>(cells: &C) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let visited = cells.scan(Table(9), b"", None, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        visited.expect("memory");
        rows
    }

    #[test]
    fn an_overlay_taken_apart_and_resumed_shows_what_it_showed() {
        let mut base = MemCells::new();
        for key in [b"a", b"c", b"e"] {
            base.put(Table(9), key, Bytes::from_static(b"base")).expect("memory");
        }
        let mut overlay = Overlay::new(&base);
        overlay.put(Table(9), b"b", Bytes::from_static(b"new")).expect("memory");
        overlay.remove(Table(9), b"c").expect("memory");
        overlay.put(Table(9), b"e", Bytes::from_static(b"changed")).expect("memory");
        let shown = rows(&overlay);
        assert_eq!(shown.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), [b"a", b"b", b"e"]);
        let mut resumed = Overlay::resume(&base, overlay.changes());
        assert_eq!(rows(&resumed), shown);
        resumed.put(Table(9), b"c", Bytes::from_static(b"again")).expect("memory");
        assert_eq!(resumed.get(Table(9), b"c").expect("memory").as_deref(), Some(&b"again"[..]));
        assert_eq!(rows(&resumed).len(), 4);
    }
}
