//! The messages between two DCs: MessagePack behind a version byte, each at most [`MESSAGE_BYTES_MAX`].
//!
//! The version byte stands outside of MessagePack, so that a program of another version is told apart before anything
//! of its message is parsed. Variants and fields are only ever added at the end and with a new version.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{Origin, OriginName, Vector};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::seam::Reported;

/// The version that this program speaks; the first byte of every message. Version 2 added `Hello::told`, version 3
/// `Hello::reported` and `Admit`, version 4 cells of documents that hold several updates.
pub const PROTOCOL_VERSION: u8 = 4;

/// The largest message.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// The most bytes of txns that one message carries; the rest is for framing.
pub const PAYLOAD_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (4 << 10);

/// What MessagePack adds to one txn at most.
pub const TXN_FRAMING_BYTES: usize = 5;

/// The most origins that a `Hello` may name, so that it fits a message.
pub const ORIGINS_MAX: usize = 1024;

/// One message of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first message in each direction.
    Hello(Box<Hello>),
    /// The sender will not keep a link to the receiver; the connection ends.
    Refuse {
        /// Why, for a human.
        why: String,
    },
    /// Origins that the sender has registered since its `Hello`.
    Origins(Vec<OriginName>),
    /// Whole encoded txns, in the sender's order of application for each stream.
    Txns(Vec<Bytes>),
    /// A piece of one txn that is too large for a message; pieces follow each other without a gap.
    Part {
        /// The size of the whole txn.
        total: u64,
        /// The next bytes of it.
        data: Bytes,
    },
    /// What a majority of the sender's DC holds and it has applied. Also the heartbeat.
    Ack(Vector),
    /// The sender misses txns: for each origin of `upto`, those above `have`, up to `upto`.
    Want {
        /// What the sender has applied or holds without a gap.
        have: Vector,
        /// What it has heard of.
        upto: Vector,
    },
    /// The sender's log holds `life` for the receiver's present one, and takes reports of no earlier one any more. Said
    /// once on each connection.
    Admit {
        /// The receiver's life.
        life: Origin,
        /// What the sender holds for stable. From here on it grows only by what `life` itself reports.
        stable: Vector,
    },
}

/// Who speaks, what it has, and what it can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster.
    pub cluster: u64,
    /// The name of the speaker's DC.
    pub dc: String,
    /// Its own origin; `None` only from a node that does not lead.
    pub own: Option<OriginName>,
    /// The speaking node.
    pub node: u64,
    /// The Raft term in which it leads; `None` if it does not.
    pub leading: Option<u64>,
    /// Who leads that DC instead, as far as it knows.
    pub leader_node: Option<u64>,
    /// What it has applied.
    pub vector: Vector,
    /// For each origin the highest seq that its oplog no longer has.
    pub floor: Vector,
    /// Every origin that it knows.
    pub origins: Vec<OriginName>,
    /// The DCs of its configuration with the number of their nodes, its own DC left out.
    pub members: BTreeMap<String, u64>,
    /// The bytes that it takes without having acknowledged them.
    pub credit_bytes: u64,
    /// On the dialing side the number of the dial, rising within a process; 0 on the answering side.
    pub dial: u64,
    /// What it was told to be applied somewhere, above `vector`. A DC that finds more of its own txns in it than it
    /// has must not go on in its present life, even if those txns reached nobody.
    pub told: Vector,
    /// What it has logged of the receiver's DC. A DC that lacks any of what its present life has reported must not go on in
    /// that life: others take it for stable on its word.
    pub reported: Option<Reported>,
}

/// Why a received message cannot be used; the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The peer speaks another version.
    #[error("protocol version {0} is not known to this program")]
    Version(u8),
    /// The message is larger than any that may be sent.
    #[error("a message of {0} bytes is above the limit")]
    TooLarge(usize),
    /// The bytes are no message.
    #[error("a message cannot be decoded: {0}")]
    Malformed(String),
    /// The message could not be encoded.
    #[error("a message cannot be encoded: {0}")]
    Encode(String),
}

/// Room for the length of a txn in a message, and for what surrounds all of them.
const TXN_FRAME_BYTES: usize = 5;
const MESSAGE_FRAME_BYTES: usize = 32;

