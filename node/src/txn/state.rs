//! What a shard knows besides its cells: origins, the vector, members, and where the oplog stands.
//!
//! It lives in one row that is written with every entry, so that it and the cells change as one; the machine keeps the
//! decoded copy.

use std::collections::BTreeMap;

use meridian_crdt::codec::DecodeError;
use meridian_crdt::{Cells, DigestDeltas, Dot, Origin, OriginName, ReadCells, StoreError, Vector};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::block::Unwritten;
use super::bounds::{APPLY_VERSION, Kept, LOG_TIME_STEP_MS_MAX};
use super::compaction::Staging;
use super::peers::Peer;
use super::recovery::Recovery;

/// The node's own tables; their numbers are part of the format on disk.
pub mod tables {
    use meridian_crdt::Table;

    /// The row of [`super::ShardState`].
    pub const META: Table = Table(16);
    /// Position u64 -> encoded txn, or several from that position on; in local apply order.
    pub const OPLOG: Table = Table(17);
    /// (origin u32, seq u64) -> position, of some txns.
    pub const OPLOG_INDEX: Table = Table(18);
    /// Request id -> its fingerprint and answer.
    pub const REQUESTS: Table = Table(19);
    /// Number u64 -> (log time, request id), in the order of arrival.
    pub const REQUEST_ORDER: Table = Table(20);
    /// (client u128, number modulo 256) -> number, fingerprint and answer of the client's latest request there.
    pub const CLIENT_SLOTS: Table = Table(21);
    /// Client u128 -> when it was last used, and what of it is forgotten.
    pub const CLIENTS: Table = Table(22);
    /// (0 or 1, number u64) -> client: those with answers, then those without, each the longest idle first.
    pub const CLIENT_ORDER: Table = Table(23);
}

const VERSION: u8 = 1;
const ROW: &[u8] = b"shard";

/// The digest of the contents with everything else that apply knows: equal on two nodes that have applied the same
/// log.
pub fn state_fingerprint<C: ReadCells>(cells: &C) -> Result<u128, StoreError<C::Error>> {
    let row = cells.get(tables::META, ROW)?.unwrap_or_default();
    Ok(meridian_crdt::digest(cells)?.wrapping_add(u128::from(xxh3_64(&row))))
}

/// The last txn applied of one origin: what the origin's next one builds on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The origin's full name.
    pub name: OriginName,
    /// The hash of its last applied txn; 0 before the first.
    pub hash: u64,
    /// The whole deps of its last applied txn, its own entry left out.
    pub deps: Vector,
    /// The stamp of its last applied txn.
    pub hlc: u64,
}

/// Everything that apply knows besides the cells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardState {
    /// The version of apply that is in force; raised by an entry, never by a program that happens to be newer.
    pub apply_version: u32,
    /// The life under which this datacenter writes.
    pub own: Option<Origin>,
    /// For each origin the highest seq applied.
    pub vector: Vector,
    /// Every origin that was ever registered.
    pub chains: BTreeMap<Origin, Chain>,
    /// The other datacenters and how far they have told us they are.
    pub members: BTreeMap<String, Peer>,
    /// Nothing that can still arrive is concurrent with what this covers.
    pub stable: Vector,
    /// Every member has applied what this covers.
    pub acked: Vector,
    /// Milliseconds since 1970; rises with entries, at most [`LOG_TIME_STEP_MS_MAX`] at a time.
    pub log_time_ms: u64,
    /// The position of the oldest txn that the oplog still has; one above `oplog_end` if it has none.
    pub oplog_first: u64,
    /// The position of the newest txn in the oplog.
    pub oplog_end: u64,
    /// For each origin the highest seq that the oplog no longer has.
    pub oplog_floor: Vector,
    /// The number of the oldest remembered request.
    pub requests_first: u64,
    /// One above the number of the newest remembered request.
    pub requests_end: u64,
    /// Whether the last sweep left rows that could have been swept.
    pub sweep_left: bool,
    /// How many LWW values lost to a concurrent one, ever.
    pub lww_conflicts: u64,
    /// In how many of these the winner came from elsewhere with a stamp ahead of the clock here, by more than clocks
    /// may differ: conflicts that a clock fault has won.
    pub lww_future_wins: u64,
    /// What is remembered of clients that number their requests. (It came later: states from before lack it.)
    #[serde(default)]
    pub clients: ClientCounts,
    /// Set while the present life follows a loss and takes no writes yet. (It came later, too.)
    #[serde(default)]
    pub recovering: Option<Recovery>,
    /// The snapshot of a document that is being put together. (It came later, too.)
    #[serde(default)]
    pub staging: Option<Staging>,
    /// How much is kept by count; no part of the state that is written.
    #[serde(skip)]
    pub kept: Kept,
    /// What of the oplog is not written yet: nothing between two entries.
    #[serde(skip)]
    pub unwritten: Unwritten,
    /// What the digests lack of the txns since: nothing between two entries.
    #[serde(skip)]
    pub digests: DigestDeltas,
}

