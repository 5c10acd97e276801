//! One connection of editors, whatever it speaks: frames in, frames out, signs of life.
//!
//! One task for each connection, which reads, has what it has read heard, and writes what rooms post, as much as is there
//! with one flush. While it writes it does not read: a client that takes nothing is not listened to either, and is
//! closed by its room when too much waits for it, or by the port when nothing moves for too long.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::protocol::frame::Frame as RawFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Frame, Utf8Bytes};

use crate::api::serve::{Port, told_to_stop};
use crate::api::upgrade::{DISCARD_TIME_MAX, Socket, linger};
use crate::docs::{Close, DocBounds, Inbox, Posted};

/// Above so many buffered bytes the socket is written to before the flush.
const WRITE_BUFFER_BYTES: usize = 16 << 10;
/// What a frame may have beside an update of the largest size: the name of a document, and the lengths.
const FRAME_OVERHEAD_BYTES: usize = 2 << 10;
/// A larger frame is written in fragments of so many bytes.
const FRAGMENT_BYTES: usize = 64 << 10;
/// How many frames are written before the flush.
const BATCH_MAX: usize = 64;
/// How often an editor who is silent is asked for a sign of life; after a second time it is closed. Editors renew their
/// presence every 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long an editor may take to hear why it is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What a connection does with the frames that it reads.
pub trait Ears: Send {
    /// Hears a frame; an error ends the connection.
    fn hear(&mut self, frame: Bytes) -> impl Future<Output = Result<(), Close>> + Send;
}

/// The bounds of a socket.
pub fn config(bounds: &DocBounds) -> WebSocketConfig {
    let frame_bytes_max = bounds.update_bytes_max + FRAME_OVERHEAD_BYTES;
    WebSocketConfig::default()
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(2 * (WRITE_BUFFER_BYTES + FRAGMENT_BYTES))
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max))
}

/// Serves the connection until one side ends it.
pub async fn serve(mut socket: Socket, mut ears: impl Ears, mut inbox: Inbox, mut port: Port) {
    let close = run(&mut socket, &mut ears, &mut inbox, &mut port).await;
    drop(ears);
    match close {
        Some(close) => say_goodbye(socket, close).await,
        // An editor who has said goodbye is answered by the socket itself, which is read once more for that.
        None => drop(tokio::time::timeout(DISCARD_TIME_MAX, socket.next()).await),
    }
}

/// Says why nothing comes of the connection.
pub async fn say_goodbye(mut socket: Socket, close: Close) {
    let frame = CloseFrame { code: close.code.into(), reason: Utf8Bytes::from_static(close.reason) };
    // An editor who does not listen learns it from the end of the connection.
    if tokio::time::timeout(CLOSE_LIMIT, socket.as_mut().get_mut().close(Some(frame))).await.is_ok() {
        linger(socket).await;
    }
}

/// Runs until one side ends it; says why, unless the editor has gone by itself.
async fn run(socket: &mut Socket, ears: &mut impl Ears, inbox: &mut Inbox, port: &mut Port) -> Option<Close> {
    let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut pinged) = (true, false);
    loop {
        tokio::select! {
            posted = inbox.next() => match posted {
                Ok(posted) => write(socket, inbox, posted).await?,
                Err(close) => return Some(close),
            },
            read = socket.next() => {
                (heard, pinged) = (true, false);
                let outcome = match frame_of(read)? {
                    Ok(Some(frame)) => ears.hear(frame).await,
                    Ok(None) => Ok(()),
                    Err(close) => Err(close),
                };
                if let Err(close) = outcome {
                    return Some(close);
                }
            }
            _ = ping.tick() => match (std::mem::take(&mut heard), pinged) {
                (true, _) => {}
                (false, true) => return Some(Close::SILENT),
                (false, false) => {
                    pinged = true;
                    socket.send(Frame::Ping(Bytes::new())).await.ok()?;
                }
            },
            () = told_to_stop(&mut port.stop) => return Some(Close::STOPPING),
        }
    }
}

/// Writes a frame and those that are there behind it. `None` if the editor has gone.
async fn write(socket: &mut Socket, inbox: &mut Inbox, first: Posted) -> Option<()> {
    feed(socket, first).await?;
    for _ in 1..BATCH_MAX {
        let Some(posted) = inbox.ready() else { break };
        feed(socket, posted).await?;
    }
    socket.flush().await.ok()
}

/// Gives a frame to the socket, a large one as fragments: the socket copies what it is given, and of a document that many open
/// at once there would be as many copies.
async fn feed(socket: &mut Socket, posted: Posted) -> Option<()> {
    if posted.size() <= FRAGMENT_BYTES {
        return socket.feed(Frame::Binary(posted.into_frame())).await.ok();
    }
    let pieces = posted.into_pieces(FRAGMENT_BYTES);
    let last = pieces.len() - 1;
    for (place, piece) in pieces.into_iter().enumerate() {
        let kind = if place == 0 { Data::Binary } else { Data::Continue };
        let fragment = RawFrame::message(piece, OpCode::Data(kind), place == last);
        socket.send(Frame::Frame(fragment)).await.ok()?;
    }
    Some(())
}

/// The frame that a message carries, if it carries one, or why the connection is to end. `None` if the editor has gone.
fn frame_of(read: Option<Result<Frame, SocketError>>) -> Option<Result<Option<Bytes>, Close>> {
    match read? {
        Ok(Frame::Binary(frame)) => Some(Ok(Some(frame))),
        Ok(Frame::Text(_)) => Some(Err(Close::TEXT)),
        Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_)) => Some(Ok(None)),
        Ok(Frame::Close(_)) => None,
        Err(SocketError::Capacity(_)) => Some(Err(Close::TOO_LARGE)),
        Err(error) => {
            tracing::debug!(%error, "an editor's connection ended");
            None
        }
    }
}
