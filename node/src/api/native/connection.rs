//! One connection of the native protocol: one task that reads frames, works on requests, writes answers, and ends in order.
//!
//! Requests run side by side and are answered as they complete. What is ready at once is answered where it is read, and
//! all answers of one turn leave together; what has to wait is polled beside the socket, of which there are at most
//! `in_flight_max`. All of it is one task, so that a request wakes nobody but its own connection, once when it comes and
//! once when it is done.

use std::any::Any;
use std::collections::HashSet;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use meridian_client::wire::frame::{self, Request, Verb, close};
use meridian_client::wire::{AccessToken, ApiError, ErrorCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::inbox::{Inbox, Received};
use super::outbox::{self, Event, Events, Held, Outbox};
use super::slots::{Slot, Slots};
use super::transactions::Owned;
use super::{turns, verbs, watches};
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
pub async fn serve(api: Api, mut socket: Socket, port: Port) {
    let opened = api.metrics.session();
    let mut connection = Connection::new(api, &port);
    let end = connection.run(&mut socket).await;
    let mut outbox = connection.last_words();
    // Requests that are still under way are given up: their client cannot hear of them any more.
    drop(connection);
    tracing::debug!(?end, "a session ends");
    if let End::Close(code, reason) = end {
        opened.closed(code);
        outbox.close(code, reason);
        // A client that takes nothing is cut off by the stream below.
        if poll_fn(|cx| outbox.poll_write(&mut socket, cx)).await.is_ok() {
            linger(socket).await;
        }
    } else {
        // A client that has said goodbye is answered by the socket itself, which is read once more for that.
        tokio::time::timeout(DISCARD_TIME_MAX, socket.next()).await.ok();
    }
}

/// A request under way. It ends with its answer, or with the panic that it met.
type Doing = Pin<Box<dyn Future<Output = Result<Done, Box<dyn Any + Send>>> + Send>>;

/// A request that is done.
struct Done {
    id: u64,
    answer: Vec<u8>,
    /// Its place among those in flight, unless it was a watch, which has given it back before.
    slot: Option<Slot>,
}

/// What the socket has to say.
enum Io {
    Read(Received),
    WriteFailed(SocketError),
}

struct Connection {
    // Each request under way has a handle, and needs no copy of all that is in it.
    api: Arc<Api>,
    /// The access tokens that the client has shown at hello.
    shown: Arc<Shown>,
    outbox: Outbox,
    inbox: Inbox,
    port: Port,
    /// The ids of requests that are not yet answered.
    ids: HashSet<u64>,
    slots: Slots,
    txns: Owned,
    watches: watches::Open,
    /// How many of the requests under way are watches.
    watching: usize,
    doing: FuturesUnordered<Doing>,
    /// Events of watches, and the way that they come.
    events: mpsc::Receiver<Event>,
    told: Events,
    /// When the node has said that it stops: until when requests may finish.
    stopping: Option<Instant>,
    /// Whether anything was read since the last tick, and whether the client was asked for a sign of life.
    heard: bool,
    pinged: bool,
}

impl Connection {
    fn new(api: Api, port: &Port) -> Self {
        let (told, events) = outbox::events();
        Self {
            slots: Slots::new(api.bounds.session.in_flight_max),
            api: Arc::new(api),
            shown: Arc::default(),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            port: port.clone(),
            ids: HashSet::new(),
            txns: Owned::default(),
            watches: watches::Open::default(),
            watching: 0,
            doing: FuturesUnordered::new(),
            events,
            told,
            stopping: None,
            heard: false,
            pinged: false,
        }
    }

    async fn run(&mut self, socket: &mut Socket) -> End {
        if let Err(end) = self.hello(socket).await {
            return end;
        }
        let period = self.api.bounds.session.ping_interval;
        let mut tick = tokio::time::interval_at(Instant::now() + period, period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = self.port.stop.clone();
        // This waits as long as the connection lives, so that a turn need not put it into its queue and take it out again.
        let mut told = pin!(told_to_stop(&mut stop).fuse());
        loop {
            if self.stopping.is_some_and(|until| self.doing.is_empty() || Instant::now() >= until) {
                return stopping();
            }
            let step = tokio::select! {
                // What is done comes before the socket, so that all of it leaves in one write. None of these keeps the
                // others waiting: a request is done once, an event has had room, and the runtime's budget lets no socket
                // be ready for ever.
                biased;
                Some(done) = self.doing.next(), if !self.doing.is_empty() => self.done(done),
                Some(event) = self.events.recv(), if self.watching > 0 => {
                    self.outbox.push_event(event);
                    Ok(())
                }
                io = poll_fn(|cx| poll_io(socket, &mut self.inbox, &mut self.outbox, &self.slots, cx)) => match io {
                    Io::Read(message) => self.turn(message, socket).await,
                    Io::WriteFailed(error) => Err(gone(&error)),
                },
                () = &mut told => {
                    self.stopping = Some(Instant::now() + self.api.bounds.session.drain_timeout);
                    Ok(())
                }
                () = reached(self.stopping) => Ok(()),
                _ = tick.tick() => self.look_for_life(),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Takes a message and those that have arrived behind it. Before what could be answered at once is sent, others who
    /// have something to do have their turn: answers of many connections then leave one after the other, and whoever
    /// waits for them is woken once and not for each.
    async fn turn(&mut self, message: Received, socket: &mut Socket) -> Result<(), End> {
        self.heard = true;
        let waited = self.outbox.bytes();
        self.message(message)?;
        for _ in 1..TURN_FRAMES_MAX {
            if self.outbox.bytes() >= TURN_BYTES_MAX || !self.slots.are_free() {
                break;
            }
            // The next step looks at the socket again, whatever came of this.
            let Some(message) = self.inbox.next_now(socket) else { break };
            self.message(message)?;
        }
        if self.outbox.bytes() > waited {
            // What has to wait begins to before that.
            while let Some(Some(done)) = self.doing.next().now_or_never() {
                self.done(done)?;
            }
            turns::give_way().await;
        }
        Ok(())
    }

    /// Takes the answer of a request that is done.
    fn done(&mut self, done: Result<Done, Box<dyn Any + Send>>) -> Result<(), End> {
        let Ok(Done { id, answer, slot }) = done else {
            tracing::error!("a request of a session panicked");
            return Err(End::Close(close::INTERNAL, "the node met a fault of its own"));
        };
        // The client may use the id again as soon as it has the answer.
        self.ids.remove(&id);
        if slot.is_none() {
            // The last that a watch says comes behind its events.
            self.take_events();
            self.watching -= 1;
        }
        self.outbox.push(answer, slot.map(Held::Slot));
        Ok(())
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.outbox.push_event(event);
        }
    }

    /// What has been said and not yet been written.
    fn last_words(&mut self) -> Outbox {
        self.take_events();
        std::mem::take(&mut self.outbox)
    }

    fn message(&mut self, message: Received) -> Result<(), End> {
        match frame_of(message, &mut self.outbox)? {
            Some(frame) => self.request(&frame),
            None => Ok(()),
        }
    }

    /// Whether there is room for what may come of another frame.
    fn reads_on(outbox: &Outbox, slots: &Slots) -> bool {
        !outbox.is_full() && slots.are_free()
    }

    /// Asks a client that has been silent for a whole interval for a sign of life; ends it after another. One that is not
    /// read cannot be heard: that it takes what it is sent is looked after by the stream below.
    fn look_for_life(&mut self) -> Result<(), End> {
        self.heard |= !Self::reads_on(&self.outbox, &self.slots);
        match (std::mem::take(&mut self.heard), self.pinged) {
            (true, _) => self.pinged = false,
            (false, true) => return Err(End::Close(close::SILENT, "a ping was not answered")),
            (false, false) => {
                self.pinged = true;
                self.outbox.ping();
            }
        }
        Ok(())
    }

    /// The first request, which agrees on a version.
    async fn hello(&mut self, socket: &mut Socket) -> Result<(), End> {
        let Self { inbox, outbox, slots, .. } = self;
        let frame = async {
            loop {
                match poll_fn(|cx| poll_io(socket, inbox, outbox, slots, cx)).await {
                    Io::Read(message) => {
                        if let Some(frame) = frame_of(message, outbox)? {
                            return Ok(frame);
                        }
                    }
                    Io::WriteFailed(error) => return Err(gone(&error)),
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
                self.refuse(id, error);
                return Err(first);
            }
        };
        if !versions.contains(&frame::VERSION) {
            let message = format!("this node speaks version {} of the protocol only", frame::VERSION);
            let error = ApiError::new(ErrorCode::BadValue, message).with("versions", vec![frame::VERSION]);
            self.refuse(id, error);
            return Err(End::Close(close::NO_COMMON_VERSION, "no version of the protocol in common"));
        }
        self.say(verbs::welcome(&self.api, id, frame::VERSION).encode());
        Ok(())
    }

    /// Answers what has no place among the requests in flight.
    fn say(&mut self, answer: Vec<u8>) {
        self.outbox.push(answer, None);
    }

    fn refuse(&mut self, id: u64, error: ApiError) {
        self.say(verbs::refusal(id, error, None).encode());
    }

    /// Starts what a frame asks for.
    fn request(&mut self, frame: &[u8]) -> Result<(), End> {
        let request = match Request::decode(frame) {
            Ok(Request { verb: Verb::Hello { .. }, .. }) => {
                return Err(End::Close(close::HELLO_TWICE, "hello was said before"));
            }
            Ok(request) => request,
            Err((Some(id), error)) => {
                self.refuse(id, error);
                return Ok(());
            }
            Err((None, _)) => return Err(bad_frame()),
        };
        let id = request.id;
        if self.ids.contains(&id) {
            let message = format!("the id {id} is in use by a request that is not yet answered");
            self.refuse(id, ApiError::new(ErrorCode::BadValue, message));
        } else if self.stopping.is_some() || *self.port.stop.borrow() {
            self.refuse(id, ApiError::new(ErrorCode::ShuttingDown, "the node is stopping"));
        } else {
            match verbs::answer_at_once(&self.api, &self.shown, request) {
                Ok(answer) => self.say(answer),
                Err(request) => self.start(request),
            }
        }
        Ok(())
    }

    /// Puts a request among those under way.
    fn start(&mut self, request: Box<Request>) {
        if let Verb::Stop { watch } = request.verb {
            let was_open = self.watches.stop(watch);
            return self.say(verbs::stopped(request.id, was_open));
        }
        let (id, slot) = (request.id, self.slots.take());
        let (api, shown) = (self.api.clone(), self.shown.clone());
        self.ids.insert(id);
        let doing: Doing = if let Verb::Watch { .. } = request.verb {
            self.watching += 1;
            let (place, events) = (self.watches.place(id), self.told.clone());
            let watch = async move {
                let answer = watches::run(&api, &shown, &events, request, &place, slot).await;
                Done { id, answer, slot: None }
            };
            Box::pin(AssertUnwindSafe(watch).catch_unwind())
        } else {
            let txns = self.txns.clone();
            let call = async move {
                let answer = verbs::answer(&api, &shown, &txns, request).await;
                Done { id, answer, slot: Some(slot) }
            };
            Box::pin(AssertUnwindSafe(call).catch_unwind())
        };
        self.doing.push(doing);
    }
}

/// Writes what waits, and reads on while there is room for what may come of it.
fn poll_io(
    socket: &mut Socket,
    inbox: &mut Inbox,
    outbox: &mut Outbox,
    slots: &Slots,
    cx: &mut Context<'_>,
) -> Poll<Io> {
    if let Poll::Ready(Err(error)) = outbox.poll_write(socket, cx) {
        return Poll::Ready(Io::WriteFailed(error));
    }
    if Connection::reads_on(outbox, slots) {
        inbox.poll_next(socket, cx).map(Io::Read)
    } else {
        Poll::Pending
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

fn gone(error: &SocketError) -> End {
    tracing::debug!(%error, "a session's client takes nothing any more");
    End::Gone
}

/// The frame that a message carries, if it carries one.
fn frame_of(message: Received, outbox: &mut Outbox) -> Result<Option<bytes::Bytes>, End> {
    match message {
        Some(Ok(Message::Binary(frame))) => Ok(Some(frame)),
        Some(Ok(Message::Text(_))) => Err(End::Close(close::TEXT_MESSAGE, "frames are binary messages")),
        Some(Ok(Message::Ping(_))) => {
            // The socket has an answer to it, which is to leave even if nothing else does.
            outbox.flush();
            Ok(None)
        }
        Some(Ok(Message::Pong(_) | Message::Frame(_))) => Ok(None),
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
