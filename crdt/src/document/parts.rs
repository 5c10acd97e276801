//! An update in parts: what goes into a document now, and what waits for something that is not there.
//!
//! Whatever of an update does not build on what is missing must not wait for it: that may never come. (An edit may build on one that
//! was shown early and then could not be kept, or on a document that was deleted.) So of each client the blocks in front of the first
//! that has no place go in, as the libraries of editors do it, and the others wait for what that one misses. What is deleted of what
//! is not here waits by itself.

use std::collections::BTreeMap;

use super::UpdateError;
use super::check::{self, Id, Structure, Walk};
use super::nesting::{self, Placed};
use super::split::{self, Run};
use crate::codec::Reader;

/// Ranges of clocks by client: where each begins, and its length.
type Ranges = BTreeMap<u64, Vec<(u32, u32)>>;

/// Blocks of one client that were not placed, and what the first of them needs.
type Stuck = (Id, Run);

/// An update in parts.
pub(super) struct Parted {
    /// What goes in now; empty if nothing does.
    pub here: Vec<u8>,
    /// What waits.
    pub missing: Vec<Missing>,
}

/// An update that waits.
pub(super) struct Missing {
    /// The first thing that it misses.
    pub needs: Id,
    /// How deep its types nest within each other.
    pub height: usize,
    /// The update.
    pub update: Vec<u8>,
}

/// Parts an update that was placed as far as it goes; `known` says of a client up to where its clocks are here then. `None` if all of
/// it goes in.
pub(super) fn part(
    update: &[u8],
    structure: &Structure,
    placed: &Placed,
    known: impl Fn(u64) -> u32,
) -> Result<Option<Parted>, UpdateError> {
    let deletes_here = structure.deletions.iter().all(|deleted| deleted.end <= known(deleted.client));
    if placed.stuck.is_empty() && deletes_here {
        return Ok(None);
    }
    let (deleted, deleted_elsewhere) = deletions(structure, known);
    let (runs, stuck) = blocks(update, structure, placed)?;
    let mut missing = Vec::new();
    for (needs, run) in stuck {
        let update = split::update_of(&[run], Ranges::new().into_iter());
        let height = nesting::height_or_most(&check::structure(&update)?)?;
        missing.push(Missing { needs, height, update });
    }
    missing.extend(deleted_elsewhere.into_iter().map(|(client, ranges)| {
        let clock = ranges.iter().map(|(from, _)| *from).min().unwrap_or_default();
        let update = split::update_of(&[], Ranges::from([(client, ranges)]).into_iter());
        Missing { needs: Id { client, clock }, height: 0, update }
    }));
    let nothing_left = runs.is_empty() && deleted.is_empty();
    let here = if nothing_left { Vec::new() } else { split::update_of(&runs, deleted.into_iter()) };
    Ok(Some(Parted { here, missing }))
}

/// What an update deletes of what is here, and of what is not.
fn deletions(structure: &Structure, known: impl Fn(u64) -> u32) -> (Ranges, Ranges) {
    let (mut here, mut elsewhere) = (Ranges::new(), Ranges::new());
    for deleted in &structure.deletions {
        let upto = known(deleted.client).clamp(deleted.clock, deleted.end);
        let add = |to: &mut Ranges, from, end| {
            if from < end {
                to.entry(deleted.client).or_default().push((from, end - from));
            }
        };
        add(&mut here, deleted.clock, upto);
        add(&mut elsewhere, upto, deleted.end);
    }
    (here, elsewhere)
}

