//! The oplog: applied txns in the order in which this datacenter applied them, kept for shipping.
//!
//! Positions are local, contiguous and causal: whoever reads upwards never meets a txn before its deps.
//!
//! Of each origin every 64th txn has a row in an index, and who looks for one of those behind it reads on from there.
//! Every txn had one in stores of format 2; which these are is noted in the index too, so that they go with their txns.
//! The index is no part of what nodes compare: programs of both formats apply the same log side by side.

use std::ops::ControlFlow;

use bytes::Bytes;
use meridian_crdt::codec::{Reader, Writer};
use meridian_crdt::{Cells, Dot, ReadCells, TxnHead, Vector};

use super::bounds::OPLOG_INDEXED_EVERY;
use super::state::{ShardState, tables};

/// The row of the index that says up to which txn of each origin all have rows of their own.
const EACH: &[u8] = b"each";

/// The txn whose row in the index stands for this one too.
fn indexed(dot: Dot) -> Dot {
    Dot::new(dot.origin, dot.seq.saturating_sub(1) / OPLOG_INDEXED_EVERY * OPLOG_INDEXED_EVERY + 1)
}

/// Notes, once, up to where each txn has a row of its own. To be called before an entry is applied.
pub fn note_indexed<C: Cells>(state: &ShardState, cells: &mut C) -> Result<(), C::Error> {
    if cells.get(tables::OPLOG_INDEX, EACH)?.is_some() {
        return Ok(());
    }
    let mut upto = Writer::new();
    state.vector.encode(&mut upto);
    cells.put(tables::OPLOG_INDEX, EACH, upto.finish().into())
}

/// Up to where each txn has a row of its own.
fn each_indexed<C: ReadCells>(cells: &C) -> Result<Vector, C::Error> {
    let row = cells.get(tables::OPLOG_INDEX, EACH)?;
    // What cannot be read was written by no program that there is: rows that stay behind are the worst that comes of it.
    Ok(row.and_then(|row| Vector::decode(&mut Reader::new(&row)).ok()).unwrap_or_default())
}

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
    if indexed(dot) == dot {
        cells.put(tables::OPLOG_INDEX, &index_key(dot), Bytes::copy_from_slice(&position))?;
    }
    Ok(())
}

