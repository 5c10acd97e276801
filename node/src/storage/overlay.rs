//! Changed rows in memory, above those in the file.
//!
//! A [`Layer`] is a persistent map: copying one costs nothing, and a copy never changes. So a view is a copy, apply
//! goes on in place where nobody looks, and where somebody does it copies the few nodes on its way. A row that was
//! removed stands as a mark where a row below it may have to be hidden, and leaves nothing where there can be none: so
//! what is written and removed again before a checkpoint costs the file nothing.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use imbl::ordmap::RangedIter;
use imbl::shared_ptr::DefaultSharedPtr;
use meridian_crdt::Table;
use meridian_crdt::cells::Visit;

use super::StorageError;
use super::state_file::Base;

/// What a changed row is estimated to take beside its key and value: an allocation or two and a place in the map.
const ROW_BYTES: usize = 144;

/// A changed row: its value, which readers share, or that it was removed.
type Row = Option<Bytes>;
type Rows = OrdMap<RowKey, Row>;

/// Keys of up to so many bytes stand in their node, where comparing them costs no other memory.
const KEY_IN_PLACE_MAX: usize = 38;
/// Bytes of a word, in which such keys are compared.
const WORD_BYTES: usize = 8;

/// The key of a row. A long one is shared by the copies of its node.
#[derive(Clone, Debug)]
enum RowKey {
    /// Its length, and its bytes with zeros behind them.
    InPlace(u8, [u8; KEY_IN_PLACE_MAX]),
    Shared(Arc<[u8]>),
}

/// Compares two keys in place: as their bytes compare, several at once. Of two that differ in zeros at their ends only, which
/// stand in both, the longer one comes later.
fn compare_in_place(
    (a_len, a): (u8, &[u8; KEY_IN_PLACE_MAX]),
    (b_len, b): (u8, &[u8; KEY_IN_PLACE_MAX]),
) -> Ordering {
    let ((a_words, a_rest), (b_words, b_rest)) = (a.as_chunks::<WORD_BYTES>(), b.as_chunks::<WORD_BYTES>());
    for (a, b) in a_words.iter().zip(b_words) {
        if a != b {
            return u64::from_be_bytes(*a).cmp(&u64::from_be_bytes(*b));
        }
    }
    a_rest.cmp(b_rest).then(a_len.cmp(&b_len))
}

impl From<&[u8]> for RowKey {
    fn from(key: &[u8]) -> Self {
        let mut bytes = [0; KEY_IN_PLACE_MAX];
        match (u8::try_from(key.len()), bytes.get_mut(..key.len())) {
            (Ok(len), Some(room)) => {
                room.copy_from_slice(key);
                RowKey::InPlace(len, bytes)
            }
            _ => RowKey::Shared(key.into()),
        }
    }
}

impl std::ops::Deref for RowKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            RowKey::InPlace(len, bytes) => &bytes[..usize::from(*len)],
            RowKey::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for RowKey {}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (RowKey::InPlace(a_len, a), RowKey::InPlace(b_len, b)) => {
                compare_in_place((*a_len, a), (*b_len, b))
            }
            _ => (**self).cmp(&**other),
        }
    }
}

impl Borrow<[u8]> for RowKey {
    fn borrow(&self) -> &[u8] {
        self
    }
}

/// Changed rows. Copies are cheap and independent.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    tables: Arc<[Rows; Table::COUNT]>,
    bytes: usize,
}

impl Layer {
    /// About how much memory the changes take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether any other copy of this layer is left that shares its rows unchanged.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.tables) > 1
    }

    fn rows(&self, table: Table) -> &Rows {
        &self.tables[usize::from(table.0) % Table::COUNT]
    }

    fn insert(&mut self, table: usize, key: RowKey, value: Row) {
        let len = |row: &Row| row.as_ref().map_or(0, |value| value.len());
        let (key_len, value_len) = (key.len(), len(&value));
        let before = Arc::make_mut(&mut self.tables)[table].insert(key, value);
        self.bytes += value_len;
        match before {
            Some(before) => self.bytes = self.bytes.saturating_sub(len(&before)),
            None => self.bytes += ROW_BYTES + key_len,
        }
    }

    fn forget(&mut self, table: usize, key: &RowKey) {
        if let Some(before) = Arc::make_mut(&mut self.tables)[table].remove(key) {
            let bytes = ROW_BYTES + key.len() + before.map_or(0, |value| value.len());
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Adds the changes of a write. `hides` says whether a mark in the place of a removed row may hide one below.
    pub(super) fn absorb(&mut self, write: Changes, hides: impl Fn(Table, &[u8]) -> bool) {
        for (table, rows) in write.tables.into_iter().enumerate() {
            for (key, value) in rows {
                match value {
                    None if !hides(Table(table as u8), &key) => self.forget(table, &key),
                    value => self.insert(table, key, value),
                }
            }
        }
    }

    /// Whether a row stands here, or nothing is said of it and one may stand below in the file.
    pub(super) fn may_show(&self, base: &Base, table: Table, key: &[u8]) -> bool {
        self.rows(table).get(key).map_or_else(|| base.may_have(table, key), Option::is_some)
    }

    /// The changed rows of `table` in the order of their keys.
    pub(super) fn changes(&self, table: Table) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.rows(table).iter().map(|(key, row)| (&**key, row.as_deref()))
    }
}

/// The changes of one write, which nobody else sees yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    tables: [BTreeMap<RowKey, Row>; Table::COUNT],
}

impl Changes {
    fn rows(&self, table: Table) -> &BTreeMap<RowKey, Row> {
        &self.tables[usize::from(table.0) % Table::COUNT]
    }

