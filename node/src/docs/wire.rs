//! The messages of `y-websocket`: one binary frame of the WebSocket carries exactly one.
//!
//! ```text
//! 00 00  bytes(state vector)    what the sender has; answered with what it lacks
//! 00 01  bytes(update)          the answer
//! 00 02  bytes(update)          an edit
//! 01     bytes(awareness)       who is present
//! 02 00  text                   to an editor who may only read: an edit of it is refused
//! 03                            who is present?  (from either side)
//! ```
//!
//! Hocuspocus has the same messages behind the name of a document, and two more to the editor:
//!
//! ```text
//! 07     text                   the document is over for you
//! 08 01                         one of your messages with an update is kept
//! 08 00                         one of your messages with an update is refused
//! ```
//!
//! Numbers are LEB128 and bytes carry their length, as everywhere in this program. It is pure.

use bytes::Bytes;
use meridian_crdt::codec::{DecodeError, Reader, Writer};

const SYNC: u8 = 0;
const AWARENESS: u8 = 1;
const AUTH: u8 = 2;
const QUERY_AWARENESS: u8 = 3;

const LEAVE: u8 = 7;
const SYNC_STATUS: u8 = 8;

/// The state vector of who has nothing.
pub const FROM_NOTHING: &[u8] = &[0];

const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;

const PERMISSION_DENIED: u8 = 0;

/// What an editor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What it has, as a state vector; it wants the rest.
    Step1(Bytes),
    /// Everything that it has and the node does not, as far as it knows.
    Step2(Bytes),
    /// An edit.
    Update(Bytes),
    /// States of those who are present.
    Awareness(Bytes),
    /// It wants the states of all who are present.
    QueryAwareness,
}

impl Message {
    /// Bytes of what it carries.
    pub fn bytes(&self) -> usize {
        match self {
            Message::Step1(bytes)
            | Message::Step2(bytes)
            | Message::Update(bytes)
            | Message::Awareness(bytes) => bytes.len(),
            Message::QueryAwareness => 0,
        }
    }

    /// Reads a frame, which must hold one message and nothing else.
    pub fn decode(frame: &Bytes) -> Result<Message, DecodeError> {
        let mut input = Reader::new(frame);
        let message = match input.u8()? {
            SYNC => {
                let step = input.u8()?;
                let body = frame.slice_ref(input.bytes()?);
                match step {
                    STEP_1 => Message::Step1(body),
                    STEP_2 => Message::Step2(body),
                    UPDATE => Message::Update(body),
                    _ => return Err(DecodeError::Malformed),
                }
            }
            AWARENESS => Message::Awareness(frame.slice_ref(input.bytes()?)),
            QUERY_AWARENESS => Message::QueryAwareness,
            _ => return Err(DecodeError::Malformed),
        };
        input.finish()?;
        Ok(message)
    }
}

/// The frame that asks an editor for what `state_vector` does not cover.
pub fn step_1(state_vector: &[u8]) -> Bytes {
    frame(&[SYNC, STEP_1], state_vector)
}

/// The frame that gives an editor what it lacks.
pub fn step_2(update: &[u8]) -> Bytes {
    frame(&[SYNC, STEP_2], update)
}

/// The frame of an edit.
pub fn update(update: &[u8]) -> Bytes {
    frame(&[SYNC, UPDATE], update)
}

/// The frame with states of those who are present.
pub fn awareness(states: &[u8]) -> Bytes {
    frame(&[AWARENESS], states)
}

/// The frame that asks an editor whom it knows to be present.
pub fn query_awareness() -> Bytes {
    Bytes::from_static(&[QUERY_AWARENESS])
}

/// The message that ends an editor's part in one document of several.
pub fn leave(reason: &str) -> Bytes {
    frame(&[LEAVE], reason.as_bytes())
}

/// The message that says that one message with an update is kept.
pub fn kept() -> Bytes {
    Bytes::from_static(&[SYNC_STATUS, 1])
}

/// The message that says that one message with an update is refused.
pub fn not_kept() -> Bytes {
    Bytes::from_static(&[SYNC_STATUS, 0])
}

/// The frame that tells an editor of `y-websocket` that something is refused.
pub fn denied(reason: &str) -> Bytes {
    frame(&[AUTH, PERMISSION_DENIED], reason.as_bytes())
}

fn frame(head: &[u8], body: &[u8]) -> Bytes {
    let mut out = Writer::new();
    out.raw(head);
    out.bytes(body);
    out.finish().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(frame: &[u8]) -> Result<Message, DecodeError> {
        Message::decode(&Bytes::copy_from_slice(frame))
    }

    #[test]
    fn frames_are_those_that_unmodified_clients_send() {
        let body = Bytes::from_static(&[0, 0]);
        assert_eq!(decode(&[0, 0, 1, 0]), Ok(Message::Step1(Bytes::from_static(&[0]))));
        assert_eq!(decode(&[0, 1, 2, 0, 0]), Ok(Message::Step2(body.clone())));
        assert_eq!(decode(&[0, 2, 2, 0, 0]), Ok(Message::Update(body.clone())));
        assert_eq!(decode(&[1, 1, 0]), Ok(Message::Awareness(Bytes::from_static(&[0]))));
        assert_eq!(decode(&[3]), Ok(Message::QueryAwareness));
        assert_eq!(step_1(&[0]), [0, 0, 1, 0][..]);
        assert_eq!(step_2(&body), [0, 1, 2, 0, 0][..]);
        assert_eq!(update(&body), [0, 2, 2, 0, 0][..]);
        assert_eq!(awareness(&[0]), [1, 1, 0][..]);
        assert_eq!(query_awareness(), [3][..]);
        assert_eq!((leave("x"), kept()), (Bytes::from_static(&[7, 1, b'x']), Bytes::from_static(&[8, 1])));
        assert_eq!(
            (denied("x"), not_kept()),
            (Bytes::from_static(&[2, 0, 1, b'x']), Bytes::from_static(&[8, 0]))
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in [&[][..], &[0], &[0, 3, 0], &[2, 0, 0], &[4], &[0, 0, 2, 0], &[3, 0], &[0, 0, 1, 0, 0]] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }
}
