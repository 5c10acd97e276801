//! What nodes of one datacenter ask of their leader: a client's write, an index to read at, how far others are.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_client::wire::ApiError;
use meridian_crdt::{Condition, Dot, Key, Mutation, Vector};
use serde::{Deserialize, Serialize};

use super::digests::Note;
use crate::peer::codec;
use crate::txn::{Answer, ClientTxn, ReadCheck, RequestId};

/// Version 2 added what transactions read and numbered request ids.
const VERSION: u8 = 2;

/// A client's write on its way to the leader.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// The client's request id.
    pub id: Option<RequestId>,
    /// What must hold before.
    pub conditions: Vec<(Key, Condition)>,
    /// What is done.
    pub ops: Vec<(Key, Mutation)>,
    /// What the session depends on.
    pub session: Vector,
    /// How long the leader may wait for that, in milliseconds.
    pub wait_ms: u64,
    /// About how large the request is, in bytes.
    pub bytes: usize,
    /// What an interactive transaction has read.
    #[serde(default)]
    pub reads: Vec<ReadCheck>,
    /// Nothing is asked but what became of the request of this id.
    #[serde(default)]
    pub settle: bool,
    /// A hash of what the client has asked, where the operations were worked out from it.
    #[serde(default)]
    pub asked: Option<u64>,
}

impl WriteRequest {
    /// What apply is asked, without its stamp.
    pub fn to_txn(&self) -> ClientTxn {
        let (id, number) = match &self.id {
            Some(RequestId::Free(id)) => (Some(id.clone()), None),
            Some(RequestId::Numbered(number)) => (None, Some(*number)),
            None => (None, None),
        };
        ClientTxn {
            id,
            number,
            hlc: 0,
            conditions: self.conditions.clone(),
            ops: self.ops.clone(),
            reads: self.reads.clone(),
            settle: self.settle,
            asked: self.asked,
        }
    }
}

/// What is asked of the leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Do this write.
    Write(Box<WriteRequest>),
    /// From which log index on does a read see everything acknowledged before now?
    ReadIndex,
    /// Who holds this txn, once so many datacenters do or the time is over?
    Held {
        /// The txn, applied here.
        dot: Dot,
        /// How many datacenters are enough.
        count: usize,
        /// How long to wait for them, in milliseconds.
        wait_ms: u64,
    },
    /// How far behind each other datacenter are we?
    Lag,
    /// What time is it at your place? Any node answers.
    Clock,
    /// What did your state come to at which log index? Any node answers.
    Digests,
}

/// How far this datacenter is behind another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Txns that it has and we lack, as far as is known.
    pub txns: u64,
    /// For how many milliseconds we may have been behind it.
    pub ms: u64,
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The write's.
    Write(Answer),
    /// A log index to wait for.
    ReadIndex(u64),
    /// The names of the datacenters that hold it.
    Held(Vec<String>),
    /// By datacenter.
    Lag(BTreeMap<String, Lag>),
    /// Milliseconds since 1970.
    Clock(u64),
    /// The latest ones, and the current one.
    Digests(Vec<Note>),
    /// It could not be done.
    Failed(ApiError),
}

/// Encodes a request or a response: a version and MessagePack.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, String> {
    codec::encode(VERSION, message)
}

/// Reads what [`encode`] wrote.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    codec::decode("forward", VERSION, bytes)
}
