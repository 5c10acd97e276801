//! What a node sends: answers and events.

use std::borrow::Cow;
use std::collections::BTreeMap;

use meridian_crdt::{Value, Version};

use super::{number, text};
use crate::wire::error::{ApiError, ErrorCode};
use crate::wire::request::Document;
use crate::wire::{json, msgpack};

/// Room for a frame, enough for most.
const FRAME_BYTES: usize = 512;

/// How far one other datacenter is ahead of the one that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// The datacenter.
    pub dc: String,
    /// For how many milliseconds its changes may have been missing.
    pub ms: u64,
    /// How many of its txns are missing, as far as is known.
    pub txns: u64,
}

/// What a node sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The last word on a request.
    Answer {
        /// The request.
        id: u64,
        /// What came of it.
        outcome: Result<BTreeMap<String, Value>, ApiError>,
        /// The request's token merged with what it read and wrote; none where no session is involved.
        session: Option<Vec<u8>>,
        /// How stale the answer may be.
        staleness: Vec<Staleness>,
    },
    /// One event of a watch.
    Event {
        /// The request that started the watch.
        id: u64,
        /// What happened.
        body: BTreeMap<String, Value>,
    },
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRAME_BYTES);
        match self {
            Frame::Answer { id, outcome, session, staleness } => {
                let (word, body) = match outcome {
                    Ok(body) => ("ok", body),
                    Err(error) => ("error", error_fields(&error)),
                };
                write_front(5, id, word, &mut out);
                msgpack::write_map(&body, &mut out);
                write_session(session.as_deref(), &staleness, &mut out);
            }
            Frame::Event { id, body } => {
                write_front(3, id, "event", &mut out);
                msgpack::write_map(&body, &mut out);
            }
        }
        out
    }

    /// Reads a frame of a node. Further items at its end are left to later versions.
    pub fn decode(frame: &[u8]) -> Result<Frame, ApiError> {
        let shape = || ApiError::new(ErrorCode::BadMsgpack, "the node sent a frame of an unknown shape");
        let mut items = msgpack::from_node(frame)?.into_items().ok_or_else(shape)?.into_iter();
        let mut next = || items.next().ok_or_else(shape);
        let id = next()?.as_integer().and_then(|id| u64::try_from(id).ok()).ok_or_else(shape)?;
        let word = next()?;
        let body = next()?.into_fields().ok_or_else(shape)?;
        let outcome = match word.as_text() {
            Some("event") => return Ok(Frame::Event { id, body }),
            Some("ok") => Ok(body),
            Some("error") => Err(error_of(body).ok_or_else(shape)?),
            _ => return Err(shape()),
        };
        let session = match next()? {
            Value::Nil => None,
            Value::Bytes(token) => Some(token),
            _ => return Err(shape()),
        };
        let staleness = next()?.into_items().ok_or_else(shape)?;
        let staleness = staleness.into_iter().map(stale_of).collect::<Option<_>>().ok_or_else(shape)?;
        Ok(Frame::Answer { id, outcome, session, staleness })
    }
}

/// A field of a body, written from where it stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Part<'a> {
    /// A text.
    Text(&'a str),
    /// A version, in digits.
    Version(Version),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Any value.
    Value(Cow<'a, Value>),
}

impl Part<'_> {
    /// The same on its own.
    pub fn into_value(self) -> Value {
        match self {
            Part::Text(text) => Value::Str(text.to_owned()),
            Part::Version(version) => Value::Str(version.to_string()),
            Part::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Part::Value(value) => value.into_owned(),
        }
    }
}

/// A field that an answer may have.
pub type Field<'a> = Option<(&'static str, Part<'a>)>;

/// The frame of an answer to a request that was done: that of [`Frame::encode`] with those of these fields that there are,
/// which have to be in the order of their names.
pub fn encode_done(
    id: u64,
    fields: &[Field<'_>],
    session: Option<&[u8]>,
    staleness: &[Staleness],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_BYTES);
    write_front(5, id, "ok", &mut out);
    msgpack::write_map_head(fields.iter().flatten().count(), &mut out);
    for (name, part) in fields.iter().flatten() {
        msgpack::write_text(name, &mut out);
        match part {
            Part::Version(version) => msgpack::write_text(version.digits().as_str(), &mut out),
            Part::Text(text) => msgpack::write_text(text, &mut out),
            Part::Bytes(bytes) => msgpack::write_bytes(Some(bytes), &mut out),
            Part::Value(value) => msgpack::write(value, &mut out),
        }
    }
    write_session(session, staleness, &mut out);
    out
}

/// What all frames begin with.
fn write_front(items: usize, id: u64, word: &str, out: &mut Vec<u8>) {
    msgpack::write_array_head(items, out);
    msgpack::write(&number(id), out);
    msgpack::write_text(word, out);
}

/// What all answers end with.
fn write_session(session: Option<&[u8]>, staleness: &[Staleness], out: &mut Vec<u8>) {
    msgpack::write_bytes(session, out);
    msgpack::write_array_head(staleness.len(), out);
    for Staleness { dc, ms, txns } in staleness {
        msgpack::write_array_head(3, out);
        msgpack::write_text(dc, out);
        msgpack::write(&number(*ms), out);
        msgpack::write(&number(*txns), out);
    }
}

fn stale_of(value: Value) -> Option<Staleness> {
    let [dc, ms, txns]: [Value; 3] = value.into_items()?.try_into().ok()?;
    let number = |n: &Value| n.as_integer().and_then(|n| u64::try_from(n).ok());
    Some(Staleness { dc: dc.as_text()?.to_owned(), ms: number(&ms)?, txns: number(&txns)? })
}

/// The fields of an error, as in the object `error` of HTTP's body.
fn error_fields(error: &ApiError) -> BTreeMap<String, Value> {
    let json = serde_json::to_value(error).unwrap_or_else(|e| unreachable!("errors encode: {e}"));
    match json::to_value(&json) {
        Ok(Value::Map(fields)) => fields,
        // Particulars that no value can hold are left out; code and message always can be told.
        _ => [("code", error.code.as_str()), ("message", error.message.as_str())]
            .map(|(name, what)| (name.to_owned(), text(what)))
            .into(),
    }
}

/// The error that the fields tell; a code that this program does not know counts as the node's own fault.
fn error_of(mut fields: BTreeMap<String, Value>) -> Option<ApiError> {
    let code = fields.remove("code")?.as_text().map(ErrorCode::from_name)?.unwrap_or(ErrorCode::Internal);
    let mut error = ApiError::new(code, fields.remove("message")?.as_text()?);
    if let Some(ms) = fields.remove("retry_after_ms").and_then(|ms| ms.as_integer()) {
        error = error.retry_after_ms(u64::try_from(ms).unwrap_or_default());
    }
    for (name, value) in &fields {
        error = error.with(name, json::from_value(value));
    }
    Some(error)
}
