//! Compaction by entries: staged in parts, ended by one entry, given up by time or by the next.

use std::collections::BTreeSet;

use bytes::Bytes;
use meridian_crdt::{
    Content, DocCompaction, DocContent, DocCounts, DocOp, Dot, Key, Mutation, ReadValue, Snapshot, Table,
    doc_glance, doc_state, doc_tail,
};

use super::bounds::STAGED_KEPT_MS;
use super::entry::{Answer, Item, Outcome, StagedPart};
use super::world_tests::{TestDc, key};

/// A snapshot of at most so many updates of a document, which holds them as they came, and the items that stage it.
fn prepared(
    dc: &TestDc,
    k: &str,
    updates_max: usize,
    part_bytes: usize,
) -> Option<(DocCompaction, Vec<Item>)> {
    let tail = doc_tail(dc.cells(), &key(k), 1, updates_max).expect("memory")?;
    let mut snapshot = Snapshot::default();
    for bytes in &tail.content.snapshots {
        snapshot.apart.extend(Snapshot::decode(bytes).expect("an own encoding").apart);
    }
    snapshot.apart.extend(tail.content.updates);
    let bytes = snapshot.encode();
    let mut compaction = tail.compaction;
    let parts: Vec<&[u8]> = bytes.chunks(part_bytes.max(bytes.len() / 100)).collect();
    (compaction.parts, compaction.bytes) = (parts.len() as u32, bytes.len() as u64);
    let (of, number) = (compaction.of.clone(), compaction.number);
    let item = |(part, bytes): (usize, &&[u8])| {
        let (part, bytes) = (part as u32, Bytes::copy_from_slice(bytes));
        Item::Stage(StagedPart { key: key(k), of: of.clone(), number, part, bytes })
    };
    let items = parts.iter().enumerate().map(item).collect();
    Some((compaction, items))
}

/// Stages a snapshot of at most so many updates of a document, if it has any.
pub(super) fn stage(
    dc: &mut TestDc,
    k: &str,
    updates_max: usize,
    part_bytes: usize,
) -> Option<(Key, DocCompaction)> {
    let (compaction, items) = prepared(dc, k, updates_max, part_bytes)?;
    assert!(dc.apply(items).iter().all(|outcome| *outcome == Outcome::Done));
    Some((key(k), compaction))
}

/// What does not depend on what of a document was compacted.
pub(super) fn plain(content: Option<Content>) -> Option<Content> {
    let mut content = content?;
    if let ReadValue::Doc(DocContent { snapshots, updates }) = &mut content.value {
        let apart = snapshots.drain(..).flat_map(|bytes| Snapshot::decode(&bytes).expect("a snapshot").apart);
        let all: BTreeSet<Bytes> = apart.chain(updates.drain(..)).collect();
        updates.extend(all);
    }
    Some(content)
}

fn write(dc: &mut TestDc, update: u8) {
    let op = DocOp::Update(Bytes::copy_from_slice(&[0, update]));
    let answer = dc.client(None, vec![(key("d"), Mutation::Doc(op))]);
    assert!(matches!(answer, Answer::Done { .. }));
}

fn written(updates: u8) -> TestDc {
    let mut dc = TestDc::new("eu", 1, &["eu", "us"]);
    (0..updates).for_each(|update| write(&mut dc, update));
    dc
}

fn rows(dc: &TestDc) -> usize {
    dc.cells().count(Table::CELL)
}

fn is_refused(outcomes: &[Outcome]) -> bool {
    matches!(outcomes, [Outcome::Refused(_)])
}

