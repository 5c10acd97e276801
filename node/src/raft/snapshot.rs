//! Snapshots on their way from a leader to a follower: all rows, on a connection of their own.
//!
//! The stream is a head (vote and metadata), chunks of rows, and a tail with the count of rows and a hash over all
//! chunks. The receiver collects the rows in a file beside its state, and uses nothing of it before the tail fits.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use meridian_crdt::codec::{Reader, Writer};
use meridian_crdt::{ReadCells, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use xxhash_rust::xxh3::Xxh3;

use super::codec;
use super::types::{SnapshotMeta, Vote};
use crate::peer::PeerClient;
use crate::seams::{BoxStream, Worker, run_on};
use crate::storage::{Incoming, StateView, StorageError};

/// The heads before rows of formats 2 and 3, which are read as they are.
const HEAD_OF_2: u8 = 1;
const HEAD_OF_3: u8 = 3;
/// The head before rows of format 4. A program that knows only the others refuses these, which it would misread.
const HEAD: u8 = 4;
const DONE: u8 = 2;
/// Rows of one chunk, in bytes, not counting the last row.
const CHUNK_BYTES: usize = 256 << 10;
/// The largest chunk that is received: a chunk may end with one large row.
const CHUNK_BYTES_MAX: usize = 64 << 20;

/// Where a walk over all rows stands.
#[derive(Default)]
struct Walk {
    table: u8,
    from: Vec<u8>,
    rows: u64,
}

impl Walk {
    /// The next chunk of rows; empty at the end.
    fn chunk(&mut self, view: &StateView) -> Result<Vec<u8>, StorageError> {
        let mut chunk = Writer::new();
        while usize::from(self.table) < Table::COUNT && chunk.as_slice().len() < CHUNK_BYTES {
            let (table, from) = (self.table, std::mem::take(&mut self.from));
            let mut last = None;
            view.scan(Table(table), &from, None, &mut |key, value| {
                chunk.u8(table);
                chunk.bytes(key);
                chunk.bytes(value);
                self.rows += 1;
                if chunk.as_slice().len() < CHUNK_BYTES {
                    return ControlFlow::Continue(());
                }
                last = Some(key.to_vec());
                ControlFlow::Break(())
            })?;
            match last {
                Some(mut key) => {
                    // The smallest key after the last one.
                    key.push(0);
                    self.from = key;
                }
                None => self.table += 1,
            }
        }
        Ok(chunk.finish())
    }
}

fn put_chunk(incoming: &mut Incoming, chunk: &[u8]) -> Result<(), StorageError> {
    let mut r = Reader::new(chunk);
    let mut rows = Vec::new();
    while !r.is_empty() {
        rows.push((Table(r.u8()?), r.bytes()?, r.bytes()?));
    }
    incoming.put_all(rows)
}

/// Copies all rows of a view into a new file.
pub(super) fn copy(view: &StateView, mut incoming: Incoming) -> Result<Incoming, StorageError> {
    let mut walk = Walk::default();
    loop {
        let chunk = walk.chunk(view)?;
        if chunk.is_empty() {
            return Ok(incoming);
        }
        put_chunk(&mut incoming, &chunk)?;
    }
}

/// Sends the rows of a view to another node; returns its vote when it has installed them.
pub(super) async fn send(
    peers: &PeerClient,
    target: u64,
    vote: Vote,
    meta: &SnapshotMeta,
    view: &StateView,
    stall: Duration,
) -> io::Result<Vote> {
    let mut stream = peers.dial_snapshot(target).await?;
    let head = codec::encode_message(HEAD, &(vote, meta)).map_err(io::Error::other)?;
    let mut hash = Xxh3::new();
    send_chunk(&mut stream, &head, stall).await?;
    let mut walk = Walk::default();
    loop {
        let chunk = walk.chunk(view)?;
        hash.update(&chunk);
        send_chunk(&mut stream, &chunk, stall).await?;
        if chunk.is_empty() {
            break;
        }
    }
    let tail = async {
        stream.write_u64(walk.rows).await?;
        stream.write_u64(hash.digest()).await?;
        stream.flush().await
    };
    within(stall, tail).await?;
    tracing::info!(target, rows = walk.rows, "sent a Raft snapshot");
    // The other end now writes and syncs the whole file, which takes as long as it takes; it says that it lives.
    loop {
        let answer = receive_chunk(&mut stream, stall).await?;
        if answer.is_empty() {
            continue;
        }
        return match codec::open_message(&answer) {
            Ok((DONE, body)) => codec::decode_body(body).map_err(io::Error::other),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the follower refused the snapshot")),
        };
    }
}

/// What a leader sent.
pub(super) struct Received {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) rows: Incoming,
}

