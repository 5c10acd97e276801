//! Spaces: where handles, listings, transactions and watches come from.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};

use super::call::Kind;
use super::error::Error;
use super::handle::{At, Raw, handles};
use super::read::{self, KeysPage, Listed};
use super::session::{Session, address};
use super::txn::{OneShot, Transaction, TransactionOptions};
use super::watching::{Watch, WatchOptions};
use crate::wire::frame::{SPACE_DEFAULT, Verb, Watched};

/// How many keys of a listing are asked for at once.
const PAGE: usize = 1000;

/// A space of a session: its keys are its own.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// let shop = client.space("shop");
/// shop.set("tags").add("fruit").await?;
/// assert_eq!(shop.keys("").all().await?.len(), 1);
/// assert_eq!(client.keys("").all().await?.len(), 0); // the default space
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Space {
    session: Session,
    name: String,
}

/// Keys in the order of their bytes, read page by page as they are taken; the pages are not one snapshot.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use futures_util::TryStreamExt;
///
/// for city in ["oslo", "rome", "lima"] {
///     client.counter(format!("visits:{city}")).add(1).await?;
/// }
/// let mut keys = client.keys("visits:");
/// while let Some(listed) = keys.try_next().await? {
///     println!("{} is a {}", listed.key, listed.ty.name());
/// }
/// assert_eq!(client.keys("visits:").all().await?[0].key, "visits:lima");
/// # Ok(()) }
/// ```
pub struct Keys {
    stream: BoxStream<'static, Result<Listed, Error>>,
    watch_cursor: Arc<OnceLock<String>>,
}

impl Stream for Keys {
    type Item = Result<Listed, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl Keys {
    /// All keys that are still to come.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub async fn all(self) -> Result<Vec<Listed>, Error> {
        self.stream.try_collect().await
    }

    /// Where a watch begins that misses nothing that came after the keys were listed, whichever node it is opened at: a watch from
    /// now begins where that node stands, which may have got further. None until the first key, or the end, has been taken.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// use futures_util::{StreamExt, TryStreamExt};
    /// use meridian_client::WatchItem;
    ///
    /// let mut keys = client.keys("visits:");
    /// while let Some(listed) = keys.try_next().await? {
    ///     println!("{}", listed.key);
    /// }
    /// client.counter("visits:oslo").add(1).await?; // comes after what was listed
    /// let mut watch = client.watch_prefix("visits:").from(keys.watch_cursor().expect("it was listed"));
    /// assert!(matches!(watch.next().await, Some(Ok(WatchItem::Cursor(_)))));
    /// assert!(matches!(watch.next().await, Some(Ok(WatchItem::Txn(txn))) if txn.changes[0].key == "visits:oslo"));
    /// # Ok(()) }
    /// ```
    pub fn watch_cursor(&self) -> Option<&str> {
        self.watch_cursor.get().map(String::as_str)
    }
}