#[test]
fn a_long_tail_becomes_a_few_rows_and_nothing_else_changes() {
    let mut dc = written(100);
    let before = (dc.digest(), plain(dc.read("d").content), dc.read("d").changed_index);
    let (key, compaction) = stage(&mut dc, "d", 60, 100).expect("updates");
    let bystanders = rows(&dc) - compaction.parts as usize;
    assert_eq!(bystanders, 101);
    assert_eq!(dc.apply(vec![Item::Compact { key: key.clone(), compaction }]), [Outcome::Done]);
    let state = doc_state(dc.cells(), &key).expect("memory");
    assert_eq!((state.snapshots.len(), state.updates.len()), (1, 40));
    let counts = |seq| {
        let dot = Dot::new(dc.name.origin(), seq);
        doc_glance(dc.cells(), &key, dot).expect("memory").1
    };
    assert_eq!([1, 100, 101].map(counts), [DocCounts::Perhaps, DocCounts::Yes, DocCounts::No]);
    write(&mut dc, 0);
    let (key, compaction) = stage(&mut dc, "d", 60, 1_000).expect("updates");
    assert_eq!(dc.apply(vec![Item::Compact { key: key.clone(), compaction }]), [Outcome::Done]);
    // The incarnation, what stands in snapshots, the one snapshot and its one part.
    assert_eq!(rows(&dc), 4);
    let after = written(100);
    assert_eq!(before, (after.digest(), plain(after.read("d").content), after.read("d").changed_index));
    let mut after = after;
    write(&mut after, 0);
    assert_eq!((dc.digest(), plain(dc.read("d").content)), (after.digest(), plain(after.read("d").content)));
}

#[test]
fn parts_come_in_their_order_and_nothing_counts_before_all_are_there() {
    let mut dc = written(50);
    let (compaction, items) = prepared(&dc, "d", 50, 60).expect("updates");
    assert!(items.len() > 2);
    let compact = Item::Compact { key: key("d"), compaction };
    let before = rows(&dc);
    assert!(is_refused(&dc.apply(vec![items[1].clone()])), "the second before the first");
    assert!(is_refused(&dc.apply(vec![compact.clone()])), "none");
    dc.apply(items[..2].to_vec());
    assert!(is_refused(&dc.apply(vec![items[1].clone()])), "a part twice");
    assert!(is_refused(&dc.apply(vec![compact.clone()])), "some");
    assert_eq!(rows(&dc), before, "what is refused is taken out");
    dc.apply(items);
    assert_eq!(dc.apply(vec![compact.clone()]), [Outcome::Done]);
    assert!(is_refused(&dc.apply(vec![compact])), "twice");
}

#[test]
fn what_is_given_up_is_taken_out_by_the_next_or_by_time() {
    let mut dc = written(50);
    let before = rows(&dc);
    let (_, items) = prepared(&dc, "d", 50, 60).expect("updates");
    dc.apply(items[..2].to_vec());
    assert_eq!(rows(&dc), before + 2);
    // Another leader begins anew, with a number of its own.
    let (_, again) = prepared(&dc, "d", 20, 60).expect("updates");
    dc.apply(again[..1].to_vec());
    assert_eq!(rows(&dc), before + 1);
    dc.apply(vec![Item::Tidy { rows_max: 10 }]);
    assert_eq!(rows(&dc), before + 1, "it may still go on");
    for _ in 0..STAGED_KEPT_MS / 5_000 {
        dc.now_ms += 5_000;
        dc.apply(vec![Item::Tidy { rows_max: 10 }]);
    }
    assert_eq!((rows(&dc), dc.state().staging.clone()), (before, None));
}

#[test]
fn a_document_that_was_deleted_meanwhile_takes_its_snapshot_with_it() {
    let mut dc = written(50);
    let (key, compaction) = stage(&mut dc, "d", 50, 60).expect("updates");
    dc.client(None, vec![(key.clone(), Mutation::Delete(None))]);
    write(&mut dc, 7);
    let compact = Item::Compact { key, compaction };
    assert!(is_refused(&dc.apply(vec![compact])));
    let (key, compaction) = stage(&mut dc, "d", 50, 60).expect("updates");
    assert_eq!(dc.apply(vec![Item::Compact { key: key.clone(), compaction }]), [Outcome::Done]);
    write(&mut dc, 8);
    dc.client(None, vec![(key, Mutation::Delete(None))]);
    assert_eq!((dc.read("d").content, dc.digest()), (None, 0));
    for _ in 0..5 {
        dc.apply(vec![Item::Tidy { rows_max: 1_000 }]);
    }
    assert_eq!(rows(&dc), 0);
}
