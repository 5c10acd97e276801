//! What goes out on one connection: a bounded queue, and the task that gathers it into few writes.
//!
//! Bounds: frames by number and by bytes. Who has a frame to send waits for room, and holds its place among the
//! requests in flight meanwhile, so that a client that reads slowly is served slowly.

use std::sync::Arc;

use futures_util::stream::SplitSink;
use futures_util::{Sink, SinkExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::api::upgrade::Socket;

/// Frames that wait for the writer.
const FRAMES_MAX: usize = 1024;
/// Bytes that wait for the writer; a single larger frame goes alone.
const BYTES_MAX: usize = 1 << 20;
/// Bytes of events that wait for the writer. They have room of their own, so that they never keep answers out; and each
/// counts for as many as keep half of the queue free for answers.
const EVENT_BYTES_MAX: usize = 256 << 10;
const EVENT_BYTES_MIN: usize = EVENT_BYTES_MAX / (FRAMES_MAX / 2);
/// Most frames written before the socket is flushed.
const BATCH_MAX: usize = 256;

struct Outgoing {
    messages: Messages,
    /// Room in the queue, given back when the frame is on its way.
    _room: Option<OwnedSemaphorePermit>,
}

enum Messages {
    One(Message),
    /// Answers of one turn of the reader, which are few and of bounded size.
    Many(Vec<Message>),
}

/// The way to the writer of one connection.
#[derive(Clone)]
pub struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    event_room: Arc<Semaphore>,
}

/// Nobody writes on this connection any more.
#[derive(Debug)]
pub struct Gone;

/// The queue's other end.
pub struct Queue(mpsc::Receiver<Outgoing>);

/// A queue and its two ends.
pub fn queue() -> (Outbox, Queue) {
    let (queue, waiting) = mpsc::channel(FRAMES_MAX);
    let room = Arc::new(Semaphore::new(BYTES_MAX));
    (Outbox { queue, room, event_room: Arc::new(Semaphore::new(EVENT_BYTES_MAX)) }, Queue(waiting))
}

impl Outbox {
    /// Sends a frame once there is room.
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), Gone> {
        let room = self.room_for(frame.len()).await?;
        self.put(Message::binary(frame), Some(room)).await
    }

    /// Sends frames together once there is room for all of them.
    pub async fn send_all(&self, frames: Vec<Vec<u8>>) -> Result<(), Gone> {
        let bytes: usize = frames.iter().map(Vec::len).sum();
        let room = self.room_for(bytes).await?;
        let messages = Messages::Many(frames.into_iter().map(Message::binary).collect());
        self.queue.send(Outgoing { messages, _room: Some(room) }).await.map_err(|_| Gone)
    }

    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Gone> {
        let bytes = u32::try_from(bytes.min(BYTES_MAX)).map_err(|_| Gone)?;
        self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)
    }

    /// Sends an event of a watch once there is room.
    pub async fn send_event(&self, frame: Vec<u8>) -> Result<(), Gone> {
        let bytes = frame.len().clamp(EVENT_BYTES_MIN, EVENT_BYTES_MAX);
        let bytes = u32::try_from(bytes).map_err(|_| Gone)?;
        let room = self.event_room.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        self.put(Message::binary(frame), Some(room)).await
    }

    /// Asks the client whether it is there.
    pub async fn ping(&self) -> Result<(), Gone> {
        self.put(Message::Ping(Vec::new().into()), None).await
    }

    /// Says goodbye; the writer ends behind it.
    pub async fn close(&self, code: u16, reason: &'static str) -> Result<(), Gone> {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        self.put(Message::Close(Some(frame)), None).await
    }

    /// Returns when nobody writes any more.
    pub async fn gone(&self) {
        self.queue.closed().await;
    }

    async fn put(&self, message: Message, room: Option<OwnedSemaphorePermit>) -> Result<(), Gone> {
        self.queue.send(Outgoing { messages: Messages::One(message), _room: room }).await.map_err(|_| Gone)
    }
}

/// Writes what is queued until the goodbye or the first failure; returns its half of the socket.
pub async fn write(mut sink: SplitSink<Socket, Message>, queue: Queue) -> SplitSink<Socket, Message> {
    let Queue(mut queue) = queue;
    if let Err(error) = write_all(&mut sink, &mut queue).await {
        tracing::debug!(%error, "a session's client takes nothing any more");
    }
    sink
}

async fn write_all<S: Sink<Message> + Unpin>(
    sink: &mut S,
    queue: &mut mpsc::Receiver<Outgoing>,
) -> Result<(), S::Error> {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut rooms = Vec::with_capacity(batch.len());
        let mut is_last = false;
        for Outgoing { messages, _room } in batch.drain(..) {
            rooms.push(_room);
            match messages {
                Messages::Many(messages) => {
                    for message in messages {
                        sink.feed(message).await?;
                    }
                }
                Messages::One(message) => {
                    is_last = matches!(message, Message::Close(_));
                    sink.feed(message).await?;
                }
            }
            if is_last {
                break;
            }
        }
        sink.flush().await?;
        if is_last {
            break;
        }
    }
    Ok(())
}
