//! A watch without its waiting: what it shows next, from which cursor, and what a session depends on that has seen it.
//!
//! It reads ahead one bounded chunk of the oplog and goes past its txns one at a time; what it has read ahead and not
//! gone past is in no cursor. Invariant: the cursor covers exactly what [`Stream::step`] has returned, and what the
//! cursor covered in which the stream began.
//!
//! It knows no clock, no client and no format; rows come from whoever asks it to read on.

use std::collections::VecDeque;
use std::sync::Arc;

use meridian_crdt::codec::DecodeError;
use meridian_crdt::{Dot, Mutation, ReadCells, Vector};

use super::recent::{FetchError, Recent, Upcoming};
use super::walk::{Expired, SeenTxn, Walk, What};
use crate::txn::ShardState;
use crate::txn::oplog::ReadBounds;

/// A txn, as far as it concerns the watch.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Which txn it is.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: u64,
    /// Each watched key that it changed, and the mutations that this comes to, in order. Never empty.
    pub changes: Vec<(String, Arc<[Mutation]>)>,
}

/// What going one txn further comes to.
#[derive(Clone, Debug)]
pub enum Step {
    /// The stream has been through this txn before.
    Known,
    /// The cursor has moved over a txn that changed nothing that is watched.
    Unwatched,
    /// The cursor has moved over this txn, which is to be told.
    Shown(Shown),
}

/// Where a watch stands, and what it has read ahead.
#[derive(Debug)]
pub struct Stream {
    walk: Walk,
    upcoming: VecDeque<Upcoming>,
    session: Vector,
}

impl Stream {
    /// A stream over a node whose state is `state`: from a cursor, or from now. `session` is what the session depends on so
    /// far; the state covers it.
    pub fn begin(
        space: String,
        what: What,
        from: Option<Vector>,
        session: Vector,
        state: &ShardState,
    ) -> Result<Stream, Expired> {
        let walk = match from {
            Some(from) => Walk::new(space, what, from, 0),
            None => Walk::new(space, what, state.vector.clone(), state.oplog_end + 1),
        };
        walk.check(state)?;
        Ok(Stream { walk, upcoming: VecDeque::new(), session })
    }

    /// The space that is watched.
    pub fn space(&self) -> &str {
        self.walk.space()
    }

    /// Where to resume.
    pub fn cursor(&self) -> &Vector {
        self.walk.cursor()
    }

    /// What the session depends on that has seen everything shown so far.
    pub fn session(&self) -> &Vector {
        &self.session
    }

    /// The session has seen more than txns.
    pub fn has_seen(&mut self, dots: &Vector) {
        self.session.join(dots);
    }

    /// Whether there is more to read in an oplog that ends at this position.
    pub fn is_behind(&self, oplog_end: u64) -> bool {
        self.walk.next() <= oplog_end
    }

    /// Reads on. Says whether that came further.
    pub fn fetch<C: ReadCells>(
        &mut self,
        recent: &Recent,
        view: impl FnOnce() -> Result<C, C::Error>,
        bounds: ReadBounds,
    ) -> Result<bool, FetchError<C::Error>> {
        let before = self.walk.next();
        let upcoming = recent.fetch(&mut self.walk, view, bounds)?;
        self.upcoming.extend(upcoming);
        Ok(self.walk.next() > before)
    }

    /// Goes past the next txn that was read; none is left if there is no answer.
    pub fn step(&mut self) -> Result<Option<Step>, DecodeError> {
        let txn = match self.upcoming.pop_front() {
            None => return Ok(None),
            Some(Upcoming::Shared(txn)) => txn,
            Some(Upcoming::Own(position, row)) => Arc::new(SeenTxn::decode(position, &row)?),
        };
        if !self.walk.pass(txn.dot) {
            return Ok(Some(Step::Known));
        }
        let told = txn.told_to(&self.walk)?;
        if told.is_empty() {
            return Ok(Some(Step::Unwatched));
        }
        self.session.advance(txn.dot);
        let changes = told.into_iter().map(|(key, mutations)| (key.to_owned(), mutations)).collect();
        Ok(Some(Step::Shown(Shown { dot: txn.dot, hlc: txn.hlc, changes })))
    }
}
