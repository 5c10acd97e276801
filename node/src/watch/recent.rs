//! The newest txns of the oplog, decoded once for all watchers of this node.
//!
//! Watchers that keep up read from here; one that is further behind reads the oplog for itself, so that it cannot push
//! out what the others need. Positions are the same on every node of a datacenter and never reused, so what is kept
//! never has to be dropped for any other reason than its bound.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use meridian_crdt::codec::DecodeError;
use meridian_crdt::{ReadCells, Vector};
use thiserror::Error;

use super::walk::{Expired, SeenTxn, Walk};
use crate::txn::ShardState;
use crate::txn::oplog::{self, ReadBounds};

/// The most txns that are kept decoded.
const TXNS_MAX: u64 = 1_000;
/// The most bytes of txns, encoded, that are kept decoded. The newest txn is kept in any case.
const BYTES_MAX: usize = 4 << 20;

/// What comes next on a walk.
#[derive(Debug)]
pub enum Upcoming {
    /// Decoded for everybody.
    Shared(Arc<SeenTxn>),
    /// Position and row, for this walk alone.
    Own(u64, Bytes),
}

/// Why nothing comes next.
#[derive(Debug, Error)]
pub enum FetchError<E> {
    /// The oplog no longer reaches back.
    #[error("the oplog no longer reaches back to the cursor")]
    Expired(Expired),
    /// The state cannot be read.
    #[error("the state cannot be read: {0}")]
    Cells(E),
    /// The oplog, or the row of the state, holds what it must not.
    #[error("a row of the shard does not decode: {0}")]
    Corrupt(DecodeError),
}

#[derive(Debug, Default)]
struct Kept {
    txns: VecDeque<Arc<SeenTxn>>,
    bytes: usize,
}

impl Kept {
    /// The first position kept, and the one behind the last.
    fn range(&self) -> Option<(u64, u64)> {
        Some((self.txns.front()?.position, self.txns.back()?.position + 1))
    }

    fn push(&mut self, txn: SeenTxn) {
        if self.range().is_some_and(|(_, end)| end != txn.position) {
            self.txns.clear();
            self.bytes = 0;
        }
        self.bytes += txn.bytes;
        self.txns.push_back(Arc::new(txn));
        while self.txns.len() as u64 > TXNS_MAX || (self.bytes > BYTES_MAX && self.txns.len() > 1) {
            self.bytes -= self.txns.pop_front().map_or(0, |txn| txn.bytes);
        }
    }

