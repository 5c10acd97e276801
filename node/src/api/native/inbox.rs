//! What comes in on one connection.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use crate::api::arrivals::Arrivals;

/// A message, the error that the socket ends with, or its end.
pub type Received = Option<Result<Message, SocketError>>;

/// How much of what the socket has read its messages took. Once that is all, it need not be asked for another until more
/// arrives.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Bytes of all messages so far, of each the fewest that its frame may have: never more than the socket has read of them.
    framed: u64,
}

/// The fewest bytes of a client's frame beside its payload of so many: two, the payload's length if it is above what fits
/// into these, and the mask.
const fn head_bytes(payload: usize) -> u64 {
    match payload {
        0..=125 => 6,
        126..=0xffff => 8,
        _ => 14,
    }
}

type Socket<S> = Pin<Box<WebSocketStream<Arrivals<S>>>>;

impl Inbox {
    /// The next message.
    pub fn poll_next<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut Socket<S>,
        cx: &mut Context<'_>,
    ) -> Poll<Received> {
        if self.is_empty(socket)
            && let Err(error) = ready!(socket.as_mut().get_mut().get_mut().poll_any(cx))
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        let message = ready!(socket.as_mut().poll_next(cx));
        if let Some(Ok(message)) = &message {
            self.framed += head_bytes(message.len()) + message.len() as u64;
        }
        Poll::Ready(message)
    }

    /// The next message if it is here. Nobody is woken when one comes.
    pub fn next_now<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut Socket<S>,
    ) -> Option<Received> {
        if self.is_empty(socket) {
            return None;
        }
        match self.poll_next(socket, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => Some(message),
            Poll::Pending => None,
        }
    }

    /// Whether nothing is here that a message could be made of.
    fn is_empty<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: &Socket<S>) -> bool {
        let arrivals = socket.get_ref();
        arrivals.is_empty() && arrivals.taken() == self.framed
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    type Pieces<'p> = &'p [&'p [u8]];

    /// A client's final frame, masked with zeros, whose length stands in as many bytes as `wide` says.
    fn frame(opcode: u8, payload: &[u8], wide: bool) -> Vec<u8> {
        let len = u16::try_from(payload.len()).expect("short");
        let head = match u8::try_from(len) {
            Ok(len @ 0..=125) if !wide => vec![opcode, 0x80 | len],
            _ => [&[opcode, 0x80 | 126], &len.to_be_bytes()[..]].concat(),
        };
        [&head[..], &[0; 4], payload].concat()
    }

    async fn socket() -> (DuplexStream, Socket<DuplexStream>) {
        let (far, near) = duplex(64 << 10);
        let socket = WebSocketStream::from_raw_socket(Arrivals::new(near, 0), Role::Server, None);
        (far, Box::pin(socket.await))
    }

    /// Story: messages come alone, several in one piece, in pieces, longer than what is read at once, with a length that takes
    /// more room than it needs, and in fragments. None is left lying, and where it can be known that no other is here it is.
    #[tokio::test]
    async fn no_message_is_left_lying() {
        let (binary, more, rest) = (0x82, 0x02, 0x80);
        let long = vec![7; 9000];
        let two = [frame(binary, b"b", false), frame(binary, b"c", false)].concat();
        let cut = frame(binary, b"in pieces", false);
        let fragments = [frame(more, b"frag", false), frame(rest, b"ment", false)].concat();
        // The pieces that come, the messages that they make, and whether the inbox knows that there are no others.
        let story: [(Pieces<'_>, Pieces<'_>, bool); 8] = [
            (&[&frame(binary, b"a", false)], &[b"a"], true),
            (&[&two], &[b"b", b"c"], true),
            (&[&cut[..4], &cut[4..9], &cut[9..]], &[b"in pieces"], true),
            (&[&frame(binary, &long, false)], &[&long], true),
            (&[&frame(0x89, b"ping", false)], &[b"ping"], true),
            (&[&frame(binary, b"d", true)], &[b"d"], false),
            (&[&fragments], &[b"fragment"], false),
            (&[&two], &[b"b", b"c"], false),
        ];
        let (mut far, mut socket) = socket().await;
        let mut inbox = Inbox::default();
        let mut cx = Context::from_waker(Waker::noop());
        for (pieces, messages, known) in story {
            for (n, piece) in pieces.iter().enumerate() {
                assert!(inbox.poll_next(&mut socket, &mut cx).is_pending(), "before piece {n}");
                far.write_all(piece).await.expect("there is room");
            }
            for message in messages {
                let Poll::Ready(Some(Ok(got))) = inbox.poll_next(&mut socket, &mut cx) else {
                    panic!("{message:?} is left lying");
                };
                assert_eq!(&got.into_data()[..], *message);
            }
            assert_eq!(inbox.is_empty(&socket), known, "{messages:?}");
        }
        drop(far);
        assert!(inbox.poll_next(&mut socket, &mut cx).is_ready(), "the end is heard of");
    }
}
