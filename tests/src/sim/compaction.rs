//! What the leaders of modelled datacenters propose for documents with a tail.

use std::convert::Infallible;

use bytes::Bytes;
use meridian::txn::{Item, StagedPart};
use meridian_crdt::{DocTail, ReadCells, Snapshot, doc_long_tails, doc_tail};

/// Updates of a document that are worth a snapshot: few, since runs are short.
const UPDATES: usize = 3;

/// The items that compact the first document with at least [`UPDATES`] updates, if there is one. Like production, but that the
/// snapshot holds updates as they came: these say nothing that Yjs could read.
pub fn items<C: ReadCells<Error = Infallible>>(rows: &C) -> Vec<Item> {
    let found = doc_long_tails(rows, &[], usize::MAX, UPDATES as u64 + 1);
    let (keys, _) = found.unwrap_or_else(|never| panic!("{never}"));
    for key in keys {
        let tail = doc_tail(rows, &key, UPDATES, 2 * UPDATES).unwrap_or_else(|never| panic!("{never}"));
        let Some(DocTail { mut compaction, content }) = tail else { continue };
        let mut snapshot = Snapshot::default();
        for bytes in &content.snapshots {
            snapshot.apart.extend(Snapshot::decode(bytes).unwrap_or_else(|e| panic!("{e}")).apart);
        }
        snapshot.apart.extend(content.updates);
        let bytes = snapshot.encode();
        let half = bytes.len() / 2;
        (compaction.parts, compaction.bytes) = (2, bytes.len() as u64);
        let part = |part: u32, bytes: Bytes| {
            let (of, number) = (compaction.of.clone(), compaction.number);
            Item::Stage(StagedPart { key: key.clone(), of, number, part, bytes })
        };
        let staged = [part(0, bytes.slice(..half)), part(1, bytes.slice(half..))];
        return staged.into_iter().chain([Item::Compact { key: key.clone(), compaction }]).collect();
    }
    Vec::new()
}
