//! Where versions of documents are kept: as ordinary keys of the space, so that they are replicated as everything else.
//!
//! ```text
//! R/{hash of the document's key}/r/{id}     a register: what the version is, and where its content is
//! R/{hash of the document's key}/c/{data}   a map: the parts of the content, by number
//! ```
//!
//! `R` is the last of all keys: clients read below it like anywhere, and write nothing. The content is a whole state in
//! Yjs' encoding v2, and depends on nothing else. It is written before the register, so that a version which is there is
//! whole, in every datacenter. A version belongs to the incarnations of its document that lived when it was made: once
//! they have ended it counts no longer.

use std::collections::BTreeMap;

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{
    Condition, Dot, Key, MapOp, Mutation, Query, ReadValue, RegisterOp, Value, Vector, YrsDocument,
};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::api::Api;
use crate::api::calls::{self, Refused, Session};
use crate::shard::WriteRequest;
use crate::storage::StateView;
use crate::txn::ClientTxn;

/// What the keys begin with that come behind all keys of clients.
const LAST: char = char::MAX;
/// What the keys of versions begin with.
const RESERVED: &str = "\u{10FFFF}meridian/versions";
/// Bytes of one part of a version's content.
const PART_BYTES: usize = 256 << 10;
/// Parts of one write.
const PARTS_AT_ONCE: usize = 4;
/// Bytes of a version's content.
pub const CONTENT_BYTES_MAX: usize = 64 << 20;
/// Versions of one document that are looked at, whatever their kind.
const VERSIONS_MAX: usize = 2_000;
/// Bytes of a version's name, and of what says who made it.
pub const NAME_BYTES_MAX: usize = 200;

/// What is known of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its name in paths.
    pub id: String,
    /// What people call it; none if it was made by itself.
    pub name: Option<String>,
    /// Who made it, as the client has said.
    pub by: Option<String>,
    /// Bytes of its content.
    pub bytes: usize,
    /// The version of the document then.
    pub version: String,
    /// The key of its content, behind the prefix.
    pub data: String,
    /// A hash of the content.
    pub hash: u64,
    /// The incarnations that it belongs to.
    pub of: Vec<Dot>,
}

/// A version that is kept, and when and where it was written.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What it is.
    pub record: Record,
    /// The txn that wrote it.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: u64,
}

/// Whether a key is one of those that only this node's own writes may change: the last of all, of which versions use some.
pub fn is_reserved(key: &str) -> bool {
    key.starts_with(LAST)
}

fn prefix(doc: &Key) -> String {
    let hash = Sha256::digest(doc.key.as_bytes());
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{RESERVED}/{hex}")
}

fn key_of(doc: &Key, kind: &str, name: &str) -> Result<Key, ApiError> {
    let key = format!("{}/{kind}/{name}", prefix(doc));
    Key::new(doc.space.as_str(), key).map_err(|e| ApiError::new(ErrorCode::BadKey, e.to_string()))
}

/// The key that says what a version is.
pub fn record_key(doc: &Key, id: &str) -> Result<Key, ApiError> {
    key_of(doc, "r", id)
}

