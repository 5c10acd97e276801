//! Shared types that nest without end.
//!
//! The story: `yrs` 0.28.1 recurses as deep as types nest when it deletes them and when it collects what was deleted. A
//! hundred thousand small updates, each with one type inside that of the update before, are taken one by one; the deletion
//! of the outermost then overflows the stack, which ends the process and every document in it. How deep everything stands is
//! therefore known here before the decoder sees it, and what is too deep is refused.

use std::process::Command;
use std::thread;

use meridian_crdt::codec::Writer;
use meridian_crdt::{
    Document, NESTING_MAX, NESTING_READ_MAX, Snapshot, UpdateError, YrsDocument, check_update,
};
use proptest::prelude::*;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{
    Array, ArrayPrelim, Doc, Map, MapPrelim, ReadTxn, StateVector, Text, TextPrelim, Transact, Update,
};

const DEEP: u64 = 100_000;
const ARRAY: u8 = 0;

/// Where a block stands.
#[derive(Clone, Copy)]
enum At {
    Root,
    In(u64),
    RightOf(u64),
    LeftOf(u64),
}

fn block(out: &mut Writer, at: At, content: &[u8]) {
    let kind = content[0];
    let id = |out: &mut Writer, clock| {
        out.varint(1);
        out.varint(clock);
    };
    match at {
        At::Root => {
            out.raw(&[kind, 1, 1, b'r']);
        }
        At::In(clock) => {
            out.raw(&[kind, 0]);
            id(out, clock);
        }
        At::RightOf(clock) => {
            out.u8(kind | 0x80);
            id(out, clock);
        }
        At::LeftOf(clock) => {
            out.u8(kind | 0x40);
            id(out, clock);
        }
    }
    out.raw(&content[1..]);
}

/// An update of client 1 with these blocks of one clock each.
fn update(clock: u64, blocks: &[(At, &[u8])]) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(1);
    out.varint(blocks.len() as u64);
    out.varint(1);
    out.varint(clock);
    for (at, content) in blocks {
        block(&mut out, *at, content);
    }
    out.u8(0);
    out.finish()
}

const TYPE: &[u8] = &[7, ARRAY];
const CHARACTER: &[u8] = &[4, 1, b'x'];

/// The `level`-th type of a chain, inside the one before.
fn inside(level: u64) -> Vec<u8> {
    update(level, &[(level.checked_sub(1).map_or(At::Root, At::In), TYPE)])
}

/// The same, but in each type stands a character, and the next type stands beside that.
fn beside(level: u64) -> Vec<u8> {
    let before = (2 * level).checked_sub(1);
    let at = match before {
        None => At::Root,
        Some(clock) if level.is_multiple_of(2) => At::RightOf(clock),
        Some(clock) => At::LeftOf(clock),
    };
    update(2 * level, &[(at, TYPE), (At::In(2 * level), CHARACTER)])
}

/// Deletes the first of a chain.
const DELETION: &[u8] = &[0, 1, 1, 1, 0, 1];

/// Runs with a stack of `bytes`.
fn with_stack<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    thread::Builder::new().stack_size(bytes).spawn(work).expect("a thread").join().expect("it ends")
}

/// What the decoder alone makes of it. It is run in a process of its own, below.
#[test]
#[ignore = "it ends the process"]
fn the_decoder_alone_overflows() {
    // A smaller stack needs fewer levels, and the decoder looks at all of them with each update.
    with_stack(512 << 10, || {
        let doc = Doc::new();
        for level in 0..DEEP / 10 {
            let update = Update::decode_v1(&inside(level)).expect("an update");
            doc.transact_mut().apply_update(update).expect("is taken");
        }
        doc.transact_mut().apply_update(Update::decode_v1(DELETION).expect("an update")).expect("is taken");
    });
}

#[test]
fn the_decoder_is_still_one_that_has_to_be_protected() {
    let own = std::env::current_exe().expect("a path");
    let run = Command::new(own).args(["--exact", "the_decoder_alone_overflows", "--ignored"]).output();
    let output = run.expect("a process");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("overflow"), "{}: {told}", output.status);
}

