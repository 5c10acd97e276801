//! What a peer sends to the Raft layer of a node, in any form, harms nobody: the answer says what was wrong, and the
//! group goes on. Peers have proved that they know the secret, and may still be broken or of another version.
//!
//! The bytes come from a seed, which is printed; `MERIDIAN_TEST_SEED` repeats it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian::peer::{AdmitAll, PeerClient, PeerConfig, PeerIdentity, RaftHandler, Secret};
use meridian::raft::{Parts, RaftConfig, RaftGroup};
use meridian::seams::{Seams, SimDisk};
use meridian::shard::machine::ShardMachine;
use meridian::shard::published::Publisher;
use meridian::storage::{Folder, FolderConfig, Identity};
use meridian::txn::entry::{Entry, Item};
use meridian_tests::wait;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::AsyncWriteExt;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the answer to garbage may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const RPCS: usize = 3000;
const SNAPSHOTS: usize = 30;
/// The version of the frames; behind it stands the kind.
const VERSION: u8 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_a_peer_is_refused_and_the_group_goes_on() {
    let given = std::env::var("MERIDIAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("raft frames: MERIDIAN_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let group = group().await;
    proposes(&group).await;
    for _ in 0..RPCS {
        let request = Bytes::from(rpc(&mut random));
        let answer = tokio::time::timeout(ANSWER_LIMIT, group.rpc(2, request.clone())).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {request:?}"));
        assert!(!answer.is_empty(), "an empty answer to {request:?}");
    }
    for _ in 0..SNAPSHOTS {
        let (mut theirs, ours) = tokio::io::duplex(1 << 16);
        let bytes = rpc(&mut random);
        let sends = async {
            theirs.write_all(&bytes).await.ok();
            drop(theirs);
        };
        let received = group.snapshot(2, Box::new(ours));
        let both = async { tokio::join!(sends, received) };
        tokio::time::timeout(ANSWER_LIMIT, both).await.expect("a snapshot of garbage ends");
    }
    proposes(&group).await;
    assert!(group.fatal().told().is_none(), "the node would have stopped: {:?}", group.fatal().told());
    group.shutdown().await;
}

/// A group of one, on a disk in memory.
async fn group() -> RaftGroup {
    let seams = Seams { disk: Arc::new(SimDisk::new()), ..Seams::production() };
    let identity = Identity { cluster: "test".into(), dc: "eu-west".into(), node: 1 };
    let opened = Folder::open(FolderConfig::new("/data", identity), &seams).expect("opens");
    let me = PeerIdentity {
        cluster: "test".into(),
        dc: "eu-west".into(),
        node: 1,
        store_id: opened.folder.store_id(),
    };
    let config = PeerConfig {
        me,
        secret: Secret::new("secret"),
        handshake_limit: Duration::from_secs(3),
        admission: Arc::new(AdmitAll),
    };
    let peers = PeerClient::new(config, seams.clone(), Arc::new(|_: u64| None::<String>));
    let machine = ShardMachine::new(Arc::new(Publisher::new(1, false)));
    let parts = Parts { opened, machine, peers, seams };
    RaftGroup::start(RaftConfig::default(), 1, BTreeMap::from([(1, ())]), parts).await.expect("starts")
}

async fn proposes(group: &RaftGroup) {
    let entry = Entry { now_ms: 1_800_000_000_000, items: vec![Item::Tidy { rows_max: 1 }] };
    let entry = entry.encode().expect("a small entry");
    wait::until("the group takes a proposal", PATIENCE, async || {
        group.propose(entry.clone()).await.map_err(|error| error.to_string())
    })
    .await;
}

/// Mostly a frame of the right version and a kind that exists, with MessagePack that means nothing.
fn rpc(random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.2) {
        let mut bytes = vec![0; random.random_range(0..100)];
        random.fill_bytes(&mut bytes);
        return bytes;
    }
    let mut bytes = vec![VERSION, random.random_range(0..8)];
    pack(&mut bytes, random, 0);
    if random.random_bool(0.3) {
        bytes.truncate(random.random_range(0..bytes.len()));
    }
    bytes
}

fn pack(bytes: &mut Vec<u8>, random: &mut StdRng, depth: usize) {
    match random.random_range(0..if depth < 4 { 8 } else { 5 }) {
        0 => bytes.push(random.random_range(0..4)),
        1 => bytes.push(0xc0),
        2 => bytes.push(0xc2 + random.random_range(0..2)),
        3 => bytes.extend_from_slice(&[0xcd, random.random(), random.random()]),
        4 => bytes.extend_from_slice(b"\xa1x"),
        5 => bytes.extend_from_slice(&[0x91; 2000]),
        _ => {
            let count = random.random_range(0..6);
            bytes.push(0x90 + count);
            for _ in 0..count {
                pack(bytes, random, depth + 1);
            }
        }
    }
}
