//! Transactions over the native protocol.

use super::*;

fn read_in(txn: u64, name: &str, ops: Vec<(Key, Mutation)>) -> Verb {
    Verb::Read { key: key(name), query: Query::default(), txn: Some(txn), ops }
}

fn commit(txn: u64, ops: Vec<(Key, Mutation)>) -> Verb {
    Verb::Commit { txn, space: "default".into(), ops }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_reads_its_snapshot_and_its_own_writes_and_commits_once() {
    let node = Node::start("").await;
    let (mut client, mut other) = (node.client().await, node.client().await);
    client.ask(add("a", 1)).await.expect("done");
    let txn = client.begin(Isolation::Serializable).await;
    let mine = client.ask(read_in(txn, "a", vec![adding("a", 10)])).await.expect("there");
    assert_eq!(mine["value"], Value::Int(11));
    assert_eq!(other.ask(read("a")).await.expect("there")["value"], Value::Int(1));
    let in_txn = Verb::List {
        space: "default".into(),
        prefix: String::new(),
        after: None,
        limit: 10,
        txn: Some(txn),
        ops: vec![adding("b", 1)],
    };
    let listed = client.ask(in_txn).await.expect("listed");
    assert!(matches!(&listed["keys"], Value::Array(keys) if keys.len() == 2), "{listed:?}");
    let mut request = client.request(commit(txn, vec![adding("c", 1)]));
    request.request_id = Some(RequestId::Number { client: [3; 16], number: 1 });
    let done = client.ask_with(request.clone()).await.outcome.expect("committed");
    assert!(matches!(&done["results"], Value::Array(results) if results.len() == 3), "{done:?}");
    assert_eq!(other.ask(read("a")).await.expect("there")["value"], Value::Int(11));
    // The answer was lost: another connection asks again.
    let mut again = node.client().await;
    request.id = 77;
    assert_eq!(again.ask_with(request).await.outcome.expect("the first answer"), done);
    assert_eq!(other.ask(read("c")).await.expect("there")["value"], Value::Int(1));
}

/// A client moves 10 from one account to another, loses its connection before the node has the first half, and repeats the
/// commit on another. The node, which does not know that the first connection is lost, must not do the second half alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_from_another_connection_does_not_do_half_of_a_transaction() {
    let node = Node::start("").await;
    let (mut client, mut other) = (node.client().await, node.client().await);
    let txn = client.begin(Isolation::Snapshot).await;
    let outcome = other.ask(commit(txn, vec![adding("to", 10)])).await;
    assert_eq!(code(&outcome), ErrorCode::Conflict, "nor without a request id");
    let mut request = other.request(commit(txn, vec![adding("to", 10)]));
    request.request_id = Some(RequestId::Number { client: [4; 16], number: 1 });
    assert_eq!(code(&other.ask_with(request.clone()).await.outcome), ErrorCode::Conflict);
    // What was under way arrives after all.
    client.ask(read_in(txn, "from", vec![adding("from", -10)])).await.expect("there");
    request.id = client.request(Verb::Status).id;
    assert_eq!(
        code(&client.ask_with(request).await.outcome),
        ErrorCode::Conflict,
        "what the log has said stays"
    );
    for account in ["from", "to"] {
        assert_eq!(code(&client.ask(read(account)).await), ErrorCode::NotFound, "{account}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_transaction_are_done_in_the_order_of_their_arrival() {
    let node = Node::start("").await;
    let mut client = node.client().await;
    let txn = client.begin(Isolation::Snapshot).await;
    let first = client.next_id + 1;
    for _ in 0..50 {
        let request = client.request(read_in(txn, "n", vec![adding("n", 1)]));
        client.send(&request).await;
    }
    let last = client.request(commit(txn, vec![]));
    client.send(&last).await;
    let mut answers = BTreeMap::new();
    for _ in 0..51 {
        let answer = client.answer().await;
        answers.insert(answer.id, answer.outcome.expect("done"));
    }
    for (i, id) in (first..first + 50).enumerate() {
        assert_eq!(answers[&id]["value"], Value::Int(i as i64 + 1));
    }
    assert_eq!(client.ask(read("n")).await.expect("there")["value"], Value::Int(50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_ends_with_its_conflict_its_abort_or_its_connection() {
    let node = Node::start("").await;
    let (mut client, mut other) = (node.client().await, node.client().await);
    client.ask(add("a", 1)).await.expect("done");
    let txn = client.begin(Isolation::Serializable).await;
    client.ask(read_in(txn, "a", vec![])).await.expect("there");
    other.ask(add("a", 1)).await.expect("done");
    assert_eq!(code(&client.ask(commit(txn, vec![adding("a", 5)])).await), ErrorCode::Conflict);
    let txn = client.begin(Isolation::Serializable).await;
    // Nobody else reads in it.
    assert_eq!(code(&other.ask(read_in(txn, "a", vec![])).await), ErrorCode::Conflict);
    assert_eq!(code(&client.ask(read_in(txn, "none", vec![])).await), ErrorCode::NotFound);
    let aborted = client.ask(Verb::Abort { txn }).await.expect("answered");
    assert_eq!(aborted["aborted"], Value::Bool(true));
    assert_eq!(client.ask(Verb::Abort { txn }).await.expect("answered")["aborted"], Value::Bool(false));
    assert_eq!(code(&client.ask(commit(txn, vec![adding("a", 5)])).await), ErrorCode::Conflict);
    client.begin(Isolation::Serializable).await;
    drop(client);
    let started = Instant::now();
    while !node.get("/metrics").await.expect("served").contains("meridian_txns_open 0\n") {
        assert!(started.elapsed() < PATIENCE, "the transaction ends with its connection");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(other.ask(read("a")).await.expect("there")["value"], Value::Int(2));
}

/// Story: open transactions take as much memory as they may. The next request in one is refused before anything of it is done, and may be
/// repeated as it is once another has ended.
#[tokio::test]
async fn a_request_in_a_transaction_is_refused_whole_when_there_is_no_memory_for_it() {
    let node = Node::start("[transactions]\nmemory_max = \"1MiB\"").await;
    let mut client = node.client().await;
    client.ask(add("n", 1)).await.expect("done");
    let (large, small) = (client.begin(Isolation::Snapshot).await, client.begin(Isolation::Snapshot).await);
    let text = Value::Str("x".repeat(600_000));
    let long = (key("long"), Mutation::Register(RegisterOp::Set(text)));
    client.ask(read_in(large, "n", vec![long])).await.expect("there is room");
    let refused = client.ask(read_in(small, "n", vec![adding("n", 10)])).await;
    assert_eq!(code(&refused), ErrorCode::Overloaded);
    assert!(node.get("/metrics").await.is_some_and(|page| page.contains("\nmeridian_txns_bytes 1")));
    client.ask(Verb::Abort { txn: large }).await.expect("aborted");
    let again = client.ask(read_in(small, "n", vec![adding("n", 10)])).await.expect("there is room again");
    assert_eq!(again["value"], Value::Int(11), "it was added once");
    client.ask(commit(small, vec![])).await.expect("committed");
    assert_eq!(client.ask(read("n")).await.expect("there")["value"], Value::Int(11));
}
