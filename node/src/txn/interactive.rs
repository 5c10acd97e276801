//! An interactive transaction while it is open: reads from one snapshot and from its own writes, and what has to be
//! checked when it commits.
//!
//! It owns the snapshot and keeps, above it, the rows that its own writes would leave: each call to [`write`] is
//! executed at once as a provisional txn of this datacenter, so that what cannot be done is told at once. Nothing of
//! this leaves the transaction. What commits are its operations, executed anew where they are applied, and its checks.
//!
//! What was read is recorded against the **snapshot**, never against the transaction's own writes: a key by its
//! version, a question for an element by its answer, a page of a listing by the fingerprint of the whole range that it
//! depends on. So validation asks exactly whether the transaction would see the same if it ran where it commits.
//!
//! Invariants: an operation or a read that is refused leaves the transaction as it was, and usable; no dot of a
//! provisional txn is ever shown, for no session could wait for it.
//!
//! It knows no clock, no log and no other transaction.
//!
//! [`write`]: Interactive::write

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{
    Changes, Ctx, DigestDeltas, Dot, ExecuteError, Key, Listing, Mutation, Overlay, Query, Range, ReadCells,
    Reading, StoreError, Type, Value, Vector, Version,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::apply::{no_life_yet, refusal_error};
use super::bounds::{TXN_CHECKS_MAX, TXN_PROVISIONAL_ROWS_MAX, TXN_SCANNED_ROWS_MAX, limits};
use super::entry::{ClientTxn, FRAME_BYTES};
use super::reads::{ReadCheck, too_many_checks};
use super::state::ShardState;

/// What a transaction is protected from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// It commits only if everything that it has read still reads the same: as if transactions ran one after another.
    /// Writes that nothing was read for never conflict: they merge by type, as they do anywhere.
    #[default]
    Serializable,
    /// It commits only if no key that it writes has changed since its snapshot: the first committer wins. What it has
    /// only read may have changed (write skew is possible).
    Snapshot,
}

/// What an operation, a row or a check takes beyond its bytes: its places in collections, what allocations are rounded to.
const THING_BYTES: usize = 128;

/// How much a transaction may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InteractiveBounds {
    /// Operations.
    pub ops_max: usize,
    /// Bytes of operations and checks, as they are encoded in the log.
    pub bytes_max: usize,
}

/// Why something was not done. The transaction is as it was before, and goes on.
#[derive(Debug, Error)]
pub enum InteractiveError<E> {
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The snapshot could not be read.
    #[error(transparent)]
    Store(#[from] StoreError<E>),
}

/// What committing asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// The operations in their order. None: the transaction has only read, and there is nothing to propose.
    pub ops: Vec<(Key, Mutation)>,
    /// What has to hold where they are applied.
    pub reads: Vec<ReadCheck>,
    /// About how many bytes they take in the log.
    pub bytes: usize,
}

/// A question for an element: the key, and the element's encoding.
type ElementAsked = (Key, Vec<u8>);
/// The element, and what was answered: the type shown, and whether the element was there.
type ElementSeen = (Value, Option<Type>, bool);
/// A range that was listed: space, prefix, after, upto.
type RangeAsked = (String, String, Option<String>, Option<String>);

/// Everything that was read, each thing once, with its size in the log.
#[derive(Debug, Default)]
struct ReadSet {
    keys: BTreeMap<Key, Version>,
    elements: BTreeMap<ElementAsked, ElementSeen>,
    ranges: BTreeMap<RangeAsked, u64>,
    scanned_rows: usize,
    bytes: usize,
}

/// An open transaction over the rows of `V`.
#[derive(Debug)]
pub struct Interactive<V> {
    view: V,
    state: ShardState,
    isolation: Isolation,
    bounds: InteractiveBounds,
    /// What the own writes have changed above the view.
    rows: Changes,
    /// Bytes of their keys and values.
    rows_bytes: usize,
    ops: Vec<(Key, Mutation)>,
    /// The keys that were written, with their versions in the snapshot.
    written: BTreeMap<Key, Version>,
    ops_bytes: usize,
    /// How many provisional txns were made.
    provisional: u64,
    /// The vector of the snapshot with the provisional txns.
    deps: Vector,
    reads: ReadSet,
    touched: Vector,
}

