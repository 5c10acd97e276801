//! One connection of the native protocol: reads frames, starts requests, and ends in order.
//!
//! Requests run side by side and are answered as they complete. What is ready at once is answered by the reader
//! itself, and all answers of one turn leave together; what has to wait becomes a task of its own, of which there are at
//! most `in_flight_max`.

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::SplitStream;
use futures_util::{FutureExt, StreamExt};
use meridian_client::wire::frame::{self, Request, Verb, close};
use meridian_client::wire::{AccessToken, ApiError, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::outbox::{self, Outbox};
use super::transactions::Owned;
use super::{verbs, watches};
use crate::access::Shown;
use crate::api::Api;
use crate::api::serve::{Port, told_to_stop};
use crate::api::upgrade::{DISCARD_TIME_MAX, Socket, linger};

/// Most frames that are taken in one turn, before their answers leave and other things are looked at.
const TURN_FRAMES_MAX: usize = 64;
/// How many bytes of answers end a turn.
const TURN_BYTES_MAX: usize = 64 << 10;

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client is told why.
    Close(u16, &'static str),
    /// There is nobody to tell.
    Gone,
}

/// Serves the connection until one side ends it.
pub async fn serve(api: Api, socket: Socket, port: Port) {
    let (sink, mut source) = socket.split();
    let (outbox, queue) = outbox::queue();
    let writer = tokio::spawn(outbox::write(sink, queue));
    let opened = api.metrics.session();
    let mut connection = Connection::new(api, outbox.clone(), &port);
    let end = connection.run(&mut source).await;
    // Requests that are still under way are given up: their client cannot hear of them any more.
    drop(connection);
    tracing::debug!(?end, "a session ends");
    if let End::Close(code, reason) = end {
        opened.closed(code);
        // A writer that has ended already has nobody to write to.
        outbox.close(code, reason).await.ok();
        if let Ok(sink) = writer.await
            && let Ok(socket) = sink.reunite(source)
        {
            linger(socket).await;
        }
    } else {
        // A client that has said goodbye is answered by the socket itself, which is read once more for that.
        tokio::time::timeout(DISCARD_TIME_MAX, source.next()).await.ok();
        writer.abort();
    }
}

/// The ids of requests that are not yet answered.
#[derive(Clone, Default)]
struct Ids(Arc<Mutex<BTreeSet<u64>>>);

impl Ids {
    /// Takes an id until the guard is dropped; `None` if it is in use.
    fn take(&self, id: u64) -> Option<TakenId> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        is_new.then(|| TakenId { ids: self.clone(), id })
    }

    fn is_taken(&self, id: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }
}

struct TakenId {
    ids: Ids,
    id: u64,
}

