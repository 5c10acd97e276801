//! One connection to one node: many requests in flight, each answered as it completes.
//!
//! For every request that ends without an answer it is known whether it may have reached the node: a request that was
//! still in the queue when its caller left, or when the connection broke, is never written. On this rests the rule that
//! a mutation goes to another datacenter only if it was certainly not done in the first.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use meridian_crdt::Value;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::transport::{Connect, Transport};
use crate::wire::frame::{Frame, Request, Staleness, VERSION, Verb};
use crate::wire::request::Document;
use crate::wire::{AccessToken, ApiError};

/// How many requests of one connection may wait for their answers; the next one waits for its turn.
const IN_FLIGHT_MAX: usize = 256;
/// How many of the requests that a node works on at once are left to probes and to ends of watches and transactions.
const PROBES_RESERVED: usize = 4;
/// How many encoded requests may wait to be written; the next one waits for its turn.
const QUEUE_MAX: usize = 64;
/// How many events of one watch may wait to be taken; a watch with more is cut off and goes on from its cursor.
const EVENTS_MAX: usize = 256;
/// The longest message that is taken from a node.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// What is read from the socket at once: so much of the buffer is zeroed before each read.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// How many bytes may wait for the socket; more is refused by the WebSocket and ends the connection.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 20;

/// The stream of a connection.
type Socket = WebSocketStream<Box<dyn Transport>>;

/// What a node said to one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub outcome: Result<BTreeMap<String, Value>, ApiError>,
    pub session: Option<Vec<u8>>,
    pub staleness: Vec<Staleness>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The node never got the request.
    NotSent(String),
    /// The node may have got it.
    Lost(String),
    /// It is larger than the node takes; sending it would have ended the connection.
    TooLarge(usize),
}

/// What a stream brings.
#[derive(Clone, Debug)]
pub(crate) enum Streamed {
    Event(BTreeMap<String, Value>),
    End(Answer),
}

enum Waiter {
    Answer(oneshot::Sender<Answer>),
    Stream(mpsc::Sender<Streamed>),
}

struct Entry {
    sent: bool,
    waiter: Waiter,
}

#[derive(Default)]
struct Pending {
    /// Why the connection is over.
    over: Option<String>,
    waiting: HashMap<u64, Entry>,
    /// Requests whose connection ended while they waited, and whether they had been sent.
    orphans: HashMap<u64, bool>,
}

struct Shared {
    pending: Mutex<Pending>,
    over: watch::Sender<bool>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: &str) {
        let mut pending = self.pending();
        pending.over.get_or_insert_with(|| reason.to_owned());
        let waiting = std::mem::take(&mut pending.waiting);
        pending.orphans.extend(waiting.iter().map(|(id, entry)| (*id, entry.sent)));
        drop(pending);
        self.over.send_replace(true);
    }
}

