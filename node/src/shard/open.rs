//! The transactions that are open on a node, and what becomes of each request to one: everything about them but waiting.
//!
//! A transaction is found by an id that nobody can guess, for a bounded time: a view keeps what others overwrite on the
//! disk, so an abandoned transaction must end by itself. Their number is bounded too.
//!
//! A commit is decided in two steps, with a write through the log between them: [`Transactions::submit`] takes the
//! transaction out and says what is to be written, [`Transactions::finish`] is told what became of that. A commit of a
//! transaction that is not open here asks the log what became of its request id instead.
//!
//! Invariant: a transaction is submitted at most once, unless its outcome says that nothing was done.
//!
//! It knows no log, no other node and no clock: times are given, in milliseconds of the node's monotonic clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Key, Listing, Mutation, Query, ReadCells, Reading, Vector};

use super::WriteRequest;
use super::held::Held;
use crate::storage::StateView;
use crate::txn::entry::FRAME_BYTES;
use crate::txn::{
    Answer, Commit, Interactive, InteractiveBounds, InteractiveError, Isolation, RequestId, reads,
};

/// Of how many transactions that were submitted without a request id it is remembered that they were.
const SUBMITTED_KEPT_MAX: usize = 4096;
/// How soon a step may be tried again that was refused for lack of memory, in milliseconds.
const FULL_RETRY_MS: u64 = 100;
/// How often another id is drawn if one is taken.
const ID_DRAWS_MAX: usize = 8;

/// A transaction that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its id, of use on this node only.
    pub id: u64,
    /// How long it lives.
    pub expires_in: Duration,
}

/// What was read, and the dots that the reader's session depends on by now.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen<T> {
    /// What was read.
    pub seen: T,
    /// The dots of everything that the transaction has looked at so far.
    pub touched: Vector,
}

/// How a transaction is to commit.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// The transaction.
    pub txn: u64,
    /// Operations to do last, besides those that were written before.
    pub ops: Vec<(Key, Mutation)>,
    /// The request id. With one a repeated commit gets the first answer; without one it gets `outcome_unknown`.
    pub id: Option<RequestId>,
    /// What the session depends on, besides what the transaction has looked at.
    pub session: Vector,
    /// How long the leader may wait for that.
    pub wait: Duration,
}

/// Bounds of the transactions of a node.
#[derive(Clone, Copy, Debug)]
pub struct TransactionBounds {
    /// Transactions open at once.
    pub open_max: usize,
    /// How long one stays open, in milliseconds.
    pub life_ms: u64,
    /// Bytes of memory that all of them take, about.
    pub memory_bytes_max: usize,
    /// Bounds of each.
    pub each: InteractiveBounds,
}

/// What has become of transactions since the node started.
#[derive(Debug, Default)]
pub struct TransactionCounters {
    /// Begun.
    pub begun: AtomicU64,
    /// Committed, also without having written anything.
    pub committed: AtomicU64,
    /// Refused because what they had read or written was changed by others.
    pub conflicts: AtomicU64,
    /// Ended because their life was over.
    pub expired: AtomicU64,
}

/// An open transaction; none while or after it commits.
type Slot<V> = Arc<Mutex<Option<Held<V>>>>;

struct Open<V> {
    expires_ms: u64,
    slot: Slot<V>,
}

struct Inner<V> {
    open: BTreeMap<u64, Open<V>>,
    by_expiry: BTreeSet<(u64, u64)>,
    /// The latest transactions that were submitted without a request id.
    submitted: VecDeque<u64>,
}

/// The open transactions of a node. Times are those of its monotonic clock.
pub struct Transactions<V = StateView> {
    bounds: TransactionBounds,
    inner: Mutex<Inner<V>>,
    /// Bytes of memory that they take.
    memory_bytes: Arc<AtomicUsize>,
    /// What has become of them.
    pub counters: TransactionCounters,
}

