//! What clients of Hocuspocus say: several documents on one connection, each of which they ask to be let in to.
//!
//! ```text
//! frame   str(name) | type varint | body
//! 0 1 3   as in y-websocket                           4   the same as 0, as an answer
//! 2       0 str(token) [str(version)]                 answered with 2 2 str(scope), or 2 1 str(reason)
//! 5       a message of the application                7   the client leaves the document
//! 8 1     to the client: one of its messages with an update is kept by a majority of this datacenter
//! 8 0     to the client: one of its messages with an update is refused, since it may only read
//! 9 10    alone, without a name: ping and pong
//! ```
//!
//! A name may have a NUL and what tells two providers of one document apart behind it; the document is what stands before.
//! In a space without access tokens whoever asks is let in; in another one, who shows a token of it: in the message, or with
//! the handshake of the connection.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::Key;
use meridian_crdt::codec::{DecodeError, Reader, Writer};

use super::connection::Ears;
use super::is_reserved;
use crate::access::{Right, Shown};
use crate::api::Api;
use crate::docs::wire::Message;
use crate::docs::{Close, Editor, Outlet, Posted};

/// Bytes of a name: the longest key's, and as much again to tell providers apart.
const NAME_BYTES_MAX: usize = 2 << 10;
/// Documents of one connection.
const DOCUMENTS_MAX: usize = 100;

const SYNC: u64 = 0;
const AWARENESS: u64 = 1;
const AUTH: u64 = 2;
const QUERY_AWARENESS: u64 = 3;
const SYNC_REPLY: u64 = 4;
const STATELESS: u64 = 5;
const LEAVE: u64 = 7;
const PING: &[u8] = &[9];
const PONG: &[u8] = &[10];

const TOKEN: u64 = 0;
const DENIED: u8 = 1;
const ACCEPTED: u8 = 2;
/// What an editor may do who was let in.
fn scope(right: Right) -> &'static str {
    match right {
        Right::Read => "readonly",
        Right::Write => "read-write",
    }
}

/// The editors of a connection, by the names that they use.
pub struct Many {
    api: Api,
    space: String,
    /// The access tokens that came with the handshake.
    shown: Vec<String>,
    outlet: Outlet,
    editors: BTreeMap<Bytes, Editor>,
}

impl Many {
    /// Nobody is in any document yet.
    pub fn new(api: Api, space: String, shown: Vec<String>, outlet: Outlet) -> Self {
        Self { api, space, shown, outlet, editors: BTreeMap::new() }
    }

    /// Does not let somebody in.
    fn deny(&self, name: Bytes, reason: &str) -> Result<(), Close> {
        self.post(name, auth(DENIED, reason))
    }

    fn post(&self, name: Bytes, message: Bytes) -> Result<(), Close> {
        if self.outlet.post(Posted { name, message }) { Ok(()) } else { Err(Close::SLOW) }
    }

    /// Somebody asks to be let in, or again.
    async fn enter(&mut self, said: &Said, token: &str) -> Result<(), Close> {
        let name = said.encoded_name();
        let document = said.name.split('\0').next().unwrap_or_default();
        let Ok(key) = Key::new(self.space.as_str(), document) else {
            return self.deny(name, "the name of a document is 1 to 1024 bytes");
        };
        if is_reserved(&key.key) {
            return self.deny(name, "this name is kept for the nodes themselves");
        }
        // One who asks again, after its document was closed, enters anew.
        self.editors.remove(&name);
        if self.editors.len() >= DOCUMENTS_MAX {
            // Those that are over need no place, though their clients have not left them.
            self.editors.retain(|_, editor| !editor.is_over());
        }
        if self.editors.len() >= DOCUMENTS_MAX {
            return self.deny(name, "too many documents on one connection");
        }
        let shown = self.shown.iter().map(String::as_str).chain([token]).filter(|token| !token.is_empty());
        let right = match self.api.access.right(&self.space, &Shown::of(shown)) {
            Ok(right) => right,
            Err(error) => return self.deny(name, &error.message),
        };
        self.post(name.clone(), auth(ACCEPTED, scope(right)))?;
        let editor = self.api.docs.enter(key, self.outlet.seat(name.clone(), right)).await?;
        self.editors.insert(name, editor);
        Ok(())
    }

    /// Who has not been let in is not heard, nor told so: a provider whose token takes a while says what its user types meanwhile,
    /// and all of it again once it is let in; and one that was refused has been told.
    async fn say(&mut self, said: &Said, message: Message) {
        if let Some(editor) = self.editors.get(&said.encoded_name()) {
            editor.say(message).await;
        }
    }
}