#[test]
fn a_chain_of_small_updates_is_refused_as_an_edit_and_never_overflows_a_reader() {
    for link in [inside, beside] {
        let mut document = YrsDocument::default();
        let limit = NESTING_MAX as u64;
        for level in 0..limit {
            assert_eq!(document.check(&link(level)), Ok(()), "level {level}");
            document.integrate(&link(level)).expect("is taken");
        }
        assert_eq!(document.check(&link(limit)), Err(UpdateError::TooDeep));
        // By itself it is nothing unusual.
        assert_eq!(check_update(&link(limit)), Ok(()));
        // Others may have taken it: then it is read, up to a depth.
        for level in limit..NESTING_READ_MAX as u64 {
            document.integrate(&link(level)).expect("is read");
        }
        assert!(document.snapshot().is_ok());
        for level in NESTING_READ_MAX as u64..DEEP {
            assert_eq!(document.integrate(&link(level)), Err(UpdateError::TooDeep));
        }
        assert_eq!(document.integrate(DELETION), Err(UpdateError::TooDeep));
        assert_eq!(document.diff(&[0]), Err(UpdateError::TooDeep));
    }
}

#[test]
fn a_chain_that_comes_from_its_end_waits_and_is_refused_when_its_beginning_comes() {
    for link in [inside, beside] {
        let mut document = YrsDocument::default();
        let mut taken = 0;
        for level in (1..DEEP).rev() {
            taken += usize::from(document.check(&link(level)).is_ok());
            document.integrate(&link(level)).expect("it waits");
        }
        assert!(taken <= NESTING_MAX, "{taken} edits that wait were let in");
        assert_eq!(document.check(&link(0)), Err(UpdateError::TooDeep));
        assert_eq!(document.integrate(&link(0)), Err(UpdateError::TooDeep));
        assert_eq!(document.integrate(DELETION), Err(UpdateError::TooDeep));
    }
}

#[test]
fn one_update_that_nests_too_deep_is_refused_wherever_it_goes() {
    let chain = |levels: u64, first: At| {
        let blocks: Vec<(At, &[u8])> =
            (0..levels).map(|n| (n.checked_sub(1).map_or(first, At::In), TYPE)).collect();
        update(0, &blocks)
    };
    assert_eq!(check_update(&chain(NESTING_MAX as u64, At::Root)), Ok(()));
    assert_eq!(check_update(&chain(NESTING_MAX as u64 + 1, At::Root)), Err(UpdateError::TooDeep));
    assert_eq!(check_update(&chain(90_000, At::Root)), Err(UpdateError::TooDeep));
    let mut document = YrsDocument::default();
    assert_eq!(document.integrate(&chain(90_000, At::Root)), Err(UpdateError::TooDeep));
    // Parts that build on each other in a circle have no depth at all.
    let circle = update(0, &[(At::In(1), TYPE), (At::In(0), TYPE)]);
    assert!(check_update(&circle).is_err());
    assert!(YrsDocument::default().integrate(&circle).is_err());
}

/// The proof that the deepest document that is read fits into the stack that it is read on.
#[test]
fn the_deepest_document_that_is_read_needs_a_quarter_of_a_small_stack() {
    with_stack(512 << 10, || {
        for link in [inside, beside] {
            let mut document = YrsDocument::default();
            (0..NESTING_READ_MAX as u64).for_each(|level| document.integrate(&link(level)).expect("is read"));
            document.to_value();
            let snapshot = document.snapshot().expect("a snapshot").encode();
            document.integrate(DELETION).expect("is taken");
            document.to_value();
            document.diff(&[0]).expect("a difference");
            drop(document);
            let mut again = YrsDocument::default();
            again.load(&Snapshot::decode(&snapshot).expect("an own snapshot")).expect("is read");
            assert_eq!(again.check(&link(NESTING_READ_MAX as u64)), Err(UpdateError::TooDeep));
            again.integrate(DELETION).expect("is taken");
            // What was deleted is not forgotten: how deep it is does not depend on when a snapshot was written.
            assert_eq!(again.integrate(&link(NESTING_READ_MAX as u64)), Err(UpdateError::TooDeep));
        }
    });
}

