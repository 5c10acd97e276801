//! One WebSocket: a task that reads and a task that writes, so that a full send buffer never keeps us from reading.
//!
//! Everything is bounded: messages and frames by [`MESSAGE_BYTES_MAX`], the write buffer by a constant, the handshake
//! and each flush by a deadline. A reader that outruns the driver waits, which the peer feels as TCP backpressure.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use super::host::BoxStream;
use crate::proto::event::{ConnId, Event};
use crate::proto::message::{MESSAGE_BYTES_MAX, Message, MessageError};

/// What is read from the socket at once; small, because there is one such buffer per connection.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Above so many buffered bytes the socket is written to before the flush.
const WRITE_BUFFER_BYTES: usize = 128 << 10;

/// The bound of the write buffer; room for the buffer and several whole messages.
const WRITE_BUFFER_BYTES_MAX: usize = 1 << 20;

/// The most bytes that are gathered into one flush.
const GATHER_BYTES_MAX: usize = 512 << 10;

/// A WebSocket over an authenticated stream.
pub(super) type Socket = WebSocketStream<BoxStream>;

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// The dialing side of the WebSocket handshake.
pub(super) async fn open(stream: BoxStream) -> Result<Socket, String> {
    client_async_with_config("ws://meridian/gossip", stream, Some(limits()))
        .await
        .map(|(socket, _)| socket)
        .map_err(|e| e.to_string())
}

/// The answering side of the WebSocket handshake.
pub(super) async fn accept(stream: BoxStream) -> Result<Socket, String> {
    accept_async_with_config(stream, Some(limits())).await.map_err(|e| e.to_string())
}

/// The driver's end of a connection. Dropping it sends what is queued and closes.
#[derive(Debug)]
pub(super) struct Connection {
    queue: mpsc::Sender<Bytes>,
    reader: AbortHandle,
}

impl Connection {
    /// Queues a message; false if the peer has fallen too far behind or is gone, and the connection must be given up.
    pub(super) fn send(&self, message: &Bytes) -> bool {
        self.queue.try_send(message.clone()).is_ok()
    }

    /// Starts the two tasks of `socket`. Their events go to `events`.
    pub(super) fn start(
        socket: Socket,
        conn: ConnId,
        queue_messages_max: usize,
        send_deadline: Duration,
        events: mpsc::Sender<Event>,
    ) -> Connection {
        let (sink, source) = socket.split();
        let (queue, queued) = mpsc::channel(queue_messages_max);
        let reader = tokio::spawn(read(source, conn, events.clone())).abort_handle();
        tokio::spawn(write(sink, queued, send_deadline, conn, events));
        Connection { queue, reader }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads until the connection ends; the last event is `Closed`.
async fn read(mut source: SplitStream<Socket>, conn: ConnId, events: mpsc::Sender<Event>) {
    let why = loop {
        let event = match source.next().await {
            None => break "the peer closed the connection".to_owned(),
            Some(Err(error)) => break error.to_string(),
            Some(Ok(Frame::Binary(bytes))) => match Message::decode(&bytes) {
                Ok(message) => Event::Received { conn, message },
                Err(error @ MessageError::Version(_)) => {
                    Event::Received { conn, message: Message::Refuse { why: error.to_string() } }
                }
                Err(error) => break error.to_string(),
            },
            Some(Ok(Frame::Close(_))) => break "the peer closed the connection".to_owned(),
            Some(Ok(Frame::Text(_))) => break "the peer sent text".to_owned(),
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => continue,
        };
        if events.send(event).await.is_err() {
            return;
        }
    };
    // A closed channel means that the driver has ended, and nobody is left to tell.
    let _ = events.send(Event::Closed { conn, why }).await;
}

/// Writes what is queued, gathered per flush, until the queue is closed.
async fn write(
    mut sink: SplitSink<Socket, Frame>,
    mut queued: mpsc::Receiver<Bytes>,
    deadline: Duration,
    conn: ConnId,
    events: mpsc::Sender<Event>,
) {
    while let Some(first) = queued.recv().await {
        let flush = timeout(deadline, gather(&mut sink, first, &mut queued));
        let why = match flush.await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => "the peer does not take what is sent".to_owned(),
        };
        let _ = events.send(Event::Closed { conn, why }).await;
        return;
    }
    // The connection is given up; a failure to say so politely changes nothing.
    let _ = timeout(deadline, sink.close()).await;
}

async fn gather(
    sink: &mut SplitSink<Socket, Frame>,
    first: Bytes,
    queued: &mut mpsc::Receiver<Bytes>,
) -> Result<(), String> {
    let mut gathered = first.len();
    sink.feed(Frame::Binary(first)).await.map_err(|e| e.to_string())?;
    while gathered < GATHER_BYTES_MAX
        && let Ok(next) = queued.try_recv()
    {
        gathered += next.len();
        sink.feed(Frame::Binary(next)).await.map_err(|e| e.to_string())?;
    }
    sink.flush().await.map_err(|e| e.to_string())
}
