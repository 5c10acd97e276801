//! Log entries: what the leader proposes, and what each of its items came to.

use bytes::Bytes;
use meridian_client::wire::ApiError;
use meridian_crdt::{
    Condition, DocCompaction, Dot, Key, Mutation, Origin, OriginName, Value, Vector, Version,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::reads::ReadCheck;

/// The fingerprint under which a settlement is remembered: its answer is also that of the request that it settles, which may
/// come late, or be repeated by a client that has not heard of the settlement.
pub const SETTLED: u64 = 0;

const VERSION: u8 = 1;

/// The largest encoded entry. Requests and txns are kept below it, so that whatever one datacenter has committed can
/// be proposed in every other.
pub const ENTRY_BYTES_MAX: usize = 3 << 20;

/// One Raft log entry: everything that waited when the leader proposed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's wall clock, in milliseconds since 1970. Log time follows it, within its bounds.
    pub now_ms: u64,
    /// Applied in order, each wholly or not at all.
    pub items: Vec<Item>,
}

/// One thing to apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Item {
    /// A client's transaction.
    Client(ClientTxn),
    /// A txn of another origin, encoded.
    Remote(Bytes),
    /// This datacenter begins a life.
    Mint {
        /// The name of the new life.
        name: OriginName,
        /// A txn that was here and is lost; none for the first life.
        lost: Option<Dot>,
        /// The life that it therefore replaces. (It came later: entries from before lack it, and have lost a txn of
        /// that life's own.)
        #[serde(default)]
        ends: Option<Origin>,
    },
    /// Another datacenter writes under this name.
    Register(OriginName),
    /// The other datacenters of the cluster.
    Members(Vec<String>),
    /// The vector that a member has told us it has applied.
    Report {
        /// The member's current origin.
        member: Origin,
        /// What it has applied.
        vector: Vector,
    },
    /// Housekeeping: cut the oplog, sweep what is stable; at most so many rows of each.
    Tidy {
        /// The most rows that are looked at in each part.
        rows_max: u32,
    },
    /// A member has logged that a life of this datacenter is the present one.
    Admit {
        /// The life.
        life: Origin,
        /// The member's current origin.
        member: Origin,
        /// What the member then held for stable.
        stable: Vector,
    },
    /// A part of a snapshot of a document. (This and the next one came later, without raising the version of apply: a
    /// program that does not know them stops at the first.)
    Stage(StagedPart),
    /// The snapshot whose parts were staged takes the place of updates.
    Compact {
        /// The document.
        key: Key,
        /// What it replaces.
        compaction: DocCompaction,
    },
}

/// A part of a snapshot that is not complete yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedPart {
    /// The document.
    pub key: Key,
    /// The incarnations whose updates the snapshot replaces.
    pub of: Vec<Dot>,
    /// The snapshot.
    pub number: u64,
    /// Which part it is. The first one ends whatever was staged before.
    pub part: u32,
    /// The part.
    pub bytes: Bytes,
}

/// A client's transaction with everything that is not deterministic already resolved by the leader.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientTxn {
    /// The client's request id, if it gave one.
    pub id: Option<String>,
    /// The stamp of the leader's clock.
    pub hlc: u64,
    /// What must hold before.
    pub conditions: Vec<(Key, Condition)>,
    /// What is done.
    pub ops: Vec<(Key, Mutation)>,
    /// What the transaction has read, to be checked before anything is done. (This field and those below it came
    /// later: entries that were written before lack them.)
    #[serde(default)]
    pub reads: Vec<ReadCheck>,
    /// The client's numbered request id, if it gave one; `id` is then none.
    #[serde(default)]
    pub number: Option<Numbered>,
    /// Nothing is asked but what became of the request of this id. One that has not been applied yet never will be.
    #[serde(default)]
    pub settle: bool,
    /// A hash of what the client has asked, where the node has worked out the operations from it: a retry may come to
    /// other operations, and is the same request.
    #[serde(default)]
    pub asked: Option<u64>,
}

/// A request id of a client that counts its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// The client, by a random number of its own.
    pub client: u128,
    /// The request. A client counts upwards and has fewer than 256 requests under way.
    pub number: u64,
}