impl Message {
    /// The bytes of one WebSocket message.
    pub fn encode(&self) -> Result<Bytes, MessageError> {
        // Txns are what is large: a buffer that grows to their size copies them on the way.
        let txns: usize = match self {
            Message::Txns(txns) => txns.iter().map(|txn| txn.len() + TXN_FRAME_BYTES).sum(),
            _ => 0,
        };
        let mut out = Vec::with_capacity(txns + MESSAGE_FRAME_BYTES);
        out.push(PROTOCOL_VERSION);
        rmp_serde::encode::write(&mut out, self).map_err(|e| MessageError::Encode(e.to_string()))?;
        if out.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLarge(out.len()));
        }
        Ok(out.into())
    }

    /// Reads what [`Message::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Message, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLarge(bytes.len()));
        }
        let (version, body) =
            bytes.split_first().ok_or_else(|| MessageError::Malformed("an empty message".into()))?;
        if *version != PROTOCOL_VERSION {
            return Err(MessageError::Version(*version));
        }
        rmp_serde::from_slice(body).map_err(|e| MessageError::Malformed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::{Dot, Origin};
    use uuid::Uuid;

    fn vector(seq: u64) -> Vector {
        [Dot::new(Origin(7), seq)].into_iter().collect()
    }

    fn hello() -> Message {
        let name = OriginName { dc: "a".into(), epoch: Uuid::from_u128(1) };
        Message::Hello(Box::new(Hello {
            cluster: 5,
            dc: "a".into(),
            own: Some(name.clone()),
            node: 1,
            leading: Some(3),
            leader_node: None,
            vector: vector(9),
            floor: Vector::new(),
            origins: vec![name],
            members: BTreeMap::from([("b".into(), 3)]),
            credit_bytes: 1000,
            dial: 2,
            told: vector(11),
            reported: Some(Reported { life: Origin(7), acked: vector(4) }),
        }))
    }

    #[test]
    fn golden_bytes_of_messages_do_not_change() {
        let mut ack = vec![4, 0x81, 0xa3];
        ack.extend_from_slice(b"Ack");
        ack.extend_from_slice(&[0x81, 7, 9]);
        assert_eq!(Message::Ack(vector(9)).encode().unwrap(), ack);

        let mut txns = vec![4, 0x81, 0xa4];
        txns.extend_from_slice(b"Txns");
        txns.extend_from_slice(&[0x91, 0xc4, 2, b'x', b'y']);
        assert_eq!(Message::Txns(vec![Bytes::from_static(b"xy")]).encode().unwrap(), txns);

        let mut want = vec![4, 0x81, 0xa4];
        want.extend_from_slice(b"Want");
        want.extend_from_slice(&[0x92, 0x81, 7, 1, 0x81, 7, 2]);
        assert_eq!(Message::Want { have: vector(1), upto: vector(2) }.encode().unwrap(), want);

        let mut admit = vec![4, 0x81, 0xa5];
        admit.extend_from_slice(b"Admit");
        admit.extend_from_slice(&[0x92, 7, 0x81, 7, 2]);
        assert_eq!(Message::Admit { life: Origin(7), stable: vector(2) }.encode().unwrap(), admit);

        let mut golden = vec![4, 0x81, 0xa5];
        golden.extend_from_slice(b"Hello");
        golden.extend_from_slice(&[0x9e, 5, 0xa1, b'a', 0x92, 0xa1, b'a', 0xc4, 16]);
        golden.extend_from_slice(Uuid::from_u128(1).as_bytes());
        golden.extend_from_slice(&[1, 3, 0xc0, 0x81, 7, 9, 0x80, 0x91, 0x92, 0xa1, b'a', 0xc4, 16]);
        golden.extend_from_slice(Uuid::from_u128(1).as_bytes());
        golden
            .extend_from_slice(&[0x81, 0xa1, b'b', 3, 0xcd, 0x03, 0xe8, 2, 0x81, 7, 11, 0x92, 7, 0x81, 7, 4]);
        assert_eq!(hello().encode().unwrap(), golden);
    }

    #[test]
    fn messages_round_trip_and_truncations_are_refused() {
        let refuse = Message::Refuse { why: "no".into() };
        let part = Message::Part { total: 3, data: Bytes::from_static(b"abc") };
        for message in [hello(), refuse, part, Message::Origins(vec![])] {
            let bytes = message.encode().unwrap();
            assert_eq!(Message::decode(&bytes).unwrap(), message);
            for n in 0..bytes.len() {
                assert!(Message::decode(&bytes[..n]).is_err());
            }
        }
    }

    #[test]
    fn another_version_is_told_apart_before_its_message_is_parsed() {
        assert_eq!(Message::decode(&[9, 0xff, 0xff]), Err(MessageError::Version(9)));
    }

    #[test]
    fn a_declared_length_is_not_an_allocation() {
        let mut bytes = vec![4, 0x81, 0xa4];
        bytes.extend_from_slice(b"Txns");
        bytes.extend_from_slice(&[0xdd, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(Message::decode(&bytes), Err(MessageError::Malformed(_))));
    }
}