    /// What became of a row: nothing if the write has not changed it.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows(table).get(key).cloned()
    }

    /// Notes a changed row, in the place of what was noted of it before.
    pub(super) fn set(&mut self, table: Table, key: &[u8], value: Row) {
        let rows = &mut self.tables[usize::from(table.0) % Table::COUNT];
        rows.insert(key.into(), value);
    }
}

/// The generations above a file, of which the earlier ones hide the later ones.
pub(super) type Layers<'l> = [Option<&'l Layer>; 2];

/// The row under `key` in layers above a file.
pub(super) fn get(
    layers: Layers<'_>,
    base: &Base,
    table: Table,
    key: &[u8],
) -> Result<Option<Bytes>, StorageError> {
    look(layers, base, table, key, |row| row.cloned())
}

/// What `see` makes of the row under `key`, as [`get`] returns it.
pub(super) fn look<T>(
    layers: Layers<'_>,
    base: &Base,
    table: Table,
    key: &[u8],
    see: impl FnOnce(Option<&Bytes>) -> T,
) -> Result<T, StorageError> {
    let row_key = RowKey::from(key);
    match layers.into_iter().flatten().find_map(|layer| layer.rows(table).get(&row_key)) {
        Some(row) => Ok(see(row.as_ref())),
        None => Ok(see(base.get(table, key)?.as_ref())),
    }
}

/// Visits the rows of a range in the changes of a write, if there is one, which hide all others, and in layers above a file.
pub(super) fn scan(
    write: Option<&Changes>,
    layers: Layers<'_>,
    base: &Base,
    table: Table,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut Visit<'_>,
) -> Result<(), StorageError> {
    if to.is_some_and(|to| to <= from) {
        return Ok(());
    }
    let mut changed = Changed::new(write, layers, table, from, to);
    if changed.heads.is_empty() {
        return base.scan(table, from, to, visit);
    }
    let mut stopped = false;
    base.scan(table, from, to, &mut |key, value| {
        let mut flow = changed.visit_below(key, visit);
        if flow.is_continue() {
            flow = match changed.next_if(|changed| changed == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((key, Some(value))) => visit(key, value),
                None => visit(key, value),
            };
        }
        stopped = flow.is_break();
        flow
    })?;
    while !stopped && let Some((key, row)) = changed.next_if(|_| true) {
        stopped = row.is_some_and(|row| visit(key, row).is_break());
    }
    Ok(())
}

/// The changes of a range, merged from several layers.
struct Changed<'l> {
    heads: Vec<Head<'l>>,
}

struct Head<'l> {
    next: (&'l [u8], &'l Row),
    rest: Rest<'l>,
}

enum Rest<'l> {
    Write(btree_map::Range<'l, RowKey, Row>),
    Layer(RangedIter<'l, RowKey, Row, DefaultSharedPtr>),
}

impl<'l> Rest<'l> {
    fn next(&mut self) -> Option<(&'l [u8], &'l Row)> {
        let next = match self {
            Rest::Write(rows) => rows.next(),
            Rest::Layer(rows) => rows.next(),
        };
        next.map(|(key, row)| (&**key, row))
    }

    fn head(mut self) -> Option<Head<'l>> {
        Some(Head { next: self.next()?, rest: self })
    }
}

impl<'l> Changed<'l> {
    fn new(
        write: Option<&'l Changes>,
        layers: Layers<'l>,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Self {
        let range = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let write = write.map(|write| Rest::Write(write.rows(table).range::<[u8], _>(range)));
        let layers =
            layers.into_iter().flatten().map(|layer| layer.rows(table)).filter(|rows| !rows.is_empty());
        let layers = layers.map(|rows| Rest::Layer(rows.range::<_, [u8]>(range)));
        Self { heads: write.into_iter().chain(layers).filter_map(Rest::head).collect() }
    }

    /// The next change, if its key is wanted; older changes of the same row are passed over with it.
    fn next_if(&mut self, wanted: impl FnOnce(&[u8]) -> bool) -> Option<(&'l [u8], Option<&'l [u8]>)> {
        // Of equal keys the first is taken, which is that of the earlier layer.
        let (key, row) = self.heads.iter().map(|head| head.next).min_by_key(|(key, _)| *key)?;
        if !wanted(key) {
            return None;
        }
        self.heads.retain_mut(|head| {
            if head.next.0 != key {
                return true;
            }
            let next = head.rest.next();
            head.next = next.unwrap_or(head.next);
            next.is_some()
        });
        Some((key, row.as_deref()))
    }

    /// Visits the changes with keys below `end`.
    fn visit_below(&mut self, end: &[u8], visit: &mut Visit<'_>) -> ControlFlow<()> {
        while let Some((key, row)) = self.next_if(|key| key < end) {
            if let Some(row) = row {
                visit(key, row)?;
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that differ before, in and behind each place where the bytes of a word or of the room end, in zeros too.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for len in 0..=KEY_IN_PLACE_MAX + 2 {
            keys.push(vec![0; len]);
            keys.push(vec![0xff; len]);
            for at in 0..len {
                for byte in [1, 0x80] {
                    let mut key = vec![0; len];
                    key[at] = byte;
                    keys.push(key);
                }
            }
        }
        keys
    }

    #[test]
    fn keys_are_in_the_order_of_their_bytes() {
        let keys: Vec<_> = keys().into_iter().map(|key| (RowKey::from(&*key), key)).collect();
        for (a_row, a) in &keys {
            assert_eq!(**a_row, **a);
            for (b_row, b) in &keys {
                assert_eq!((a_row.cmp(b_row), a_row == b_row), (a.cmp(b), a == b), "{a:?} and {b:?}");
            }
        }
    }
}
