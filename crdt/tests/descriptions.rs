//! What is told of a txn is enough to do it again: at one origin, asking a fresh replica for what was told of each txn
//! leaves the same contents.

mod spec;

use meridian_crdt::{Key, KeyEffect, Mutation, Origin, Query, Txn, describe, digest, read};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use spec::draw::Subject;
use spec::replica::Replica;
use spec::seeds;

const ORIGIN: Origin = Origin(7);

fn told(txn: &Txn) -> Vec<(Key, Mutation)> {
    let mut all = Vec::new();
    for effect in &txn.effects {
        let key = Key::new(effect.space.clone(), effect.key.clone()).expect("an own key");
        let mutations = describe(effect).expect("an own effect");
        assert!(!mutations.is_empty(), "an effect is told as something: {effect:?}");
        all.extend(mutations.into_iter().map(|mutation| (key.clone(), mutation)));
    }
    all
}

/// A key that in one txn gets cells of one type and loses parts of another: one of the two reads as absent, and in which
/// order they could be asked for again, the txn does not say.
fn marks_beside_another_type(effect: &KeyEffect) -> bool {
    let Some(first) = effect.adds.first() else { return false };
    let other = |path: &[u8]| path.first() != first.path.first();
    effect.adds.iter().any(|add| other(&add.path))
        || effect.removes.iter().any(|removal| removal.path.len() > 1 && other(&removal.path))
}

#[test]
fn doing_again_what_was_told_of_each_txn_leaves_the_same_contents() {
    seeds::each(300, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let subject = if seed % 2 == 0 { Subject::any(&mut rng) } else { Subject::mixed(&mut rng) };
        let (mut first, mut second) =
            (Replica::new(ORIGIN, &[ORIGIN], 0), Replica::new(ORIGIN, &[ORIGIN], 0));
        for now in 1..120 {
            let ops = subject.ops(&mut rng);
            let hlc = first.stamp(now);
            // What the origin refuses is no txn, and of what changes nothing there is nothing to tell.
            let Ok(executed) = first.execute(hlc, &ops) else { continue };
            if executed.effects.is_empty() || executed.effects.iter().any(marks_beside_another_type) {
                continue;
            }
            let dot = first.commit(hlc, executed);
            let txn = Txn::decode(&first.log[&dot]).expect("an own txn");
            let told = told(&txn);
            let again = second.execute(hlc, &told);
            let again = again.unwrap_or_else(|e| panic!("{ops:?} was told as {told:?}: {e}"));
            second.commit(hlc, again);
            for (key, _) in &subject.keys {
                let content = |r: &Replica| read(&r.cells, key, &Query::default()).expect("memory").content;
                assert_eq!(content(&second), content(&first), "{ops:?} was told as {told:?}");
            }
            assert_eq!(digest(&second.cells).expect("memory"), digest(&first.cells).expect("memory"));
        }
    });
}
