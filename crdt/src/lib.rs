//! The pure core of Meridian: ids, clocks, vectors, cells, effects and the replicated types.
//!
//! Nothing here reads a clock, draws a random number, or does IO: time and randomness are arguments, storage is the
//! [`Cells`] trait. Everything is deterministic, so that equal logs give byte-equal state on every node of a
//! datacenter, and equal sets of txns give equal contents in every datacenter.
//!
//! The way of a write: [`execute()`] turns mutations into effects at their origin, [`apply()`] puts effects into the
//! cells of any datacenter, [`describe()`] tells what a txn did to a key, [`read()`] shows what is there, and [`sweep()`] drops what stability no longer needs.

pub mod apply;
pub mod cell;
pub mod cells;
mod cleared;
pub mod codec;
mod collect;
pub mod condition;
pub mod describe;
pub mod digest;
pub mod document;
mod edit;
pub mod error;
pub mod execute;
pub mod explain;
pub mod glance;
mod header;
pub mod hlc;
pub mod id;
pub mod keys;
pub mod list;
pub mod merge;
pub mod path;
mod plan;
pub mod prepared;
pub mod read;
mod small;
pub mod sweep;
pub mod table;
#[cfg(test)]
mod testkit;
pub mod txn;
pub mod types;
pub mod value;
pub mod vector;
mod view;

pub use apply::{Applied, apply, validate};
pub use cell::{Cell, Held};
pub use cells::{Cells, Changes, MemCells, Overlay, ReadCells, Table};
pub use condition::{Condition, check};
pub use describe::describe;
pub use digest::{BUCKETS, DigestDeltas, bucket_digests, digest};
pub use document::{
    Content as DocWanted, Document, NESTING_MAX, NESTING_READ_MAX, Reach, RewriteError, Rewritten, Snapshot,
    Unmarked, UpdateError, YrsDocument, check_update, incarnation_mark, marks_of_state_vector,
    nests_elsewhere, split_update, without_marks,
};
pub use error::StoreError;
pub use execute::{Ctx, ExecuteError, Executed, Limits, Refusal, execute, prepare};
pub use explain::{Explained, ExplainedCell, ExplainedDot, explain};
pub use glance::{Glance, glance};
pub use header::{Digits, Version};
pub use hlc::{Clock, ClockError, Observed, unix_ms};
pub use id::{Dot, NoDot, Origin, OriginName};
pub use keys::{Key, KeyError, check_space};
pub use list::{Listed, Listing, Range, RangeSeen, fingerprint, list};
pub use merge::{merge, merge_state};
pub use prepared::Prepared;
pub use read::{Content, Query, ReadValue, Reading, read};
pub use sweep::{Swept, sweep, sweep_pending};
pub use txn::{Add, KeyEffect, Removal, Txn, TxnHead, txn_hash};
pub use types::doc::{
    CompactRefusal, DOC_PART_BYTES_MAX, DOC_PARTS_MAX, DocCompaction, DocContent, DocCounts, DocSnapshot,
    DocState, DocTail, DocUpdate, compact_doc, doc_glance, doc_incarnations, doc_long_tails, doc_state,
    doc_tail, stage_doc_part, unstage_doc_parts,
};
pub use types::{CounterOp, DocOp, FlagOp, MapOp, Mutation, RegisterOp, SetOp, Type};
pub use value::Value;
pub use vector::Vector;