/// A connection; dropping it closes it.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    queue: mpsc::Sender<(u64, Bytes)>,
    permits: Semaphore,
    next_id: AtomicU64,
    task: AbortHandle,
    /// The datacenter that the node says it is of.
    pub dc: String,
    frame_bytes_max: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Removes a request that nobody waits for any more.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Waiting<'_> {
    /// Leaves the queue; true if the request may have reached the node.
    fn leave(&self) -> bool {
        let mut pending = self.connection.shared.pending();
        let waiting = pending.waiting.remove(&self.id).map(|entry| entry.sent);
        waiting.or_else(|| pending.orphans.remove(&self.id)).unwrap_or(true)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Connection {
    /// Connects and says hello. The caller bounds the time.
    pub async fn open(
        connector: &dyn Connect,
        address: &str,
        access: &[AccessToken],
    ) -> Result<Connection, String> {
        let stream = connector.connect(address).await.map_err(|e| format!("cannot connect: {e}"))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX);
        let url = format!("ws://{address}/v1/session");
        let (mut socket, _) = client_async_with_config(url, stream, Some(config))
            .await
            .map_err(|e| format!("no WebSocket there: {e}"))?;
        let Welcome { dc, frame_bytes_max, in_flight_max } = hello(&mut socket, access).await?;
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared { pending: Mutex::default(), over: watch::Sender::new(false) });
        let task = tokio::spawn(drive(socket, requests, EndOnDrop(Arc::clone(&shared)))).abort_handle();
        // Probes take no permit; the node must still have places for them.
        let permits = in_flight_max.saturating_sub(PROBES_RESERVED).clamp(1, IN_FLIGHT_MAX);
        let (permits, next_id) = (Semaphore::new(permits), AtomicU64::new(1));
        Ok(Connection { shared, queue, permits, next_id, task, dc, frame_bytes_max })
    }

    /// Whether it can still be used.
    pub fn is_open(&self) -> bool {
        self.shared.pending().over.is_none()
    }

    /// Ends it now; whoever waits for an answer is told.
    pub fn close(&self, reason: &str) {
        self.shared.end(reason);
        self.task.abort();
    }

    /// Returns when it is over.
    pub async fn closed(&self) {
        let mut over = self.shared.over.subscribe();
        // The sender lives as long as this connection.
        let _ = over.wait_for(|over| *over).await;
    }

    /// Sends `request` under an id of this connection and waits for its answer until `deadline`. Dropping the future
    /// ends the wait.
    pub async fn call(&self, request: Request, deadline: Instant) -> Result<Answer, Unanswered> {
        self.start(request, deadline).await?.answer(deadline).await
    }

    /// Puts `request` into the queue; requests are written in the order in which this returns.
    pub async fn start(&self, request: Request, deadline: Instant) -> Result<InFlight<'_>, Unanswered> {
        let waits = || Unanswered::NotSent("too many requests wait for this node".into());
        let permit = timeout_at(deadline, self.permits.acquire()).await.map_err(|_| waits())?;
        self.start_with(request, Some(permit.map_err(|_| waits())?), deadline).await
    }

    /// As [`Connection::call`], past the bound on requests in flight: for probes.
    pub async fn probe(&self, request: Request, deadline: Instant) -> Result<Answer, Unanswered> {
        self.start_with(request, None, deadline).await?.answer(deadline).await
    }

    async fn start_with<'a>(
        &'a self,
        request: Request,
        permit: Option<SemaphorePermit<'a>>,
        deadline: Instant,
    ) -> Result<InFlight<'a>, Unanswered> {
        let (tell, told) = oneshot::channel();
        let waiting = self.post(request, Waiter::Answer(tell), deadline).await?;
        Ok(InFlight { waiting, told, _permit: permit })
    }

    /// Sends a request that is answered by a stream.
    pub async fn stream(
        self: &Arc<Self>,
        request: Request,
        deadline: Instant,
    ) -> Result<Streaming, Unanswered> {
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let waiting = self.post(request, Waiter::Stream(tell), deadline).await?;
        let id = waiting.id;
        std::mem::forget(waiting);
        Ok(Streaming { connection: Arc::clone(self), id, events })
    }

    /// Sends a request whose answer nobody needs, if there is room for it.
    pub fn post_and_forget(&self, verb: Verb) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // A full queue or a closed connection: the node forgets by itself what this would have ended.
        let _ = self.queue.try_send((FORGOTTEN, Request::new(id, verb).encode().into()));
    }

    async fn post(
        &self,
        mut request: Request,
        waiter: Waiter,
        deadline: Instant,
    ) -> Result<Waiting<'_>, Unanswered> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        request.id = id;
        let bytes = Bytes::from(request.encode());
        if bytes.len() > self.frame_bytes_max {
            return Err(Unanswered::TooLarge(self.frame_bytes_max));
        }
        {
            let mut pending = self.shared.pending();
            if let Some(reason) = &pending.over {
                return Err(Unanswered::NotSent(reason.clone()));
            }
            pending.waiting.insert(id, Entry { sent: false, waiter });
        }
        let waiting = Waiting { connection: self, id };
        match timeout_at(deadline, self.queue.send((id, bytes))).await {
            Ok(Ok(())) => Ok(waiting),
            Ok(Err(_)) => Err(Unanswered::NotSent(self.reason())),
            Err(_) => Err(Unanswered::NotSent("the connection takes no more requests".into())),
        }
    }

    fn reason(&self) -> String {
        self.shared.pending().over.clone().unwrap_or_else(|| "the connection ended".into())
    }
}

/// A request that is in the queue or on its way; dropping it ends the wait.
pub(crate) struct InFlight<'a> {
    waiting: Waiting<'a>,
    told: oneshot::Receiver<Answer>,
    _permit: Option<SemaphorePermit<'a>>,
}

impl InFlight<'_> {
    /// Waits for the answer.
    pub async fn answer(self, deadline: Instant) -> Result<Answer, Unanswered> {
        let reason = match timeout_at(deadline, self.told).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(_)) => self.waiting.connection.reason(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(if self.waiting.leave() { Unanswered::Lost(reason) } else { Unanswered::NotSent(reason) })
    }
}

/// Stands for a request that nobody waits for; no request has this id.
const FORGOTTEN: u64 = 0;

/// The events of one watch; dropping it ends the watch.
pub(crate) struct Streaming {
    connection: Arc<Connection>,
    id: u64,
    events: mpsc::Receiver<Streamed>,
}

impl Streaming {
    /// The next event; none when the connection is over or the events were not taken fast enough.
    pub async fn next(&mut self) -> Option<Streamed> {
        self.events.recv().await
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut pending = self.connection.shared.pending();
        pending.orphans.remove(&self.id);
        let running = pending.waiting.remove(&self.id).is_some();
        drop(pending);
        if running {
            self.connection.post_and_forget(Verb::Stop { watch: self.id });
        }
    }
}

