//! Watches: changes as a stream of whole txns, each once, that goes on by itself at another node or datacenter.
//!
//! The cursor of the last item that was handed out is where a broken watch goes on; what arrived after it and was not
//! handed out comes again, so nothing is lost and nothing is told twice.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use meridian_crdt::{Mutation, Type, Value, Version};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::call::{Kind, Verdict, judge};
use super::connection::{Streamed, Streaming};
use super::error::Error;
use super::session::{Body, Session};
use crate::wire::frame::{Verb, Watched};
use crate::wire::request::{self, Document};
use crate::wire::{ApiError, ErrorCode, Token};

/// Pauses before a watch is opened again.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where a watch begins, and what its events carry.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WatchOptions {
    /// The cursor to go on from; now, if there is none.
    pub from: Option<String>,
    /// Whether events carry the keys' current values.
    pub values: bool,
}

impl WatchOptions {
    /// Begins at a cursor.
    #[must_use]
    pub fn from(mut self, cursor: impl Into<String>) -> Self {
        self.from = Some(cursor.into());
        self
    }

    /// Asks for the keys' current values beside their changes.
    #[must_use]
    pub fn values(mut self) -> Self {
        self.values = true;
        self
    }
}

/// What a txn did to one key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The key.
    pub key: String,
    /// The mutations that the txn comes to for this key, in order.
    pub ops: Vec<Mutation>,
    /// What the key reads as, at this txn or later, if that was asked for: none inside if it is absent.
    pub value: Option<Option<Value>>,
    /// The version that belongs to the value.
    pub version: Option<Version>,
}

/// A txn that changed something that is watched.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WatchTxn {
    /// The datacenter that wrote it.
    pub dc: String,
    /// Its number there.
    pub seq: u64,
    /// When it was written, in milliseconds since 1970.
    pub time_ms: u64,
    /// What it did to each watched key.
    pub changes: Vec<Change>,
    /// Where to go on after it.
    pub cursor: String,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WatchItem {
    /// A txn, whole.
    Txn(WatchTxn),
    /// The watch stands here: told at its beginning, and when it has moved on without anything to show.
    Cursor(String),
    /// What happened between the cursor that it should go on from and this one is no longer known. Read anew what you
    /// watch, in the session of the watch: what that reads covers all up to here, whichever node answers. The watch goes on from here.
    CursorExpired(String),
}

/// A watch. It ends only with an error that does not pass, which is its last item.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use futures_util::TryStreamExt;
/// use meridian_client::WatchItem;
///
/// let mut watch = client.watch_prefix("order:");
/// while let Some(item) = watch.try_next().await? {
///     match item {
///         // The first item says where the watch stands: what is written from now on will be told.
///         WatchItem::Cursor(_) => drop(client.txn().add("order:7", 1).add("order:8", 2).commit().await?),
///         WatchItem::Txn(txn) => {
///             assert_eq!((txn.dc.as_str(), txn.changes.len()), ("eu-west", 2)); // whole, or not at all
///             break;
///         }
///         _ => println!("read anew what you watch"),
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Watch {
    stream: BoxStream<'static, Result<WatchItem, Error>>,
    cursor: Arc<Mutex<Option<String>>>,
}

impl Stream for Watch {
    type Item = Result<WatchItem, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl Watch {
    pub(crate) fn new(session: Session, space: String, watched: Watched, options: WatchOptions) -> Watch {
        let cursor = Arc::new(Mutex::new(options.from));
        let open = Open {
            session,
            space,
            watched,
            values: options.values,
            cursor: Arc::clone(&cursor),
            running: None,
            refusals: 0,
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            over: false,
        };
        let stream = stream::unfold(open, |mut open| async move {
            if open.over {
                return None;
            }
            let item = open.next().await;
            open.over = item.is_err();
            Some((item, open))
        });
        Watch { stream: stream.boxed(), cursor }
    }

    /// Goes on from a cursor instead of from now; of use before the first item is taken.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// use futures_util::StreamExt;
    /// use meridian_client::WatchItem;
    ///
    /// let mut watch = client.watch_key("n");
    /// watch.next().await;
    /// let cursor = watch.cursor().expect("it stands somewhere"); // kept in a file, say
    /// drop(watch);
    /// client.counter("n").add(1).await?;
    /// let mut watch = client.watch_key("n").from(cursor);
    /// assert!(matches!(watch.next().await, Some(Ok(WatchItem::Cursor(_)))));
    /// assert!(matches!(watch.next().await, Some(Ok(WatchItem::Txn(txn))) if txn.changes[0].key == "n"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn from(self, cursor: impl Into<String>) -> Watch {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = Some(cursor.into());
        self
    }