/// Receives rows into `incoming`, written by `worker`.
pub(super) async fn receive(
    stream: &mut BoxStream,
    mut incoming: Incoming,
    worker: &dyn Worker,
    stall: Duration,
) -> io::Result<Received> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let head = receive_chunk(stream, stall).await?;
    let (vote, meta) = match codec::open_message(&head).map_err(io::Error::other)? {
        (HEAD | HEAD_OF_3 | HEAD_OF_2, body) => codec::decode_body(body).map_err(io::Error::other)?,
        _ => return Err(invalid("a snapshot without a head")),
    };
    let mut hash = Xxh3::new();
    loop {
        let chunk = receive_chunk(stream, stall).await?;
        if chunk.is_empty() {
            break;
        }
        hash.update(&chunk);
        let put = move || put_chunk(&mut incoming, &chunk).map(|()| incoming);
        incoming = run_on(worker, put).await.unwrap_or(Err(StorageError::Stopped))?;
    }
    let (rows, digest) =
        within(stall, async { Ok((stream.read_u64().await?, stream.read_u64().await?)) }).await?;
    if rows != incoming.rows() || digest != hash.digest() {
        return Err(invalid("a snapshot whose tail does not fit"));
    }
    Ok(Received { vote, meta, rows: incoming })
}

/// Tells the leader that the snapshot is installed, or is still being installed (`None`).
pub(super) async fn reply(stream: &mut BoxStream, vote: Option<Vote>, stall: Duration) -> io::Result<()> {
    let answer = match vote {
        Some(vote) => codec::encode_message(DONE, &vote).map_err(io::Error::other)?,
        None => bytes::Bytes::new(),
    };
    send_chunk(stream, &answer, stall).await
}

async fn send_chunk(stream: &mut BoxStream, chunk: &[u8], stall: Duration) -> io::Result<()> {
    let len = u32::try_from(chunk.len()).map_err(io::Error::other)?;
    let sending = async {
        stream.write_u32(len).await?;
        stream.write_all(chunk).await?;
        stream.flush().await
    };
    within(stall, sending).await
}

async fn receive_chunk(stream: &mut BoxStream, stall: Duration) -> io::Result<Vec<u8>> {
    let receiving = async {
        let len = stream.read_u32().await? as usize;
        if len > CHUNK_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk above its bound"));
        }
        // The buffer grows with what arrives, never with what was declared.
        let mut chunk = Vec::new();
        let read = (&mut *stream).take(len as u64).read_to_end(&mut chunk).await?;
        if read < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(chunk) }
    };
    within(stall, receiving).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::seams::{Executor, InlineExecutor, Seams, SimDisk, Urgency};
    use crate::storage::{Folder, FolderConfig, Identity, Opened};

    const STALL: Duration = Duration::from_secs(5);

    fn folder() -> Opened {
        let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: 1 };
        let seams = Seams { disk: Arc::new(SimDisk::new()), ..Seams::production() };
        Folder::open(FolderConfig::new("/data", identity), &seams).unwrap()
    }

    /// Receives one row, sent under a head of this kind.
    async fn receive_under(kind: u8) -> io::Result<Received> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut sender: BoxStream = Box::new(theirs);
        let head = codec::encode_message(kind, &(Vote::new(1, 1), SnapshotMeta::default())).unwrap();
        let mut row = Writer::new();
        row.u8(18);
        row.bytes(b"key");
        row.bytes(b"value");
        let row = row.finish();
        for chunk in [&head[..], &row, &[]] {
            send_chunk(&mut sender, chunk, STALL).await.unwrap();
        }
        sender.write_u64(1).await.unwrap();
        sender.write_u64(xxhash_rust::xxh3::xxh3_64(&row)).await.unwrap();
        let worker = InlineExecutor.worker("test", Urgency::Background);
        let incoming = folder().folder.incoming().unwrap();
        receive(&mut (Box::new(ours) as BoxStream), incoming, worker.as_ref(), STALL).await
    }

    #[tokio::test]
    async fn rows_of_formats_2_and_3_are_taken_and_those_of_a_later_one_refused() {
        for known in [HEAD_OF_2, HEAD_OF_3, HEAD] {
            assert_eq!(receive_under(known).await.unwrap().rows.rows(), 1);
        }
        // That is what a program of format 3 says to the head of format 4.
        assert_eq!(receive_under(HEAD + 1).await.err().unwrap().kind(), io::ErrorKind::InvalidData);
        assert_eq!((HEAD_OF_2, HEAD_OF_3, HEAD), (1, 3, 4), "as they stand on the wire");
    }

    /// Which tables there are and what they mean is none of a snapshot's business: one that it left out would take the
    /// oplog, or the memory of request ids, from every node that ever installs it.
    #[test]
    fn a_snapshot_carries_the_rows_of_every_table() {
        let opened = folder();
        let tables = || (0..Table::COUNT as u8).map(Table);
        let written = opened.state.write(|rows| {
            for table in tables() {
                meridian_crdt::Cells::put(rows, table, b"a", vec![table.0].into())?;
                meridian_crdt::Cells::put(rows, table, b"b", vec![table.0; 2].into())?;
            }
            Ok(())
        });
        written.unwrap();
        let incoming = copy(&opened.state.view(), opened.folder.incoming().unwrap()).unwrap();
        assert_eq!(incoming.rows(), 2 * Table::COUNT as u64);
        let applied = opened.state.applied();
        incoming.install(&applied, &opened.state).unwrap();
        let view = opened.state.view();
        for table in tables() {
            assert_eq!(view.get(table, b"a").unwrap().as_deref(), Some(&[table.0][..]), "{table:?}");
            assert_eq!(view.get(table, b"b").unwrap().as_deref(), Some(&[table.0; 2][..]), "{table:?}");
        }
    }
}
