//! Anomalies in one DC: open transactions on different nodes, their steps in a fixed order.

use meridian_client::{Client, ErrorCode, Isolation, Space};
use meridian_tests::stepped::Stepped;

use super::{PATIENCE, World, get, moved, set};

const BOTH: [Isolation; 2] = [Isolation::Serializable, Isolation::Snapshot];
const CONFLICT: Result<(), ErrorCode> = Err(ErrorCode::Conflict);
/// Rounds over the nodes of the DC, for what a session must see at each of them.
const ROUNDS: i64 = 6;

/// A space of its own, seen through each node of a DC. All reads and snapshots see whatever was acknowledged before.
struct Scene {
    nodes: [Space; 3],
}

impl Scene {
    async fn new(world: &World, name: &str, level: Isolation, keys: &[(&str, i64)]) -> Scene {
        let name = format!("{name}-{}", level.as_str());
        let at = |client: &Client| client.session().linearizable().space(&name);
        let scene = Scene { nodes: [at(&world.eu[0]), at(&world.eu[1]), at(&world.eu[2])] };
        for (key, value) in keys {
            scene.set(0, key, *value).await;
        }
        scene
    }

    /// Two accounts that hold 50 each.
    async fn accounts(world: &World, name: &str, level: Isolation) -> Scene {
        Scene::new(world, name, level, &[("x", 50), ("y", 50)]).await
    }

    async fn begin(&self, node: usize, level: Isolation) -> Stepped {
        Stepped::begin(&self.nodes[node], level).await
    }

    async fn set(&self, node: usize, key: &str, value: i64) {
        set(&self.nodes[node], key, value).await;
    }

    async fn get(&self, node: usize, key: &str) -> i64 {
        get(&self.nodes[node], key).await.unwrap_or_default()
    }
}

pub async fn dirty_write_interleaved_writers_leave_the_writes_of_one_of_them_whole(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "dirty-write", level).await;
        let (one, two) = (scene.begin(0, level).await, scene.begin(1, level).await);
        one.set("x", 1).await;
        two.set("x", 2).await;
        two.set("y", 2).await;
        one.set("y", 1).await;
        let committed = [two.commit().await, one.commit().await];
        assert_eq!(committed[0], Ok(()), "{level:?}: the first to commit met nobody");
        let left = (scene.get(2, "x").await, scene.get(2, "y").await);
        let expected = if committed[1].is_ok() { (1, 1) } else { (2, 2) };
        assert_eq!(left, expected, "{level:?}: {committed:?}");
    }
}

pub async fn dirty_read_the_writes_of_an_open_transaction_are_seen_by_nobody(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "dirty-read", level).await;
        let writer = scene.begin(0, level).await;
        writer.set("x", 101).await;
        writer.set("new", 1).await;
        assert_eq!(writer.get("x").await, 101, "it sees its own");
        for node in 0..3 {
            let reader = scene.begin(node, level).await;
            assert_eq!((reader.get("x").await, scene.get(node, "x").await), (50, 50), "{level:?}");
            assert_eq!(reader.scan("").await, ["x", "y"]);
            assert_eq!(reader.commit().await, Ok(()));
        }
        assert_eq!(writer.commit().await, Ok(()));
        assert_eq!(scene.get(1, "x").await, 101);
    }
}

pub async fn aborted_read_the_writes_of_an_aborted_transaction_are_never_seen(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "aborted-read", level).await;
        let (aborted, loser) = (scene.begin(0, level).await, scene.begin(1, level).await);
        aborted.set("x", 101).await;
        assert_eq!(loser.get("x").await, 50);
        loser.set("x", 102).await;
        loser.set("z", 1).await;
        let during = scene.begin(2, level).await;
        aborted.abort().await;
        scene.set(2, "x", 7).await;
        assert_eq!(loser.commit().await, CONFLICT, "{level:?}");
        assert_eq!(during.get("x").await, 50);
        for node in 0..3 {
            let after = scene.begin(node, level).await;
            assert_eq!((after.get("x").await, after.get("z").await), (7, 0), "{level:?}");
            assert_eq!((scene.get(node, "x").await, scene.get(node, "z").await), (7, 0), "{level:?}");
        }
    }
}

pub async fn intermediate_read_only_the_last_write_is_ever_seen(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "intermediate-read", level).await;
        let writer = scene.begin(0, level).await;
        writer.set("x", 101).await;
        let reader = scene.begin(1, level).await;
        assert_eq!((reader.get("x").await, scene.get(2, "x").await), (50, 50), "{level:?}");
        writer.set("x", 11).await;
        assert_eq!(writer.commit().await, Ok(()));
        assert_eq!((reader.get("x").await, scene.get(2, "x").await), (50, 11), "{level:?}");
    }
}