/// A transaction on its way to the log: out of the registry, so that nothing more happens to it.
#[derive(Debug)]
struct Taken<V> {
    id: u64,
    expires_ms: u64,
    held: Held<V>,
}

/// What a commit comes to before anything is written.
#[derive(Debug)]
pub enum Submission<V> {
    /// There is nothing to write.
    Answered(Answer),
    /// This is to be written; [`Transactions::finish`] must be told what became of it.
    Write(Box<WriteRequest>, Box<Submitted<V>>),
}

/// A commit whose write is under way.
#[derive(Debug)]
pub struct Submitted<V> {
    /// None: the transaction was not open, and the log is asked what became of it.
    taken: Option<Taken<V>>,
    /// What the transaction has looked at.
    touched: Vector,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<V: ReadCells> Transactions<V> {
    /// None open.
    pub fn new(bounds: TransactionBounds) -> Self {
        let inner = Inner { open: BTreeMap::new(), by_expiry: BTreeSet::new(), submitted: VecDeque::new() };
        let (memory_bytes, counters) = (Arc::default(), TransactionCounters::default());
        Self { bounds, inner: Mutex::new(inner), memory_bytes, counters }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        lock(&self.inner).open.len()
    }

    /// About how many bytes of memory they take.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Refuses if all of them take as much memory as they may. It is asked once for each request, before anything of that is done:
    /// beyond the bound each transaction grows by what it is in the middle of.
    pub fn room_to_grow(&self) -> Result<(), ApiError> {
        if self.memory_bytes() < self.bounds.memory_bytes_max {
            return Ok(());
        }
        let message = "the open transactions of this node take as much memory as they may; nothing was done, and the transaction \
                       goes on while it lives";
        Err(ApiError::new(ErrorCode::Overloaded, message)
            .with("limit", self.bounds.memory_bytes_max)
            .retry_after_ms(FULL_RETRY_MS))
    }

    /// Refuses if no more may be open.
    pub fn room(&self, now_ms: u64) -> Result<(), ApiError> {
        self.expire(now_ms);
        let inner = lock(&self.inner);
        if inner.open.len() < self.bounds.open_max {
            return Ok(());
        }
        let first_ends_ms = inner.by_expiry.first().map_or(0, |(at, _)| at.saturating_sub(now_ms));
        let message = "this node has as many transactions open as it takes";
        Err(ApiError::new(ErrorCode::Overloaded, message)
            .with("limit", self.bounds.open_max)
            .retry_after_ms(first_ends_ms.clamp(10, 1_000)))
    }

    /// Opens a transaction over `view` under the first free id that is drawn.
    pub fn begin(
        &self,
        view: V,
        isolation: Isolation,
        now_ms: u64,
        mut draw: impl FnMut() -> u64,
    ) -> Result<Begun, ApiError> {
        self.room(now_ms)?;
        let txn = Interactive::begin(view, isolation, self.bounds.each).map_err(told)?;
        let mut inner = lock(&self.inner);
        let free = (0..ID_DRAWS_MAX).map(|_| draw()).find(|id| !inner.open.contains_key(id));
        let Some(id) = free else {
            return Err(ApiError::new(ErrorCode::Internal, "no id could be drawn for the transaction"));
        };
        let held = Held::new(txn, self.memory_bytes.clone());
        inner.put(id, now_ms.saturating_add(self.bounds.life_ms), held);
        count(&self.counters.begun);
        Ok(Begun { id, expires_in: Duration::from_millis(self.bounds.life_ms) })
    }

    /// Does something in an open transaction. Requests of one transaction are done one after the other.
    fn with<T>(
        &self,
        id: u64,
        now_ms: u64,
        act: impl FnOnce(&mut Interactive<V>) -> T,
    ) -> Result<T, ApiError> {
        let slot =
            lock(&self.inner).open.get(&id).filter(|open| open.expires_ms > now_ms).map(|o| o.slot.clone());
        let slot = slot.ok_or_else(reads::not_open)?;
        let mut open = lock(&slot);
        let held = open.as_mut().ok_or_else(reads::not_open)?;
        let done = act(&mut held.txn);
        held.count();
        Ok(done)
    }

    /// Takes a transaction out; none if it is not open.
    fn take(&self, id: u64, now_ms: u64) -> Option<Taken<V>> {
        let open = lock(&self.inner).remove(id)?;
        if open.expires_ms <= now_ms {
            count(&self.counters.expired);
            return None;
        }
        let held = lock(&open.slot).take()?;
        Some(Taken { id, expires_ms: open.expires_ms, held })
    }

    /// Puts a transaction back of which nothing was done.
    fn put_back(&self, taken: Taken<V>) {
        lock(&self.inner).put(taken.id, taken.expires_ms, taken.held);
    }

    /// Remembers that a transaction was submitted without a request id: nobody can tell later what became of it.
    fn note_submitted(&self, id: u64) {
        let submitted = &mut lock(&self.inner).submitted;
        if submitted.len() == SUBMITTED_KEPT_MAX {
            submitted.pop_front();
        }
        submitted.push_back(id);
    }

    fn was_submitted(&self, id: u64) -> bool {
        lock(&self.inner).submitted.contains(&id)
    }

    /// Ends a transaction without doing anything of it. Says whether it was open.
    pub fn abort(&self, id: u64) -> bool {
        // The view is let go outside of the lock.
        let open = lock(&self.inner).remove(id);
        open.is_some()
    }

    /// Reads a key in an open transaction.
    pub fn read(&self, id: u64, key: &Key, query: &Query, now_ms: u64) -> Result<Seen<Reading>, ApiError> {
        self.with(id, now_ms, |txn| {
            let seen = txn.read(key, query).map_err(told)?;
            Ok(Seen { seen, touched: txn.touched().clone() })
        })?
    }

    /// Lists at most `limit` keys of `space` that start with `prefix` and come after `after` in an open transaction.
    pub fn scan(
        &self,
        id: u64,
        (space, prefix): (&str, &str),
        after: Option<&str>,
        limit: usize,
        now_ms: u64,
    ) -> Result<Seen<Listing>, ApiError> {
        self.with(id, now_ms, |txn| {
            let seen = txn.scan(space, prefix, after, limit).map_err(told)?;
            Ok(Seen { seen, touched: txn.touched().clone() })
        })?
    }

    /// Does operations in an open transaction, all or none. The answer has no results: nothing is done yet, and what
    /// would be refused when it commits is refused now. The transaction goes on after a refusal.
    pub fn write(&self, id: u64, ops: Vec<(Key, Mutation)>, now_ms: u64) -> Result<Answer, ApiError> {
        self.with(id, now_ms, |txn| {
            let done = txn.write(ops);
            let touched = txn.touched().clone();
            match done {
                Ok(()) => Ok(Answer::Done { dot: None, results: Vec::new(), touched }),
                Err(InteractiveError::Refused(error)) => Ok(Answer::Refused { error, touched }),
                Err(error) => Err(told(error)),
            }
        })?
    }

    /// Begins to commit an open transaction: nothing more is done in it until [`Self::finish`] is told what became of
    /// what is to be written. One that is not open may have committed before, and the answer have been lost: the log
    /// knows by the request id.
    pub fn submit(&self, commit: CommitRequest, now_ms: u64) -> Result<Submission<V>, ApiError> {
        let Some(mut taken) = self.take(commit.txn, now_ms) else { return self.settle(commit) };
        let asked = taken.held.txn.commit(commit.ops);
        let touched = taken.held.txn.touched().clone();
        let Commit { ops, reads, bytes } = match asked {
            Ok(asked) => asked,
            Err(error) => {
                self.put_back(taken);
                return match error {
                    InteractiveError::Refused(error) => {
                        Ok(Submission::Answered(Answer::Refused { error, touched }))
                    }
                    error => Err(told(error)),
                };
            }
        };
        if ops.is_empty() {
            let answer = Answer::Done { dot: None, results: Vec::new(), touched };
            self.count_answer(&answer);
            return Ok(Submission::Answered(answer));
        }
        if commit.id.is_none() {
            self.note_submitted(taken.id);
        }
        let mut session = commit.session;
        session.join(&touched);
        let request = WriteRequest { id: commit.id, ops, session, bytes, reads, ..within(commit.wait) };
        Ok(Submission::Write(Box::new(request), Box::new(Submitted { taken: Some(taken), touched })))
    }

    /// What is to be written about a commit of a transaction that is not open, or not open to whoever asks.
    pub fn settle(&self, commit: CommitRequest) -> Result<Submission<V>, ApiError> {
        if commit.id.is_some() {
            let (id, session) = (commit.id, commit.session);
            let request =
                WriteRequest { id, session, settle: true, bytes: FRAME_BYTES, ..within(commit.wait) };
            let nothing = Box::new(Submitted { taken: None, touched: Vector::new() });
            return Ok(Submission::Write(Box::new(request), nothing));
        }
        if self.was_submitted(commit.txn) {
            let message =
                "the transaction was submitted before, without a request id: what became of it is not known";
            return Err(ApiError::new(ErrorCode::OutcomeUnknown, message));
        }
        Err(reads::not_open())
    }

    /// Ends a commit with what became of its write. Any answer ends the transaction; an error that says that nothing was
    /// done leaves it open, so that it may be committed once more while it lives.
    pub fn finish(
        &self,
        submitted: Submitted<V>,
        written: Result<Answer, ApiError>,
    ) -> Result<Answer, ApiError> {
        let Submitted { taken, touched } = submitted;
        let Some(taken) = taken else { return written };
        match written {
            Ok(Answer::Refused { error, .. })
                if matches!(error.code, ErrorCode::NotCaughtUp | ErrorCode::NoLeader) =>
            {
                // The datacenter takes no writes for now, or not yet: nothing was decided.
                self.put_back(taken);
                Err(error)
            }
            Ok(answer) => {
                // What was read and not checked counts as well: the log does not know of it.
                let answer = answer.having_seen(&touched);
                self.count_answer(&answer);
                Ok(answer)
            }
            Err(error) => {
                if is_not_done(&error) {
                    self.put_back(taken);
                }
                Err(error)
            }
        }
    }

    /// Ends the transactions whose life is over.
    pub fn expire(&self, now_ms: u64) {
        loop {
            let mut inner = lock(&self.inner);
            let Some((_, id)) = inner.by_expiry.first().copied().filter(|(at, _)| *at <= now_ms) else {
                return;
            };
            let over = inner.remove(id);
            drop(inner);
            drop(over);
            count(&self.counters.expired);
        }
    }

    /// Counts what a commit came to.
    fn count_answer(&self, answer: &Answer) {
        match answer {
            Answer::Done { .. } => count(&self.counters.committed),
            Answer::Refused { error, .. } if error.code == ErrorCode::Conflict => {
                count(&self.counters.conflicts)
            }
            Answer::Refused { .. } => {}
        }
    }
}

impl<V> Inner<V> {
    fn put(&mut self, id: u64, expires_ms: u64, txn: Held<V>) {
        self.by_expiry.insert((expires_ms, id));
        self.open.insert(id, Open { expires_ms, slot: Arc::new(Mutex::new(Some(txn))) });
    }