impl Drop for TakenId {
    fn drop(&mut self) {
        self.ids.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

type Doing = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Connection {
    api: Api,
    /// The access tokens that the client has shown at hello.
    shown: Arc<Shown>,
    outbox: Outbox,
    port: Port,
    ids: Ids,
    slots: Arc<Semaphore>,
    txns: Owned,
    watches: watches::Open,
    tasks: JoinSet<()>,
    /// Answers of this turn.
    answers: Vec<Vec<u8>>,
    /// When the node has said that it stops: until when requests may finish.
    stopping: Option<Instant>,
    /// Whether anything was read since the last tick, and whether the client was asked for a sign of life.
    heard: bool,
    pinged: bool,
}

impl Connection {
    fn new(api: Api, outbox: Outbox, port: &Port) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(api.bounds.session.in_flight_max)),
            api,
            shown: Arc::default(),
            outbox,
            port: port.clone(),
            ids: Ids::default(),
            txns: Owned::default(),
            watches: watches::Open::default(),
            tasks: JoinSet::new(),
            answers: Vec::new(),
            stopping: None,
            heard: false,
            pinged: false,
        }
    }

    async fn run(&mut self, source: &mut SplitStream<Socket>) -> End {
        if let Err(end) = self.hello(source).await {
            return end;
        }
        let period = self.api.bounds.session.ping_interval;
        let mut tick = tokio::time::interval_at(Instant::now() + period, period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut stop, outbox) = (self.port.stop.clone(), self.outbox.clone());
        // These wait as long as the connection lives, so that a turn need not put them into their queues and take them
        // out again.
        let (told, gone) = (pin!(told_to_stop(&mut stop)), pin!(outbox.gone()));
        let (mut told, mut gone) = (told.fuse(), gone.fuse());
        loop {
            if self.stopping.is_some_and(|until| self.tasks.is_empty() || Instant::now() >= until) {
                return stopping();
            }
            let step = tokio::select! {
                // The client comes first. It keeps nothing else waiting: the runtime's budget lets no socket be ready
                // for ever.
                biased;
                message = source.next() => self.turn(message, source).await,
                Some(ended) = self.tasks.join_next() => ended.map_err(|error| {
                    tracing::error!(%error, "a request of a session failed");
                    End::Close(close::INTERNAL, "the node met a fault of its own")
                }),
                () = &mut told => {
                    self.stopping = Some(Instant::now() + self.api.bounds.session.drain_timeout);
                    Ok(())
                }
                () = reached(self.stopping) => Ok(()),
                () = &mut gone => Err(End::Gone),
                _ = tick.tick() => self.look_for_life().await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Takes a message and those that have arrived behind it, and sends what could be answered at once. Before that, others
    /// who have something to do have their turn: answers of many connections then leave one after the other, and whoever
    /// waits for them is woken once and not for each.
    async fn turn(
        &mut self,
        message: Option<Result<Message, SocketError>>,
        source: &mut SplitStream<Socket>,
    ) -> Result<(), End> {
        self.heard = true;
        let mut end = self.message(message).await;
        for _ in 1..TURN_FRAMES_MAX {
            if end.is_err() || self.answers.iter().map(Vec::len).sum::<usize>() >= TURN_BYTES_MAX {
                break;
            }
            // The next step looks at the socket again, whatever came of this.
            let Some(message) = source.next().now_or_never() else { break };
            end = self.message(message).await;
        }
        if !self.answers.is_empty() {
            tokio::task::yield_now().await;
            self.send_answers().await?;
        }
        end
    }

    /// Sends the answers of this turn so far.
    async fn send_answers(&mut self) -> Result<(), End> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let answers = std::mem::take(&mut self.answers);
        self.outbox.send_all(answers).await.map_err(|_| End::Gone)
    }

    async fn message(&mut self, message: Option<Result<Message, SocketError>>) -> Result<(), End> {
        match frame_of(message)? {
            Some(frame) => self.request(&frame).await,
            None => Ok(()),
        }
    }

    /// Asks a client that has been silent for a whole interval for a sign of life; ends it after another.
    async fn look_for_life(&mut self) -> Result<(), End> {
        match (std::mem::take(&mut self.heard), self.pinged) {
            (true, _) => self.pinged = false,
            (false, true) => return Err(End::Close(close::SILENT, "a ping was not answered")),
            (false, false) => {
                self.pinged = true;
                self.outbox.ping().await.map_err(|_| End::Gone)?;
            }
        }
        Ok(())
    }

    /// The first request, which agrees on a version.
    async fn hello(&mut self, source: &mut SplitStream<Socket>) -> Result<(), End> {
        let frame = async {
            loop {
                if let Some(frame) = frame_of(source.next().await)? {
                    return Ok(frame);
                }
            }
        };
        let frame = tokio::select! {
            frame = tokio::time::timeout(self.api.bounds.session.hello_timeout, frame) => frame,
            () = told_to_stop(&mut self.port.stop) => return Err(stopping()),
        };
        let frame = frame.map_err(|_| End::Close(close::HELLO_LATE, "no hello came in time"))??;
        let first = End::Close(close::HELLO_FIRST, "the first request is not hello");
        let (id, versions) = match Request::decode(&frame) {
            Ok(Request { id, verb: Verb::Hello { versions, client, access }, .. }) => {
                tracing::debug!(client, "a session opens");
                self.shown = Arc::new(Shown::of(access.iter().map(AccessToken::as_str)));
                (id, versions)
            }
            Ok(_) => return Err(first),
            Err((None, _)) => return Err(bad_frame()),
            Err((Some(id), error)) => {
                self.send(verbs::refusal(id, error, None).encode()).await?;
                return Err(first);
            }
        };
        if !versions.contains(&frame::VERSION) {
            let message = format!("this node speaks version {} of the protocol only", frame::VERSION);
            let error = ApiError::new(ErrorCode::BadValue, message).with("versions", vec![frame::VERSION]);
            self.send(verbs::refusal(id, error, None).encode()).await?;
            return Err(End::Close(close::NO_COMMON_VERSION, "no version of the protocol in common"));
        }
        self.send(verbs::welcome(&self.api, id, frame::VERSION).encode()).await
    }

    async fn send(&self, frame: Vec<u8>) -> Result<(), End> {
        self.outbox.send(frame).await.map_err(|_| End::Gone)
    }

    async fn refuse(&self, id: u64, error: ApiError) -> Result<(), End> {
        self.send(verbs::refusal(id, error, None).encode()).await
    }

    /// Starts what a frame asks for.
    async fn request(&mut self, frame: &[u8]) -> Result<(), End> {
        let request = match Request::decode(frame) {
            Ok(Request { verb: Verb::Hello { .. }, .. }) => {
                return Err(End::Close(close::HELLO_TWICE, "hello was said before"));
            }
            Ok(request) => request,
            Err((Some(id), error)) => return self.refuse(id, error).await,
            Err((None, _)) => return Err(bad_frame()),
        };
        let request = if self.is_stopping() || self.ids.is_taken(request.id) {
            request
        } else {
            match verbs::answer_at_once(&self.api, &self.shown, request) {
                Ok(answer) => {
                    self.answers.push(answer);
                    return Ok(());
                }
                Err(request) => *request,
            }
        };
        let Some(taken) = self.ids.take(request.id) else {
            let message = format!("the id {} is in use by a request that is not yet answered", request.id);
            return self.refuse(request.id, ApiError::new(ErrorCode::BadValue, message)).await;
        };
        if self.slots.available_permits() == 0 {
            // What is answered must not wait for what is not.
            self.send_answers().await?;
        }
        let Some(slot) = self.slot().await else {
            let error = ApiError::new(ErrorCode::ShuttingDown, "the node is stopping");
            return self.refuse(request.id, error).await;
        };
        let mut doing = self.doing(request, taken, slot);
        if doing.as_mut().now_or_never().is_none() {
            self.tasks.spawn(doing);
        }
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.is_some() || *self.port.stop.borrow()
    }

    /// One request from its start to its answer's place in the queue.
    fn doing(&self, request: Request, taken: TakenId, slot: OwnedSemaphorePermit) -> Doing {
        let (api, outbox, shown) = (self.api.clone(), self.outbox.clone(), self.shown.clone());
        match request.verb {
            Verb::Watch { .. } => {
                let place = self.watches.place(request.id);
                Box::pin(async move {
                    let last = watches::run(&api, &shown, &outbox, request, &place, slot).await;
                    drop((place, taken));
                    // A client that is gone needs no answer.
                    outbox.send(last).await.ok();
                })
            }
            Verb::Stop { watch } => {
                let stopped = self.watches.stop(watch);
                Box::pin(async move {
                    drop(taken);
                    outbox.send(verbs::stopped(request.id, stopped)).await.ok();
                    drop(slot);
                })
            }
            _ => {
                let txns = self.txns.clone();
                Box::pin(async move {
                    let answer = verbs::answer(&api, &shown, &txns, request).await;
                    // The client may use the id again as soon as it has the answer.
                    drop(taken);
                    outbox.send(answer).await.ok();
                    drop(slot);
                })
            }
        }
    }

    /// A place among the requests in flight, waiting for one to become free; `None` if the node stops.
    async fn slot(&mut self) -> Option<OwnedSemaphorePermit> {
        if self.is_stopping() {
            return None;
        }
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Some(slot);
        }
        tokio::select! {
            slot = self.slots.clone().acquire_owned() => slot.ok(),
            () = told_to_stop(&mut self.port.stop) => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.txns.close(&self.api);
    }
}

/// Waits for a moment, if there is one.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

const fn stopping() -> End {
    End::Close(close::GOING_AWAY, "the node is stopping")
}

const fn bad_frame() -> End {
    End::Close(close::BAD_FRAME, "the frame is not [id, verb, {arguments}] in MessagePack")
}

/// The frame that a message carries, if it carries one.
fn frame_of(message: Option<Result<Message, SocketError>>) -> Result<Option<bytes::Bytes>, End> {
    match message {
        Some(Ok(Message::Binary(frame))) => Ok(Some(frame)),
        Some(Ok(Message::Text(_))) => Err(End::Close(close::TEXT_MESSAGE, "frames are binary messages")),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
        Some(Ok(Message::Close(_))) | None => Err(End::Gone),
        Some(Err(SocketError::Capacity(_))) => {
            Err(End::Close(close::FRAME_TOO_LARGE, "the frame is above the limit"))
        }
        Some(Err(SocketError::Protocol(_) | SocketError::Utf8(_))) => {
            Err(End::Close(1002, "the message breaks the WebSocket protocol"))
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "a session's connection ended");
            Err(End::Gone)
        }
    }
}
