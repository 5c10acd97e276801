//! The oplog: applied txns in the order in which this datacenter applied them, kept for shipping.
//!
//! Positions are local, contiguous and causal: whoever reads upwards never meets a txn before its deps.

use std::ops::ControlFlow;

use bytes::Bytes;
use meridian_crdt::{Cells, Dot, ReadCells, TxnHead, Vector};

use super::state::{ShardState, tables};

fn index_key(dot: Dot) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&dot.origin.0.to_be_bytes());
    key[4..].copy_from_slice(&dot.seq.to_be_bytes());
    key
}

/// Appends a txn that has just been applied.
pub fn append<C: Cells>(state: &mut ShardState, cells: &mut C, dot: Dot, txn: Bytes) -> Result<(), C::Error> {
    state.oplog_end += 1;
    let position = state.oplog_end.to_be_bytes();
    cells.put(tables::OPLOG, &position, txn)?;
    cells.put(tables::OPLOG_INDEX, &index_key(dot), Bytes::copy_from_slice(&position))
}

/// Cuts off at most `rows_max` txns that every member has. I8: never past acked.
pub fn truncate<C: Cells>(state: &mut ShardState, cells: &mut C, rows_max: u32) -> Result<(), C::Error> {
    for _ in 0..rows_max {
        if excess(state) == 0 {
            break;
        }
        let position = state.oplog_first.to_be_bytes();
        let head = cells.get(tables::OPLOG, &position)?.and_then(|txn| TxnHead::decode(&txn).ok());
        match head {
            Some(head) if !state.acked.covers(head.dot) => break,
            Some(head) => {
                cells.remove(tables::OPLOG_INDEX, &index_key(head.dot))?;
                state.oplog_floor.advance(head.dot);
            }
            None => {}
        }
        cells.remove(tables::OPLOG, &position)?;
        state.oplog_first += 1;
    }
    Ok(())
}

/// How many txns there are.
pub fn len(state: &ShardState) -> u64 {
    state.oplog_end + 1 - state.oplog_first
}

/// How many there are beyond those that are kept in any case.
pub fn excess(state: &ShardState) -> u64 {
    len(state).saturating_sub(state.kept.oplog_txns)
}

/// Whether [`truncate`] would cut something.
pub fn can_truncate<C: ReadCells>(state: &ShardState, cells: &C) -> Result<bool, C::Error> {
    if excess(state) == 0 {
        return Ok(false);
    }
    let oldest = cells.get(tables::OPLOG, &state.oplog_first.to_be_bytes())?;
    Ok(oldest.and_then(|txn| TxnHead::decode(&txn).ok()).is_none_or(|head| state.acked.covers(head.dot)))
}

/// Some txns of the oplog in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// (position, encoded txn).
    pub entries: Vec<(u64, Bytes)>,
    /// Where to read on: no wanted txn before it was left out.
    pub next: u64,
}

/// How much one read may take.
#[derive(Clone, Copy, Debug)]
pub struct ReadBounds {
    /// Bytes of txns; at least one wanted txn is returned, however large.
    pub bytes_max: usize,
    /// Rows that are looked at, wanted or not.
    pub rows_max: usize,
}

/// Reads upwards the txns that `want` covers and `have` does not, from the later of `from` and the first of these.
pub fn read<C: ReadCells>(
    cells: &C,
    state: &ShardState,
    from: u64,
    have: &Vector,
    want: &Vector,
    bounds: ReadBounds,
) -> Result<Chunk, C::Error> {
    let start = from.max(first_wanted(cells, state, have, want)?);
    let mut chunk = Chunk { entries: Vec::new(), next: start };
    let (mut bytes, mut rows) = (0, 0);
    cells.scan(tables::OPLOG, &start.to_be_bytes(), None, &mut |key, txn| {
        let (Ok(position), Ok(head)) = (key.try_into().map(u64::from_be_bytes), TxnHead::decode(txn)) else {
            return ControlFlow::Continue(());
        };
        let wanted = want.covers(head.dot) && !have.covers(head.dot);
        if (wanted && bytes > 0 && bytes + txn.len() > bounds.bytes_max) || rows >= bounds.rows_max {
            return ControlFlow::Break(());
        }
        rows += 1;
        chunk.next = position + 1;
        if wanted {
            bytes += txn.len();
            chunk.entries.push((position, Bytes::copy_from_slice(txn)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(chunk)
}

/// The lowest position of a wanted txn; one above the end if there is none.
fn first_wanted<C: ReadCells>(
    cells: &C,
    state: &ShardState,
    have: &Vector,
    want: &Vector,
) -> Result<u64, C::Error> {
    let mut first = state.oplog_end + 1;
    for last in want.iter() {
        let next = have.get(last.origin).max(state.oplog_floor.get(last.origin)) + 1;
        if next > last.seq {
            continue;
        }
        if let Some(position) = cells.get(tables::OPLOG_INDEX, &index_key(Dot::new(last.origin, next)))?
            && let Ok(position) = <[u8; 8]>::try_from(&position[..])
        {
            first = first.min(u64::from_be_bytes(position));
        }
    }
    Ok(first)
}