    fn remove(&mut self, id: u64) -> Option<Open<V>> {
        let open = self.open.remove(&id)?;
        self.by_expiry.remove(&(open.expires_ms, id));
        Some(open)
    }
}

/// The error that a client is told.
fn told<E: std::error::Error>(error: InteractiveError<E>) -> ApiError {
    match error {
        InteractiveError::Refused(error) => error,
        InteractiveError::Store(error) => {
            tracing::error!(%error, "the state cannot be read");
            ApiError::new(ErrorCode::Internal, "the state of this node cannot be read; its log says why")
        }
    }
}

/// Whether an error says that nothing was done, so that the same transaction may be committed once more.
fn is_not_done(error: &ApiError) -> bool {
    !matches!(error.code, ErrorCode::OutcomeUnknown | ErrorCode::Internal)
}

fn within(wait: Duration) -> WriteRequest {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    WriteRequest { wait_ms, ..WriteRequest::default() }
}

#[cfg(test)]
mod tests {
    use meridian_crdt::{CounterOp, MemCells, OriginName, RegisterOp, Value};

    use super::*;
    use crate::txn::{Entry, Item, ShardState, apply_entry};

    const LIFE_MS: u64 = 1_000;

    fn registry(open_max: usize) -> Transactions<MemCells> {
        let each = InteractiveBounds { ops_max: 10, bytes_max: 10_000 };
        let memory_bytes_max = 5_000;
        Transactions::new(TransactionBounds { open_max, life_ms: LIFE_MS, memory_bytes_max, each })
    }