pub async fn circular_information_flow_two_transactions_never_see_each_others_writes(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "circular", level).await;
        let (one, two) = (scene.begin(0, level).await, scene.begin(1, level).await);
        one.set("x", 1).await;
        two.set("y", 2).await;
        assert_eq!((one.get("y").await, two.get("x").await), (50, 50), "{level:?}");
        assert_eq!(one.commit().await, Ok(()));
        let second = if level == Isolation::Serializable { CONFLICT } else { Ok(()) };
        assert_eq!(two.commit().await, second, "{level:?}");
    }
}

pub async fn lost_update_the_second_of_two_is_refused(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "lost-update", level).await;
        let (one, two) = (scene.begin(0, level).await, scene.begin(1, level).await);
        let (a, b) = (one.get("x").await, two.get("x").await);
        one.set("x", a + 10).await;
        two.set("x", b + 20).await;
        assert_eq!((one.commit().await, two.commit().await), (Ok(()), CONFLICT), "{level:?}");
        let again = scene.begin(1, level).await;
        let c = again.get("x").await;
        again.set("x", c + 20).await;
        assert_eq!((again.commit().await, scene.get(2, "x").await), (Ok(()), 80), "{level:?}");
    }
}

pub async fn lost_update_a_write_outside_of_transactions_is_not_lost_either(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "lost-write", level).await;
        let txn = scene.begin(0, level).await;
        let n = txn.get("x").await;
        txn.set("x", n + 10).await;
        scene.set(1, "x", 7).await;
        assert_eq!((txn.commit().await, scene.get(2, "x").await), (CONFLICT, 7), "{level:?}");
    }
}

/// What commutes need not conflict: this is what makes hot counters usable.
pub async fn lost_update_of_counters_that_nobody_read_is_no_conflict(world: &World) {
    let scene = Scene::new(world, "counters", Isolation::Serializable, &[]).await;
    let add = async |node: usize, by: i64| {
        scene.nodes[node].txn().add("n", by).add("m", -by).commit().await.expect("no conflict");
    };
    tokio::join!(add(0, 10), add(1, 20), add(2, 30));
    let sums = (scene.nodes[0].counter("n").value().await, scene.nodes[1].counter("m").value().await);
    assert_eq!((*sums.0.expect("read"), *sums.1.expect("read")), (60, -60));
}

pub async fn non_repeatable_read_a_key_reads_the_same_whatever_others_commit(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "non-repeatable", level).await;
        let reader = scene.begin(0, level).await;
        assert_eq!(reader.get("x").await, 50);
        for n in 0..3 {
            scene.set(1, "x", n).await;
            assert_eq!(reader.get("x").await, 50, "{level:?}");
        }
        scene.nodes[2].raw("x").delete().await.expect("deleted");
        assert_eq!(reader.get("x").await, 50, "{level:?}");
        assert_eq!(reader.scan("x").await, ["x"], "{level:?}");
        assert_eq!(reader.commit().await, Ok(()), "what has only read is consistent by its snapshot");
    }
}

pub async fn read_skew_the_keys_of_a_snapshot_are_all_of_one_moment(world: &World) {
    for level in BOTH {
        let scene = Scene::accounts(world, "read-skew", level).await;
        let (reader, report) = (scene.begin(0, level).await, scene.begin(1, level).await);
        let (x, reported) = (reader.get("x").await, report.get("x").await);
        let transfer = scene.begin(2, level).await;
        transfer.set("x", 25).await;
        transfer.set("y", 75).await;
        assert_eq!(transfer.commit().await, Ok(()));
        assert_eq!(x + reader.get("y").await, 100, "{level:?}");
        assert_eq!(reader.commit().await, Ok(()));
        // What was computed from a snapshot that was overtaken commits only where that is allowed.
        let sum = reported + report.get("y").await;
        assert_eq!(sum, 100, "{level:?}");
        report.set("sum", sum).await;
        let expected = if level == Isolation::Serializable { CONFLICT } else { Ok(()) };
        assert_eq!(report.commit().await, expected, "{level:?}");
    }
}

/// Two doctors are on call; each goes home if the other stays.
pub async fn write_skew_is_prevented_at_serializable_and_happens_at_snapshot(world: &World) {
    for (level, second, on_call) in [(Isolation::Serializable, CONFLICT, 1), (Isolation::Snapshot, Ok(()), 0)]
    {
        let scene = Scene::new(world, "write-skew", level, &[("x", 1), ("y", 1)]).await;
        let (one, two) = (scene.begin(0, level).await, scene.begin(1, level).await);
        assert_eq!(one.get("x").await + one.get("y").await, 2);
        assert_eq!(two.get("x").await + two.get("y").await, 2);
        one.set("x", 0).await;
        two.set("y", 0).await;
        assert_eq!((one.commit().await, two.commit().await), (Ok(()), second), "{level:?}");
        assert_eq!(scene.get(2, "x").await + scene.get(2, "y").await, on_call, "{level:?}");
    }
}