/// Cuts off at most `rows_max` txns that every member has. I8: never past acked.
pub fn truncate<C: Cells>(state: &mut ShardState, cells: &mut C, rows_max: u32) -> Result<(), C::Error> {
    let cut_max = excess(state).min(rows_max.into());
    if cut_max == 0 {
        return Ok(());
    }
    let each = each_indexed(cells)?;
    for _ in 0..cut_max {
        let position = state.oplog_first.to_be_bytes();
        let head = cells.get(tables::OPLOG, &position)?.and_then(|txn| TxnHead::decode(&txn).ok());
        match head {
            Some(head) if !state.acked.covers(head.dot) => break,
            Some(head) => {
                if each.covers(head.dot) {
                    cells.remove(tables::OPLOG_INDEX, &index_key(head.dot))?;
                } else if head.dot.seq % OPLOG_INDEXED_EVERY == 0 {
                    cells.remove(tables::OPLOG_INDEX, &index_key(indexed(head.dot)))?;
                }
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

/// Where to begin to read: no wanted txn stands lower, and one stands not far above. One above the end if there is none.
fn first_wanted<C: ReadCells>(
    cells: &C,
    state: &ShardState,
    have: &Vector,
    want: &Vector,
) -> Result<u64, C::Error> {
    let mut first = state.oplog_end + 1;
    for last in want.iter() {
        let next = have.get(last.origin).max(state.oplog_floor.get(last.origin)) + 1;
        if next > last.seq.min(state.vector.get(last.origin)) {
            continue;
        }
        let row = cells.get(tables::OPLOG_INDEX, &index_key(indexed(Dot::new(last.origin, next))))?;
        // The row goes with its txn when that is cut off: then those behind it are among the first.
        let position = row.and_then(|row| row[..].try_into().ok()).map_or(0, u64::from_be_bytes);
        first = first.min(position.max(state.oplog_first));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use meridian_crdt::{MemCells, Origin};

    use super::*;
    use crate::txn::bounds::OPLOG_KEPT_TXNS;

    const EVERYTHING: ReadBounds = ReadBounds { bytes_max: usize::MAX, rows_max: usize::MAX };
    const ORIGINS: [Origin; 2] = [Origin(1), Origin(2)];

    /// A shard of which two origins write in turn, txns that change nothing.
    struct Log {
        state: ShardState,
        cells: MemCells,
    }

    impl Log {
        fn new() -> Self {
            Self { state: ShardState::new(), cells: MemCells::new() }
        }

        fn go_on(&mut self, upto: u64) {
            for seq in self.state.vector.get(ORIGINS[0]) + 1..=upto {
                for origin in ORIGINS {
                    let head = TxnHead { dot: Dot::new(origin, seq), hlc: 0, prev: 0, deps: Vector::new() };
                    let txn = meridian_crdt::Txn { head: head.clone(), effects: Vec::new() }.encode();
                    self.state.vector.advance(head.dot);
                    append(&mut self.state, &mut self.cells, head.dot, txn).expect("memory");
                }
            }
        }

        /// Cuts everything off that may go.
        fn cut(&mut self) {
            self.state.acked = self.state.vector.clone();
            truncate(&mut self.state, &mut self.cells, u32::MAX).expect("memory");
        }

        fn index_rows(&self) -> usize {
            let mut rows = 0;
            let count = &mut |key: &[u8], _: &[u8]| {
                rows += usize::from(key != EACH);
                ControlFlow::Continue(())
            };
            self.cells.scan(tables::OPLOG_INDEX, &[], None, count).expect("memory");
            rows
        }

        /// Which txns a reader gets who has everything up to `have`, and how many rows are looked at for the first.
        fn read_above(&self, have: u64) -> (Vec<Dot>, u64) {
            let have: Vector = ORIGINS.map(|origin| Dot::new(origin, have)).into_iter().collect();
            let want = self.state.vector.clone();
            let chunk = read(&self.cells, &self.state, 0, &have, &want, EVERYTHING).expect("memory");
            let begun = first_wanted(&self.cells, &self.state, &have, &want).expect("memory");
            let passed = chunk.entries.first().map_or(0, |(position, _)| position - begun);
            let dot = |(_, txn): &(u64, Bytes)| TxnHead::decode(txn).expect("own").dot;
            (chunk.entries.iter().map(dot).collect(), passed)
        }

        fn check(&self, upto: u64) {
            let floor = self.state.oplog_floor.get(ORIGINS[0]);
            for have in floor..=upto {
                let (got, passed) = self.read_above(have);
                let all = (have + 1..=upto).flat_map(|seq| ORIGINS.map(|origin| Dot::new(origin, seq)));
                let all: Vec<_> =
                    all.filter(|dot| dot.seq > self.state.oplog_floor.get(dot.origin)).collect();
                assert_eq!(got, all, "above {have} of {upto}");
                assert!(
                    passed <= 2 * OPLOG_INDEXED_EVERY,
                    "{passed} rows were passed to find the first above {have}"
                );
            }
        }
    }

    #[test]
    fn a_reader_begins_close_to_the_first_txn_that_it_lacks() {
        let mut log = Log::new();
        note_indexed(&log.state, &mut log.cells).expect("memory");
        for upto in [1, 3, 4, 5, 17, 60, 61, 99] {
            log.go_on(upto);
            log.check(upto);
            assert_eq!(log.index_rows() as u64, 2 * upto.div_ceil(OPLOG_INDEXED_EVERY) - 2 * gone(&log));
            log.cut();
            log.check(upto);
            assert!(len(&log.state) <= OPLOG_KEPT_TXNS.max(2));
        }
    }

    /// Blocks of an origin that are gone whole.
    fn gone(log: &Log) -> u64 {
        log.state.oplog_floor.get(ORIGINS[0]) / OPLOG_INDEXED_EVERY
    }

    #[test]
    fn rows_of_the_index_that_format_2_wrote_go_with_their_txns() {
        for upto in 1..=3 * OPLOG_INDEXED_EVERY {
            let mut log = Log::new();
            log.go_on(upto);
            for position in 1..=log.state.oplog_end {
                let row =
                    log.cells.get(tables::OPLOG, &position.to_be_bytes()).expect("memory").expect("there");
                let key = index_key(TxnHead::decode(&row).expect("own").dot);
                log.cells
                    .put(tables::OPLOG_INDEX, &key, Bytes::copy_from_slice(&position.to_be_bytes()))
                    .expect("memory");
            }
            // The first entry of this program comes in the middle of a block, or between two.
            note_indexed(&log.state, &mut log.cells).expect("memory");
            log.check(upto);
            let end = upto + OPLOG_KEPT_TXNS;
            log.go_on(end);
            note_indexed(&log.state, &mut log.cells).expect("memory");
            log.check(end);
            log.cut();
            log.check(end);
            assert_eq!(log.state.oplog_end - log.state.oplog_first + 1, OPLOG_KEPT_TXNS);
            let blocks = OPLOG_KEPT_TXNS / OPLOG_INDEXED_EVERY + 4;
            assert!(log.index_rows() as u64 <= blocks, "{} rows are left", log.index_rows());
        }
    }
}
