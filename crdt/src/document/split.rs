//! One update as several smaller ones, each of which builds on those before it.
//!
//! It works on the bytes: an update is a list of blocks by client, and any run of a client's blocks is an update too. They
//! are dealt out in an order in which none comes before what it builds on: an update is placed whole or not at all, and two
//! that build on each other would wait for ever. A block that is too large by itself is cut as Yjs cuts one when
//! somebody types into its middle: what follows names the character before it as its origin.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Reader, Writer};

use super::UpdateError;
use super::check::{self, ANY, HAS_ORIGIN, HAS_PARENT_SUB, HAS_RIGHT_ORIGIN, STRING, Walk};
use super::nesting;

/// What an update takes beside its blocks and deletions: counts, a client, a clock.
const FRAME_BYTES: usize = 32;

/// Updates of about `bytes_max` bytes at most that together say what `update` says. A value that cannot be cut and is
/// larger comes in an update of its own.
///
/// # Errors
/// [`UpdateError`] if it is no update that [`check_update`](super::check_update) takes.
pub fn split_update(update: &[u8], bytes_max: usize) -> Result<Vec<Vec<u8>>, UpdateError> {
    let structure = check::structure(update)?;
    if update.len() <= bytes_max {
        return Ok(vec![update.to_vec()]);
    }
    let room = bytes_max.saturating_sub(FRAME_BYTES).max(1);
    let mut walk = Walk(Reader::new(update));
    let mut sections: BTreeMap<u64, Vec<Block<'_>>> = BTreeMap::new();
    for _ in 0..walk.count()? {
        let (client, blocks) = section(&mut walk)?;
        sections.insert(client, blocks);
    }
    let mut parts = Parts { room, done: Vec::new(), open: Part::default() };
    for (at, n) in nesting::order(&structure)? {
        let blocks = structure.clients.get(at).and_then(|(client, _)| sections.get(client));
        let Some(Block { client, clock, length, bytes }) = blocks.and_then(|blocks| blocks.get(n)) else {
            continue;
        };
        let mut clock = *clock;
        for (piece, length) in pieces(bytes, *client, clock, *length, room)? {
            parts.block(*client, clock, &piece);
            clock += length;
        }
    }
    for _ in 0..walk.count()? {
        let client = walk.client_id()?;
        for _ in 0..walk.count()? {
            parts.deletion(client, (walk.clock()?, walk.clock()?));
        }
    }
    Ok(parts.finish())
}

/// A block as it stands in an update.
pub(super) struct Block<'a> {
    client: u64,
    clock: u64,
    length: u64,
    bytes: &'a [u8],
}

/// A client and all its blocks in an update.
pub(super) fn section<'a>(walk: &mut Walk<'a>) -> Result<(u64, Vec<Block<'a>>), UpdateError> {
    let count = walk.count()?;
    let client = walk.client_id()?;
    let mut clock = walk.clock()?;
    let mut blocks = Vec::new();
    for _ in 0..count {
        let start = walk.0.rest();
        let (length, _) = walk.block()?;
        let bytes = start.get(..start.len() - walk.0.rest().len()).ok_or(DecodeError::Truncated)?;
        blocks.push(Block { client, clock, length, bytes });
        clock += length;
    }
    Ok((client, blocks))
}

/// The blocks of one client from a clock on.
#[derive(Default)]
pub(super) struct Run {
    client: u64,
    clock: u64,
    count: u64,
    bytes: Vec<u8>,
}

impl Run {
    /// These blocks of a client, which follow upon each other; `None` if there are none.
    pub fn of(client: u64, blocks: &[Block<'_>]) -> Option<Self> {
        let clock = blocks.first()?.clock;
        let bytes = blocks.iter().flat_map(|block| block.bytes).copied().collect();
        Some(Self { client, clock, count: blocks.len() as u64, bytes })
    }
}

/// An update of these blocks, each client's once, and deletions: of each client where its ranges begin, and their lengths.
pub(super) fn update_of<N: Into<u64>>(
    runs: &[Run],
    deletions: impl ExactSizeIterator<Item = (u64, Vec<(N, N)>)>,
) -> Vec<u8> {
    let mut out = Writer::new();
    out.varint(runs.len() as u64);
    for run in runs {
        out.varint(run.count);
        out.varint(run.client);
        out.varint(run.clock);
        out.raw(&run.bytes);
    }
    out.varint(deletions.len() as u64);
    for (client, ranges) in deletions {
        out.varint(client);
        out.varint(ranges.len() as u64);
        for (clock, length) in ranges {
            out.varint(clock.into());
            out.varint(length.into());
        }
    }
    out.finish()
}

/// An update that is being gathered.
#[derive(Default)]
struct Part {
    runs: Vec<Run>,
    deletions: Vec<(u64, Vec<(u64, u64)>)>,
    bytes: usize,
}

struct Parts {
    room: usize,
    done: Vec<Vec<u8>>,
    open: Part,
}

impl Parts {
    /// Makes room for so many bytes.
    fn make_room(&mut self, bytes: usize) {
        if self.open.bytes > 0 && self.open.bytes + bytes > self.room {
            self.done.push(std::mem::take(&mut self.open).encode());
        }
        self.open.bytes += bytes;
    }