impl Record {
    fn to_value(&self) -> Value {
        let text = |text: &str| Value::Str(text.to_owned());
        let optional = |text: &Option<String>| text.clone().map_or(Value::Nil, Value::Str);
        let fields = [
            ("v", Value::Int(1)),
            ("name", optional(&self.name)),
            ("by", optional(&self.by)),
            ("bytes", Value::Int(i64::try_from(self.bytes).unwrap_or(i64::MAX))),
            ("version", text(&self.version)),
            ("data", text(&self.data)),
            ("hash", text(&format!("{:016x}", self.hash))),
            ("of", Value::Array(self.of.iter().map(|dot| text(&dot.to_string())).collect())),
        ];
        Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// Reads what [`Record::to_value`] writes; `None` if it is none of this version of the program.
    fn of(id: &str, value: Value) -> Option<Record> {
        let Value::Map(mut fields) = value else { return None };
        if fields.remove("v") != Some(Value::Int(1)) {
            return None;
        }
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::Str(text)) => Some(text),
            _ => None,
        };
        let (name, by) = (text("name"), text("by"));
        let (version, data) = (text("version")?, text("data")?);
        let hash = u64::from_str_radix(&text("hash")?, 16).ok()?;
        let Some(Value::Int(bytes)) = fields.remove("bytes") else { return None };
        let Some(Value::Array(of)) = fields.remove("of") else { return None };
        let of = of.iter().map(|dot| if let Value::Str(dot) = dot { dot.parse().ok() } else { None });
        let of = of.collect::<Option<Vec<_>>>()?;
        let bytes = usize::try_from(bytes).ok()?;
        Some(Record { id: id.to_owned(), name, by, bytes, version, data, hash, of })
    }
}

/// All versions that are kept of a document, of ended incarnations too, the oldest first.
pub fn all(view: &StateView, doc: &Key) -> Result<Vec<Kept>, ApiError> {
    let begins = format!("{}/r/", prefix(doc));
    let listing = meridian_crdt::list(view, &doc.space, &begins, None, VERSIONS_MAX);
    let mut kept = Vec::new();
    for listed in listing.map_err(calls::unreadable)?.keys {
        let id = listed.key.get(begins.len()..).unwrap_or_default().to_owned();
        kept.extend(one(view, doc, &id)?);
    }
    kept.sort_by_key(|kept| (kept.hlc, kept.dot));
    Ok(kept)
}

/// A version, if it is kept.
pub fn one(view: &StateView, doc: &Key, id: &str) -> Result<Option<Kept>, ApiError> {
    let key = record_key(doc, id)?;
    let explained = meridian_crdt::explain(view, &key, 1).map_err(calls::unreadable)?;
    let cells = explained.map(|explained| explained.cells).unwrap_or_default();
    let visible = cells.into_iter().flat_map(|cell| cell.dots).find(|dot| dot.visible);
    Ok(visible.and_then(|found| {
        let record = Record::of(id, found.value)?;
        Some(Kept { record, dot: found.dot, hlc: found.hlc })
    }))
}

/// The document as it was.
pub fn content(view: &StateView, doc: &Key, record: &Record) -> Result<YrsDocument, ApiError> {
    let broken = |why: &str| {
        tracing::error!(key = %doc, id = record.id, why, "a version of a document cannot be read");
        ApiError::new(ErrorCode::Internal, "the version cannot be read; the log of this node says why")
    };
    let key = key_of(doc, "c", &record.data)?;
    let read = meridian_crdt::read(view, &key, &Query::default()).map_err(calls::unreadable)?;
    let Some(ReadValue::Map(parts)) = read.content.map(|content| content.value) else {
        return Err(broken("its content is not there"));
    };
    let mut bytes = Vec::new();
    for (_, part) in parts.into_values() {
        match part {
            ReadValue::Register(Value::Bytes(part)) => bytes.extend_from_slice(&part),
            _ => return Err(broken("a part of its content is something else")),
        }
    }
    if xxh3_64(&bytes) != record.hash {
        return Err(broken("its content is not what was written"));
    }
    super::busy(|| YrsDocument::of_v2(&bytes)).map_err(|error| broken(&error.to_string()))
}

/// What removes a version.
pub fn removal(doc: &Key, record: &Record) -> Result<[(Key, Mutation); 2], ApiError> {
    let delete = |key: Key| (key, Mutation::Delete(None));
    Ok([delete(record_key(doc, &record.id)?), delete(key_of(doc, "c", &record.data)?)])
}

/// What removes all versions of a document, as far as they are known here.
pub fn removal_of_all(view: &StateView, doc: &Key) -> Result<Vec<(Key, Mutation)>, ApiError> {
    let mut ops = Vec::new();
    for kept in all(view, doc)? {
        ops.extend(removal(doc, &kept.record)?);
    }
    Ok(ops)
}