impl<V: ReadCells> Interactive<V> {
    /// Begins over `view`.
    pub fn begin(
        view: V,
        isolation: Isolation,
        bounds: InteractiveBounds,
    ) -> Result<Self, InteractiveError<V::Error>> {
        let state = ShardState::load(&view).map_err(StoreError::Cells)?.map_err(|e| {
            ApiError::new(ErrorCode::Internal, format!("the state of this node cannot be read: {e}"))
        })?;
        if state.own.is_none() {
            return Err(no_life_yet().into());
        }
        Ok(Self {
            view,
            isolation,
            bounds,
            rows: Changes::new(),
            rows_bytes: 0,
            ops: Vec::new(),
            written: BTreeMap::new(),
            ops_bytes: 0,
            provisional: 0,
            deps: state.vector.clone(),
            state,
            reads: ReadSet::default(),
            touched: Vector::new(),
        })
    }

    /// The vector of the snapshot.
    pub fn vector(&self) -> &Vector {
        &self.state.vector
    }

    /// The dots of everything that the transaction has looked at so far: what its session depends on. All are in the
    /// snapshot.
    pub fn touched(&self) -> &Vector {
        &self.touched
    }

    /// About how many bytes of memory it takes beside its view.
    pub fn memory_bytes(&self) -> usize {
        let things = self.ops.len() + self.rows.len() + self.reads.len();
        self.bytes() + self.rows_bytes + things * THING_BYTES
    }

    /// Reads a key as the snapshot and the own writes show it. The answer's `touched` is that of the snapshot; the
    /// version of a key that the transaction has written itself is provisional. A question for an element is answered
    /// without version and size, since it is not checked that these stay the same.
    pub fn read(&mut self, key: &Key, query: &Query) -> Result<Reading, InteractiveError<V::Error>> {
        let mut reading = self.above(|overlay| meridian_crdt::read(overlay, key, query))?;
        let glance = meridian_crdt::glance(&self.view, key)?;
        let present = reading.content.as_ref().and_then(|content| content.present);
        // What an own write hides or shows of a key depends on more than one element of it.
        match &query.element {
            Some(element)
                if !self.written.contains_key(key) && (present.is_some() || glance.ty.is_none()) =>
            {
                self.saw_element(key, element, (element.clone(), glance.ty, present.unwrap_or(false)))?;
                if let Some(content) = &mut reading.content {
                    (content.version, content.size) = (Version::default(), None);
                }
            }
            _ => self.saw_key(key, glance.version)?,
        }
        reading.touched = self.looked_at(glance.touched);
        reading.changed_index = reading.changed_index.min(self.state.oplog_end);
        Ok(reading)
    }

