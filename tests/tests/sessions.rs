//! Sessions carry what they wrote and read, and nothing else, from DC to DC: a token makes another DC wait until it has
//! caught up, tells which origin is missing when that takes too long, and asks for nothing that it did not touch.

use std::time::{Duration, Instant};

use meridian_tests::client::{Ask, Client, add, add_element, set};
use meridian_tests::fleet::Fleet;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);
const EU: &str = "eu-west";
const US: &str = "us-east";
const AP: &str = "ap-south";

/// Story: three DCs of one node each. First while all is well, then with eu-west cut off from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_see_what_they_touched_in_every_dc_and_demand_nothing_else() {
    let fleet = Fleet::start(BINARY, 3, 1, LATENCY).await;
    let [eu, us, ap] = [EU, US, AP].map(|dc| fleet.node(&format!("{dc}/1")));
    a_token_from_one_dc_is_waited_for_in_another(&eu, &us).await;
    a_session_that_moves_on_takes_along_what_it_read(&eu, &us, &ap).await;

    // Before the cut: keys that every DC has, one of them deleted, with tokens that touched only those.
    let everywhere = eu.write("everywhere", set("here")).await;
    eu.write("gone", set("here")).await;
    fleet.converged(PATIENCE).await;
    for other in [US, AP] {
        fleet.cluster().cut(EU, other).expect("cut");
    }
    let ahead = eu.write("ahead", set("only in eu-west")).await;
    a_token_that_is_ahead_names_the_origin_that_lacks(&us, ahead.token()).await;
    a_bounded_wait_ends_when_it_says(&us, ahead.token()).await;
    tokens_demand_only_what_was_touched(&eu, &us, everywhere.token()).await;
    the_absence_of_a_deleted_key_is_something_read(&eu, &us).await;

    let healing = {
        let us = us.clone();
        let token = ahead.token().to_string();
        tokio::spawn(async move { us.ask(Ask::read("ahead").after(&token).wait("30s")).await })
    };
    fleet.cluster().heal(None).expect("healed");
    let seen = healing.await.expect("no panic").ok();
    assert_eq!(seen.value(), "only in eu-west", "a session that waits sees it when the cut is healed");
    fleet.agreed(PATIENCE).await;
}

async fn a_token_from_one_dc_is_waited_for_in_another(eu: &Client, us: &Client) {
    let written = eu.write("moved", set(1)).await;
    let start = Instant::now();
    let too_early = us.ask(Ask::read("moved").after(written.token()).wait("0ms")).await;
    let asked_within = start.elapsed();
    // Unless the machine slept through the one-way delay, the write cannot have arrived yet.
    if asked_within < LATENCY {
        assert_eq!((too_early.status, too_early.code()), (503, "not_caught_up"), "{}", too_early.body);
    }
    let seen = us.ask(Ask::read("moved").after(written.token())).await.ok();
    assert_eq!(seen.value(), &json!(1));
    println!("session: read in another DC {:?} after the write, one-way delay {LATENCY:?}", start.elapsed());

    // Writes honour the token too: the increment lands on top of what the session saw.
    let token = eu.write("visits", add(5)).await.token().to_string();
    let added = us.ask(Ask::mutate("visits", &add(1)).after(&token)).await.ok();
    let back = eu.ask(Ask::read("visits").after(added.token())).await.ok();
    assert_eq!(back.value(), &json!(6));
    let fresh = us.ask(Ask::read("visits").after(&token).eventual()).await;
    assert!(fresh.done() || fresh.code() == "not_caught_up", "{}", fresh.body);
}

async fn a_session_that_moves_on_takes_along_what_it_read(eu: &Client, us: &Client, ap: &Client) {
    // One writes a post, another reads it and replies elsewhere; whoever has seen the reply sees the post.
    let mut token = eu.write("post", set("hello")).await.token().to_string();
    token = us.ask(Ask::read("post").after(&token)).await.ok().token().to_string();
    token = us.ask(Ask::mutate("replies", &add_element("hi")).after(&token)).await.ok().token().to_string();
    let replies = ap.ask(Ask::read("replies").after(&token)).await.ok();
    assert_eq!(replies.value(), &json!(["hi"]));
    let post = ap.ask(Ask::read("post").after(replies.token()).wait("0ms")).await.ok();
    assert_eq!(post.value(), "hello");
}

