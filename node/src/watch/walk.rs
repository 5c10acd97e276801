//! A walk along the oplog: which txns a watcher is shown, and what its cursor says after each.
//!
//! The rule is one sentence: in this node's apply order, every txn that the cursor does not cover, and the cursor then
//! covers it. A cursor is a union of causally closed sets (the vector where the watch began, and beginnings of the
//! oplogs that it went along), so it is causally closed itself: whatever a later txn depends on is in the cursor or
//! comes before it here. Every datacenter applies every txn, in such an order, so the same holds wherever the walk goes
//! on: nothing is shown twice, because the cursor covers it, nothing is left out, because what is not covered comes.
//!
//! It is pure: rows in, txns out. It knows nothing of waiting, of clients or of formats.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use meridian_crdt::codec::DecodeError;
use meridian_crdt::{Dot, KeyEffect, Mutation, ReadCells, Txn, Vector, describe};

use crate::txn::ShardState;
use crate::txn::oplog::{self, Chunk, ReadBounds};

/// What is watched in a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// One key.
    Key(String),
    /// Every key that starts so; all of the space if it is empty.
    Prefix(String),
}

/// A key, and the mutations that a txn comes to for it.
pub type Told<'t> = (&'t str, Arc<[Mutation]>);

/// Rows of the oplog with their positions.
pub type Rows = Vec<(u64, Bytes)>;

/// A txn of the oplog, decoded. Many watchers share one.
#[derive(Debug)]
pub struct SeenTxn {
    /// Where it stands in the oplog.
    pub position: u64,
    /// Which txn it is.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: u64,
    /// How many bytes it takes encoded.
    pub bytes: usize,
    effects: Vec<KeyEffect>,
    /// What each effect is told as, once somebody has asked.
    told: Vec<OnceLock<Arc<[Mutation]>>>,
}

impl SeenTxn {
    /// Decodes a row of the oplog.
    pub fn decode(position: u64, row: &Bytes) -> Result<SeenTxn, DecodeError> {
        let txn = Txn::decode(row)?;
        let told = txn.effects.iter().map(|_| OnceLock::new()).collect();
        let (dot, hlc) = (txn.head.dot, txn.head.hlc);
        Ok(SeenTxn { position, dot, hlc, bytes: row.len(), effects: txn.effects, told })
    }

    /// What it did to the keys that `walk` watches: the key, and the mutations that it comes to.
    pub fn told_to(&self, walk: &Walk) -> Result<Vec<Told<'_>>, DecodeError> {
        let mut told = Vec::new();
        for (effect, slot) in self.effects.iter().zip(&self.told) {
            if !walk.watches(effect) {
                continue;
            }
            let mutations = match slot.get() {
                Some(known) => known.clone(),
                None => {
                    let new: Arc<[Mutation]> = describe(effect)?.into();
                    slot.get_or_init(|| new).clone()
                }
            };
            told.push((effect.key.as_str(), mutations));
        }
        Ok(told)
    }
}

/// The oplog no longer has something that the cursor does not cover. A walk that goes on from here, all the same, leaves
/// that out and shows nothing twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired(pub Box<Vector>);

/// Where a watcher stands.
#[derive(Clone, Debug)]
pub struct Walk {
    space: String,
    what: What,
    cursor: Vector,
    next: u64,
}

impl Walk {
    /// A walk that has been through everything that `cursor` covers. `next` is the position to read from: 0 to look
    /// for the first that is not covered, one above the end of the oplog when `cursor` is the vector there.
    pub fn new(space: String, what: What, cursor: Vector, next: u64) -> Walk {
        Walk { space, what, cursor, next }
    }

    /// The space that is watched.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Everything that the walk has been through.
    pub fn cursor(&self) -> &Vector {
        &self.cursor
    }

    /// The position to read from.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether the oplog still has everything that the walk has not been through.
    pub fn check(&self, state: &ShardState) -> Result<(), Expired> {
        if self.cursor.covers_all(&state.oplog_floor) {
            return Ok(());
        }
        let mut fresh = state.vector.clone();
        fresh.join(&self.cursor);
        Err(Expired(Box::new(fresh)))
    }

    /// Reads the next txns that the walk has not been through, some of them.
    pub fn read<C: ReadCells>(
        &mut self,
        cells: &C,
        state: &ShardState,
        bounds: ReadBounds,
    ) -> Result<Result<Rows, Expired>, C::Error> {
        if let Err(expired) = self.check(state) {
            return Ok(Err(expired));
        }
        let Chunk { entries, next } =
            oplog::read(cells, state, self.next, &self.cursor, &state.vector, bounds)?;
        self.read_up_to(next);
        Ok(Ok(entries))
    }

    /// Everything before `next` was read, here or for another walk.
    pub fn read_up_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Goes past a txn; says whether the walk had not been through it before. Txns come in the order of positions.
    pub fn pass(&mut self, dot: Dot) -> bool {
        if self.cursor.covers(dot) {
            return false;
        }
        assert_eq!(dot.seq, self.cursor.get(dot.origin) + 1, "a watch would leave out a txn before {dot}");
        self.cursor.advance(dot);
        true
    }

    fn watches(&self, effect: &KeyEffect) -> bool {
        effect.space == self.space
            && match &self.what {
                What::Key(key) => effect.key == *key,
                What::Prefix(prefix) => effect.key.starts_with(prefix),
            }
    }
}
