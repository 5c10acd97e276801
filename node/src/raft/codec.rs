//! How openraft's values are written, to disk and to other nodes: a version byte, then the value.

use std::collections::BTreeSet;

use bytes::Bytes;
use meridian_crdt::codec::{DecodeError, Reader, Writer};
use openraft::entry::RaftEntry;
use openraft::{EntryPayload, Membership};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::types::{Entry, EntryData, LogId, StoredMembership, Vote, entry_position, log_id, position};
use crate::storage::{Applied, LogPosition, StorageError};

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

fn version(r: &mut Reader<'_>) -> Result<(), DecodeError> {
    match r.u8()? {
        VERSION => Ok(()),
        other => Err(DecodeError::UnknownVersion(other)),
    }
}

/// An entry as the log keeps it; its index is its key.
pub(super) fn encode_entry(entry: &Entry) -> Bytes {
    let mut w = Writer::new();
    w.u8(VERSION);
    w.u64(entry_position(entry).term);
    match &entry.payload {
        EntryPayload::Blank => w.u8(BLANK),
        EntryPayload::Normal(data) => {
            w.u8(NORMAL);
            w.raw(&data.0);
        }
        EntryPayload::Membership(members) => {
            w.u8(MEMBERSHIP);
            put_membership(&mut w, members);
        }
    }
    w.finish().into()
}

/// The entry at `index`; its data is a part of `row`, not a copy.
pub(super) fn decode_entry(index: u64, row: &Bytes) -> Result<Entry, StorageError> {
    let mut r = Reader::new(row);
    version(&mut r)?;
    let id = log_id(LogPosition { term: r.u64()?, index });
    let payload = match r.u8()? {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(EntryData(row.slice_ref(r.rest()))),
        MEMBERSHIP => EntryPayload::Membership(get_membership(&mut r)?),
        _ => return Err(DecodeError::Malformed.into()),
    };
    Ok(Entry::new(id, payload))
}

/// The position of the entry in a row of the log.
pub(super) fn decode_entry_id(index: u64, row: &[u8]) -> Result<LogId, StorageError> {
    let mut r = Reader::new(row);
    version(&mut r)?;
    Ok(log_id(LogPosition { term: r.u64()?, index }))
}

fn put_membership(w: &mut Writer, members: &Membership<u64, openraft::EmptyNode>) {
    let configs = members.get_joint_config();
    w.varint(configs.len() as u64);
    for config in configs {
        put_ids(w, config.iter().copied());
    }
    put_ids(w, members.learner_ids());
}

fn put_ids(w: &mut Writer, ids: impl Iterator<Item = u64>) {
    let ids: Vec<u64> = ids.collect();
    w.varint(ids.len() as u64);
    for id in ids {
        w.u64(id);
    }
}

fn get_ids(r: &mut Reader<'_>) -> Result<BTreeSet<u64>, DecodeError> {
    (0..r.varint()?).map(|_| r.u64()).collect()
}

fn get_membership(r: &mut Reader<'_>) -> Result<Membership<u64, openraft::EmptyNode>, DecodeError> {
    let configs: Vec<BTreeSet<u64>> = (0..r.varint()?).map(|_| get_ids(r)).collect::<Result<_, _>>()?;
    let learners = get_ids(r)?;
    let nodes: BTreeSet<u64> = configs.iter().flatten().copied().chain(learners).collect();
    Membership::new(configs, nodes).map_err(|_| DecodeError::Malformed)
}

/// What the state keeps about the applied log.
pub(super) fn to_applied(last: Option<LogId>, membership: &StoredMembership) -> Applied {
    let mut w = Writer::new();
    w.u8(VERSION);
    put_membership(&mut w, membership.membership());
    let at = membership.log_id().as_ref().map(position);
    Applied { position: last.as_ref().map(position), membership: Some((at, w.finish().into())) }
}

/// The applied log out of what the state keeps.
pub(super) fn from_applied(applied: &Applied) -> Result<(Option<LogId>, StoredMembership), StorageError> {
    let membership = match &applied.membership {
        None => StoredMembership::default(),
        Some((at, row)) => {
            let mut r = Reader::new(row);
            version(&mut r)?;
            let members = get_membership(&mut r)?;
            r.finish()?;
            StoredMembership::new(at.map(log_id), members)
        }
    };
    Ok((applied.position.map(log_id), membership))
}

/// A vote as the log keeps it.
pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(VERSION);
    w.u64(vote.leader_id.term);
    w.u64(vote.leader_id.voted_for);
    w.u8(u8::from(vote.committed));
    w.finish()
}

/// The vote in a row.
pub(super) fn decode_vote(row: &[u8]) -> Result<Vote, StorageError> {
    let mut r = Reader::new(row);
    version(&mut r)?;
    let (term, node, committed) = (r.u64()?, r.u64()?, r.u8()? != 0);
    r.finish()?;
    Ok(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

/// A position as the log keeps it.
pub(super) fn encode_id(id: &LogId) -> Vec<u8> {
    let at = position(id);
    let mut w = Writer::new();
    w.u8(VERSION);
    w.u64(at.term);
    w.u64(at.index);
    w.finish()
}

/// The position in a row.
pub(super) fn decode_id(row: &[u8]) -> Result<LogId, StorageError> {
    let mut r = Reader::new(row);
    version(&mut r)?;
    let at = LogPosition { term: r.u64()?, index: r.u64()? };
    r.finish()?;
    Ok(log_id(at))
}

/// A message to another node: version, kind, body.
pub(super) fn encode_message(kind: u8, body: &impl Serialize) -> Result<Bytes, rmp_serde::encode::Error> {
    let mut bytes = vec![VERSION, kind];
    rmp_serde::encode::write(&mut bytes, body)?;
    Ok(bytes.into())
}

/// The kind and the encoded body of a message.
pub(super) fn open_message(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let mut r = Reader::new(bytes);
    version(&mut r)?;
    Ok((r.u8()?, r.rest()))
}

/// The body of a message.
pub(super) fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_keep_their_bytes() {
        let id = log_id(LogPosition { term: 3, index: 9 });
        let members = Membership::new(vec![BTreeSet::from([1, 2, 3])], BTreeSet::from([1, 2, 3, 4])).unwrap();
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(EntryData(Bytes::from_static(b"data"))),
            EntryPayload::Membership(members),
        ] {
            let entry = Entry::new(id, payload);
            assert_eq!(decode_entry(9, &encode_entry(&entry)).unwrap(), entry);
        }
        let golden =
            encode_entry(&Entry::new(id, EntryPayload::Normal(EntryData(Bytes::from_static(b"data")))));
        assert_eq!(&golden[..], b"\x01\0\0\0\0\0\0\0\x03\x01data");
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let row = Bytes::from_static(b"\x02\0\0\0\0\0\0\0\x03\x01data");
        assert!(matches!(decode_entry(9, &row), Err(StorageError::Corrupt { .. })));
    }
}