/// The id by which a retry is told from a new request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestId {
    /// Any text of at most 64 bytes.
    Free(String),
    /// A client's number.
    Numbered(Numbered),
}

/// What a client's transaction takes in an entry beyond its conditions and operations, at most.
pub const FRAME_BYTES: usize = 128;

/// Counts what is written to it and keeps nothing.
struct Counted(usize);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ClientTxn {
    /// How many bytes a request takes in the log, about: exact but for its frame.
    pub fn encoded_bytes(
        conditions: &[(Key, Condition)],
        ops: &[(Key, Mutation)],
    ) -> Result<usize, EntryError> {
        let mut count = Counted(FRAME_BYTES);
        rmp_serde::encode::write(&mut count, &(conditions, ops)).map_err(|e| EntryError(e.to_string()))?;
        Ok(count.0)
    }

    /// How many bytes these parts of an interactive transaction take in the log, without its frame.
    pub fn part_bytes(ops: &[(Key, Mutation)], reads: &[ReadCheck]) -> Result<usize, EntryError> {
        let mut count = Counted(0);
        rmp_serde::encode::write(&mut count, &(ops, reads)).map_err(|e| EntryError(e.to_string()))?;
        Ok(count.0)
    }

    /// The request's id, of either kind.
    pub fn request_id(&self) -> Option<RequestId> {
        match (self.number, &self.id) {
            (Some(number), _) => Some(RequestId::Numbered(number)),
            (None, Some(id)) => Some(RequestId::Free(id.clone())),
            (None, None) => None,
        }
    }

    /// A hash of what is asked, by which a reused request id is noticed. That of a request which has read nothing is
    /// the same as before there were checks of what was read; a settlement's is [`SETTLED`], and no other's.
    pub fn fingerprint(&self) -> Result<u64, EntryError> {
        if self.settle {
            return Ok(SETTLED);
        }
        if let Some(asked) = self.asked {
            return Ok(asked.max(SETTLED + 1));
        }
        let bytes = if self.reads.is_empty() {
            rmp_serde::to_vec(&(&self.conditions, &self.ops))
        } else {
            rmp_serde::to_vec(&(&self.conditions, &self.ops, &self.reads))
        };
        Ok(xxh3_64(&bytes.map_err(|e| EntryError(e.to_string()))?).max(SETTLED + 1))
    }
}

/// What became of one log entry: one outcome for each of its items, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// In the order of the items.
    pub outcomes: Vec<Outcome>,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} outcomes", self.outcomes.len())
    }
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The answer to a client's transaction.
    Client(Answer),
    /// What became of another origin's txn.
    Remote(RemoteOutcome),
    /// An item that changes bookkeeping was applied.
    Done,
    /// An item that changes bookkeeping was refused; nothing changed.
    Refused(String),
}

/// The answer to a client's transaction, as it is also remembered for its request id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done {
        /// The txn that it became; none if it changed nothing.
        dot: Option<Dot>,
        /// One for each operation.
        results: Vec<OpResult>,
        /// What the caller's session depends on from here on.
        touched: Vector,
    },
    /// It was refused and changed nothing.
    Refused {
        /// Why.
        error: ApiError,
        /// What the caller has learnt by the refusal: the dots of the keys that were looked at.
        touched: Vector,
    },
}

impl Answer {
    /// The answer to a session that depends on `dots` too.
    #[must_use]
    pub fn having_seen(mut self, dots: &Vector) -> Self {
        let (Answer::Done { touched, .. } | Answer::Refused { touched, .. }) = &mut self;
        touched.join(dots);
        self
    }
}

/// What one operation answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpResult {
    /// The version of its key after the whole transaction.
    pub version: Version,
    /// What the operation itself returns, such as a counter's new value.
    pub result: Option<Value>,
}

/// What became of another origin's txn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteOutcome {
    /// It is applied.
    Applied,
    /// It had been applied before.
    Duplicate,
    /// Txns of its origin are missing before it, or its deps are; it may come again.
    Early,
    /// It can never be applied; the link that brought it stops.
    Refused(String),
}

/// An entry could not be encoded or decoded.
#[derive(Debug, Error)]
#[error("log entry: {0}")]
pub struct EntryError(pub String);

