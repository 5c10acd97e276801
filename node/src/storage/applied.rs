//! How far the log is applied: the one row that ties rows to a place in the log.

use bytes::Bytes;
use meridian_crdt::codec::{Reader, Writer};

use super::{LogPosition, StorageError};

/// How far the log is applied, and the membership then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied entry; `None` before the first.
    pub position: Option<LogPosition>,
    /// Where the membership was set and its encoding, which only the Raft layer reads.
    pub membership: Option<(Option<LogPosition>, Bytes)>,
}

impl Applied {
    /// The index of the last applied entry; 0 before the first.
    pub fn index(&self) -> u64 {
        self.position.map_or(0, |at| at.index)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        put_position(&mut w, self.position);
        match &self.membership {
            None => w.u8(0),
            Some((at, members)) => {
                w.u8(1);
                put_position(&mut w, *at);
                w.bytes(members);
            }
        }
        w.finish()
    }

    pub(super) fn decode(row: &[u8]) -> Result<Self, StorageError> {
        let mut r = Reader::new(row);
        let position = get_position(&mut r)?;
        let membership = match r.u8()? {
            0 => None,
            _ => Some((get_position(&mut r)?, Bytes::copy_from_slice(r.bytes()?))),
        };
        r.finish()?;
        Ok(Self { position, membership })
    }

    /// The index after the last applied entry; 0 before the first.
    pub fn end(&self) -> u64 {
        self.position.map_or(0, |at| at.index + 1)
    }
}

fn put_position(w: &mut Writer, position: Option<LogPosition>) {
    match position {
        None => w.u8(0),
        Some(at) => {
            w.u8(1);
            w.u64(at.term);
            w.u64(at.index);
        }
    }
}

fn get_position(r: &mut Reader<'_>) -> Result<Option<LogPosition>, StorageError> {
    Ok(match r.u8()? {
        0 => None,
        _ => Some(LogPosition { term: r.u64()?, index: r.u64()? }),
    })
}
