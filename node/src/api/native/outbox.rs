//! What goes out on one connection, in its order, gathered into few writes.
//!
//! Bounds: above [`BYTES_MAX`] nothing more is read from the client, so that a client that reads slowly is served
//! slowly; an answer holds its place among the requests in flight until the socket has taken it; and events have room of
//! their own, so that they never keep answers out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, SinkExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::slots::Slot;

/// How many bytes may wait for the socket before the client is read no further.
const BYTES_MAX: usize = 1 << 20;
/// Bytes of events that wait for the socket. Each counts for at least so many that there are never more than
/// [`EVENTS_MAX`] of them.
const EVENT_BYTES_MAX: usize = 256 << 10;
const EVENTS_MAX: usize = 512;
const EVENT_BYTES_MIN: usize = EVENT_BYTES_MAX / EVENTS_MAX;

/// What a message holds until the socket has taken it.
#[expect(dead_code, reason = "it is there to be dropped")]
pub enum Held {
    /// A place among the requests in flight.
    Slot(Slot),
    /// Room among the events.
    Room(OwnedSemaphorePermit),
}

/// What waits for the socket of one connection.
#[derive(Default)]
pub struct Outbox {
    waiting: VecDeque<(Message, Option<Held>)>,
    bytes: usize,
    /// Whether the socket has taken something that may not have left yet.
    is_unflushed: bool,
}

impl Outbox {
    /// Bytes that the socket has not taken yet.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so much waits that the client should be read no further.
    pub fn is_full(&self) -> bool {
        self.bytes >= BYTES_MAX
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: Vec<u8>, held: Option<Held>) {
        self.put(Message::binary(frame), held);
    }

    /// Adds an event with the room it has.
    pub fn push_event(&mut self, Event { frame, room }: Event) {
        self.push(frame, Some(Held::Room(room)));
    }

    /// Asks the client whether it is there.
    pub fn ping(&mut self) {
        self.put(Message::Ping(Vec::new().into()), None);
    }

    /// Sees to it that what the socket itself has to say leaves.
    pub fn flush(&mut self) {
        self.is_unflushed = true;
    }

    /// Says goodbye; nothing may follow.
    pub fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        self.put(Message::Close(Some(frame)), None);
    }

    fn put(&mut self, message: Message, held: Option<Held>) {
        self.bytes += message.len();
        self.waiting.push_back((message, held));
    }

    /// Hands the socket what it takes; ready when all has left.
    pub fn poll_write<S>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Sink<Message> + Unpin,
    {
        while !self.waiting.is_empty() {
            ready!(socket.poll_ready_unpin(cx))?;
            let Some((message, _held)) = self.waiting.pop_front() else { break };
            self.bytes -= message.len();
            self.is_unflushed = true;
            socket.start_send_unpin(message)?;
        }
        if self.is_unflushed {
            ready!(socket.poll_flush_unpin(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// An event of a watch on its way to the connection.
pub struct Event {
    frame: Vec<u8>,
    room: OwnedSemaphorePermit,
}

/// The way of a watch's events to its connection. Cheap to share.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    room: Arc<Semaphore>,
}

/// The connection has ended.
#[derive(Debug)]
pub struct Gone;

/// The way of events, and its end at the connection.
pub fn events() -> (Events, mpsc::Receiver<Event>) {
    let (queue, waiting) = mpsc::channel(EVENTS_MAX);
    (Events { queue, room: Arc::new(Semaphore::new(EVENT_BYTES_MAX)) }, waiting)
}

impl Events {
    /// Sends an event once there is room.
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), Gone> {
        let bytes = frame.len().clamp(EVENT_BYTES_MIN, EVENT_BYTES_MAX);
        let bytes = u32::try_from(bytes).map_err(|_| Gone)?;
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        self.queue.send(Event { frame, room }).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::task::noop_waker;

    use super::*;

    /// A socket that takes `room` messages before it has to be flushed, and is flushed when the test says so.
    #[derive(Default)]
    struct Narrow {
        room: usize,
        taken: Vec<Message>,
        flushes: bool,
    }

    impl Sink<Message> for Narrow {
        type Error = std::convert::Infallible;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if self.taken.len() < self.room { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Self::Error> {
            self.taken.push(message);
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if self.flushes { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            self.poll_flush(cx)
        }
    }

    fn write(outbox: &mut Outbox, socket: &mut Narrow) -> bool {
        outbox.poll_write(socket, &mut Context::from_waker(&noop_waker())).is_ready()
    }

    #[test]
    fn an_answer_holds_its_place_until_the_socket_has_taken_it() {
        let slots = super::super::slots::Slots::new(2);
        let (mut outbox, mut socket) = (Outbox::default(), Narrow { room: 1, ..Narrow::default() });
        for n in 0..2 {
            outbox.push(vec![n; 10], Some(Held::Slot(slots.take())));
        }
        assert!(!slots.are_free());
        assert!(!write(&mut outbox, &mut socket));
        assert_eq!((socket.taken.len(), outbox.bytes(), slots.are_free()), (1, 10, true));
        socket.room = 2;
        assert!(!write(&mut outbox, &mut socket), "what was taken has not left");
        assert_eq!((socket.taken.len(), outbox.bytes()), (2, 0));
        socket.flushes = true;
        assert!(write(&mut outbox, &mut socket));
        assert_eq!(socket.taken, [Message::binary(vec![0; 10]), Message::binary(vec![1; 10])]);
    }

    #[test]
    fn a_client_that_takes_nothing_fills_the_outbox() {
        let mut outbox = Outbox::default();
        outbox.push(vec![0; BYTES_MAX - 1], None);
        assert!(!outbox.is_full());
        outbox.push(vec![0; 1], None);
        assert!(outbox.is_full());
        let mut socket = Narrow { room: 1, ..Narrow::default() };
        assert!(!write(&mut outbox, &mut socket));
        assert!(!outbox.is_full());
    }

    #[tokio::test]
    async fn events_wait_for_room_of_their_own() {
        let (events, mut queue) = events();
        for _ in 0..EVENTS_MAX {
            events.send(Vec::new()).await.expect("there is room");
        }
        let mut more = std::pin::pin!(events.send(Vec::new()));
        assert!(futures_util::poll!(&mut more).is_pending());
        let mut outbox = Outbox::default();
        outbox.push_event(queue.recv().await.expect("sent"));
        assert!(futures_util::poll!(&mut more).is_pending(), "the socket has not taken it yet");
        assert!(!write(&mut outbox, &mut Narrow { room: 1, ..Narrow::default() }));
        assert!(futures_util::poll!(&mut more).is_ready());
    }
}
