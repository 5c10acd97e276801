//! The oplog: applied txns in the order in which this datacenter applied them, kept for shipping.
//!
//! Positions are local, contiguous and causal: whoever reads upwards never meets a txn before its deps. Those that an
//! entry adds share rows, see [`super::block`]; in stores of format 3 and before each had its own.
//!
//! Of each origin every 64th txn has a row in an index, and who looks for one of those behind it reads on from there.
//! Every txn had one in stores of format 2; which these are is noted in the index too, so that they go with their txns.
//! Neither rows nor the index are part of what nodes compare: programs of all these formats apply the same log side by side.

use std::ops::ControlFlow;

use bytes::Bytes;
use meridian_crdt::codec::{Reader, Writer};
use meridian_crdt::{Cells, Dot, ReadCells, TxnHead, Vector};

use super::block::{self, Row};
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

/// Appends a txn that has just been applied. [`write()`] makes it one that is read.
pub fn append<C: Cells>(state: &mut ShardState, cells: &mut C, dot: Dot, txn: Bytes) -> Result<(), C::Error> {
    let position = state.oplog_end + 1;
    if state.unwritten.ends_before(position, txn.len()) {
        write(state, cells)?;
    }
    state.oplog_end = position;
    state.unwritten.push(txn);
    if indexed(dot) == dot {
        let position = Bytes::copy_from_slice(&position.to_be_bytes());
        cells.put(tables::OPLOG_INDEX, &index_key(dot), position)?;
    }
    Ok(())
}

/// Writes what was appended. To be called after an entry was applied.
pub fn write<C: Cells>(state: &mut ShardState, cells: &mut C) -> Result<(), C::Error> {
    match state.unwritten.take(state.oplog_end) {
        Some((first, row)) => cells.put(tables::OPLOG, &first.to_be_bytes(), row),
        None => Ok(()),
    }
}

/// Visits the rows in which the txns from a position upwards are. The first may have some before it.
fn visit_rows<C: ReadCells>(
    cells: &C,
    from: u64,
    visit: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
) -> Result<(), C::Error> {
    cells.scan(tables::OPLOG, &block::lowest_row(from).to_be_bytes(), None, &mut |key, bytes| {
        let Ok(first) = key.try_into().map(u64::from_be_bytes) else { return ControlFlow::Continue(()) };
        visit(Row { first, bytes })
    })
}

