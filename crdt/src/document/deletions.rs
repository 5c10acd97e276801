//! What an update deletes of what is not here.
//!
//! Whatever else it says does not build on that, and must not wait for it: what is deleted may never come. (An editor deletes what
//! was shown to it early and then could not be kept.) So such deletions are parted from their update, and wait by themselves.

use std::collections::BTreeMap;

use super::check::{Id, Structure};
use crate::codec::Writer;

/// Ranges of clocks by client: where each begins, and its length.
type Ranges = BTreeMap<u64, Vec<(u32, u32)>>;

/// An update in parts.
pub(super) struct Parted {
    /// The update with the deletions of what is here; empty if nothing is left of it.
    pub here: Vec<u8>,
    /// An update for each client with the other deletions, and the first thing that it misses.
    pub missing: Vec<(Id, Vec<u8>)>,
}

/// Parts an update from what it deletes that is not `known`, of which client the clocks are up to where; `None` if there is no such
/// thing.
pub(super) fn part(update: &[u8], structure: &Structure, known: impl Fn(u64) -> u32) -> Option<Parted> {
    if structure.deletions.iter().all(|deleted| deleted.end <= known(deleted.client)) {
        return None;
    }
    let (mut here, mut missing) = (Ranges::new(), Ranges::new());
    for deleted in &structure.deletions {
        let upto = known(deleted.client).clamp(deleted.clock, deleted.end);
        let add = |to: &mut Ranges, from, end| {
            if from < end {
                to.entry(deleted.client).or_default().push((from, end - from));
            }
        };
        add(&mut here, deleted.clock, upto);
        add(&mut missing, upto, deleted.end);
    }
    let blocks = update.get(..structure.blocks_bytes).unwrap_or_default();
    let nothing_left = structure.clients.is_empty() && here.is_empty();
    let here = if nothing_left { Vec::new() } else { with_deletions(blocks, here) };
    let missing = missing.into_iter().map(|(client, ranges)| {
        let clock = ranges.iter().map(|(from, _)| *from).min().unwrap_or_default();
        (Id { client, clock }, with_deletions(&[0], Ranges::from([(client, ranges)])))
    });
    Some(Parted { here, missing: missing.collect() })
}

fn with_deletions(blocks: &[u8], deletions: Ranges) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(blocks);
    write(&mut out, deletions.into_iter());
    out.finish()
}

/// Writes the deletions of an update: of each client where its ranges begin, and their lengths.
pub(super) fn write<N: Into<u64>>(
    out: &mut Writer,
    deletions: impl ExactSizeIterator<Item = (u64, Vec<(N, N)>)>,
) {
    out.varint(deletions.len() as u64);
    for (client, ranges) in deletions {
        out.varint(client);
        out.varint(ranges.len() as u64);
        for (clock, length) in ranges {
            out.varint(clock.into());
            out.varint(length.into());
        }
    }
}