    fn block(&mut self, client: u64, clock: u64, block: &[u8]) {
        self.make_room(block.len());
        match self.open.runs.iter_mut().find(|run| run.client == client) {
            Some(run) => {
                run.count += 1;
                run.bytes.extend_from_slice(block);
            }
            None => {
                self.open.bytes += FRAME_BYTES;
                self.open.runs.push(Run { client, clock, count: 1, bytes: block.to_vec() });
            }
        }
    }

    fn deletion(&mut self, client: u64, range: (u64, u64)) {
        // A clock and a length of at most five bytes each.
        self.make_room(10);
        match self.open.deletions.last_mut() {
            Some((last, ranges)) if *last == client => ranges.push(range),
            _ => {
                self.open.bytes += FRAME_BYTES;
                self.open.deletions.push((client, vec![range]));
            }
        }
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        if self.open.bytes > 0 {
            self.done.push(self.open.encode());
        }
        self.done
    }
}

impl Part {
    fn encode(self) -> Vec<u8> {
        update_of(&self.runs, self.deletions.into_iter())
    }
}

/// A block as pieces that fit, each with the clock that it takes; as it is, if it fits or cannot be cut.
fn pieces(
    block: &[u8],
    client: u64,
    clock: u64,
    length: u64,
    room: usize,
) -> Result<Vec<(Vec<u8>, u64)>, UpdateError> {
    let info = block.first().copied().unwrap_or_default();
    let kind = info & 0x1f;
    if block.len() <= room || !matches!(kind, STRING | ANY) || info & HAS_PARENT_SUB != 0 {
        return Ok(vec![(block.to_vec(), length)]);
    }
    let mut walk = Walk(Reader::new(block));
    walk.0.u8()?;
    if info & HAS_ORIGIN != 0 {
        walk.id()?;
    }
    let before_right = walk.0.rest();
    if info & HAS_RIGHT_ORIGIN != 0 {
        walk.id()?;
    }
    let right = &before_right[..before_right.len() - walk.0.rest().len()];
    if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) == 0 {
        match walk.0.varint()? {
            0 => drop(walk.id()?),
            _ => drop(walk.0.str()?),
        }
    }
    let head = &block[..block.len() - walk.0.rest().len()];
    let contents = if kind == STRING { texts(walk.0.str()?, room) } else { values(&mut walk, room)? };
    let mut pieces = Vec::new();
    let mut at = clock;
    for (content, length) in contents {
        let mut out = Writer::new();
        if at == clock {
            out.raw(head);
        } else {
            out.u8(kind | HAS_ORIGIN | (info & HAS_RIGHT_ORIGIN));
            out.varint(client);
            out.varint(at - 1);
            out.raw(right);
        }
        out.raw(&content);
        pieces.push((out.finish(), length));
        at += length;
    }
    Ok(pieces)
}

/// The content of a text in parts, none of which splits a character.
fn texts(text: &str, room: usize) -> Vec<(Vec<u8>, u64)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let fits = rest.floor_char_boundary(room.min(rest.len()));
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let (part, behind) = rest.split_at(fits.max(first));
        let mut out = Writer::new();
        out.bytes(part.as_bytes());
        parts.push((out.finish(), part.encode_utf16().count() as u64));
        rest = behind;
    }
    parts
}