    /// Where the watch stands: the cursor of the last item.
    pub fn cursor(&self) -> Option<String> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Open {
    session: Session,
    space: String,
    watched: Watched,
    values: bool,
    cursor: Arc<Mutex<Option<String>>>,
    running: Option<(usize, Streaming)>,
    /// How often nodes have refused it since the last item.
    refusals: usize,
    backoff: Backoff,
    over: bool,
}

/// What went wrong with one run of a watch.
enum Broken {
    /// It goes on elsewhere.
    Again(Duration),
    /// It is over.
    Over(Error),
    /// The cursor is too old; here is a fresh one, and the token with which all that it covers is read.
    Expired(String, Option<String>),
}

impl Open {
    async fn next(&mut self) -> Result<WatchItem, Error> {
        loop {
            if self.session.fleet.is_closed() {
                return Err(Error::Closed);
            }
            let broken = match self.running.take() {
                None => match self.begin().await {
                    Ok(running) => {
                        self.running = Some(running);
                        continue;
                    }
                    Err(pause) => Broken::Again(pause),
                },
                Some((dc, mut streaming)) => match streaming.next().await {
                    Some(Streamed::Event(body)) => {
                        let item = self.session.understood(dc, self.item(body))?;
                        self.running = Some((dc, streaming));
                        self.backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
                        self.refusals = 0;
                        return Ok(item);
                    }
                    Some(Streamed::End(answer)) => match answer.outcome {
                        Ok(_) => Broken::Again(Duration::ZERO),
                        Err(error) => {
                            let broken = broken(error);
                            self.refusals += usize::from(matches!(broken, Broken::Again(_)));
                            broken
                        }
                    },
                    None => Broken::Again(Duration::ZERO),
                },
            };
            match broken {
                Broken::Over(error) => return Err(error),
                Broken::Expired(cursor, token) => {
                    if let Some(token) = token {
                        self.session.shared.merge(Token::from_text(&token)?)?;
                    }
                    self.stand(&cursor);
                    return Ok(WatchItem::CursorExpired(cursor));
                }
                Broken::Again(pause) => {
                    let pause = Instant::now() + self.backoff.pause(pause);
                    self.session.fleet.closed_or(pause).await;
                }
            }
        }
    }

    /// Opens the watch at the best node that can be reached; otherwise how long to wait. A node that has refused it has its turn
    /// again after all others: it may have as many watches as it takes, or its datacenter lack what the session has seen.
    async fn begin(&self) -> Result<(usize, Streaming), Duration> {
        let fleet = &self.session.fleet;
        let from = self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let call = self.session.call(Kind::Read);
        let of_dc = |dc| fleet.nodes(dc, false).into_iter().map(move |node| (dc, node));
        let mut connections: Vec<_> = fleet
            .order()
            .into_iter()
            .flat_map(of_dc)
            .filter_map(|(dc, node)| Some((dc, node.connection().ok()?)))
            .collect();
        let turn = self.refusals % connections.len().max(1);
        connections.rotate_left(turn);
        for (dc, connection) in connections {
            let verb = Verb::Watch {
                space: self.space.clone(),
                watched: self.watched.clone(),
                from: from.clone(),
                values: self.values,
            };
            let deadline = Instant::now() + fleet.settings.attempt_timeout;
            if let Ok(streaming) = connection.stream(call.request(verb, None), deadline).await {
                return Ok((dc, streaming));
            }
        }
        Err(PAUSE_FIRST)
    }

    fn stand(&self, cursor: &str) {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = Some(cursor.to_owned());
    }