/// The blocks that were placed, and of each client those that were not, with what the first of them needs.
fn blocks(
    update: &[u8],
    structure: &Structure,
    placed: &Placed,
) -> Result<(Vec<Run>, Vec<Stuck>), UpdateError> {
    let mut walk = Walk(Reader::new(update));
    let (mut here, mut stuck) = (Vec::new(), Vec::new());
    for _ in 0..walk.count()? {
        let (client, blocks) = split::section(&mut walk)?;
        let at = structure.clients.binary_search_by_key(&client, |(client, _)| *client);
        let end = at.ok().and_then(|at| placed.stuck.get(&at));
        let (front, behind) = blocks.split_at(end.map_or(blocks.len(), |(next, _)| *next));
        here.extend(Run::of(client, front));
        if let (Some((_, needs)), Some(run)) = (end, Run::of(client, behind)) {
            stuck.push((*needs, run));
        }
    }
    Ok((here, stuck))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64_with_seed;
    use yrs::updates::decoder::Decode;
    use yrs::{ClientID, Doc, GetString, Options, ReadTxn, StateVector, Text, Transact, Update};

    use super::*;
    use crate::document::check::{Block, Stand};
    use crate::document::{Document, YrsDocument, split_update};

    /// Some content of a client, as updates of one transaction each.
    fn typed_by(clients: &mut [Doc], script: &[(usize, u32, bool)], updates: &mut Vec<Vec<u8>>) {
        for (at, place, exchange) in script {
            let at = at % clients.len();
            if *exchange {
                // As an editor that comes back: all that one has and another lacks, in one update.
                let other = (at + 1) % clients.len();
                let theirs = clients[other].transact().state_vector();
                let update = clients[at].transact().encode_state_as_update_v1(&theirs);
                clients[other]
                    .transact_mut()
                    .apply_update(Update::decode_v1(&update).expect("own"))
                    .expect("own");
                updates.push(update);
            } else {
                let text = clients[at].get_or_insert_text("t");
                let mut txn = clients[at].transact_mut();
                let len = text.len(&txn);
                if len > 4 && place % 3 == 0 {
                    text.remove_range(&mut txn, place % (len - 2), 2);
                } else {
                    text.insert(&mut txn, place % (len + 1), "ab");
                }
                updates.push(txn.encode_update_v1());
            }
        }
    }

    /// What an editor shows: of all blocks those whose foundations are there, one after the other, without those that are deleted.
    fn shown<'u>(updates: impl Iterator<Item = &'u Vec<u8>>) -> Doc {
        let doc = client(9);
        let apply = |update: &[u8]| {
            let update = Update::decode_v1(update).expect("own");
            doc.transact_mut().apply_update(update).expect("own");
        };
        let blocks: Vec<Vec<u8>> = updates.flat_map(|update| split_update(update, 1).expect("own")).collect();
        let mut waiting: Vec<(&Vec<u8>, Structure)> =
            blocks.iter().map(|block| (block, check::structure(block).expect("own"))).collect();
        let has_room = |structure: &Structure| {
            let here = doc.transact().state_vector();
            let is_here = |id: &Id| id.clock < here.get(&ClientID::new(id.client));
            structure.clients.iter().all(|(client, blocks)| {
                let [Block { clock, is: Some((_, stand)), .. }] = blocks[..] else { panic!("{blocks:?}") };
                let follows = clock <= here.get(&ClientID::new(*client));
                follows
                    && match stand {
                        Stand::Root => true,
                        Stand::In(id) => is_here(&id),
                        Stand::Beside(left, right) => left.iter().chain(&right).all(is_here),
                    }
            })
        };
        loop {
            let before = waiting.len();
            waiting.retain(|(block, structure)| {
                let stays = structure.clients.is_empty() || !has_room(structure);
                if !stays {
                    apply(block);
                }
                stays
            });
            if waiting.len() == before {
                break;
            }
        }
        let here = doc.transact().state_vector();
        for (_, structure) in waiting.iter().filter(|(_, structure)| structure.clients.is_empty()) {
            let (deleted, _) = deletions(structure, |client| here.get(&ClientID::new(client)));
            apply(&split::update_of(&[], deleted.into_iter()));
        }
        doc
    }

    fn client(id: u64) -> Doc {
        Doc::with_options(Options::with_guid_and_client_id("".into(), ClientID::new(id)))
    }

    fn text(doc: &Doc) -> String {
        let text = doc.get_or_insert_text("t");
        text.get_string(&doc.transact())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The library behind documents is not asked by itself: it is known to put in what lies behind a gap.
        #[test]
        fn whatever_is_missing_and_in_whatever_order_the_rest_is_shown(
            script in prop::collection::vec((0..3usize, any::<u32>(), prop::bool::weighted(0.3)), 2..40),
            lost in prop::collection::vec(prop::bool::weighted(0.2), 40),
            order in any::<u64>(),
        ) {
            let mut updates = Vec::new();
            typed_by(&mut [client(1), client(2), client(3)], &script, &mut updates);
            let mut kept: Vec<&Vec<u8>> =
                updates.iter().zip(&lost).filter(|(_, lost)| !**lost).map(|(update, _)| update).collect();
            kept.sort_by_key(|update| xxh3_64_with_seed(update, order));
            let mut document = YrsDocument::default();
            for (n, update) in kept.iter().enumerate() {
                document.integrate(update).expect("well formed");
                let editor = shown(kept[..=n].iter().copied());
                prop_assert_eq!(document.text("t"), text(&editor));
                let here = StateVector::decode_v1(&document.state_vector()).expect("own");
                prop_assert_eq!(here, editor.transact().state_vector());
            }
            let (snapshot, whole) = (document.snapshot().expect("a snapshot"), document.diff(&[0]).expect("an update"));
            let mut again = [YrsDocument::default(), YrsDocument::default()];
            again[0].load(&snapshot).expect("own");
            again[1].integrate(&whole).expect("own");
            for document in &mut again {
                prop_assert_eq!(document.text("t"), text(&shown(kept.iter().copied())));
                for update in &updates {
                    document.integrate(update).expect("well formed");
                }
                prop_assert_eq!(document.text("t"), text(&shown(updates.iter())));
                prop_assert!(document.waiting.is_empty());
            }
        }
    }

    #[test]
    fn what_builds_on_what_never_comes_withholds_nothing_else_that_came_with_it() {
        // Client 1 types a and b, of which b stands behind something of client 7; client 2 types c behind a.
        let both = [2, 1, 2, 0, 0x84, 1, 0, 1, b'c', 2, 1, 0, 4, 1, 1, b't', 1, b'a', 0x84, 7, 0, 1, b'b', 0];
        let behind_c = [1, 1, 3, 0, 0x84, 2, 0, 1, b'd', 0];
        for order in [[&both[..], &behind_c[..]], [&behind_c[..], &both[..]]] {
            let mut document = YrsDocument::default();
            order.iter().for_each(|update| document.integrate(update).expect("is put in"));
            assert_eq!(document.text("t"), "acd");
            assert_eq!(document.waiting.updates().count(), 1);
            assert_eq!(document.lacks(&behind_c), Ok(false));
            document.integrate(&[1, 1, 7, 0, 4, 1, 1, b't', 1, b'x', 0]).expect("is put in");
            assert_eq!(document.text("t").len(), 5);
            assert!(document.waiting.is_empty());
        }
    }
}
