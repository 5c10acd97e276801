//! Sessions: what a user has read and written, carried along by itself, and how strictly each request honours it.
//!
//! A session keeps one token, merged from every answer. Whoever holds the token, in this process or on another device,
//! reads these writes and never goes back behind these reads, at any node of any datacenter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_crdt::{Key, Mutation, Query, Value};

use super::call::{Call, Done, Kind};
use super::connection::Answer;
use super::error::Error;
use super::fleet::Fleet;
use super::read::{Content, Written};
use super::space::Space;
use super::txn::{OneShot, Transaction};
use crate::wire::frame::{SPACE_DEFAULT, Staleness, Verb};
use crate::wire::headers::{Commit, Consistency, WAIT_MAX};
use crate::wire::{ErrorCode, Token, request};

#[derive(Default)]
struct Known {
    token: Option<Token>,
    staleness: Vec<Staleness>,
}

/// What all handles of one session share.
#[derive(Default)]
pub(crate) struct Shared {
    known: Mutex<Known>,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn token_bytes(&self) -> Option<Vec<u8>> {
        self.known().token.as_ref().map(Token::to_bytes)
    }

    /// Adds what a token depends on.
    pub fn merge(&self, token: Token) -> Result<(), Error> {
        let mut known = self.known();
        match &mut known.token {
            None => known.token = Some(token),
            Some(own) => own.merge(&token)?,
        }
        Ok(())
    }

    /// Takes over what an answer says about the session.
    pub fn learn(&self, answer: &Answer) -> Result<(), Error> {
        if let Some(bytes) = &answer.session {
            self.merge(Token::from_bytes(bytes)?)?;
        }
        self.known().staleness.clone_from(&answer.staleness);
        Ok(())
    }
}

/// How strictly requests honour the session, and how long they may take.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    pub consistency: Consistency,
    pub commit: Commit,
    pub wait: Option<Duration>,
    pub timeout: Option<Duration>,
    pub repeat_elsewhere: bool,
}

/// A session. Clones, and the variants made by [`Session::eventual`] and its like, are the same session: they share its
/// token.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// let session = client.session();
/// session.register("name").set("Ann").await?;
/// // A session reads its own writes, whichever node or datacenter answers.
/// let name = session.register("name").get::<String>().await?;
/// assert_eq!(name.as_deref(), Some("Ann"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Session {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) levels: Levels,
}

impl Session {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Session {
        Session { fleet, shared: Arc::default(), levels: Levels::default() }
    }

    /// Everything that this session depends on, as text that is safe in URLs and headers. Empty as long as the session
    /// has neither read nor written. [`Client::resume`](super::Client::resume) goes on with it elsewhere.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let session = client.session();
    /// assert_eq!(session.token(), "");
    /// session.counter("visits").add(1).await?;
    /// let carried = session.token(); // in a cookie, a message, a file
    /// assert_eq!(*client.resume(&carried)?.counter("visits").value().await?, 1);
    /// # Ok(()) }
    /// ```
    pub fn token(&self) -> String {
        self.shared.known().token.as_ref().map(Token::to_text).unwrap_or_default()
    }

    /// Adds what another session depends on, so that this one sees what that one saw.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let (ann, bob) = (client.session(), client.session());
    /// ann.register("note").set("read this").await?;
    /// bob.join(&ann.token())?; // the token came with Ann's message
    /// let note = bob.register("note").get::<String>().await?;
    /// assert_eq!(note.as_deref(), Some("read this"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If `token` is damaged or comes from another cluster.
    pub fn join(&self, token: &str) -> Result<(), Error> {
        if token.is_empty() {
            return Ok(());
        }
        self.shared.merge(Token::from_text(token)?)
    }

    /// How stale the last answer may have been: each other datacenter with what of its changes was missing.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// client.eventual().counter("visits").value().await?;
    /// for origin in client.staleness() {
    ///     println!("behind {}: {} txns, {} ms", origin.dc, origin.txns, origin.ms);
    /// }
    /// assert!(client.staleness().is_empty()); // there is no other datacenter here
    /// # Ok(()) }
    /// ```
    pub fn staleness(&self) -> Vec<Staleness> {
        self.shared.known().staleness.clone()
    }

    /// Another space of this session.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let shop = client.space("shop");
    /// shop.counter("orders").add(1).await?;
    /// assert_eq!(*client.counter("orders").value().await?, 0); // that is the key of another space
    /// # Ok(()) }
    /// ```
    pub fn space(&self, name: impl Into<String>) -> Space {
        Space::new(self.clone(), name.into())
    }

    fn with(&self, change: impl FnOnce(&mut Levels)) -> Session {
        let mut session = self.clone();
        change(&mut session.levels);
        session
    }