    /// Reads an event, and takes over its cursor and token.
    fn item(&self, mut body: Body) -> Result<WatchItem, String> {
        let token = match body.remove("session") {
            None | Some(Value::Nil) => None,
            Some(Value::Str(text)) => Some(Token::from_text(&text)),
            Some(Value::Bytes(bytes)) => Some(Token::from_bytes(&bytes)),
            Some(_) => return Err("the session of an event is no token".into()),
        };
        if let Some(token) = token {
            let token = token.map_err(|e| e.to_string())?;
            self.session.shared.merge(token).map_err(|e| e.to_string())?;
        }
        let cursor = cursor_of(body.remove("cursor")).ok_or("an event has no cursor")?;
        let item = match body.remove("changes") {
            None => WatchItem::Cursor(cursor.clone()),
            Some(changes) => WatchItem::Txn(txn(body, changes, cursor.clone())?),
        };
        // What was not understood has not been told.
        self.stand(&cursor);
        Ok(item)
    }
}

fn cursor_of(value: Option<Value>) -> Option<String> {
    match value? {
        Value::Str(cursor) => Some(cursor),
        Value::Bytes(cursor) => Some(URL_SAFE_NO_PAD.encode(cursor)),
        _ => None,
    }
}

fn broken(error: ApiError) -> Broken {
    let detail = |name| error.details.get(name).and_then(|text| text.as_str()).map(str::to_owned);
    if error.code == ErrorCode::CursorExpired
        && let Some(cursor) = detail("cursor")
    {
        return Broken::Expired(cursor, detail("session"));
    }
    match judge(error.code, Kind::Read) {
        Verdict::Final => Broken::Over(error.into()),
        _ => Broken::Again(Duration::from_millis(error.retry_after_ms.unwrap_or_default())),
    }
}

fn txn(mut body: Body, changes: Value, cursor: String) -> Result<WatchTxn, String> {
    let number = |body: &mut Body, name: &str| {
        let number = body.remove(name).and_then(|n| n.as_integer()).and_then(|n| u64::try_from(n).ok());
        number.ok_or_else(|| format!("an event has no {name}"))
    };
    let dc = body.remove("dc").and_then(|dc| dc.as_text().map(str::to_owned));
    let changes = changes.into_items().ok_or("the changes of an event are no list")?;
    Ok(WatchTxn {
        dc: dc.ok_or("an event has no dc")?,
        seq: number(&mut body, "seq")?,
        time_ms: number(&mut body, "time_ms")?,
        changes: changes.into_iter().map(change).collect::<Result<_, _>>()?,
        cursor,
    })
}

fn change(value: Value) -> Result<Change, String> {
    let mut fields = value.into_fields().ok_or("a change has no fields")?;
    let key = fields.remove("key").and_then(|key| key.as_text().map(str::to_owned));
    let ty = fields.remove("type").and_then(|ty| ty.as_text().and_then(Type::from_name));
    let ops = fields.remove("ops").and_then(Value::into_items).ok_or("a change has no operations")?;
    let ops = ops.into_iter().map(|op| operation(op, ty)).collect::<Result<_, _>>()?;
    let version = fields.remove("version");
    let value = version.as_ref().map(|version| match version {
        Value::Nil => None,
        _ => Some(fields.remove("value").unwrap_or(Value::Nil)),
    });
    Ok(Change {
        key: key.ok_or("a change has no key")?,
        ops,
        value,
        version: version.and_then(|version| Version::parse(version.as_text()?)),
    })
}

/// A mutation as it is told: without its type where that is the type of the change.
fn operation(value: Value, shown: Option<Type>) -> Result<Mutation, String> {
    let mut fields = value.into_fields().ok_or("an operation has no fields")?;
    let is_delete = fields.get("op").and_then(Document::as_text) == Some("delete");
    if !fields.contains_key("type") {
        match shown {
            _ if is_delete => return Ok(Mutation::Delete(None)),
            None => return Err("an operation has no type".into()),
            Some(ty) => drop(fields.insert("type".into(), Value::Str(ty.name().into()))),
        }
    }
    request::mutation(Value::Map(fields)).map_err(|e| e.to_string())
}