impl Entry {
    /// The bytes that go into the log: a version and MessagePack.
    pub fn encode(&self) -> Result<Bytes, EntryError> {
        let mut bytes = vec![VERSION];
        rmp_serde::encode::write(&mut bytes, self).map_err(|e| EntryError(e.to_string()))?;
        Ok(bytes.into())
    }

    /// Reads what [`Entry::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => rmp_serde::from_slice(body).map_err(|e| EntryError(e.to_string())),
            Some((other, _)) => Err(EntryError(format!("version {other} is not known to this program"))),
            None => Err(EntryError("empty".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_client::wire::ErrorCode;
    use meridian_crdt::{CounterOp, DocOp};

    /// The bytes of [`sample`]: what begins the client's transaction, and what ends it, came to differ.
    fn golden(begins: &str, ends: &str) -> String {
        let key = "92a764656661756c74a16b";
        let txn =
            format!("{begins}a27231099192{key}a6416273656e749192{key}81a7436f756e74657281a341646405{ends}");
        format!("0192079281a6436c69656e74{txn}81a4546964799103")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn sample() -> Entry {
        let key = Key::new("default", "k").expect("valid key");
        let txn = ClientTxn {
            id: Some("r1".into()),
            hlc: 9,
            conditions: vec![(key.clone(), Condition::Absent)],
            ops: vec![(key, Mutation::Counter(CounterOp::Add(5)))],
            reads: Vec::new(),
            number: None,
            settle: false,
            asked: None,
        };
        Entry { now_ms: 7, items: vec![Item::Client(txn), Item::Tidy { rows_max: 3 }] }
    }

    #[test]
    fn entries_round_trip_and_their_bytes_do_not_change() {
        let entry = sample();
        let bytes = entry.encode().expect("encodes");
        assert_eq!(Entry::decode(&bytes).expect("decodes"), entry);
        assert_eq!(hex(&bytes), golden("98", "90c0c2c0"));
        assert!(Entry::decode(&[2]).is_err() && Entry::decode(&[]).is_err());
    }

    #[test]
    fn entries_that_were_written_before_there_were_all_fields_still_decode() {
        for old in [golden("94", ""), golden("97", "90c0c2")] {
            let byte = |at: usize| u8::from_str_radix(&old[at..at + 2], 16).expect("hexadecimal");
            let old: Vec<u8> = (0..old.len()).step_by(2).map(byte).collect();
            assert_eq!(Entry::decode(&old).expect("decodes"), sample());
        }
    }

    /// Old entries ask for a cell for each update, and must go on doing so: what they come to is in every digest since.
    #[test]
    fn updates_of_documents_are_asked_for_by_names_that_do_not_change() {
        let begins = |op: DocOp| rmp_serde::to_vec(&op).expect("encodes");
        assert_eq!(begins(DocOp::UpdateEach(Vec::new())), b"\x81\xa9UpdateAll\x90");
        assert_eq!(begins(DocOp::UpdateAll(Vec::new())), b"\x81\xaeUpdateTogether\x90");
    }

    #[test]
    fn what_was_asked_stands_for_the_operations_that_it_came_to() {
        let Item::Client(txn) = sample().items.remove(0) else { panic!("a client's") };
        let other = ClientTxn { ops: Vec::new(), conditions: Vec::new(), ..txn.clone() };
        assert_ne!(txn.fingerprint().expect("encodes"), other.fingerprint().expect("encodes"));
        let asked =
            |txn: &ClientTxn, asked| ClientTxn { asked, ..txn.clone() }.fingerprint().expect("encodes");
        assert_eq!(asked(&txn, Some(7)), asked(&other, Some(7)));
        assert_ne!(asked(&txn, Some(7)), asked(&txn, Some(8)));
        assert_ne!(asked(&txn, Some(SETTLED)), SETTLED);
    }

    #[test]
    fn answers_round_trip_with_their_errors() {
        let error = ApiError::new(ErrorCode::PreconditionFailed, "no").with("failed", vec![1, 2]);
        let answer = Answer::Refused { error, touched: Vector::new() };
        let bytes = rmp_serde::to_vec(&answer).expect("encodes");
        assert_eq!(rmp_serde::from_slice::<Answer>(&bytes).expect("decodes"), answer);
    }
}
