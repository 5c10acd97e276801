//! Anomalies between DCs: atomic visibility, causality, and what a session loses that moves without its token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use meridian_client::net::Guarantee;
use meridian_client::{Client, Error, Session, Space, Transaction};
use meridian_tests::wait;
use tokio::task::JoinSet;

use super::{AP, EU, PATIENCE, US, World, get, moved, set, try_get};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Txns over all keys; from the middle on the link to one DC is cut and its data comes by way of the other.
const TXNS: i64 = 40;
const POSTS: i64 = 4;
const POSTS_RELAYED: i64 = 2;
/// How long a node may wait for what cannot come.
const IN_VAIN: Duration = Duration::from_millis(200);
/// What the refusal may take beyond that on a busy machine.
const REFUSAL_MARGIN: Duration = Duration::from_secs(5);

/// Several registers, read in one read-only transaction.
async fn snapshot(space: &Space, keys: &'static [&'static str]) -> Result<Vec<i64>, Error> {
    space
        .transaction(|txn: Transaction| async move {
            let mut values = Vec::new();
            for key in keys {
                values.push(txn.register(*key).get::<i64>().await?.into_inner().unwrap_or_default());
            }
            Ok(values)
        })
        .await
}

/// What a reader saw at its node.
#[derive(Default)]
struct Looks {
    taken: usize,
    /// Looks that differ from the one before.
    fresh: usize,
    /// Reads of all keys, one request each without a transaction, that were of more than one txn.
    torn_without: usize,
}

/// Reads all keys again and again until it has seen the last txn; no look may show part of a txn.
async fn look_for_fractures(space: Space) -> Looks {
    let (mut looks, mut last) = (Looks::default(), 0);
    while last < TXNS {
        let values = snapshot(&space, &KEYS).await.expect("read");
        assert!(values.iter().all(|value| *value == values[0]), "a txn is seen in part: {values:?}");
        assert!(values[0] >= last, "{} after {last}: reads go back", values[0]);
        looks.taken += 1;
        looks.fresh += usize::from(values[0] > last);
        last = values[0];
        let first = get(&space, KEYS[0]).await;
        looks.torn_without += usize::from(get(&space, KEYS[4]).await != first);
    }
    looks
}

pub async fn atomic_visibility_a_txn_is_never_seen_in_part(world: &World) {
    let mut readers = JoinSet::new();
    for client in world.us[..2].iter().chain(&world.ap[1..]) {
        readers.spawn(look_for_fractures(client.session().space("atomic")));
    }
    for n in 1..=TXNS {
        if n == TXNS / 2 {
            world.fleet.cluster().cut(EU, AP).expect("cut");
        }
        let space = world.eu[usize::try_from(n).unwrap_or_default() % 3].session().space("atomic");
        if n % 2 == 0 {
            let all = KEYS.iter().fold(space.txn(), |txn, key| txn.set(key, n));
            all.commit().await.expect("committed");
        } else {
            let write = |txn: Transaction| async move {
                // It reads, so that it is an interactive one.
                txn.register(KEYS[0]).get::<i64>().await?;
                KEYS.iter().for_each(|key| txn.register(*key).set(n));
                Ok::<_, Error>(())
            };
            space.transaction(write).await.expect("committed");
        }
    }
    let all = tokio::time::timeout(PATIENCE, readers.join_all()).await.expect("readers see the last txn");
    world.fleet.cluster().heal(None).expect("healed");
    let sum = |part: fn(&Looks) -> usize| all.iter().map(part).sum::<usize>();
    println!(
        "atomic visibility: {TXNS} txns over {} keys, {} looks at four nodes of two DCs, {} of them at something new, 0 \
         fractured; {} torn without a transaction",
        KEYS.len(),
        sum(|looks| looks.taken),
        sum(|looks| looks.fresh),
        sum(|looks| looks.torn_without)
    );
    assert!(sum(|looks| looks.fresh) > 6, "readers saw it happen");
}

/// What readers of a thread share with those who write it.
#[derive(Default)]
struct Thread {
    /// The reply that every reader of the third DC has seen, one slot for each.
    seen: [AtomicI64; 3],
    over: AtomicBool,
}

/// Looks at the reply first and at its post then, in one snapshot and in single reads.
async fn look_for_orphans(client: Client, slot: usize, thread: Arc<Thread>) -> usize {
    let space = client.session().space("thread");
    let single = client.session().eventual().space("thread");
    let mut looks = 0;
    while !thread.over.load(Ordering::Relaxed) {
        let values = snapshot(&space, &["reply", "post"]).await.expect("read");
        assert!(values[1] >= values[0], "reply {} is seen without its post: {}", values[0], values[1]);
        let reply = get(&single, "reply").await;
        let post = get(&single, "post").await;
        assert!(post >= reply, "reply {reply:?} is seen before its post: {post:?}");
        thread.seen[slot].fetch_max(values[0], Ordering::Relaxed);
        looks += 1;
    }
    looks
}

