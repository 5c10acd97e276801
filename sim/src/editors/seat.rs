//! One connection of an editor to a document at a node, in the words of `y-websocket` or of Hocuspocus.
//!
//! Messages are those of the library that editors use, so that nodes are not asked in their own words.

use std::io;
use std::ops::Range;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async};
use turmoil::net::TcpStream;
use yrs::StateVector;
use yrs::sync::{Message, SyncMessage};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;

/// What an editor speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Nothing is acknowledged; who comes back hears what the node has.
    YWebsocket,
    /// Messages with updates are acknowledged.
    Hocuspocus,
}

/// Hocuspocus: somebody asks to be let in, without a token.
const ASKS_IN: &[u8] = &[2, 0, 0];
/// The beginning of the answer that lets it in.
const LET_IN: &[u8] = &[2, 2];
/// One of the editor's messages with an update is kept.
const KEPT: &[u8] = &[8, 1];
/// The beginning of the message by which one document is closed, with the reason behind it.
const CLOSED: u8 = 7;
/// That the document was deleted, in both dialects.
const DELETED: u16 = 4404;
const DELETED_REASON: &[u8] = b"the document was deleted";

/// Close codes after which an editor does not come back: there is no occasion here for any but [`DELETED`].
const FOR_GOOD: Range<u16> = 4400..4500;

/// What a node says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// What it has; it wants the rest.
    Has(StateVector),
    /// What the editor may lack.
    Update(Vec<u8>),
    /// One of the editor's messages with an update is kept.
    Kept,
    /// Something that says nothing about the document.
    Other,
}

/// A connection.
pub(crate) struct Seat {
    socket: WebSocketStream<TcpStream>,
    dialect: Dialect,
    /// What stands before every message.
    prefix: Vec<u8>,
    /// Whether the node knows of everything that the editor had when it came.
    pub(crate) is_introduced: bool,
    /// Messages with updates that are not known to be kept.
    unanswered: u64,
}

impl Seat {
    /// Connects to `host` and says what the editor has, within `deadline`. `document` is shorter than 128 bytes.
    pub(crate) async fn take(
        host: &str,
        dialect: Dialect,
        document: &str,
        has: &StateVector,
        deadline: Duration,
    ) -> io::Result<Self> {
        let took = timeout(deadline, Self::enter(host, dialect, document, has)).await;
        took.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn enter(host: &str, dialect: Dialect, document: &str, has: &StateVector) -> io::Result<Self> {
        let stream = TcpStream::connect((host, 7400)).await?;
        let (path, prefix) = match dialect {
            Dialect::YWebsocket => (format!("docs/{document}"), Vec::new()),
            Dialect::Hocuspocus => {
                ("hocuspocus".to_owned(), [&[document.len() as u8], document.as_bytes()].concat())
            }
        };
        let url = format!("ws://{host}:7400/v1/spaces/default/{path}");
        let (socket, _) = client_async(url, stream).await.map_err(io::Error::other)?;
        let mut seat = Self { socket, dialect, prefix, is_introduced: false, unanswered: 0 };
        if dialect == Dialect::Hocuspocus {
            seat.post(ASKS_IN.to_vec()).await?;
            let answer = seat.frame().await?;
            if !answer.starts_with(LET_IN) {
                return Err(wrong(format!("an editor is not let in: {answer:?}")));
            }
        }
        seat.post(sync(SyncMessage::SyncStep1(has.clone()))).await?;
        Ok(seat)
    }

    async fn post(&mut self, message: Vec<u8>) -> io::Result<()> {
        let frame = Frame::Binary([&*self.prefix, &*message].concat().into());
        self.socket.send(frame).await.map_err(io::Error::other)
    }

    /// Answers a node that has said what it has.
    pub(crate) async fn answer(&mut self, update: Vec<u8>) -> io::Result<()> {
        self.unanswered += 1;
        self.is_introduced = true;
        self.post(sync(SyncMessage::SyncStep2(update))).await
    }

    /// Tells of an edit.
    pub(crate) async fn tell(&mut self, update: Vec<u8>) -> io::Result<()> {
        self.unanswered += 1;
        self.post(sync(SyncMessage::Update(update))).await
    }

    /// One message is kept: whether that is all of them, and all that the editor has ever made is. An error if there
    /// was none.
    pub(crate) fn kept(&mut self) -> Result<bool, String> {
        let left = self.unanswered.checked_sub(1);
        self.unanswered = left.ok_or("an editor hears that more is kept than it has said")?;
        Ok(self.is_introduced && self.unanswered == 0)
    }

    /// Waits for the next message. Dropping the future loses nothing. [`io::ErrorKind::NotFound`] says that the document
    /// was deleted.
    pub(crate) async fn hear(&mut self) -> io::Result<Heard> {
        let message = self.frame().await?;
        if self.dialect == Dialect::Hocuspocus && message.first() == Some(&CLOSED) {
            let is_deleted = message.ends_with(DELETED_REASON);
            let other = || wrong(format!("an editor is sent away for good: {message:?}"));
            return Err(if is_deleted { io::ErrorKind::NotFound.into() } else { other() });
        }
        heard(self.dialect, &message).map_err(wrong)
    }

    /// The next frame behind its prefix.
    async fn frame(&mut self) -> io::Result<Bytes> {
        loop {
            match self.socket.next().await {
                Some(Ok(Frame::Binary(frame))) => {
                    let is_ours = frame.starts_with(&self.prefix);
                    let not_ours = || wrong(format!("a frame of another document: {frame:?}"));
                    return is_ours.then(|| frame.slice(self.prefix.len()..)).ok_or_else(not_ours);
                }
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                Some(Ok(Frame::Close(Some(close)))) if u16::from(close.code) == DELETED => {
                    return Err(io::ErrorKind::NotFound.into());
                }
                Some(Ok(Frame::Close(Some(close)))) if FOR_GOOD.contains(&u16::from(close.code)) => {
                    return Err(wrong(format!("an editor is sent away for good: {close:?}")));
                }
                Some(Ok(_)) | None => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
    }
}

/// The error of a node that says what it must not.
fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn sync(message: SyncMessage) -> Vec<u8> {
    Message::Sync(message).encode_v1()
}

fn heard(dialect: Dialect, message: &[u8]) -> Result<Heard, String> {
    if dialect == Dialect::Hocuspocus && message == KEPT {
        return Ok(Heard::Kept);
    }
    match Message::decode_v1(message).map_err(|error| format!("{message:?} is no message: {error}"))? {
        Message::Sync(SyncMessage::SyncStep1(has)) => Ok(Heard::Has(has)),
        Message::Sync(SyncMessage::SyncStep2(update) | SyncMessage::Update(update)) => {
            Ok(Heard::Update(update))
        }
        Message::Awareness(_) | Message::AwarenessQuery => Ok(Heard::Other),
        other => Err(format!("{other:?} is not what an editor hears here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let said = |message: &[u8]| heard(Dialect::Hocuspocus, message);
        assert_eq!(said(&[8, 1]), Ok(Heard::Kept));
        assert_eq!(said(&[0, 0, 1, 0]), Ok(Heard::Has(StateVector::default())));
        assert_eq!(said(&[0, 2, 2, 0, 0]), Ok(Heard::Update(vec![0, 0])));
        assert_eq!(said(&[1, 1, 0]), Ok(Heard::Other));
        assert!(said(&[8, 0]).is_err(), "nobody here may only read");
        assert!(heard(Dialect::YWebsocket, &[8, 1]).is_err(), "it knows no acknowledgement");
    }
}