async fn a_token_that_is_ahead_names_the_origin_that_lacks(us: &Client, token: &str) {
    for ask in [
        Ask::read("ahead"),
        Ask::mutate("other", &set(1)),
        Ask::delete("other"),
        Ask::get("/v1/spaces/default/keys"),
        Ask::get("/v1/spaces/default/keys/ahead/explain"),
    ] {
        let reply = us.ask(ask.clone().after(token).wait("0ms")).await;
        assert_eq!((reply.status, reply.code()), (503, "not_caught_up"), "{ask:?}: {}", reply.body);
        let error = &reply.body["error"];
        assert_eq!((&error["origin"], &error["behind_txns"]), (&json!(EU), &json!(1)), "{error}");
        assert!(error["retry_after_ms"].is_u64() && error["message"].is_string(), "{error}");
        assert_eq!(reply.token(), token, "an error gives the session back as it is");
    }
    assert_eq!(us.value("other").await, Value::Null, "what was refused was not done");
}

async fn a_bounded_wait_ends_when_it_says(us: &Client, token: &str) {
    let start = Instant::now();
    let reply = us.ask(Ask::read("ahead").after(token).wait("300ms")).await;
    let took = start.elapsed();
    assert_eq!(reply.code(), "not_caught_up");
    assert!(took >= Duration::from_millis(300), "it gave up after {took:?}");
    println!("session: a wait of 300ms ended after {took:?}");
}

async fn tokens_demand_only_what_was_touched(eu: &Client, us: &Client, everywhere: &str) {
    // eu-west is ahead by now, but these sessions have not seen what it is ahead by.
    let start = Instant::now();
    let written = us.ask(Ask::read("everywhere").after(everywhere).wait("0ms")).await.ok();
    assert_eq!(written.value(), "here");
    println!(
        "session: a session of a DC that is cut off, which touched only what is here, answered in {:?}",
        start.elapsed()
    );
    let read = eu.ask(Ask::read("everywhere")).await.ok();
    us.ask(Ask::read("everywhere").after(read.token()).wait("0ms")).await.ok();
    let refused = eu.ask(Ask::mutate("everywhere", &add(1))).await;
    assert_eq!(refused.code(), "wrong_type");
    us.ask(Ask::read("everywhere").after(refused.token()).wait("0ms")).await.ok();
    let never = eu.ask(Ask::read("never-written")).await;
    assert_eq!(never.code(), "not_found");
    us.ask(Ask::read("never-written").after(never.token()).wait("0ms")).await;
    // A write in eu-west is a dot that the others lack, whatever else the session touched.
    let wrote = eu.ask(Ask::mutate("elsewhere", &set(1)).after(read.token())).await.ok();
    let reply = us.ask(Ask::read("everywhere").after(wrote.token()).wait("0ms")).await;
    assert_eq!(reply.code(), "not_caught_up");
}

async fn the_absence_of_a_deleted_key_is_something_read(eu: &Client, us: &Client) {
    eu.ask(Ask::delete("gone")).await.ok();
    let absent = eu.ask(Ask::read("gone")).await;
    assert_eq!((absent.status, absent.code()), (404, "not_found"));
    let stale = us.ask(Ask::read("gone").after(absent.token()).wait("0ms")).await;
    assert_eq!(stale.code(), "not_caught_up", "a session that saw the key gone must not see it again");
    let absent = eu.ask(Ask::get("/v1/spaces/default/keys/gone/explain")).await;
    let stale = us.ask(Ask::read("gone").after(absent.token()).wait("0ms")).await;
    assert_eq!(stale.code(), "not_caught_up", "explain is a read too");
    assert_eq!(us.value("gone").await, "here", "without the token the DC answers what it has");
}