#[test]
fn what_stands_in_a_character_is_refused_before_the_decoder_stops_half_way() {
    let mut document = YrsDocument::default();
    document.integrate(&update(0, &[(At::Root, CHARACTER)])).expect("is taken");
    let wrong = update(1, &[(At::RightOf(0), CHARACTER), (At::In(0), TYPE)]);
    assert!(matches!(document.check(&wrong), Err(UpdateError::Unsupported(_))));
    assert!(matches!(document.integrate(&wrong), Err(UpdateError::Unsupported(_))));
    assert_eq!(document.text("r"), "x");
    document.integrate(&update(1, &[(At::RightOf(0), CHARACTER)])).expect("nothing of it was taken");
    assert_eq!(document.text("r"), "xx");
}

/// What an editor does: where in a tree of arrays and maps, and what.
type Step = (usize, u8, prop::sample::Index);

/// Lets three editors change a tree at random, and gives their updates.
fn edited(steps: &[Step]) -> (Vec<Vec<u8>>, Doc) {
    let docs: Vec<Doc> = (1..4u64).map(Doc::with_client_id).collect();
    let mut updates: Vec<Vec<u8>> = Vec::new();
    for (who, what, at) in steps {
        let doc = &docs[who % docs.len()];
        let root = doc.get_or_insert_array("r");
        if *what == 0 {
            // It hears of all that the others have done.
            for update in &updates {
                let update = Update::decode_v1(update).expect("an update");
                doc.transact_mut().apply_update(update).expect("is taken");
            }
            continue;
        }
        let mut txn = doc.transact_mut();
        // Down into the tree, as far as the index leads.
        let mut array = root;
        let mut way = at.index(1 << 16);
        while let Some(next) = array
            .iter(&txn)
            .filter_map(|value| value.cast::<yrs::ArrayRef>().ok())
            .nth(way % 3)
            .filter(|_| way % 8 != 7)
        {
            array = next;
            way /= 3;
        }
        let index = at.index(array.len(&txn) as usize + 1) as u32;
        match what {
            1..4 => drop(array.insert(&mut txn, index, ArrayPrelim::default())),
            4 => drop(array.insert(&mut txn, index, *what as i64)),
            5 => {
                let map = array.insert(&mut txn, index, MapPrelim::default());
                map.insert(&mut txn, "k", TextPrelim::new("a"));
                map.insert(&mut txn, "k", ArrayPrelim::default());
            }
            6 => {
                let text = array.insert(&mut txn, index, TextPrelim::new("text"));
                text.push(&mut txn, "more");
            }
            _ if index < array.len(&txn) => array.remove(&mut txn, index),
            _ => {}
        }
        updates.push(txn.encode_update_v1());
    }
    let whole = Doc::with_client_id(9u64);
    for update in &updates {
        whole.transact_mut().apply_update(Update::decode_v1(update).expect("an update")).expect("is taken");
    }
    (updates, whole)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn documents_that_are_put_together_in_any_order_are_what_the_decoder_makes_of_them(
        steps in prop::collection::vec((0..3usize, 0..8u8, any::<prop::sample::Index>()), 1..60),
        order in any::<prop::sample::Index>(),
    ) {
        let (mut updates, whole) = edited(&steps);
        let count = updates.len();
        for n in 0..count {
            updates.swap(n, order.index(n + 1));
        }
        let mut document = YrsDocument::default();
        for update in &updates {
            document.check(update).expect("is shallow");
            document.integrate(update).expect("is taken");
        }
        // Nothing waits, and nothing is missing. (Encodings differ by what was collected when.)
        let here = whole.transact().state_vector().encode_v1();
        prop_assert_eq!(document.state_vector(), here.clone());
        prop_assert!(document.snapshot().expect("a snapshot").apart.is_empty());
        let mut at_once = YrsDocument::default();
        let everything = whole.transact().encode_state_as_update_v1(&StateVector::default());
        at_once.integrate(&everything).expect("is taken");
        prop_assert_eq!(at_once.to_value(), document.to_value());
        prop_assert_eq!(document.lacks(&everything), Ok(false));
        let mut loaded = YrsDocument::default();
        loaded.load(&document.snapshot().expect("a snapshot")).expect("an own snapshot");
        prop_assert_eq!(loaded.state_vector(), here);
        prop_assert_eq!(loaded.to_value(), document.to_value());
        prop_assert_eq!(loaded.lacks(&everything), Ok(false));
    }
}
