//! The bounds that apply decides by. They are constants and no settings: a bound that differed between two nodes of a
//! datacenter would let their states part (I6). Changing one is a new version of apply.

use meridian_crdt::Limits;

use super::entry::ENTRY_BYTES_MAX;

/// What a txn of this datacenter may come to. Encoded it must fit into a log entry, also in every other datacenter.
pub fn limits() -> Limits {
    Limits { txn_bytes_max: TXN_BYTES_MAX, effects_max: TXN_EFFECTS_MAX, ..Limits::default() }
}

/// The most bytes of keys, paths and payloads of one txn.
pub const TXN_BYTES_MAX: usize = 2 << 20;
/// The most removals and adds of one txn.
pub const TXN_EFFECTS_MAX: usize = 100_000;
/// What the encoding of one removal or add takes beyond its path and payload, at most.
const EFFECT_OVERHEAD_BYTES: usize = 8;
/// What a txn's head and its place in an entry take, at most: the deps of some thousand origins, the time, the framing.
const HEAD_BYTES_MAX: usize = 96 << 10;
const _: () =
    assert!(TXN_BYTES_MAX + TXN_EFFECTS_MAX * EFFECT_OVERHEAD_BYTES + HEAD_BYTES_MAX <= ENTRY_BYTES_MAX);

/// The most things that a transaction has read and wants checked when it commits.
pub const TXN_CHECKS_MAX: usize = 10_000;

/// The most rows of listings that a transaction has looked at and wants looked at again when it commits.
pub const TXN_SCANNED_ROWS_MAX: usize = 10_000;

/// The most rows of listings that apply looks at again for one transaction. A range that has grown beyond this since it
/// was listed counts as changed, which it almost certainly has: only rows of absent keys could be what it grew by.
pub const TXN_RECHECKED_ROWS_MAX: usize = 4 * TXN_SCANNED_ROWS_MAX;

/// How many of the keys and prefixes that have changed a conflict names.
pub const CONFLICTS_NAMED_MAX: usize = 10;

/// The most rows that the writes of an open transaction may have changed provisionally.
pub const TXN_PROVISIONAL_ROWS_MAX: usize = 200_000;

/// The newest version of apply that this program has. (Checks of what was read, numbered request ids and their
/// settling came without raising it: entries without them apply as before, and a program that does not know them
/// cannot read an entry that has them, and stops.)
pub const APPLY_VERSION: u32 = 1;

/// How far one entry may move log time, in milliseconds: a leader with a wild clock expires no request id early.
pub const LOG_TIME_STEP_MS_MAX: u64 = 5_000;

/// How far a stamp may be ahead of the leader's clock before what it wins counts as won by a clock fault.
pub const STAMP_AHEAD_MS_MAX: u64 = 5_000;

/// How long an answer is kept for its request id, in milliseconds of log time.
pub const REQUESTS_KEPT_MS: u64 = 10 * 60 * 1000;

/// How many answers are kept at most; past it the oldest go, whatever their age.
pub const REQUESTS_KEPT_MAX: u64 = if cfg!(test) { 60 } else { 1_000_000 };

/// How many old answers are dropped for each one that is added, so that the memory shrinks again after a burst.
pub const REQUESTS_DROPPED_PER_ADDED: usize = 4;

/// How many of the latest answers of each client are kept for its numbered requests.
pub const CLIENT_ANSWERS_KEPT: u64 = 256;

/// How coarsely the last use of a client is noted, in milliseconds of log time.
pub const CLIENT_USE_NOTED_MS: u64 = 60 * 1000;

/// How long it is remembered up to which number everything of an idle client is forgotten, in milliseconds of log time.
pub const CLIENTS_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// How often idle clients are looked for, in milliseconds of log time.
pub const CLIENTS_LOOKED_AT_EVERY_MS: u64 = 1_000;

/// How many clients are remembered at most; past it the longest idle ones go.
pub const CLIENTS_KEPT_MAX: u64 = if cfg!(test) { 8 } else { 100_000 };

/// How many answers to numbered requests are kept at most; past it the longest idle clients lose theirs.
pub const CLIENT_SLOTS_MAX: u64 = if cfg!(test) { 600 } else { 1_000_000 };

/// How long the parts of a snapshot of a document stay that nobody goes on with, in milliseconds of log time.
pub const STAGED_KEPT_MS: u64 = 60 * 1000;

/// How many of the newest txns stay in the oplog although every member has them, for watches that resume.
pub const OPLOG_KEPT_TXNS: u64 = if cfg!(test) { 40 } else { 10_000 };

/// Of so many txns of an origin in a row the first has a row in the index of the oplog.
pub const OPLOG_INDEXED_EVERY: u64 = if cfg!(test) { 4 } else { 64 };

/// A row of the oplog has at most so many txns, and none goes on beyond a multiple of this.
pub const OPLOG_ROW_TXNS: u64 = if cfg!(test) { 4 } else { 16 };

/// How large a row of several txns is at most, in bytes: one page of the state file holds it.
pub const OPLOG_ROW_BYTES_MAX: usize = 3_800;

/// Headers of absent keys stay for so many txns after their last change, so that a transaction that has read the
/// absence can still be validated, and a session that has seen it gets its dots.
pub const HEADERS_KEPT_TXNS: u64 = if cfg!(test) { 30 } else { 10_000 };

/// How much of what nobody needs any more is kept by count.
///
/// A program uses the default and nothing else, on every node. A simulation that rebuilds whole clusters from their
/// logs gives all nodes of a run smaller ones, so that what happens after ten thousand txns happens after ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of the oplog, see [`OPLOG_KEPT_TXNS`].
    pub oplog_txns: u64,
    /// Of the headers of absent keys, see [`HEADERS_KEPT_TXNS`].
    pub headers_txns: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { oplog_txns: OPLOG_KEPT_TXNS, headers_txns: HEADERS_KEPT_TXNS }
    }
}