impl Space {
    pub(crate) fn new(session: Session, name: String) -> Space {
        Space { session, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    handles!(Session, at);

    /// A key of whatever type.
    pub fn raw(&self, key: impl Into<String>) -> Raw<Session> {
        Raw { at: self.at(key.into()) }
    }

    fn at(&self, key: String) -> At<Session> {
        At::new(self.session.clone(), address(&self.name, &key))
    }

    /// The keys that start with `prefix`; all of them if it is empty.
    pub fn keys(&self, prefix: impl Into<String>) -> Keys {
        let watch_cursor = Arc::<OnceLock<String>>::default();
        let start = (self.clone(), prefix.into(), VecDeque::new(), Some(None), watch_cursor.clone());
        let stream = stream::try_unfold(start, |(space, prefix, mut keys, mut next, first)| async move {
            loop {
                if let Some(key) = keys.pop_front() {
                    return Ok(Some((key, (space, prefix, keys, next, first))));
                }
                let Some(after) = next else { return Ok(None) };
                let page = space.keys_page(&prefix, after, PAGE).await?;
                if let Some(cursor) = page.watch_cursor {
                    // Of several pages the first one's counts.
                    first.get_or_init(|| cursor);
                }
                (keys, next) = (page.keys.into(), page.after.map(Some));
            }
        });
        Keys { stream: stream.boxed(), watch_cursor }
    }

    /// One page of at most `limit` keys that come after `after`.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// # let space = client.space("shop");
    /// space.txn().add("a", 1).add("b", 1).add("c", 1).commit().await?;
    /// let page = space.keys_page("", None, 2).await?;
    /// assert_eq!((page.keys.len(), page.after.as_deref()), (2, Some("b")));
    /// let page = space.keys_page("", page.after, 2).await?;
    /// assert_eq!((page.keys.len(), page.after), (1, None));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for every request.
    pub async fn keys_page(
        &self,
        prefix: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<KeysPage, Error> {
        let verb = Verb::List {
            space: self.name.clone(),
            prefix: prefix.to_owned(),
            after,
            limit,
            txn: None,
            ops: Vec::new(),
        };
        let done = self.session.call(Kind::Read).run(verb).await?;
        self.session.understood(done.dc, read::listing(done.body))
    }

    /// A transaction of one request: conditions, then mutations.
    pub fn txn(&self) -> OneShot {
        OneShot::new(self.session.clone(), self.name.clone())
    }

    /// Runs an interactive transaction: `body` reads from one snapshot and writes through the [`Transaction`] that it is
    /// given, and what it wrote takes place as a whole when it returns `Ok`. If another transaction has changed what
    /// this one read, `body` is run again; so it must have no other effects.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// # client.counter("alice").add(100).await?;
    /// use meridian_client::Error;
    ///
    /// let moved = client
    ///     .transaction(|txn| async move {
    ///         if *txn.counter("alice").value().await? < 30 {
    ///             return Ok::<_, Error>(false);
    ///         }
    ///         txn.counter("alice").add(-30);
    ///         txn.counter("bob").add(30);
    ///         Ok(true)
    ///     })
    ///     .await?;
    /// assert!(moved);
    /// assert_eq!((*client.counter("alice").value().await?, *client.counter("bob").value().await?), (70, 30));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `body` returns; [`Error::Conflict`] if it met conflicts at every attempt; [`Error::OutcomeUnknown`] if the
    /// answer to the commit was lost and the datacenter could not be asked again.
    pub async fn transaction<T, E, F, Fut>(&self, body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.transaction_with(TransactionOptions::default(), body).await
    }

    /// As [`Space::transaction`], with other bounds or another isolation; see [`TransactionOptions`].
    ///
    /// # Errors
    /// As [`Space::transaction`].
    pub async fn transaction_with<T, E, F, Fut>(&self, options: TransactionOptions, body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        options.run(&self.session, &self.name, body).await
    }

    /// Every change of the keys that start with `prefix`, from now on.
    pub fn watch_prefix(&self, prefix: impl Into<String>) -> Watch {
        self.watch(Watched::Prefix(prefix.into()), WatchOptions::default())
    }

    /// Every change of a key, from now on.
    pub fn watch_key(&self, key: impl Into<String>) -> Watch {
        self.watch(Watched::Key(key.into()), WatchOptions::default())
    }

    /// Every change of what is watched, from where the options say.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// use futures_util::StreamExt;
    /// use meridian_client::{Value, WatchItem, WatchOptions, Watched};
    ///
    /// let shop = client.space("shop");
    /// let mut watch = shop.watch(Watched::Key("stock".into()), WatchOptions::default().values());
    /// watch.next().await; // it stands somewhere from now on
    /// shop.counter("stock").add(12).await?;
    /// let Some(Ok(WatchItem::Txn(txn))) = watch.next().await else { panic!("a txn") };
    /// assert_eq!(txn.changes[0].value, Some(Some(Value::Int(12))));
    /// # Ok(()) }
    /// ```
    pub fn watch(&self, watched: Watched, options: WatchOptions) -> Watch {
        Watch::new(self.session.clone(), self.name.clone(), watched, options)
    }
}

/// The default space.
impl Session {
    handles!(Session, at);

    /// A key of whatever type.
    pub fn raw(&self, key: impl Into<String>) -> Raw<Session> {
        Raw { at: self.at(key.into()) }
    }

    fn at(&self, key: String) -> At<Session> {
        At::new(self.clone(), address(SPACE_DEFAULT, &key))
    }

    fn default_space(&self) -> Space {
        self.space(SPACE_DEFAULT)
    }

    /// The keys that start with `prefix`; all of them if it is empty.
    pub fn keys(&self, prefix: impl Into<String>) -> Keys {
        self.default_space().keys(prefix)
    }

    /// Every change of the keys that start with `prefix`, from now on.
    pub fn watch_prefix(&self, prefix: impl Into<String>) -> Watch {
        self.default_space().watch_prefix(prefix)
    }

    /// Every change of a key, from now on.
    pub fn watch_key(&self, key: impl Into<String>) -> Watch {
        self.default_space().watch_key(key)
    }
}
