//! The pure core of Meridian: ids, clocks, vectors, cells, effects and the replicated types.
//!
//! Nothing here reads a clock, draws a random number, or does IO: time and randomness are arguments, storage is the
//! [`Cells`] trait. Everything is deterministic, so that equal logs give byte-equal state on every node of a
//! datacenter, and equal sets of txns give equal contents in every datacenter.

pub mod cells;
pub mod codec;
pub mod id;
pub mod txn;
pub mod value;
pub mod vector;

pub use cells::{Cells, MemCells, Overlay, ReadCells, Table};
pub use id::{Dot, Origin, OriginName};
pub use txn::{Add, KeyEffect, Removal, Txn, TxnHead, txn_hash};
pub use value::Value;
pub use vector::Vector;