    /// The rows of a datacenter that has begun its first life and written nothing.
    fn view() -> MemCells {
        let (mut state, mut cells) = (ShardState::new(), MemCells::new());
        let name = OriginName { dc: "eu".into(), epoch: uuid::Uuid::from_u128(1) };
        let entry = Entry { now_ms: 1, items: vec![Item::Mint { name, lost: None, ends: None }] };
        apply_entry(&mut state, &mut cells, entry).expect("memory");
        cells
    }

    fn begin(registry: &Transactions<MemCells>, id: u64, now_ms: u64) -> Result<u64, ErrorCode> {
        let begun = registry.begin(view(), Isolation::Serializable, now_ms, || id);
        begun.map(|begun| begun.id).map_err(|error| error.code)
    }

    fn add() -> Vec<(Key, Mutation)> {
        vec![(Key::new("default", "n").expect("valid"), Mutation::Counter(CounterOp::Add(1)))]
    }

    #[test]
    fn no_more_are_open_than_allowed_and_the_end_of_one_makes_room() {
        let registry = registry(2);
        assert_eq!((begin(&registry, 1, 0), begin(&registry, 2, 10)), (Ok(1), Ok(2)));
        assert_eq!(begin(&registry, 3, 20), Err(ErrorCode::Overloaded));
        assert!(registry.abort(1) && !registry.abort(1));
        assert_eq!(begin(&registry, 3, 30), Ok(3));
        assert_eq!(begin(&registry, 4, 10 + LIFE_MS), Ok(4), "an expired one is no longer open");
        assert_eq!(registry.counters.expired.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_expired_one_is_gone_whether_or_not_it_was_swept_and_its_error_says_so() {
        let registry = registry(10);
        assert_eq!(begin(&registry, 1, 0), Ok(1));
        assert!(registry.with(1, LIFE_MS - 1, |txn| txn.write(add()).is_ok()).expect("open"));
        let error = registry.with(1, LIFE_MS, |_| ()).expect_err("expired");
        assert_eq!((error.code, error.details["reason"].as_str()), (ErrorCode::Conflict, Some("expired")));
        assert_eq!(registry.open(), 1);
        registry.expire(LIFE_MS);
        assert_eq!(registry.open(), 0);
        assert_eq!(begin(&registry, 1, 0), Ok(1));
        assert!(registry.take(1, LIFE_MS).is_none(), "it cannot commit either");
        assert_eq!((registry.open(), registry.counters.expired.load(Ordering::Relaxed)), (0, 2));
    }

    #[test]
    fn one_that_was_taken_to_commit_is_closed_until_it_is_put_back_with_the_rest_of_its_life() {
        let registry = registry(10);
        assert_eq!(begin(&registry, 1, 0), Ok(1));
        let taken = registry.take(1, 5).expect("open");
        assert!(registry.take(1, 5).is_none() && registry.with(1, 5, |_| ()).is_err());
        registry.put_back(taken);
        assert!(registry.with(1, 6, |_| ()).is_ok() && registry.with(1, LIFE_MS, |_| ()).is_err());
    }

    #[test]
    fn what_all_of_them_take_is_bounded_and_given_back_however_they_end() {
        let registry = registry(10);
        assert_eq!(
            (begin(&registry, 1, 0), begin(&registry, 2, 0), registry.memory_bytes()),
            (Ok(1), Ok(2), 0)
        );
        let long = vec![(
            Key::new("default", "k").expect("valid"),
            Mutation::Register(RegisterOp::Set(Value::Str("x".repeat(5_000)))),
        )];
        assert!(matches!(registry.write(1, long, 1), Ok(Answer::Done { .. })));
        assert!(registry.memory_bytes() > 10_000, "the operation, and the row that it makes");
        let refused = registry.room_to_grow().expect_err("there is no room");
        assert_eq!((refused.code, refused.retry_after_ms), (ErrorCode::Overloaded, Some(FULL_RETRY_MS)));
        let commit = CommitRequest { txn: 1, ..CommitRequest::default() };
        let Ok(Submission::Write(_, submitted)) = registry.submit(commit, 4) else { panic!("to be written") };
        assert!(registry.room_to_grow().is_err(), "it may come back");
        drop(submitted);
        assert_eq!((registry.memory_bytes(), registry.room_to_grow()), (0, Ok(())));
        let key = Key::new("default", "n").expect("valid");
        assert!(registry.read(2, &key, &Query::default(), 5).is_ok());
        assert!(registry.memory_bytes() > 0, "what was read is remembered");
        registry.expire(LIFE_MS);
        assert_eq!(registry.memory_bytes(), 0);
    }

    #[test]
    fn a_drawn_id_that_is_taken_is_drawn_again() {
        let registry = registry(10);
        assert_eq!((begin(&registry, 1, 0), begin(&registry, 1, 0)), (Ok(1), Err(ErrorCode::Internal)));
        let mut ids = [1, 1, 9].into_iter();
        let begun = registry.begin(view(), Isolation::Snapshot, 0, || ids.next().expect("three are enough"));
        assert_eq!(begun.expect("free").id, 9);
    }

    #[test]
    fn a_commit_whose_write_was_not_done_may_be_repeated_and_one_that_may_have_been_done_is_settled() {
        for (code, open) in [(ErrorCode::NoLeader, 1), (ErrorCode::OutcomeUnknown, 0)] {
            let registry = registry(10);
            assert_eq!(begin(&registry, 1, 0), Ok(1));
            registry.write(1, add(), 0).expect("open");
            let commit = CommitRequest { txn: 1, ..CommitRequest::default() };
            let Ok(Submission::Write(write, submitted)) = registry.submit(commit.clone(), 1) else {
                panic!("there is something to write")
            };
            assert_eq!((write.ops.len(), write.settle, registry.open()), (1, false, 0));
            let error =
                registry.finish(*submitted, Err(ApiError::new(code, ""))).expect_err("as it was written");
            assert_eq!((error.code, registry.open()), (code, open));
            let id = Some(RequestId::Free("r".into()));
            let Ok(Submission::Write(again, _)) = registry.submit(CommitRequest { id, ..commit.clone() }, 2)
            else {
                panic!("the log is asked")
            };
            assert_eq!((again.ops.len(), again.settle), (open, open == 0));
            assert!(registry.submit(commit, 3).is_err_and(|e| e.code == ErrorCode::OutcomeUnknown));
        }
    }

    #[test]
    fn the_memory_of_submitted_ones_is_bounded() {
        let registry = registry(1);
        for id in 0..=SUBMITTED_KEPT_MAX as u64 {
            registry.note_submitted(id);
        }
        assert!(registry.was_submitted(1) && !registry.was_submitted(0));
    }
}