/// Writes content and then what it is; `also` with the latter. The version must not be there yet, and the document not have been deleted
/// meanwhile.
pub async fn save(
    api: &Api,
    session: &Session,
    doc: &Key,
    record: &Record,
    content: &[u8],
    (also, asked): (Vec<(Key, Mutation)>, u64),
) -> calls::Result<Vector> {
    let data = key_of(doc, "c", &record.data)?;
    let parts: Vec<(Key, Mutation)> = content
        .chunks(PART_BYTES)
        .enumerate()
        .map(|(n, part)| {
            let set = Mutation::Register(RegisterOp::Set(Value::Bytes(part.to_vec())));
            let update = MapOp::Update { field: format!("{n:06}"), mutation: Box::new(set) };
            (data.clone(), Mutation::Map(update))
        })
        .collect();
    let quiet = Session { request_id: None, ..session.clone() };
    let mut touched = Vector::new();
    for parts in parts.chunks(PARTS_AT_ONCE) {
        touched
            .join(&calls::write_as(api, &quiet, request(Vec::new(), parts.to_vec())?.into()).await?.touched);
    }
    let key = record_key(doc, &record.id)?;
    let same = Condition::Incarnations(record.of.clone());
    let conditions = vec![(key.clone(), Condition::Absent), (doc.clone(), same)];
    let set = Mutation::Register(RegisterOp::Set(record.to_value()));
    let ops = [(key, set)].into_iter().chain(also).collect();
    let last = WriteRequest { asked: Some(asked), ..request(conditions, ops)? };
    let written = calls::write_as(api, session, last.into()).await;
    if written.as_ref().is_err_and(|refused| surely_not_kept(refused.error.code)) {
        forget(api, &quiet, doc, record).await;
    }
    touched.join(&written?.touched);
    Ok(touched)
}

/// Whether a write that was answered so has certainly changed nothing.
fn surely_not_kept(code: ErrorCode) -> bool {
    !matches!(code, ErrorCode::OutcomeUnknown | ErrorCode::CommitTimeout | ErrorCode::Internal)
}

/// Removes content of which no record knows. If that fails, it only takes its room.
pub async fn forget(api: &Api, session: &Session, doc: &Key, record: &Record) {
    let session = Session { request_id: None, ..session.clone() };
    let removed = async {
        let delete = (key_of(doc, "c", &record.data)?, Mutation::Delete(None));
        calls::write_as(api, &session, request(Vec::new(), vec![delete])?.into()).await
    };
    if let Err(refused) = removed.await {
        tracing::warn!(key = %doc, error = %refused.error, "the content of a version that was not kept stays");
    }
}

/// A write of this node's own, which no limit of clients' writes concerns.
pub fn request(
    conditions: Vec<(Key, Condition)>,
    ops: Vec<(Key, Mutation)>,
) -> Result<WriteRequest, Box<Refused>> {
    let bytes = ClientTxn::encoded_bytes(&conditions, &ops)
        .map_err(|e| ApiError::new(ErrorCode::BadValue, e.to_string()))?;
    Ok(WriteRequest { conditions, ops, bytes, ..WriteRequest::default() })
}

/// The fields of a version as they are told.
pub fn told(kept: &Kept, dc: String, time_ms: u64) -> BTreeMap<String, Value> {
    let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let optional = |text: &Option<String>| text.clone().map_or(Value::Nil, Value::Str);
    let record = &kept.record;
    let fields = [
        ("id", Value::Str(record.id.clone())),
        ("name", optional(&record.name)),
        ("by", optional(&record.by)),
        ("dc", Value::Str(dc)),
        ("time_ms", number(time_ms)),
        ("bytes", number(record.bytes as u64)),
        ("version", Value::Str(record.version.clone())),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}