    /// What is kept from `next` on, within `bytes_max`; at least one if there is any.
    fn from(&self, next: u64, bytes_max: usize) -> Vec<Arc<SeenTxn>> {
        let Some((first, end)) = self.range() else { return Vec::new() };
        if next < first || next >= end {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |txn: &&Arc<SeenTxn>| {
            let taken = bytes;
            bytes += txn.bytes;
            taken == 0 || bytes <= bytes_max
        };
        let skip = usize::try_from(next - first).unwrap_or(usize::MAX);
        self.txns.iter().skip(skip).take_while(fits).cloned().collect()
    }
}

/// The newest txns of this node.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Kept>);

impl Recent {
    /// What comes next on `walk`; nothing at the end of the oplog.
    pub fn fetch<C: ReadCells>(
        &self,
        walk: &mut Walk,
        view: impl FnOnce() -> Result<C, C::Error>,
        bounds: ReadBounds,
    ) -> Result<Vec<Upcoming>, FetchError<C::Error>> {
        // Whoever comes first reads for all: the others wait for its one read rather than repeat it.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = kept.from(walk.next(), bounds.bytes_max);
        if !shared.is_empty() {
            return Ok(share(walk, shared));
        }
        let view = view().map_err(FetchError::Cells)?;
        let state = ShardState::load(&view).map_err(FetchError::Cells)?.map_err(FetchError::Corrupt)?;
        walk.check(&state).map_err(FetchError::Expired)?;
        let start = walk.next().max(state.oplog_first);
        let is_newest = kept.range().is_none_or(|(_, end)| end <= start);
        if walk.next() == 0 || !is_newest || state.oplog_end >= start + TXNS_MAX {
            drop(kept);
            let own =
                walk.read(&view, &state, bounds).map_err(FetchError::Cells)?.map_err(FetchError::Expired)?;
            return Ok(own.into_iter().map(|(position, row)| Upcoming::Own(position, row)).collect());
        }
        let chunk = oplog::read(&view, &state, start, &Vector::new(), &state.vector, bounds)
            .map_err(FetchError::Cells)?;
        for (position, row) in &chunk.entries {
            kept.push(SeenTxn::decode(*position, row).map_err(FetchError::Corrupt)?);
        }
        walk.read_up_to(start);
        Ok(share(walk, kept.from(start, bounds.bytes_max)))
    }
}

fn share(walk: &mut Walk, txns: Vec<Arc<SeenTxn>>) -> Vec<Upcoming> {
    if let Some(last) = txns.last() {
        walk.read_up_to(last.position + 1);
    }
    txns.into_iter().map(Upcoming::Shared).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use meridian_crdt::{Dot, MemCells, Origin, Txn, TxnHead};

    use super::super::walk::What;
    use super::*;

    const BOUNDS: ReadBounds = ReadBounds { bytes_max: 1 << 20, txns_max: 100_000 };

    /// Rows with an oplog of so many txns of one origin.
    fn grow(cells: &mut MemCells, state: &mut ShardState, txns: u64) {
        for _ in 0..txns {
            let dot = Dot::new(Origin(1), state.oplog_end + 1);
            let head = TxnHead { dot, hlc: 0, prev: 0, deps: Vector::new() };
            state.vector.advance(dot);
            let row = Txn { head, effects: Vec::new() }.encode();
            oplog::append(state, cells, dot, row).expect("memory");
        }
        oplog::write(state, cells).expect("memory");
        state.save(cells).expect("memory");
    }

    fn walk(next: u64) -> Walk {
        let cursor = [Dot::new(Origin(1), next.saturating_sub(1))].into_iter().filter(|dot| dot.seq > 0);
        Walk::new("default".into(), What::Prefix(String::new()), cursor.collect(), next)
    }

    #[test]
    fn a_thousand_watchers_that_keep_up_read_and_decode_each_txn_once() {
        let (mut cells, mut state) = (MemCells::new(), ShardState::new());
        grow(&mut cells, &mut state, 30);
        let (recent, reads) = (Recent::default(), Cell::new(0));
        let mut walks: Vec<Walk> = (0..1_000).map(|_| walk(31)).collect();
        for round in 1..=5 {
            grow(&mut cells, &mut state, 10);
            for walk in &mut walks {
                let view = || {
                    reads.set(reads.get() + 1);
                    Ok(cells.clone())
                };
                let upcoming = recent.fetch(walk, view, BOUNDS).expect("memory");
                assert_eq!(upcoming.len(), 10);
                assert!(upcoming.iter().all(|txn| matches!(txn, Upcoming::Shared(_))));
            }
            assert_eq!(reads.get(), round);
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_watcher_far_behind_reads_for_itself_until_it_has_caught_up() {
        let (mut cells, mut state) = (MemCells::new(), ShardState::new());
        let (recent, mut live, mut behind) = (Recent::default(), walk(1), walk(0));
        for _ in 0..5 {
            grow(&mut cells, &mut state, TXNS_MAX / 2);
            let live = recent.fetch(&mut live, || Ok(cells.clone()), BOUNDS).expect("memory");
            assert_eq!(live.len() as u64, TXNS_MAX / 2);
        }
        assert_eq!(recent.0.lock().expect("whole").txns.len() as u64, TXNS_MAX);
        let bounds = ReadBounds { bytes_max: 10_000, txns_max: 100_000 };
        let (mut own, mut shared) = (0, 0);
        while behind.next() <= state.oplog_end {
            for upcoming in recent.fetch(&mut behind, || Ok(cells.clone()), bounds).expect("memory") {
                let (dot, count) = match &upcoming {
                    Upcoming::Shared(txn) => (txn.dot, &mut shared),
                    Upcoming::Own(_, row) => (TxnHead::decode(row).expect("own").dot, &mut own),
                };
                *count += 1;
                assert!(behind.pass(dot));
            }
        }
        assert_eq!(own + shared, state.oplog_end);
        assert!(own >= state.oplog_end - TXNS_MAX && shared > 0, "{own} read alone, {shared} shared");
    }
}
