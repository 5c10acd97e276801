//! Interactive transactions over three real nodes of one datacenter in this process: begun anywhere, committed through
//! the leader, exact when repeated.

use std::net::TcpListener as StdListener;
use std::time::{Duration, Instant};

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{CounterOp, Key, Mutation, Query, ReadValue, RegisterOp, Value, Vector};

use super::*;
use crate::shard::WriteRequest;
use crate::shard::open::CommitRequest;
use crate::shard::transactions::Begin;
use crate::txn::{Answer, Isolation, Numbered, RequestId};

const PATIENCE: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_secs(5);

struct Dc {
    nodes: Vec<Node>,
    _folder: tempfile::TempDir,
}

impl Dc {
    /// Three nodes that have begun the life of their datacenter.
    async fn start(extra: &str) -> Dc {
        let folder = tempfile::tempdir().expect("a folder");
        // All stay bound until all are known, so that they differ.
        let bound: Vec<_> = (0..6).map(|_| StdListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<_> = bound.iter().map(|port| port.local_addr().expect("bound").to_string()).collect();
        drop(bound);
        let mut text = format!("[cluster]\nname = \"t\"\n[dc]\nname = \"eu\"\n{extra}\n");
        for id in 1..=3 {
            let data = folder.path().join(format!("n{id}")).display().to_string();
            let (client, peer) = (&ports[id - 1], &ports[id + 2]);
            text += &format!(
                "[nodes.n{id}]\nid = {id}\ndata_dir = {data:?}\nclient_listen = {client:?}\npeer_listen = {peer:?}\n"
            );
        }
        let (seams, mut listening) = (Seams::production(), Vec::new());
        for name in ["n1", "n2", "n3"] {
            let config = Config::parse("test", &text, Some(name), std::iter::empty(), &[]).expect("valid");
            let client = listen(&seams, &config.node.client_listen).await.expect("free");
            let peer = listen(&seams, &config.node.peer_listen).await.expect("free");
            listening.push((config, client, peer));
        }
        let mut nodes = Vec::new();
        for (config, client, peer) in listening {
            let node = Node::start(&config, &ServeOptions::default(), &seams, client, peer).await;
            nodes.push(node.expect("starts"));
        }
        let dc = Dc { nodes, _folder: folder };
        for node in &dc.nodes {
            let mut ready = node.shard.ready.subscribe();
            let ready = tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await;
            ready.expect("in time").expect("the node lives");
        }
        dc
    }

    /// The leader first, then the followers.
    fn shards(&self) -> Vec<Arc<Shard>> {
        let mut shards: Vec<_> = self.nodes.iter().map(|node| node.shard.clone()).collect();
        shards.sort_by_key(|shard| !shard.raft.leadership_now().leading);
        shards
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

fn key(k: &str) -> Key {
    Key::new("default", k).expect("valid")
}

fn set(k: &str, n: i64) -> Vec<(Key, Mutation)> {
    vec![(key(k), Mutation::Register(RegisterOp::Set(Value::Int(n))))]
}

async fn begin(shard: &Shard, session: &Vector) -> u64 {
    let begin = Begin { session: session.clone(), wait: WAIT, ..Begin::default() };
    shard.begin(begin).await.expect("there is room").id
}

fn int(shard: &Shard, txn: u64, k: &str) -> i64 {
    let seen = shard.txn_read(txn, &key(k), &Query::default()).expect("is open").seen;
    match seen.content.map(|content| content.value) {
        Some(ReadValue::Register(Value::Int(n)) | ReadValue::Counter(n)) => n,
        _ => 0,
    }
}

fn commit(txn: u64, id: Option<u64>) -> CommitRequest {
    let id = id.map(|number| RequestId::Numbered(Numbered { client: 7, number }));
    CommitRequest { txn, id, wait: WAIT, ..CommitRequest::default() }
}

fn done(answer: Result<Answer, ApiError>) -> Vector {
    match answer {
        Ok(Answer::Done { touched, .. }) => touched,
        other => panic!("{other:?} and not done"),
    }
}

fn refused(answer: Result<Answer, ApiError>) -> (ErrorCode, String) {
    let (Ok(Answer::Refused { error, .. }) | Err(error)) = answer else {
        panic!("{answer:?} and not refused")
    };
    (error.code, error.details.get("reason").map_or_else(String::new, ToString::to_string))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_begin_anywhere_commit_once_and_conflict_across_nodes() {
    let dc = Dc::start("").await;
    let [leader, one, two] = &dc.shards()[..] else { panic!("three nodes") };
    let nothing = Vector::new();

    // Read and write on a follower; the commit goes through the leader.
    let txn = begin(one, &nothing).await;
    assert_eq!(int(one, txn, "a"), 0);
    assert!(matches!(one.txn_write(txn, set("a", 1)), Ok(Answer::Done { dot: None, .. })));
    assert_eq!((int(one, txn, "a"), one.transactions.open()), (1, 1));
    let first = one.commit(commit(txn, Some(1))).await;
    let session = done(first.clone());
    assert_eq!(one.transactions.open(), 0);

    // Repeated with its request id, at any node: the first answer. Without one: nobody knows it.
    for shard in [one, two, leader] {
        let again = shard.commit(commit(txn, Some(1))).await;
        assert_eq!(done(again), session);
    }
    assert_eq!(refused(two.commit(commit(txn, None)).await), (ErrorCode::Conflict, "\"expired\"".into()));
    // A request that never came is kept from ever coming.
    let never = refused(two.commit(commit(99, Some(2))).await);
    assert_eq!(never, (ErrorCode::Conflict, "\"expired\"".into()));
    let late = begin(two, &session).await;
    assert!(two.txn_write(late, set("b", 1)).is_ok());
    assert_eq!(refused(two.commit(commit(late, Some(2))).await), never);

    // Of two that read and write the same key on two nodes one is refused; its token makes it see the winner's.
    let (x, y) = (begin(one, &session).await, begin(two, &session).await);
    for (shard, txn) in [(one, x), (two, y)] {
        let n = int(shard, txn, "a");
        assert_eq!(n, 1, "the session's own write is in the snapshot");
        assert!(shard.txn_write(txn, set("a", n + 1)).is_ok());
    }
    done(one.commit(commit(x, None)).await);
    assert_eq!(refused(one.commit(commit(x, None)).await).0, ErrorCode::OutcomeUnknown, "it was submitted");
    let Ok(Answer::Refused { error, touched }) = two.commit(commit(y, Some(3))).await else {
        panic!("refused")
    };
    assert_eq!((error.code, &error.details["changed"][0]), (ErrorCode::Conflict, &"default/a".into()));
    let again = begin(two, &touched).await;
    assert_eq!(int(two, again, "a"), 2);

    // Operations may come with the commit; what has only read is not proposed.
    let last = vec![(key("n"), Mutation::Counter(CounterOp::Add(4)))];
    let session = done(two.commit(CommitRequest { ops: last, ..commit(again, Some(4)) }).await);
    let reader = begin(leader, &session).await;
    let end = leader.publisher.applied().borrow().state.oplog_end;
    assert_eq!((int(leader, reader, "n"), int(leader, reader, "a")), (4, 2));
    assert!(done(leader.commit(commit(reader, None)).await).iter().next().is_some());
    assert_eq!(leader.publisher.applied().borrow().state.oplog_end, end);
    dc.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_transaction_ends_by_itself_and_a_full_node_says_so() {
    let dc = Dc::start("[transactions]\nopen_max = 2\nlife_max = \"700ms\"").await;
    let shard = dc.shards()[2].clone();
    let (a, b) = (begin(&shard, &Vector::new()).await, begin(&shard, &Vector::new()).await);
    let begin = Begin { isolation: Isolation::Snapshot, ..Begin::default() };
    let full = shard.begin(begin).await.expect_err("two are enough");
    assert_eq!(full.code, ErrorCode::Overloaded);
    assert!(full.retry_after_ms.is_some() && shard.abort(a) && !shard.abort(a));
    let started = Instant::now();
    while shard.transactions.open() > 0 {
        assert!(started.elapsed() < PATIENCE, "nobody asks for it and it ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = shard.txn_read(b, &key("a"), &Query::default()).expect_err("its life is over");
    assert_eq!((ended.code, ended.details["reason"].as_str()), (ErrorCode::Conflict, Some("expired")));
    dc.stop().await;
}

/// Story: clients send large writes faster than the disk takes them. What a node works on is bounded in bytes, where the client is
/// and where the leader is; beyond that nothing is done, and the client is told when to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_beyond_the_memory_for_them_are_refused_before_anything_is_done() {
    const ALL: usize = 2 << 20;
    let dc = Dc::start("[limits]\nwriting_max = \"2MiB\"").await;
    let shards = dc.shards();
    let (leader, follower) = (&shards[0], &shards[1]);
    let write = |shard: Arc<Shard>| async move {
        let request =
            WriteRequest { ops: set("k", 1), bytes: 100, wait_ms: 1_000, ..WriteRequest::default() };
        shard.write(Box::new(request)).await
    };
    let end = leader.publisher.applied().borrow().state.oplog_end;
    for full in [leader, follower] {
        let others = full.write_room.take(ALL).expect("nobody writes");
        let error = write(follower.clone()).await.expect_err("there is no room");
        assert_eq!((error.code, error.retry_after_ms), (ErrorCode::Overloaded, Some(100)));
        assert_eq!(leader.publisher.applied().borrow().state.oplog_end, end);
        drop(others);
    }
    done(write(follower.clone()).await);
    assert_eq!((leader.write_room.taken(), follower.write_room.taken()), (0, 0));
    dc.stop().await;
}
