//! The SDK against datacenters in memory that lose answers, refuse and fall silent on command, on a clock that only
//! moves when everyone waits.

mod mock;

use std::time::Duration;

use futures_util::StreamExt;
use meridian_client::{Advice, Client, Error, ErrorCode, Mutation, WatchItem};
use mock::{Fate, Net};
use tokio::time::{Instant, sleep};

/// Codes that say that nothing changed, and that another node or datacenter may do it.
const NOTHING_CHANGED: [ErrorCode; 7] = [
    ErrorCode::Overloaded,
    ErrorCode::NotCaughtUp,
    ErrorCode::NoQuorum,
    ErrorCode::NoLeader,
    ErrorCode::ClockUnsafe,
    ErrorCode::StorageFull,
    ErrorCode::ShuttingDown,
];

async fn two() -> (Net, Client) {
    let net = Net::new(&["a", "b"], 2);
    let client = net.client(&["a", "b"]).await;
    (net, client)
}

#[tokio::test(start_paused = true)]
async fn writes_and_reads_go_to_the_first_datacenter_and_carry_the_token() {
    let (net, client) = two().await;
    assert_eq!(client.token(), "");
    client.counter("n").add(5).await.expect("done");
    assert_eq!(*client.counter("n").value().await.expect("read"), 5);
    assert_eq!(*client.counter("absent").value().await.expect("read"), 0);
    assert!(!client.token().is_empty());
    assert_eq!(client.staleness()[0].dc, "far");
    assert_eq!((net.asked("a", "write"), net.asked("b", "write")), (1, 0));
    net.with("a", |dc| assert!(dc.log[1].1.session.is_some(), "the read demands what was written"));
    let other = client.resume(&client.token()).expect("own token");
    assert_eq!(other.token(), client.token());
    assert!(matches!(client.resume("garbage"), Err(Error::Refused(e)) if e.code == ErrorCode::BadToken));
    assert_eq!(client.session().token(), "", "another session depends on nothing");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_in_its_datacenter_and_the_mutation_counts_once() {
    let (net, client) = two().await;
    net.fate("a", [Fate::LoseAnswer, Fate::LoseRequest, Fate::LoseAnswer]);
    client.counter("n").add(5).await.expect("done");
    assert_eq!((net.sum("a", "n"), net.asked("b", "write")), (5, 0));
    net.with("a", |dc| {
        let ids: Vec<_> = dc.log.iter().map(|(_, request)| request.request_id.clone()).collect();
        assert!(ids.len() == 4 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_ne!(dc.log[0].0, dc.log[1].0, "another node is asked");
    });
}

#[tokio::test(start_paused = true)]
async fn what_certainly_changed_nothing_is_done_in_the_next_datacenter() {
    for code in NOTHING_CHANGED {
        let (net, client) = two().await;
        net.always("a", Fate::Refuse(code));
        client.counter("n").add(5).await.unwrap_or_else(|e| panic!("{code}: {e}"));
        assert_eq!((net.sum("a", "n"), net.sum("b", "n")), (0, 5), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_done_is_never_repeated_in_another_datacenter() {
    let fates = [Fate::LoseAnswer, Fate::Ignore, Fate::Refuse(ErrorCode::Internal)];
    // What refuses it from then on says of this attempt that nothing was done, and nothing of the first one.
    let later = [ErrorCode::NoQuorum, ErrorCode::NotCaughtUp, ErrorCode::Overloaded];
    for (fate, code) in fates.iter().flat_map(|fate| later.map(|code| (fate.clone(), code))) {
        let (net, client) = two().await;
        net.fate("a", [fate.clone()]);
        net.always("a", Fate::Refuse(code));
        let error = client.counter("n").add(5).await.expect_err("not known");
        assert!(matches!(&error, Error::OutcomeUnknown { dc, .. } if dc == "a"), "{fate:?}: {error}");
        assert_eq!(error.advice(), Advice::GiveUp);
        assert_eq!(net.asked("b", "write"), 0, "{fate:?}");
        let said = client.repeat_elsewhere();
        net.fate("a", [fate]);
        said.counter("m").add(5).await.expect("repeated elsewhere, as the caller allowed");
        assert_eq!(net.sum("b", "m"), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_request_itself_is_told_at_once() {
    let (net, client) = two().await;
    for code in [ErrorCode::WrongType, ErrorCode::PreconditionFailed, ErrorCode::TooLarge] {
        net.fate("a", [Fate::Refuse(code)]);
        let error = client.counter("n").add(5).await.expect_err("refused");
        assert_eq!((error.code(), error.advice()), (Some(code), Advice::Fix));
    }
    net.fate("a", [Fate::Refuse(ErrorCode::CommitTimeout)]);
    let error = client.counter("n").add(5).await.expect_err("not held");
    assert_eq!(error.not_kept(), Some(meridian_client::net::Guarantee::Commit));
    assert_eq!(net.asked("a", "write"), 4, "nothing was repeated");
    let bad = client.counter("").add(1).await.expect_err("no key");
    assert_eq!(bad.code(), Some(ErrorCode::BadKey));
    assert_eq!(net.asked("a", "write"), 4, "a key that is none is not even sent");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_home_cannot_serve_goes_to_the_next_datacenter_with_its_token() {
    let (net, client) = two().await;
    client.counter("n").add(5).await.expect("done");
    net.with("b", |dc| dc.sums.insert("n".into(), 5));
    for code in NOTHING_CHANGED {
        net.always("a", Fate::Refuse(code));
        assert_eq!(*client.counter("n").value().await.unwrap_or_else(|e| panic!("{code}: {e}")), 5);
    }
    net.with("b", |dc| assert!(dc.log.iter().all(|(_, request)| request.session.is_some())));
    net.always("a", Fate::Refuse(ErrorCode::NotCaughtUp));
    net.always("b", Fate::Refuse(ErrorCode::NotCaughtUp));
    let error = client.counter("n").value().await.expect_err("nobody has it");
    assert!(matches!(&error, Error::NotCaughtUp { dc, .. } if dc == "a"), "{error}");
    assert_eq!(error.advice(), Advice::Retry);
}

#[tokio::test(start_paused = true)]
async fn nothing_hangs_when_nobody_answers() {
    let (net, client) = two().await;
    net.always("a", Fate::Ignore);
    net.always("b", Fate::Ignore);
    let start = Instant::now();
    let read = client.timeout(Duration::from_secs(4)).counter("n").value().await.expect_err("silence");
    assert!(matches!(read, Error::Unavailable { .. }), "{read}");
    assert_eq!(start.elapsed().as_secs(), 4);
    let write = client.counter("n").add(1).await.expect_err("silence");
    assert!(matches!(write, Error::OutcomeUnknown { .. }), "{write}");
    assert!(start.elapsed() < Duration::from_secs(16), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_leaves_nothing_behind() {
    let (net, client) = two().await;
    net.always("a", Fate::Ignore);
    for _ in 0..3000 {
        let counter = client.counter("n");
        let add = counter.add(1);
        tokio::select! {
            biased;
            outcome = add => panic!("nobody answers: {outcome:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    net.always("a", Fate::Do);
    client.counter("m").add(1).await.expect("names and places are free again");
    assert_eq!(net.sum("a", "m"), 1);
}

#[tokio::test(start_paused = true)]
async fn home_moves_when_it_is_lost_and_comes_back_without_thrashing() {
    let (net, client) = two().await;
    let mut changes = client.home_changes();
    net.set_up("a", false);
    changes.changed().await.expect("it moves");
    assert_eq!(changes.borrow_and_update().to, "b");
    assert_eq!(client.current_dc(), "b");
    client.counter("n").add(1).await.expect("done elsewhere");
    assert_eq!(net.sum("b", "n"), 1);
    let back = Instant::now();
    net.set_up("a", true);
    changes.changed().await.expect("it comes back");
    assert_eq!(changes.borrow_and_update().to, "a");
    assert!(back.elapsed() >= Duration::from_secs(5), "{:?}", back.elapsed());
    // From here on it flaps: two seconds down, eight seconds up.
    let mut moves = 0;
    for _ in 0..30 {
        net.set_up("a", false);
        sleep(Duration::from_secs(2)).await;
        net.set_up("a", true);
        sleep(Duration::from_secs(8)).await;
        moves += usize::from(changes.has_changed().expect("alive"));
        changes.borrow_and_update();
    }
    assert!(moves <= 3, "home moved in {moves} of 30 flaps");
    assert_eq!(client.current_dc(), "b");
    client.counter("n").add(1).await.expect("done");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_nearest_datacenter_is_down_connects_to_the_next_and_a_wrong_name_is_noticed() {
    let net = Net::new(&["a", "b"], 1);
    net.set_up("a", false);
    let client = net.client(&["a", "b"]).await;
    assert_eq!(client.current_dc(), "b");
    let wrong = Client::builder().connector(net.clone()).dc("z", ["b1"]);
    let error = wrong.connect_timeout(Duration::from_secs(1)).connect().await.err().expect("not z");
    assert!(error.to_string().contains("a node of b, not of z"), "{error}");
    assert!(matches!(Client::builder().connect().await, Err(Error::Setup(_))));
    client.close().await;
    assert_eq!(client.counter("n").add(1).await, Err(Error::Closed));
    net.set_up("a", true);
    net.delay("a", Duration::from_millis(300));
    let client = net.client(&["a", "b"]).await;
    assert_eq!(client.current_dc(), "a", "the nearest may take a little longer to answer");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_run_again_after_a_conflict_and_commits_once() {
    let (net, client) = two().await;
    client.counter("n").add(5).await.expect("done");
    // Begin, read, and the commit that meets a conflict.
    net.fate("a", [Fate::Do, Fate::Do, Fate::Refuse(ErrorCode::Conflict)]);
    let mut runs = 0;
    let seen = client
        .transaction(|txn| {
            runs += 1;
            async move {
                txn.counter("n").add(10);
                let seen = txn.counter("n").value().await?.into_inner();
                txn.counter("m").add(seen);
                Ok::<_, Error>(seen)
            }
        })
        .await
        .expect("committed");
    assert_eq!((seen, runs), (15, 2));
    assert_eq!((net.asked("a", "begin"), net.asked("a", "commit"), net.sum("a", "m")), (2, 2, 15));
}

#[tokio::test(start_paused = true)]
async fn the_lost_answer_of_a_commit_is_asked_for_under_its_name_at_another_node() {
    let (net, client) = two().await;
    client.counter("n").add(5).await.expect("done");
    net.fate("a", [Fate::Do, Fate::Do, Fate::LoseAnswer]);
    client
        .transaction(|txn| async move {
            let seen = txn.counter("n").value().await?.into_inner();
            txn.counter("n").add(seen);
            Ok::<_, Error>(())
        })
        .await
        .expect("committed");
    assert_eq!((net.sum("a", "n"), net.asked("a", "commit"), net.asked("a", "begin")), (10, 2, 1));
    net.fate("a", [Fate::Do, Fate::Do, Fate::LoseAnswer]);
    net.always("a", Fate::Refuse(ErrorCode::NoQuorum));
    let outcome = client
        .transaction(|txn| async move {
            txn.counter("n").value().await?;
            txn.counter("n").add(1);
            Ok::<_, Error>(())
        })
        .await;
    assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
    assert_eq!(net.asked("b", "commit") + net.asked("b", "begin"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_whose_node_is_lost_before_the_commit_is_run_again() {
    let (net, client) = two().await;
    client.counter("n").add(5).await.expect("done");
    net.fate("a", [Fate::Do, Fate::LoseRequest]);
    let read = client
        .transaction(|txn| async move { Ok::<_, Error>(txn.counter("n").value().await?.into_inner()) })
        .await;
    assert_eq!(read, Ok(5));
    let mut runs = 0;
    let failed = client
        .transaction(|txn| {
            runs += 1;
            async move {
                txn.counter("n").add(1);
                Err::<(), _>(Error::Setup("the caller's own".into()))
            }
        })
        .await;
    assert_eq!((failed, runs), (Err(Error::Setup("the caller's own".into())), 1));
    assert_eq!(net.sum("a", "n"), 5, "nothing of it took place");
    client
        .transaction(|txn| async move {
            txn.counter("n").add(1);
            Ok::<_, Error>(())
        })
        .await
        .expect("blind writes need no snapshot");
    assert_eq!((net.sum("a", "n"), net.asked("a", "txn")), (6, 1));
}

/// Story: a read that carries mutations of its transaction is given up before its answer is there. Nobody knows whether the node
/// has them, and the rest must not be committed alone.
#[tokio::test(start_paused = true)]
async fn a_transaction_whose_read_was_given_up_does_not_commit_without_what_that_carried() {
    let (net, client) = two().await;
    client.counter("n").add(5).await.expect("done");
    net.fate("a", [Fate::Do, Fate::Ignore]);
    let mut runs = 0;
    client
        .transaction(|txn| {
            runs += 1;
            async move {
                txn.counter("n").add(10);
                let patience = Duration::from_millis(50);
                // The caller does without it.
                let _ = tokio::time::timeout(patience, txn.counter("n").value()).await;
                txn.counter("m").add(1);
                Ok::<_, Error>(())
            }
        })
        .await
        .expect("run again");
    assert_eq!((runs, net.asked("a", "commit") + net.asked("b", "commit")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_begins_elsewhere() {
    for code in [ErrorCode::Overloaded, ErrorCode::NotCaughtUp] {
        let (net, client) = two().await;
        net.always("a", Fate::Refuse(code));
        net.with("b", |dc| dc.events = vec![mock::event(0, "cart")]);
        let mut watch = client.session().watch_prefix("ca").from("0");
        let item = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
        assert!(matches!(item, Ok(Some(Ok(WatchItem::Txn(_))))), "{code}: {item:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_elsewhere_from_its_cursor_and_tells_each_txn_once() {
    let (net, client) = two().await;
    let events: Vec<_> = (0..6).map(|n| mock::event(n, "cart")).collect();
    net.with("a", |dc| (dc.events, dc.break_after) = (events[..4].to_vec(), Some(2)));
    net.with("b", |dc| dc.events = events);
    let session = client.session();
    let mut watch = session.watch_prefix("ca").from("0");
    let mut seqs = Vec::new();
    for n in 0..6 {
        if n == 4 {
            net.set_up("a", false);
        }
        match watch.next().await.expect("goes on").expect("no error") {
            WatchItem::Txn(txn) => {
                assert_eq!(txn.changes[0].key, "cart");
                assert_eq!(txn.changes[0].ops, [Mutation::Counter(meridian_client::CounterOp::Add(1))]);
                seqs.push(txn.seq);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    assert_eq!(watch.cursor().as_deref(), Some("6"));
    assert!(!session.token().is_empty(), "what was watched is part of the session");
}

#[tokio::test(start_paused = true)]
async fn an_expired_cursor_is_told_and_the_watch_goes_on_from_the_fresh_one() {
    let (net, client) = two().await;
    net.with("a", |dc| (dc.events, dc.expired) = (vec![mock::event(0, "k")], true));
    let session = client.session();
    let mut watch = session.watch_key("k").from("5");
    assert_eq!(watch.next().await, Some(Ok(WatchItem::CursorExpired("0".into()))));
    assert_eq!(session.token(), mock::fresh_token().to_text(), "what is read anew shows all up to there");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Txn(txn))) if txn.seq == 1));
    client.close().await;
    assert_eq!(watch.next().await, Some(Err(Error::Closed)));
    assert_eq!(watch.next().await, None);
}
