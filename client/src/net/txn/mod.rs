//! Transactions: many keys, all or nothing.
//!
//! An interactive [`Transaction`] reads from one snapshot on one connection; its writes wait in this process and travel
//! with its next read or with the commit. The commit is named like every mutation, so that its outcome is exact in its
//! datacenter: when its answer is lost, it is repeated under its name at any node there, and the log says what became of
//! it, or that it never will happen. A [`OneShot`] is one request: conditions and mutations.

mod commit;
mod one_shot;
mod options;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meridian_crdt::{Key, Mutation, Query};
use tokio::time::Instant;

pub use one_shot::OneShot;
pub use options::TransactionOptions;

use super::call::{Kind, too_large};
use super::connection::{Connection, Unanswered};
use super::error::Error;
use super::handle::{At, Raw, handles};
use super::read::{self, Content, Listed};
use super::session::{Body, Session, address};
use crate::wire::frame::{Isolation, Ops, Verb};
use crate::wire::request::{Document, TXN_OPS_MAX};
use crate::wire::{ApiError, ErrorCode};

/// How many keys of a listing are asked for at once.
const PAGE: usize = 1000;
/// How many pages one scan of a transaction reads at most.
const SCAN_PAGES_MAX: usize = 100;

/// Where a transaction runs.
#[derive(Clone)]
struct Place {
    dc: usize,
    connection: Arc<Connection>,
    id: u64,
}

#[derive(Default)]
struct State {
    /// Mutations that the node does not have yet.
    ops: Ops,
    /// Whether the node has some already.
    wrote: bool,
    place: Option<Place>,
    /// The first thing that went wrong; it keeps the transaction from committing.
    failure: Option<Error>,
    over: bool,
}

struct Inner {
    session: Session,
    space: String,
    isolation: Isolation,
    deadline: Instant,
    state: Mutex<State>,
    /// Requests of one transaction are written one after the other.
    turn: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.place.take().filter(|_| !state.over) {
            place.connection.post_and_forget(Verb::Abort { txn: place.id });
        }
    }
}

/// A read whose answer is not there yet. Where it carries mutations and is given up, nobody knows whether the node has taken
/// them, and the transaction must not be committed as if it had.
struct Unheard<'t> {
    txn: &'t Transaction,
    carries_ops: bool,
}

impl Unheard<'_> {
    /// The answer is there, or it is known that none will come: whoever asked is told.
    fn heard(mut self) {
        self.carries_ops = false;
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if self.carries_ops {
            let reason = "a read was given up that carried mutations of the transaction".into();
            self.txn.fail(Error::Unavailable { reason, error: None });
        }
    }
}

/// A transaction that runs, as the closure of [`Space::transaction`](super::Space::transaction) is given it. Handles
/// that it makes read from its snapshot and see what it wrote; their mutations take place at its commit.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use meridian_client::{Error, Transaction};
///
/// async fn book(txn: Transaction) -> Result<u64, Error> {
///     txn.set("seats").add("12A"); // nothing is sent, so there is nothing to wait for
///     txn.set("seats").size().await // its own write is in what it reads
/// }
/// let seats = client.transaction(book).await?;
/// assert_eq!(seats, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Transaction {
    inner: Arc<Inner>,
}

impl Transaction {
    handles!(Transaction, at);

    /// A key of whatever type.
    pub fn raw(&self, key: impl Into<String>) -> Raw<Transaction> {
        Raw { at: self.at(key.into()) }
    }