    /// This session, whose reads return what the node has now, without waiting for anything.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let cached = client.eventual(); // for what may be a moment old
    /// let visits = cached.counter("visits").value().await?;
    /// assert_eq!(*visits, 0);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn eventual(&self) -> Session {
        self.with(|levels| levels.consistency = Consistency::Eventual)
    }

    /// This session, whose reads see at least everything that was acknowledged in the datacenter before they began.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let (writer, reader) = (client.session(), client.session());
    /// writer.flag("open").enable().await?;
    /// // The reader knows nothing of the writer's token, and needs not to.
    /// assert!(*reader.linearizable().flag("open").get().await?);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn linearizable(&self) -> Session {
        self.with(|levels| levels.consistency = Consistency::Linearizable)
    }

    /// This session, whose writes return when as many datacenters as said hold them. If they do not in time, the write
    /// stays and [`Error::CommitTimeout`] says who holds it.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dcs = meridian::embedded::Setup::default().start_all(&["eu-west", "us-east"]).await?;
    /// # let (eu, us) = (dcs[0].addr(), dcs[1].addr());
    /// use meridian_client::{Client, Commit};
    ///
    /// let client = Client::builder().dc("eu-west", [eu]).dc("us-east", [us]).connect().await?;
    /// client.commit(Commit::Dcs(2)).register("deed").set("signed").await?;
    /// // Now the loss of a whole datacenter does not lose it: the other one has it already.
    /// let far = Client::builder().dc("us-east", [us]).connect().await?;
    /// let deed = far.eventual().register("deed").get::<String>().await?;
    /// assert_eq!(deed.as_deref(), Some("signed"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn commit(&self, level: Commit) -> Session {
        self.with(|levels| levels.commit = level)
    }

    /// This session, for whose requests a node waits at most so long to catch up; at most 30 s.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// use std::time::Duration;
    ///
    /// let hasty = client.wait(Duration::from_millis(50)).timeout(Duration::from_secs(2));
    /// hasty.counter("visits").add(1).await?;
    /// assert_eq!(hasty.token(), client.token()); // the same session, in more of a hurry
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn wait(&self, wait: Duration) -> Session {
        self.with(|levels| levels.wait = Some(wait.min(WAIT_MAX)))
    }

    /// This session, whose requests take at most so long in all, failover included.
    #[must_use]
    pub fn timeout(&self, timeout: Duration) -> Session {
        self.with(|levels| levels.timeout = Some(timeout))
    }

    /// This session, whose mutations may be repeated in another datacenter although they may have taken place in the
    /// first one. Say so only of mutations that do no harm when done twice, also when something came in between: setting
    /// what nobody else sets, adding to a set from which nobody removes.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// // Nothing is ever removed from this set, so adding an element twice is adding it once.
    /// client.repeat_elsewhere().set("seen").add("article-7").await?;
    /// assert!(client.set("seen").contains("article-7").await?);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn repeat_elsewhere(&self) -> Session {
        self.with(|levels| levels.repeat_elsewhere = true)
    }

    /// A transaction of one request in the default space: conditions, then mutations.
    pub fn txn(&self) -> OneShot {
        self.space(SPACE_DEFAULT).txn()
    }

    /// Runs an interactive transaction in the default space; see [`Space::transaction`].
    ///
    /// # Errors
    /// As [`Space::transaction`].
    pub async fn transaction<T, E, F, Fut>(&self, body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.space(SPACE_DEFAULT).transaction(body).await
    }

    pub(crate) fn call(&self, kind: Kind) -> Call<'_> {
        Call { fleet: &self.fleet, session: &self.shared, levels: &self.levels, kind }
    }

    pub(crate) fn write_kind(&self) -> Kind {
        Kind::Write { repeat_elsewhere: self.levels.repeat_elsewhere }
    }

    pub(crate) async fn read(&self, key: &Key, query: Query) -> Result<Option<Content>, Error> {
        let verb = Verb::Read { key: key.clone(), query, txn: None, ops: Vec::new() };
        content(self.call(Kind::Read).run(verb).await, |dc| self.fleet.dcs[dc].name.clone())
    }

    pub(crate) async fn write(&self, key: Key, mutation: Mutation) -> Result<Written, Error> {
        let done = self.call(self.write_kind()).run(Verb::Write { key, mutation }).await?;
        self.understood(done.dc, Written::from_body(done.body))
    }

    pub(crate) fn understood<T>(&self, dc: usize, read: Result<T, String>) -> Result<T, Error> {
        read.map_err(|what| Error::Protocol { dc: self.fleet.dcs[dc].name.clone(), what })
    }
}

/// What a read came to; a key without a value is none.
pub(crate) fn content(
    done: Result<Done, Error>,
    dc: impl Fn(usize) -> String,
) -> Result<Option<Content>, Error> {
    match done {
        Ok(Done { body, dc: at, .. }) => match Content::from_body(body) {
            Ok(content) => Ok(Some(content)),
            Err(what) => Err(Error::Protocol { dc: dc(at), what }),
        },
        Err(Error::Refused(error)) if error.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The address, if space and key may be such.
pub(crate) fn address(space: &str, key: &str) -> Result<Key, Error> {
    Ok(request::key(space, key)?)
}

/// The fields of an answer.
pub(crate) type Body = BTreeMap<String, Value>;