pub async fn causality_a_reply_is_never_seen_before_its_post(world: &World) {
    let thread = Arc::new(Thread::default());
    let mut readers = JoinSet::new();
    for (slot, client) in world.ap.iter().enumerate() {
        readers.spawn(look_for_orphans(client.clone(), slot, thread.clone()));
    }
    let (author, commenter) = (world.eu[0].session(), world.us[0].session().wait(PATIENCE / 3));
    for n in 1..=POSTS + POSTS_RELAYED {
        if n == POSTS + 1 {
            // The post now takes longer to the third DC than the reply does.
            world.fleet.cluster().cut(EU, AP).expect("cut");
        }
        set(&author.space("thread"), "post", n).await;
        commenter.join(&author.token()).expect("a token of this cluster");
        assert_eq!(get(&commenter.space("thread"), "post").await, Some(n));
        set(&commenter.space("thread"), "reply", n).await;
        wait::until("the third DC sees the reply", PATIENCE, async || {
            let seen = thread.seen.iter().map(|seen| seen.load(Ordering::Relaxed));
            let least = seen.min().unwrap_or_default();
            if least >= n { Ok(()) } else { Err(format!("{least} of {n}")) }
        })
        .await;
    }
    thread.over.store(true, Ordering::Relaxed);
    let looks: usize = readers.join_all().await.iter().sum();
    world.fleet.cluster().heal(None).expect("healed");
    println!(
        "causality: {POSTS} replies directly, {POSTS_RELAYED} with the post relayed; {looks} looks, 0 orphans"
    );
}

/// A refusal that says, soon, that the session's guarantees cannot be kept.
///
/// Story: a transaction was run again and again for 30 s where a read gave up at once, although its session had said for
/// how long a node may wait; what the session depends on does not come sooner for asking again.
async fn kept_back<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Error>>) {
    let start = Instant::now();
    let error = call.await.expect_err("the DC lacks what the session depends on");
    assert_eq!(error.not_kept(), Some(Guarantee::Session), "{error}");
    assert!(start.elapsed() < IN_VAIN + REFUSAL_MARGIN, "it was told only after {:?}", start.elapsed());
}

fn of(session: &Session) -> Space {
    session.space("guarantees")
}

pub async fn session_anomalies_are_prevented_by_the_token_and_happen_without_it(world: &World) {
    let [eu, us, ap] = [&world.eu[0], &world.us[1], &world.ap[2]];
    set(&of(&eu.session()), "x", 1).await;
    world.fleet.cluster().wait_ready(PATIENCE).await.expect("all links are up");
    world.fleet.converged(PATIENCE).await;
    for other in [US, AP] {
        world.fleet.cluster().cut(EU, other).expect("cut");
    }
    let (writer, reader) = (eu.session(), eu.session());
    set(&of(&writer), "x", 2).await;
    assert_eq!(get(&of(&reader.linearizable()), "x").await, Some(2));

    // Read your writes, and monotonic reads: what moves with its token is refused, what moves without goes back.
    for session in [&writer, &reader] {
        kept_back(try_get(&of(&moved(session, us, IN_VAIN)), "x")).await;
        kept_back(snapshot(&of(&moved(session, ap, IN_VAIN)), &["x"])).await;
        assert_eq!(get(&of(&us.session()), "x").await, Some(1), "without the token");
    }
    // Monotonic writes, and writes follow reads: a third DC sees the later write without what came before it.
    for (session, key) in [(&writer, "later"), (&reader, "follows")] {
        kept_back(of(&moved(session, us, IN_VAIN)).register(key).set(1)).await;
        assert_eq!(get(&of(&us.session()), key).await, None, "what was refused was not done");
        let without = us.session();
        set(&of(&without), key, 1).await;
        let third = moved(&without, ap, PATIENCE / 3);
        assert_eq!((get(&of(&third), key).await, get(&of(&third), "x").await), (Some(1), Some(1)));
    }

    world.fleet.cluster().heal(None).expect("healed");
    for (session, key) in [(&writer, "later"), (&reader, "follows")] {
        let caught_up = moved(session, us, PATIENCE / 3);
        set(&of(&caught_up), key, 2).await;
        assert_eq!(get(&of(&caught_up), "x").await, Some(2));
        let third = moved(&caught_up, ap, PATIENCE / 3);
        assert_eq!((get(&of(&third), key).await, get(&of(&third), "x").await), (Some(2), Some(2)));
    }
}