/// Visits the txns from a position upwards.
fn visit<C: ReadCells>(
    cells: &C,
    from: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<(), C::Error> {
    visit_rows(cells, from, &mut |row| {
        row.txns_from(from).try_for_each(|(position, txn)| visit(position, txn))
    })
}

/// The txn at a position, encoded, if the oplog has it.
pub fn at<C: ReadCells>(cells: &C, position: u64) -> Result<Option<Bytes>, C::Error> {
    let mut found = None;
    visit(cells, position, &mut |first, txn| {
        found = (first == position).then(|| Bytes::copy_from_slice(txn));
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// What [`truncate`] is to take out.
#[derive(Default)]
struct Cut {
    rows: Vec<u64>,
    dots: Vec<Dot>,
    /// The position behind it.
    next: u64,
}

/// Looks what there is to cut off.
fn oldest<C: ReadCells>(state: &ShardState, cells: &C, cut_max: u64) -> Result<Cut, C::Error> {
    let mut cut = Cut { next: state.oplog_first, ..Cut::default() };
    visit_rows(cells, state.oplog_first, &mut |row| {
        for (position, txn) in row.txns_from(state.oplog_first) {
            let head = TxnHead::decode(txn).ok();
            let is_needed = head.as_ref().is_some_and(|head| !state.acked.covers(head.dot));
            if is_needed || position >= state.oplog_first + cut_max {
                return ControlFlow::Break(());
            }
            cut.dots.extend(head.map(|head| head.dot));
            cut.next = position + 1;
        }
        cut.rows.push(row.first);
        ControlFlow::Continue(())
    })?;
    Ok(cut)
}

/// Cuts off at most `txns_max` txns that every member has. I8: never past acked. A row goes with its last txn.
pub fn truncate<C: Cells>(state: &mut ShardState, cells: &mut C, txns_max: u32) -> Result<(), C::Error> {
    write(state, cells)?;
    let cut_max = excess(state).min(txns_max.into());
    if cut_max == 0 {
        return Ok(());
    }
    let each = each_indexed(cells)?;
    let cut = oldest(state, cells, cut_max)?;
    for dot in cut.dots {
        if each.covers(dot) {
            cells.remove(tables::OPLOG_INDEX, &index_key(dot))?;
        } else if dot.seq % OPLOG_INDEXED_EVERY == 0 {
            cells.remove(tables::OPLOG_INDEX, &index_key(indexed(dot)))?;
        }
        state.oplog_floor.advance(dot);
    }
    for row in cut.rows {
        cells.remove(tables::OPLOG, &row.to_be_bytes())?;
    }
    state.oplog_first = cut.next;
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
    let oldest = at(cells, state.oplog_first)?;
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

/// Txns that one read of a node looks at, wanted or not.
pub const READ_TXNS_MAX: usize = 10_000;

/// How much one read may take.
#[derive(Clone, Copy, Debug)]
pub struct ReadBounds {
    /// Bytes of txns; at least one wanted txn is returned, however large.
    pub bytes_max: usize,
    /// Txns that are looked at, wanted or not.
    pub txns_max: usize,
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
    let (mut bytes, mut looked_at) = (0, 0);
    visit(cells, start, &mut |position, txn| {
        let Ok(head) = TxnHead::decode(txn) else { return ControlFlow::Continue(()) };
        let wanted = want.covers(head.dot) && !have.covers(head.dot);
        if (wanted && bytes > 0 && bytes + txn.len() > bounds.bytes_max) || looked_at >= bounds.txns_max {
            return ControlFlow::Break(());
        }
        looked_at += 1;
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

    const EVERYTHING: ReadBounds = ReadBounds { bytes_max: usize::MAX, txns_max: usize::MAX };
    const ORIGINS: [Origin; 2] = [Origin(1), Origin(2)];

    /// A shard of which two origins write in turn, txns that change nothing.
    struct Log {
        state: ShardState,
        cells: MemCells,
        /// How many txns an entry has; with one in each, rows are those of format 3.
        in_entry: u64,
    }

    impl Log {
        fn new(in_entry: u64) -> Self {
            Self { state: ShardState::new(), cells: MemCells::new(), in_entry }
        }

        fn go_on(&mut self, upto: u64) {
            for seq in self.state.vector.get(ORIGINS[0]) + 1..=upto {
                for origin in ORIGINS {
                    let head = TxnHead { dot: Dot::new(origin, seq), hlc: 0, prev: 0, deps: Vector::new() };
                    let txn = meridian_crdt::Txn { head: head.clone(), effects: Vec::new() }.encode();
                    self.state.vector.advance(head.dot);
                    append(&mut self.state, &mut self.cells, head.dot, txn).expect("memory");
                    if self.state.oplog_end.is_multiple_of(self.in_entry) {
                        write(&mut self.state, &mut self.cells).expect("memory");
                    }
                }
            }
            write(&mut self.state, &mut self.cells).expect("memory");
        }

        /// Keys of the rows with txns.
        fn rows(&self) -> Vec<u64> {
            let mut rows = Vec::new();
            visit_rows(&self.cells, 1, &mut |row| {
                rows.push(row.first);
                ControlFlow::Continue(())
            })
            .expect("memory");
            rows
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
        for in_entry in [1, 2, 3, 7] {
            let mut log = Log::new(in_entry);
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
    }

    /// A row goes with its last txn, no sooner and no later, also when it is cut through several times.
    #[test]
    fn a_row_goes_with_its_last_txn() {
        let mut log = Log::new(7);
        log.go_on(60);
        let rows = log.rows();
        assert!(rows.len() < 60, "{} rows", rows.len());
        log.state.acked = log.state.vector.clone();
        while excess(&log.state) > 0 {
            let before = log.state.oplog_first;
            truncate(&mut log.state, &mut log.cells, 3).expect("memory");
            let first = log.state.oplog_first;
            assert_eq!(first, before + 3.min(log.state.oplog_end + 1 - OPLOG_KEPT_TXNS - before));
            let last_at_or_below = rows.iter().rfind(|row| **row <= first).expect("the first row");
            assert_eq!(log.rows().first(), Some(last_at_or_below), "at {first}");
            let oldest = at(&log.cells, first).expect("memory").expect("there");
            assert!(TxnHead::decode(&oldest).is_ok());
        }
        assert!(!can_truncate(&log.state, &log.cells).expect("memory"));
    }

    /// What not every member has stays, in the middle of a row too.
    #[test]
    fn nothing_is_cut_past_what_all_members_have() {
        for acked in 0..20 {
            let mut log = Log::new(7);
            log.go_on(60);
            log.state.acked = ORIGINS.map(|origin| Dot::new(origin, acked)).into_iter().collect();
            assert_eq!(can_truncate(&log.state, &log.cells).expect("memory"), acked > 0);
            truncate(&mut log.state, &mut log.cells, u32::MAX).expect("memory");
            assert_eq!(log.state.oplog_first, 2 * acked + 1);
            log.check(60);
        }
    }

    /// Blocks of an origin that are gone whole.
    fn gone(log: &Log) -> u64 {
        log.state.oplog_floor.get(ORIGINS[0]) / OPLOG_INDEXED_EVERY
    }

    #[test]
    fn rows_of_the_index_that_format_2_wrote_go_with_their_txns() {
        for upto in 1..=3 * OPLOG_INDEXED_EVERY {
            let mut log = Log::new(1);
            log.go_on(upto);
            assert_eq!(log.rows().len() as u64, 2 * upto, "each has a row, as format 2 wrote them");
            for position in 1..=log.state.oplog_end {
                let txn = at(&log.cells, position).expect("memory").expect("there");
                let key = index_key(TxnHead::decode(&txn).expect("own").dot);
                log.cells
                    .put(tables::OPLOG_INDEX, &key, Bytes::copy_from_slice(&position.to_be_bytes()))
                    .expect("memory");
            }
            // The first entry of this program comes in the middle of a block, or between two.
            note_indexed(&log.state, &mut log.cells).expect("memory");
            log.check(upto);
            let end = upto + OPLOG_KEPT_TXNS;
            log.in_entry = 7;
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