enum Other {
    Set(&'static str),
    Delete(&'static str),
}

/// Lists three jobs, lets another node do something, and commits what the listing led to.
async fn after_listing(world: &World, name: &str, level: Isolation, other: Other) -> Result<(), ErrorCode> {
    let keys = [("job/2", 1), ("job/4", 1), ("job/6", 1), ("jobs", 1)];
    let scene = Scene::new(world, name, level, &keys).await;
    let txn = scene.begin(0, level).await;
    let found = txn.scan("job/").await;
    txn.set("found", found.len() as i64).await;
    match other {
        Other::Set(key) => scene.set(1, key, 2).await,
        Other::Delete(key) => drop(scene.nodes[1].raw(key).delete().await.expect("deleted")),
    }
    assert_eq!(txn.scan("job/").await, found, "the snapshot stands");
    txn.commit().await
}

pub async fn phantom_inserts_deletes_and_updates_in_a_listed_range_are_conflicts(world: &World) {
    use Other::{Delete, Set};
    let level = Isolation::Serializable;
    for (name, other, expected) in [
        ("phantom-insert", Set("job/3"), CONFLICT),
        ("phantom-insert-last", Set("job/7"), CONFLICT),
        ("phantom-delete", Delete("job/4"), CONFLICT),
        ("phantom-update", Set("job/6"), CONFLICT),
        ("phantom-outside", Set("jobs/1"), Ok(())),
        ("phantom-outside-delete", Delete("jobs"), Ok(())),
    ] {
        assert_eq!(after_listing(world, name, level, other).await, expected, "{name}");
    }
}

pub async fn phantom_at_snapshot_happens_where_nothing_written_changed(world: &World) {
    let inserted = after_listing(world, "phantom", Isolation::Snapshot, Other::Set("job/3")).await;
    assert_eq!(inserted, Ok(()), "and so the step before can fail");
}

/// A report sees a deposit without the withdrawal that was decided before it.
pub async fn read_only_anomaly_one_of_three_gives_way(world: &World) {
    for (level, expected) in [(Isolation::Serializable, CONFLICT), (Isolation::Snapshot, Ok(()))] {
        let scene = Scene::new(world, "read-only", level, &[("savings", 0), ("checking", 0)]).await;
        let withdrawal = scene.begin(0, level).await;
        let total = withdrawal.get("savings").await + withdrawal.get("checking").await;
        let deposit = scene.begin(1, level).await;
        let savings = deposit.get("savings").await;
        deposit.set("savings", savings + 20).await;
        assert_eq!(deposit.commit().await, Ok(()));
        let report = scene.begin(2, level).await;
        assert_eq!((report.get("savings").await, report.get("checking").await), (20, 0));
        assert_eq!(report.commit().await, Ok(()));
        // With a fee of one, since nothing was there when it looked.
        withdrawal.set("checking", total - 11).await;
        assert_eq!(withdrawal.commit().await, expected, "{level:?}: the report rules the fee out");
    }
}

/// Each request of a session goes to another node than the one before it.
pub async fn sessions_keep_their_guarantees_over_all_nodes_of_a_dc(world: &World) {
    let mut mine = world.eu[0].session();
    let mut theirs = world.eu[1].session();
    for round in 1..=ROUNDS {
        for to in 1..=3 {
            let node = usize::try_from(round).unwrap_or_default() + to;
            mine = moved(&mine, &world.eu[node % 3], PATIENCE / 3);
            theirs = moved(&theirs, &world.eu[(node + 1) % 3], PATIENCE / 3);
            let (my, their) = (mine.space("in-dc"), theirs.space("in-dc"));
            match to {
                1 => set(&my, "post", round).await,
                2 => assert_eq!(get(&my, "post").await, Some(round), "reads its write"),
                _ => {
                    let seen = get(&my, "reply").await.unwrap_or_default();
                    assert_eq!(seen, round - 1, "reads are monotonic: it has seen what it answers to");
                    theirs.join(&mine.token()).expect("a token of this cluster");
                    assert_eq!(get(&their, "post").await, Some(round));
                    set(&their, "reply", round).await;
                    // Who sees the reply sees the post, at any node.
                    mine.join(&theirs.token()).expect("a token of this cluster");
                    let other = moved(&mine, &world.eu[(node + 2) % 3], PATIENCE / 3).space("in-dc");
                    assert_eq!(
                        (get(&other, "reply").await, get(&other, "post").await),
                        (Some(round), Some(round))
                    );
                }
            }
        }
    }
}