/// What a node says of itself at hello.
struct Welcome {
    dc: String,
    frame_bytes_max: usize,
    in_flight_max: usize,
}

/// Reads it; a limit that is not told does not bind.
fn welcome(mut body: BTreeMap<String, Value>) -> Result<Welcome, String> {
    let dc = body.remove("dc").and_then(|dc| dc.as_text().map(str::to_owned));
    let limits = body.remove("limits").and_then(Value::into_fields).unwrap_or_default();
    let limit = |name: &str| {
        let told = limits.get(name).and_then(Document::as_integer);
        told.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
    };
    Ok(Welcome {
        dc: dc.ok_or("the node does not say of which datacenter it is")?,
        frame_bytes_max: limit("frame_bytes_max"),
        in_flight_max: limit("in_flight_max"),
    })
}

async fn hello(socket: &mut Socket, access: &[AccessToken]) -> Result<Welcome, String> {
    let verb = Verb::Hello {
        versions: vec![VERSION],
        client: concat!("meridian-client-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
        access: access.to_vec(),
    };
    let hello = Message::Binary(Request::new(FORGOTTEN, verb).encode().into());
    socket.send(hello).await.map_err(|e| format!("cannot say hello: {e}"))?;
    loop {
        let message = socket.next().await.ok_or("the node hung up at hello")?;
        let bytes = match message.map_err(|e| format!("no answer to hello: {e}"))? {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Err("the node hung up at hello".into()),
            _ => continue,
        };
        return match Frame::decode(&bytes) {
            Ok(Frame::Answer { outcome: Ok(body), .. }) => welcome(body),
            Ok(Frame::Answer { outcome: Err(error), .. }) => Err(format!("refused at hello: {error}")),
            Ok(Frame::Event { .. }) => Err("an event instead of an answer to hello".into()),
            Err(e) => Err(format!("the answer to hello is not understood: {e}")),
        };
    }
}

/// Tells all who wait when the task that serves them ends, for whatever reason.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end("the connection was closed");
    }
}

async fn drive(socket: Socket, mut requests: mpsc::Receiver<(u64, Bytes)>, ends: EndOnDrop) {
    let shared = &ends.0;
    let (mut sink, mut stream) = socket.split();
    let write = async {
        let mut batch = Vec::with_capacity(QUEUE_MAX);
        loop {
            if requests.recv_many(&mut batch, QUEUE_MAX).await == 0 {
                return "the connection was closed".to_owned();
            }
            for (id, bytes) in batch.drain(..) {
                if !mark_sent(shared, id) {
                    continue;
                }
                if let Err(e) = sink.feed(Message::Binary(bytes)).await {
                    return format!("the connection broke: {e}");
                }
            }
            if let Err(e) = sink.flush().await {
                return format!("the connection broke: {e}");
            }
        }
    };
    let read = async {
        loop {
            match stream.next().await {
                Some(Ok(Message::Binary(bytes))) => match Frame::decode(&bytes) {
                    Ok(frame) => deliver(shared, frame),
                    Err(e) => return format!("a frame is not understood: {e}"),
                },
                Some(Ok(Message::Close(_))) | None => return "the node hung up".to_owned(),
                Some(Ok(_)) => {}
                Some(Err(e)) => return format!("the connection broke: {e}"),
            }
        }
    };
    let reason = tokio::select! { reason = write => reason, reason = read => reason };
    shared.end(&reason);
}

/// Whether the request is still wanted; from here on it counts as sent.
fn mark_sent(shared: &Shared, id: u64) -> bool {
    if id == FORGOTTEN {
        return true;
    }
    match shared.pending().waiting.get_mut(&id) {
        Some(entry) => {
            entry.sent = true;
            true
        }
        None => false,
    }
}

/// Hands a frame to whoever waits for it; nobody may, if the caller left.
fn deliver(shared: &Shared, frame: Frame) {
    let mut pending = shared.pending();
    match frame {
        Frame::Answer { id, outcome, session, staleness } => {
            let answer = Answer { outcome, session, staleness };
            match pending.waiting.remove(&id).map(|entry| entry.waiter) {
                // A receiver that is gone has stopped waiting in this very moment.
                Some(Waiter::Answer(tell)) => drop(tell.send(answer)),
                Some(Waiter::Stream(tell)) => drop(tell.try_send(Streamed::End(answer))),
                None => {}
            }
        }
        Frame::Event { id, body } => {
            let Some(Entry { waiter: Waiter::Stream(tell), .. }) = pending.waiting.get(&id) else { return };
            if tell.try_send(Streamed::Event(body)).is_err() {
                // Too slow: its channel closes, and the watch goes on from its cursor.
                pending.waiting.remove(&id);
            }
        }
    }
}