/// How much is remembered of clients that number their requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCounts {
    /// The clients of which anything is remembered.
    pub known: u64,
    /// The answers that are kept.
    pub slots: u64,
    /// The next number in the order of clients.
    pub order_end: u64,
    /// The log time at which idle clients were last looked for and none was left.
    pub looked_ms: u64,
}

impl ShardState {
    /// The state of an empty shard.
    pub fn new() -> Self {
        Self { apply_version: APPLY_VERSION, oplog_first: 1, ..Self::default() }
    }

    /// Reads the state as it stands in `cells`; an empty shard has none yet.
    pub fn load<C: ReadCells>(cells: &C) -> Result<Result<Self, DecodeError>, C::Error> {
        Ok(match cells.get(tables::META, ROW)? {
            None => Ok(Self::new()),
            Some(row) => match row.split_first() {
                Some((&VERSION, body)) => match rmp_serde::from_slice::<Self>(body) {
                    // A newer program has raised the version of apply: this one would apply entries otherwise.
                    Ok(state) if state.apply_version > APPLY_VERSION => {
                        Err(DecodeError::UnknownVersion(u8::try_from(state.apply_version).unwrap_or(u8::MAX)))
                    }
                    read => read.map_err(|_| DecodeError::Malformed),
                },
                Some((&other, _)) => Err(DecodeError::UnknownVersion(other)),
                None => Err(DecodeError::Truncated),
            },
        })
    }

    /// Writes the state into `cells`.
    pub fn save<C: Cells>(&self, cells: &mut C) -> Result<(), C::Error> {
        let mut row = vec![VERSION];
        // A struct of numbers, strings and maps always encodes into memory; the only failure is the writer's.
        rmp_serde::encode::write(&mut row, self).unwrap_or_else(|e| unreachable!("state encodes: {e}"));
        cells.put(tables::META, ROW, row.into_boxed_slice().into())
    }

    /// Moves log time towards the leader's clock.
    pub fn tick(&mut self, now_ms: u64) {
        let limit = match self.log_time_ms {
            0 => now_ms,
            time => time.saturating_add(LOG_TIME_STEP_MS_MAX),
        };
        self.log_time_ms = self.log_time_ms.max(now_ms.min(limit));
    }

    /// The dot that this datacenter's next txn gets.
    pub fn next_own_dot(&self) -> Option<Dot> {
        self.own.map(|own| Dot::new(own, self.vector.get(own) + 1))
    }

    /// Adds an origin; refuses a different one with the same short id.
    pub fn register(&mut self, name: OriginName) -> Result<Origin, String> {
        let origin = name.origin();
        match self.chains.get(&origin) {
            Some(chain) if chain.name == name => Ok(origin),
            Some(chain) => Err(format!("{name} and {} have the same short id {origin}", chain.name)),
            None => {
                self.chains.insert(origin, Chain { name, hash: 0, deps: Vector::new(), hlc: 0 });
                Ok(origin)
            }
        }
    }

    /// The name of the datacenter that `origin` is a life of.
    pub fn dc_of(&self, origin: Origin) -> Option<&str> {
        self.chains.get(&origin).map(|chain| chain.name.dc.as_str())
    }

    /// A dot of `dots` that no life of a datacenter of this cluster can have made: every datacenter has been met, and none
    /// of their lives bears its origin.
    pub fn foreign_dot(&self, dots: &Vector) -> Option<Dot> {
        let all_met = self.own.is_some() && self.members.values().all(|peer| peer.origin.is_some());
        dots.iter().find(|dot| all_met && !self.chains.contains_key(&dot.origin))
    }

    /// Checks the invariants that this state can see by itself: I3's bookkeeping and I5.
    pub fn validate(&self) {
        assert!(self.acked.covers_all(&self.stable), "I5: stable {:?} > acked {:?}", self.stable, self.acked);
        assert!(self.vector.covers_all(&self.acked), "I5: acked {:?} > vector {:?}", self.acked, self.vector);
        assert!(self.oplog_first <= self.oplog_end + 1, "the oplog begins behind its end");
        assert!(self.vector.covers_all(&self.oplog_floor), "the oplog lost what was never applied");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::MemCells;

    #[test]
    fn the_state_row_round_trips() {
        let mut state = ShardState::new();
        let name = OriginName { dc: "eu".into(), epoch: uuid::Uuid::from_u128(1) };
        state.own = Some(state.register(name).expect("new"));
        state.tick(99);
        let mut cells = MemCells::new();
        state.save(&mut cells).expect("memory");
        assert_eq!(ShardState::load(&cells).expect("memory"), Ok(state));
    }

    #[test]
    fn log_time_moves_by_bounded_steps_and_never_back() {
        let mut state = ShardState::new();
        state.tick(1_000_000);
        assert_eq!(state.log_time_ms, 1_000_000);
        state.tick(99_000_000);
        assert_eq!(state.log_time_ms, 1_000_000 + LOG_TIME_STEP_MS_MAX);
        state.tick(5);
        assert_eq!(state.log_time_ms, 1_000_000 + LOG_TIME_STEP_MS_MAX);
    }
}