    /// Lists at most `limit` keys of `space` that start with `prefix` and come after `after`, as the snapshot and the
    /// own writes show them. The versions of keys that the transaction has written itself are provisional.
    pub fn scan(
        &mut self,
        space: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing, InteractiveError<V::Error>> {
        let listing = self.above(|overlay| meridian_crdt::list(overlay, space, prefix, after, limit))?;
        if self.isolation == Isolation::Serializable {
            self.saw_range(space, prefix, after, listing.cursor.as_deref())?;
        }
        self.touched.join(&self.state.vector);
        Ok(listing)
    }

    /// Executes operations, all or none of them. They show in later reads and commit in their order.
    pub fn write(&mut self, ops: Vec<(Key, Mutation)>) -> Result<(), InteractiveError<V::Error>> {
        let versions = self.versions_of(&ops)?;
        let bytes = self.room_for(&ops)?;
        let rows = self.provisionally(&ops)?;
        self.written.extend(versions);
        for (key, value) in rows {
            let key_bytes = key.1.len();
            self.rows_bytes += key_bytes + value.as_ref().map_or(0, Bytes::len);
            if let Some(before) = self.rows.insert(key, value) {
                self.rows_bytes -= key_bytes + before.map_or(0, |value| value.len());
            }
        }
        self.ops.extend(ops);
        self.ops_bytes += bytes;
        Ok(())
    }

    /// What there is to commit, with `last` operations that nothing reads any more. The transaction stays as it is, for
    /// another attempt.
    pub fn commit(&mut self, last: Vec<(Key, Mutation)>) -> Result<Commit, InteractiveError<V::Error>> {
        let bytes = self.bytes() + self.room_for(&last)? + FRAME_BYTES;
        let mut written = self.versions_of(&last)?;
        let mut ops = self.ops.clone();
        ops.extend(last);
        let reads = match self.isolation {
            // What has only read is consistent by its snapshot.
            _ if ops.is_empty() => Vec::new(),
            Isolation::Serializable => self.reads.checks(),
            Isolation::Snapshot => {
                written.extend(self.written.iter().map(|(key, version)| (key.clone(), *version)));
                checks_of(&written)
            }
        };
        Ok(Commit { ops, reads, bytes })
    }

    /// The keys of `ops` with their versions in the snapshot; looking at them is noted.
    fn versions_of(
        &mut self,
        ops: &[(Key, Mutation)],
    ) -> Result<BTreeMap<Key, Version>, InteractiveError<V::Error>> {
        let mut versions = BTreeMap::new();
        for (key, _) in ops {
            let glance = meridian_crdt::glance(&self.view, key)?;
            self.looked_at(glance.touched);
            versions.insert(key.clone(), glance.version);
        }
        Ok(versions)
    }

    fn bytes(&self) -> usize {
        self.ops_bytes + self.reads.bytes
    }

    /// Looks at the snapshot with the own writes above it.
    fn above<T>(&mut self, look: impl FnOnce(&Overlay<'_, V>) -> T) -> T {
        let overlay = Overlay::resume(&self.view, std::mem::take(&mut self.rows));
        let seen = look(&overlay);
        self.rows = overlay.changes();
        seen
    }

    /// Takes note of the dots of a key that was looked at, as apply does it.
    fn looked_at(&mut self, touched: Vector) -> Vector {
        let touched = if touched.is_empty() { self.state.stable.clone() } else { touched };
        self.touched.join(&touched);
        touched
    }

    /// Whether `ops` have room besides what there is, and then how many bytes they take.
    fn room_for(&self, ops: &[(Key, Mutation)]) -> Result<usize, ApiError> {
        at_most("the transaction's number of operations", self.ops.len() + ops.len(), self.bounds.ops_max)?;
        // Under `snapshot` each key that is written is checked: its name stands in the log twice.
        let checks = if self.isolation == Isolation::Snapshot { checks_for(ops) } else { Vec::new() };
        let bytes = encoded_bytes(ops, &checks)?;
        at_most("the transaction", self.bytes() + bytes, self.bounds.bytes_max)?;
        Ok(bytes)
    }

    /// Executes `ops` as the next provisional txn; the rows that it changes above those of the ones before.
    fn provisionally(&mut self, ops: &[(Key, Mutation)]) -> Result<Changes, InteractiveError<V::Error>> {
        let Some(own) = self.state.own else {
            return Err(ApiError::new(ErrorCode::Internal, "a transaction was begun without a life").into());
        };
        let chain_hlc = self.state.chains.get(&own).map_or(0, |chain| chain.hlc);
        let (deps, stable) = (self.deps.clone(), self.state.stable.clone());
        let ctx = Ctx {
            dot: Dot::new(own, deps.get(own) + 1),
            hlc: chain_hlc.saturating_add(self.provisional + 1),
            deps: &deps,
            index: self.state.oplog_end + self.provisional + 1,
            stable: &stable,
        };
        let done = self.above(|overlay| -> Result<Changes, ExecuteError<V::Error>> {
            let executed = meridian_crdt::execute(overlay, &ctx, ops, &limits())?;
            let mut above = Overlay::new(overlay);
            // Nobody asks an open transaction for digests.
            meridian_crdt::apply(&mut above, &ctx, &executed.effects, &mut DigestDeltas::default())?;
            Ok(above.changes())
        });
        let rows = match done {
            Ok(rows) => rows,
            Err(ExecuteError::Store(e)) => return Err(e.into()),
            Err(ExecuteError::Refused { op, refusal }) => {
                // A refusal tells something of its key, and that nothing before it was refused; whoever acts upon it
                // has read these keys.
                for (key, _) in ops.iter().take(op + 1) {
                    let version = meridian_crdt::glance(&self.view, key)?.version;
                    self.saw_key(key, version)?;
                }
                return Err(refusal_error(op, ops.len(), &refusal).into());
            }
        };
        at_most(
            "the number of rows that the transaction changes",
            self.rows.len() + rows.len(),
            TXN_PROVISIONAL_ROWS_MAX,
        )?;
        self.deps.advance(ctx.dot);
        self.provisional += 1;
        Ok(rows)
    }

    fn saw_key(&mut self, key: &Key, version: Version) -> Result<(), ApiError> {
        if self.isolation == Isolation::Snapshot || self.reads.keys.contains_key(key) {
            return Ok(());
        }
        self.room_for_check(&ReadCheck::Key { key: key.clone(), version })?;
        self.reads.keys.insert(key.clone(), version);
        Ok(())
    }

    fn saw_element(&mut self, key: &Key, element: &Value, seen: ElementSeen) -> Result<(), ApiError> {
        let asked = (key.clone(), element.to_bytes());
        let known = self.reads.keys.contains_key(key) || self.reads.elements.contains_key(&asked);
        if self.isolation == Isolation::Snapshot || known {
            return Ok(());
        }
        let (value, shown, present) = seen.clone();
        self.room_for_check(&ReadCheck::Element { key: key.clone(), element: value, shown, present })?;
        self.reads.elements.insert(asked, seen);
        Ok(())
    }

    /// Records a page: all of the snapshot between where it began and where it ended, whatever of it the own writes
    /// hide, or put between.
    fn saw_range(
        &mut self,
        space: &str,
        prefix: &str,
        after: Option<&str>,
        upto: Option<&str>,
    ) -> Result<(), InteractiveError<V::Error>> {
        let asked: RangeAsked =
            (space.to_owned(), prefix.to_owned(), after.map(str::to_owned), upto.map(str::to_owned));
        if self.reads.ranges.contains_key(&asked) {
            return Ok(());
        }
        let rows_left = TXN_SCANNED_ROWS_MAX - self.reads.scanned_rows;
        let range = Range { space, prefix, after, upto };
        let Some(seen) = meridian_crdt::fingerprint(&self.view, range, rows_left)? else {
            let message = format!("the transaction's listings look at more than {TXN_SCANNED_ROWS_MAX} rows");
            return Err(ApiError::new(ErrorCode::TooLarge, message)
                .with("limit", TXN_SCANNED_ROWS_MAX)
                .into());
        };
        self.room_for_check(&range_check(&asked, seen.fingerprint))?;
        self.reads.ranges.insert(asked, seen.fingerprint);
        self.reads.scanned_rows += seen.rows;
        Ok(())
    }

    /// Takes the room of one more check.
    fn room_for_check(&mut self, check: &ReadCheck) -> Result<(), ApiError> {
        if self.reads.len() >= TXN_CHECKS_MAX {
            return Err(too_many_checks());
        }
        let bytes = encoded_bytes(&[], std::slice::from_ref(check))?;
        at_most("the transaction, with what it has read", self.bytes() + bytes, self.bounds.bytes_max)?;
        self.reads.bytes += bytes;
        Ok(())
    }
}

impl ReadSet {
    fn len(&self) -> usize {
        self.keys.len() + self.elements.len() + self.ranges.len()
    }

    /// What has to be checked. An element of a key that was also read whole needs no check of its own.
    fn checks(&self) -> Vec<ReadCheck> {
        let mut checks = checks_of(&self.keys);
        for ((key, _), (element, shown, present)) in &self.elements {
            if !self.keys.contains_key(key) {
                let (key, element) = (key.clone(), element.clone());
                checks.push(ReadCheck::Element { key, element, shown: *shown, present: *present });
            }
        }
        checks.extend(self.ranges.iter().map(|(asked, seen)| range_check(asked, *seen)));
        checks
    }
}

fn checks_of(versions: &BTreeMap<Key, Version>) -> Vec<ReadCheck> {
    versions.iter().map(|(key, version)| ReadCheck::Key { key: key.clone(), version: *version }).collect()
}

/// The checks that `ops` will need under `snapshot`, for their size alone.
fn checks_for(ops: &[(Key, Mutation)]) -> Vec<ReadCheck> {
    ops.iter().map(|(key, _)| ReadCheck::Key { key: key.clone(), version: Version(u128::MAX) }).collect()
}

fn range_check((space, prefix, after, upto): &RangeAsked, seen: u64) -> ReadCheck {
    let (space, prefix) = (space.clone(), prefix.clone());
    ReadCheck::Scan { space, prefix, after: after.clone(), upto: upto.clone(), seen }
}

fn encoded_bytes(ops: &[(Key, Mutation)], reads: &[ReadCheck]) -> Result<usize, ApiError> {
    ClientTxn::part_bytes(ops, reads).map_err(|e| ApiError::new(ErrorCode::BadValue, e.to_string()))
}

fn at_most(what: &str, is: usize, limit: usize) -> Result<(), ApiError> {
    if is <= limit {
        return Ok(());
    }
    let message =
        format!("{what} would come to {is}, above its limit of {limit}; the last step was not done");
    Err(ApiError::new(ErrorCode::TooLarge, message).with("limit", limit))
}