/// The content of a list of plain values in parts.
fn values(walk: &mut Walk<'_>, room: usize) -> Result<Vec<(Vec<u8>, u64)>, UpdateError> {
    let mut parts = Vec::new();
    let (mut count, mut bytes) = (0, Vec::new());
    let part = |count: u64, bytes: &[u8]| {
        let mut out = Writer::new();
        out.varint(count);
        out.raw(bytes);
        (out.finish(), count)
    };
    for _ in 0..walk.count()? {
        let start = walk.0.rest();
        walk.any(0)?;
        let value = &start[..start.len() - walk.0.rest().len()];
        if count > 0 && bytes.len() + value.len() > room {
            parts.push(part(std::mem::take(&mut count), &std::mem::take(&mut bytes)));
        }
        count += 1;
        bytes.extend_from_slice(value);
    }
    if count > 0 {
        parts.push(part(count, &bytes));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use yrs::{Array, Doc, Map, OffsetKind, Options, Text, Transact, WriteTxn};

    use super::super::{Document, FROM_NOTHING, YrsDocument};
    use super::*;
    use crate::DocContent;

    fn editor(client: u64) -> Doc {
        let mut options = Options::with_guid_and_client_id("".into(), yrs::ClientID::new(client));
        options.offset_kind = OffsetKind::Utf16;
        Doc::with_options(options)
    }

    /// Puts the parts in, and looks that each is small, is taken, and that they come to the same in any order.
    fn same_in_parts(doc: Doc, bytes_max: usize) -> usize {
        let whole = YrsDocument { doc, ..YrsDocument::default() };
        let update = whole.diff(FROM_NOTHING).expect("a difference");
        let parts = split_update(&update, bytes_max).expect("an update");
        let size = parts.iter().map(Vec::len).max().unwrap_or_default();
        assert!(size <= bytes_max.max(3 * FRAME_BYTES), "{size} of {bytes_max}");
        for part in &parts {
            super::super::check_update(part).expect("each is an update");
        }
        for reversed in [false, true] {
            let mut all: Vec<Bytes> = parts.iter().cloned().map(Bytes::from).collect();
            if reversed {
                all.reverse();
            }
            let content = DocContent { updates: all, ..DocContent::default() };
            let (document, refused) = YrsDocument::of(&content).expect("a shallow document");
            assert_eq!((document.to_value(), refused), (whole.to_value(), Vec::new()));
            assert_eq!(document.state_vector(), whole.state_vector());
            assert_eq!(document.lacks(&update), Ok(false), "deletions too");
        }
        parts.len()
    }

    #[test]
    fn one_large_text_is_cut_where_characters_end() {
        let doc = editor(5);
        {
            let mut txn = doc.transact_mut();
            let text = txn.get_or_insert_text("t");
            text.insert(&mut txn, 0, "behind");
            text.insert(&mut txn, 0, &"0😀é".repeat(2000));
            text.insert(&mut txn, 0, "before");
            text.remove_range(&mut txn, 300, 30);
        }
        assert!(same_in_parts(doc, 1000) > 10);
    }

    #[test]
    fn lists_of_values_are_cut_between_them_and_what_cannot_be_cut_stays_whole() {
        let doc = editor(5);
        {
            let mut txn = doc.transact_mut();
            let array = txn.get_or_insert_array("a");
            array.insert_range(&mut txn, 0, (0..3000).map(|n| format!("value {n}")));
            array.insert(&mut txn, 1500, true);
            let map = txn.get_or_insert_map("m");
            for n in 0..50 {
                map.insert(&mut txn, format!("k{n}"), "v");
            }
        }
        assert!(same_in_parts(doc, 2000) > 10);
        let doc = editor(6);
        {
            let mut txn = doc.transact_mut();
            txn.get_or_insert_map("m").insert(&mut txn, "k", "x".repeat(5000));
        }
        let update = YrsDocument { doc, ..YrsDocument::default() }.diff(FROM_NOTHING).expect("a difference");
        assert_eq!(split_update(&update, 1000).expect("an update").len(), 1);
    }

    #[test]
    fn what_fits_stays_as_it_is_and_what_is_no_update_is_refused() {
        assert_eq!(split_update(&[0, 0], 1000), Ok(vec![vec![0, 0]]));
        assert!(split_update(&[1, 1], 1000).is_err());
    }

    proptest! {
        #[test]
        fn any_history_is_the_same_in_parts(
            edits in proptest::collection::vec((0u64..3, 0usize..200, "[ab😀]{0,60}", 0u32..20), 1..40),
            bytes_max in 40usize..600,
        ) {
            let doc = editor(1);
            for (client, at, text, removed) in edits {
                // Each editor edits what all have made.
                let mine = editor(10 + client);
                let all = YrsDocument { doc: doc.clone(), ..YrsDocument::default() }.diff(FROM_NOTHING).expect("a difference");
                let decode = |bytes: &[u8]| {
                    use yrs::updates::decoder::Decode;
                    yrs::Update::decode_v1(bytes).expect("an update")
                };
                let mut txn = mine.transact_mut();
                txn.apply_update(decode(&all)).expect("applied");
                let target = txn.get_or_insert_text("t");
                let places: Vec<u32> = {
                    use yrs::GetString;
                    let text = target.get_string(&txn);
                    text.chars().scan(0, |at, c| Some(std::mem::replace(at, *at + c.len_utf16() as u32))).collect()
                };
                let place = places.get(at % places.len().max(1)).copied().unwrap_or(0);
                target.insert(&mut txn, place, &text);
                if let (Some(from), true) = (places.first(), removed > 0 && place > 0) {
                    target.remove_range(&mut txn, *from, place.min(1).max(places.get(1).copied().unwrap_or(place)));
                }
                let update = txn.encode_update_v1();
                drop(txn);
                doc.transact_mut().apply_update(decode(&update)).expect("applied");
            }
            same_in_parts(doc, bytes_max);
        }
    }
}