    /// All keys that start with `prefix`. A key that appears there or vanishes before the commit is a conflict.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// use meridian_client::Error;
    ///
    /// let number = client
    ///     .transaction(|txn| async move {
    ///         let number = txn.keys("ticket:").await?.len() + 1;
    ///         txn.register(format!("ticket:{number}")).set("open");
    ///         Ok::<_, Error>(number) // nobody else can have taken it
    ///     })
    ///     .await?;
    /// assert_eq!(number, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for every request; `too_large` if there are very many.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        let mut all = Vec::new();
        let mut after = None;
        for _ in 0..SCAN_PAGES_MAX {
            let (space, prefix) = (self.inner.space.clone(), prefix.to_owned());
            let from = after.take();
            let body =
                self.ask(|txn, ops| Verb::List { space, prefix, after: from, limit: PAGE, txn, ops }).await?;
            let page = self.inner.session.understood(self.dc(), read::listing(body));
            let page = self.keep_failure(page)?;
            all.extend(page.keys);
            after = page.after;
            if after.is_none() {
                return Ok(all);
            }
        }
        let error = ApiError::new(ErrorCode::TooLarge, "the scan of a transaction has too many keys");
        self.keep_failure(Err(error.into()))
    }

    fn begin(session: &Session, space: &str, isolation: Isolation, deadline: Instant) -> Transaction {
        // None of its requests may take longer than what is left for the whole.
        let each = session.levels.timeout.unwrap_or(session.fleet.settings.request_timeout);
        let each = each.min(deadline.saturating_duration_since(Instant::now()));
        let inner = Inner {
            session: session.timeout(each),
            space: space.to_owned(),
            isolation,
            deadline,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        Transaction { inner: Arc::new(inner) }
    }

    fn at(&self, key: String) -> At<Transaction> {
        At::new(self.clone(), address(&self.inner.space, &key))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dc(&self) -> usize {
        self.state().place.as_ref().map_or(0, |place| place.dc)
    }

    /// Adds a mutation.
    pub(crate) fn buffer(&self, key: Key, mutation: Mutation) {
        let mut state = self.state();
        if state.ops.len() >= TXN_OPS_MAX {
            let message = format!("a transaction has at most {TXN_OPS_MAX} operations");
            state.failure.get_or_insert(ApiError::new(ErrorCode::TooLarge, message).into());
            return;
        }
        state.ops.push((key, mutation));
    }

    /// Notes what went wrong.
    pub(crate) fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
    }

    fn keep_failure<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        outcome.inspect_err(|error| self.fail(error.clone()))
    }

    pub(crate) async fn read(&self, key: &Key, query: Query) -> Result<Option<Content>, Error> {
        let key = key.clone();
        match self.ask(|txn, ops| Verb::Read { key, query, txn, ops }).await {
            Ok(body) => {
                let content = self.inner.session.understood(self.dc(), Content::from_body(body));
                self.keep_failure(content).map(Some)
            }
            Err(Error::Refused(error)) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a read with the mutations that wait. What fails is noted, except that a key has no value.
    async fn ask(&self, verb: impl FnOnce(Option<u64>, Ops) -> Verb) -> Result<Body, Error> {
        let outcome = self.ask_now(verb).await;
        match &outcome {
            Err(Error::Refused(error)) if error.code == ErrorCode::NotFound => outcome,
            _ => self.keep_failure(outcome),
        }
    }

    async fn ask_now(&self, verb: impl FnOnce(Option<u64>, Ops) -> Verb) -> Result<Body, Error> {
        let turn = self.inner.turn.lock().await;
        let place = self.place().await?;
        let ops = {
            let mut state = self.state();
            let ops = std::mem::take(&mut state.ops);
            state.wrote |= !ops.is_empty();
            ops
        };
        let unheard = Unheard { txn: self, carries_ops: !ops.is_empty() };
        let session = &self.inner.session;
        let call = session.call(Kind::Read);
        let request = call.request(verb(Some(place.id), ops), None);
        let until = self.inner.deadline.min(Instant::now() + call.attempt_time());
        let asking = async {
            let in_flight = place.connection.start(request, until).await?;
            // The node does the requests of a transaction in the order in which they were written, so the next one need
            // not wait for this one's answer.
            drop(turn);
            in_flight.answer(until).await
        };
        let answer = asking.await;
        unheard.heard();
        let answer = answer.map_err(|why| match why {
            Unanswered::TooLarge(limit) => too_large(limit),
            Unanswered::NotSent(reason) | Unanswered::Lost(reason) => {
                let reason = format!("the transaction's node is lost: {reason}");
                Error::Unavailable { reason, error: None }
            }
        })?;
        session.shared.learn(&answer)?;
        Ok(answer.outcome?)
    }

    /// Where it runs; it begins now if it has not yet.
    async fn place(&self) -> Result<Place, Error> {
        {
            let state = self.state();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.over {
                let message = "the transaction is over";
                return Err(ApiError::new(ErrorCode::Conflict, message).into());
            }
            if let Some(place) = &state.place {
                return Ok(place.clone());
            }
        }
        let session = &self.inner.session;
        let done = session.call(Kind::Read).run(Verb::Begin { isolation: self.inner.isolation }).await?;
        let id = done.body.get("txn").and_then(Document::as_integer).and_then(|id| u64::try_from(id).ok());
        let id = session.understood(done.dc, id.ok_or_else(|| "begin tells no transaction".into()))?;
        let place = Place { dc: done.dc, connection: done.connection, id };
        self.state().place = Some(place.clone());
        Ok(place)
    }
}