impl Ears for Many {
    async fn hear(&mut self, frame: Bytes) -> Result<(), Close> {
        if frame == PING {
            return self.post(Bytes::new(), Bytes::from_static(PONG));
        }
        if frame == PONG {
            return Ok(());
        }
        let said = Said::decode(&frame).map_err(|_| Close::BAD_MESSAGE)?;
        match said.kind {
            SYNC | AWARENESS | QUERY_AWARENESS => {
                let message = Message::decode(&said.message).map_err(|_| Close::BAD_MESSAGE)?;
                self.say(&said, message).await;
                Ok(())
            }
            SYNC_REPLY => {
                let message = said.as_sync().map_err(|_| Close::BAD_MESSAGE)?;
                self.say(&said, message).await;
                Ok(())
            }
            AUTH => match said.token() {
                Some(token) => self.enter(&said, token).await,
                None => Err(Close::BAD_MESSAGE),
            },
            LEAVE => {
                self.editors.remove(&said.encoded_name());
                Ok(())
            }
            // Nobody here knows what applications tell each other so.
            STATELESS => Ok(()),
            _ => Err(Close::BAD_MESSAGE),
        }
    }
}

/// A frame, taken apart.
#[derive(Debug)]
struct Said {
    name: String,
    kind: u64,
    /// From the type on.
    message: Bytes,
}

impl Said {
    fn decode(frame: &Bytes) -> Result<Said, DecodeError> {
        let mut input = Reader::new(frame);
        let name = input.str()?;
        if name.len() > NAME_BYTES_MAX {
            return Err(DecodeError::Malformed);
        }
        let name = name.to_owned();
        let message = frame.slice_ref(input.rest());
        Ok(Said { name, kind: input.varint()?, message })
    }

    /// The name as it stands before each message.
    fn encoded_name(&self) -> Bytes {
        let mut out = Writer::new();
        out.bytes(self.name.as_bytes());
        out.finish().into()
    }

    /// An answer to what this node has asked: an update, never a question.
    fn as_sync(&self) -> Result<Message, DecodeError> {
        let sync = [&[SYNC as u8], self.message.get(1..).unwrap_or_default()].concat();
        match Message::decode(&sync.into())? {
            Message::Step1(_) => Err(DecodeError::Malformed),
            message => Ok(message),
        }
    }

    /// The token of one who asks to be let in.
    fn token(&self) -> Option<&str> {
        let mut input = Reader::new(&self.message);
        match (input.varint(), input.varint(), input.str()) {
            (Ok(AUTH), Ok(TOKEN), Ok(token)) => Some(token),
            _ => None,
        }
    }
}

/// The message that lets somebody in, or does not.
fn auth(outcome: u8, text: &str) -> Bytes {
    let mut out = Writer::new();
    out.varint(AUTH);
    out.u8(outcome);
    out.bytes(text.as_bytes());
    out.finish().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(frame: &[u8]) -> Said {
        Said::decode(&Bytes::copy_from_slice(frame)).expect("a frame")
    }

    #[test]
    fn frames_are_those_that_unmodified_providers_send() {
        let asks = said(b"\x01d\x02\x00\x05token\x054.8.0");
        assert_eq!((asks.name.as_str(), asks.kind, asks.token()), ("d", AUTH, Some("token")));
        assert_eq!(said(b"\x01d\x02\x00\x00").token(), Some(""));
        assert_eq!(said(b"\x01d\x02\x01\x00").token(), None, "what only a node says");
        let step = said(b"\x01d\x00\x00\x01\x00");
        assert_eq!(Message::decode(&step.message), Ok(Message::Step1(Bytes::from_static(&[0]))));
        assert_eq!(step.encoded_name(), b"\x01d"[..]);
        let reply = said(b"\x01d\x04\x01\x02\x00\x00");
        assert_eq!(reply.as_sync(), Ok(Message::Step2(Bytes::from_static(&[0, 0]))));
        assert!(said(b"\x01d\x04\x00\x01\x00").as_sync().is_err(), "a question as an answer");
        assert_eq!(auth(ACCEPTED, scope(Right::Write)), b"\x02\x02\x0aread-write"[..]);
        assert_eq!(auth(ACCEPTED, scope(Right::Read)), b"\x02\x02\x08readonly"[..]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bad in [&b""[..], b"\x05d", b"\x01d", b"\x01\xff\x00"] {
            assert!(Said::decode(&Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }
}
