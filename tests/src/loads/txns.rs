//! Loads of transactions: transfers, appends to lists, claims of names.

use std::sync::atomic::Ordering;

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::DCS;
use super::session::{Level, Seen, Session};
use crate::client::Ask;
use crate::history::kind::Kind;
use crate::history::{Action, Outcome};

/// Accounts of the bank. Together they hold nothing: each begins absent, and some go below zero.
pub(super) const ACCOUNTS: [&str; 4] = ["ann", "bob", "cem", "dee"];
/// Every so many sessions of the bank one only looks.
const AUDITOR_EVERY: usize = 2;
/// How often an auditor tries to see all accounts at one moment.
const AUDIT_ATTEMPTS: usize = 4;
/// Lists of each DC at a time.
const LISTS: usize = 3;
/// Rounds until new lists begin: reads stay cheap.
const ROUNDS_PER_LIST: usize = 120;
/// Attempts at each name.
const ATTEMPTS_PER_NAME: usize = 4;

/// Transfers between counters from every DC, each one transaction; auditors look at all accounts at one moment.
pub(super) async fn bank(mut session: Session) {
    let dc = DCS[session.number / AUDITOR_EVERY % DCS.len()];
    while session.goes_on().await {
        let node = session.node(Some(dc));
        if session.number % AUDITOR_EVERY == 1 {
            audit(&mut session, node).await;
        } else {
            transfer(&mut session, node).await;
        }
    }
}

async fn transfer(session: &mut Session, node: usize) {
    let two: Vec<&&str> = ACCOUNTS.choose_multiple(&mut session.random, 2).collect();
    let (from, to) = (session.key(two[0]), session.key(two[1]));
    let by = session.random.random_range(1..100);
    let ops = json!({"ops": [
        {"key": from, "type": "counter", "op": "add", "by": -by},
        {"key": to, "type": "counter", "op": "add", "by": by},
    ]});
    let actions = vec![Action::Add { key: from, by: -by }, Action::Add { key: to, by }];
    session.write(node, Ask::txn(&ops), actions).await;
}

/// Reads all accounts one by one, then has a transaction confirm that they are all still so: at its commit they were.
async fn audit(session: &mut Session, node: usize) {
    for _ in 0..AUDIT_ATTEMPTS {
        let started = session.begin(node);
        let mut seen = Vec::new();
        for account in ACCOUNTS {
            let key = session.key(account);
            let Some(read) = session.read_unrecorded(node, &key, Kind::Counter, Level::Session).await else {
                return;
            };
            seen.push(read);
        }
        let conditions: Vec<Value> = seen.iter().map(Seen::still).collect();
        let audits = json!({"key": session.key("audits"), "type": "counter", "op": "add", "by": 1});
        let outcome =
            session.write_unrecorded(node, Ask::txn(&json!({"if": conditions, "ops": [audits]}))).await;
        if outcome == Outcome::Ok {
            let actions = seen.into_iter().map(|read| read.action).collect();
            session.end(started, Outcome::Ok, actions);
            return;
        }
    }
}

/// Transactions over lists that only one DC writes: each reads some, appends to one or two of them, and commits only if
/// what it read is still so.
pub(super) async fn lists(mut session: Session) {
    let dc = DCS[session.number % DCS.len()];
    while session.goes_on().await {
        let node = session.node(Some(dc));
        let generation = session.ground.round.fetch_add(1, Ordering::Relaxed) / ROUNDS_PER_LIST;
        let count = session.random.random_range(1..=LISTS);
        let numbers: Vec<usize> = (0..LISTS).collect();
        let mut drawn: Vec<usize> = numbers.choose_multiple(&mut session.random, count).copied().collect();
        drawn.sort_unstable();
        let keys: Vec<String> =
            drawn.into_iter().map(|list| session.key(format!("{dc}/{generation}/{list}"))).collect();
        append(&mut session, node, &keys).await;
    }
}

async fn append(session: &mut Session, node: usize, keys: &[String]) {
    let started = session.begin(node);
    let (mut actions, mut conditions, mut ops) = (Vec::new(), Vec::new(), Vec::new());
    for (i, key) in keys.iter().enumerate() {
        let Some(seen) = session.read_unrecorded(node, key, Kind::List, Level::Session).await else { return };
        conditions.push(seen.still());
        actions.push(seen.action.clone());
        if i < 2
            && let Action::List { mut values, .. } = seen.action
        {
            let value = session.value();
            values.push(value);
            ops.push((json!({"key": key, "type": "register", "op": "set", "value": values}), key, value));
        }
    }
    actions.extend(ops.iter().map(|(_, key, value)| Action::Append { key: (*key).clone(), value: *value }));
    let ops: Vec<&Value> = ops.iter().map(|(op, _, _)| op).collect();
    let outcome = session.write_unrecorded(node, Ask::txn(&json!({"if": conditions, "ops": ops}))).await;
    session.end(started, outcome, actions);
}

/// Names that are claimed by whoever comes first: `absent`, then set, in the DC that is the names' home.
pub(super) async fn claims(mut session: Session) {
    let dc = DCS[session.number % DCS.len()];
    let per_dc = ATTEMPTS_PER_NAME * DCS.len();
    while session.goes_on().await {
        let node = session.node(Some(dc));
        let name = session.ground.round.fetch_add(1, Ordering::Relaxed) / per_dc;
        let key = session.key(format!("{dc}/{name}"));
        let value = session.value();
        let claim = json!({
            "if": [{"key": key, "absent": true}],
            "ops": [{"key": key, "type": "register", "op": "set", "value": value}],
        });
        let actions =
            vec![Action::Get { key: key.clone(), value: None }, Action::Set { key: key.clone(), value }];
        if session.write(node, Ask::txn(&claim), actions).await != Outcome::Ok {
            session.read(node, &key, Kind::Register, Level::Session).await;
        }
    }
}

/// Two registers of a round that two sessions set at about the same time, in one DC, while others look at both: all must
/// see them appear in the same order.
pub(super) async fn fork(mut session: Session) {
    let dc = DCS[0];
    let mut last = usize::MAX;
    while session.goes_on().await {
        let node = session.node(Some(dc));
        let round = match session.number {
            0 => session.ground.round.fetch_add(1, Ordering::Relaxed) + 1,
            _ => session.ground.round.load(Ordering::Relaxed),
        };
        let sides = ["left", "right"].map(|side| session.key(format!("{round}/{side}")));
        match session.number {
            0 | 1 if round == last => {}
            writer @ (0 | 1) => {
                last = round;
                let (key, value) = (sides[writer].clone(), session.value());
                let ask = Ask::mutate(&key, &crate::client::set(value));
                // Not in the session: a second round that waits for the first would be no race.
                session.forget();
                session.write(node, ask, vec![Action::Set { key, value }]).await;
            }
            reader => {
                let order = [reader % 2, (reader + 1) % 2];
                for side in order {
                    session.read(node, &sides[side], Kind::Register, Level::Session).await;
                }
            }
        }
    }
}

/// Posts, replies and replies to replies, each by somebody who has read what it answers, in another DC; readers anywhere
/// look from the last reply back to the post.
pub(super) async fn chains(mut session: Session) {
    const LINKS: usize = 3;
    while session.goes_on().await {
        let newest = session.ground.round.load(Ordering::Relaxed);
        let chain = newest.saturating_sub(session.random.random_range(0..4));
        let keys: Vec<String> = (0..LINKS).map(|link| session.key(format!("{chain}/{link}"))).collect();
        match session.number {
            0 => {
                let (node, value) = (session.node(None), session.value());
                let key = session.key(format!("{}/0", newest + 1));
                let ask = Ask::mutate(&key, &crate::client::set(value));
                if session.write(node, ask, vec![Action::Set { key, value }]).await == Outcome::Ok {
                    session.ground.round.store(newest + 1, Ordering::Relaxed);
                }
            }
            replier @ 1..LINKS => {
                session.forget();
                let node = session.node(None);
                let read = session.read(node, &keys[replier - 1], Kind::Register, Level::Session).await;
                let mine = session.read(node, &keys[replier], Kind::Register, Level::Session).await;
                let absent = mine.is_some_and(|mine| mine.number().is_none());
                if absent && read.is_some_and(|read| read.number().is_some()) {
                    let (node, value) = (session.node(None), session.value());
                    let key = keys[replier].clone();
                    let ask = Ask::mutate(&key, &crate::client::set(value));
                    session.write(node, ask, vec![Action::Set { key, value }]).await;
                }
            }
            _ => {
                session.forget();
                let (first, second) = (session.node(None), session.node(None));
                for (i, key) in keys.iter().rev().enumerate() {
                    let node = if i == 0 { first } else { second };
                    session.read(node, key, Kind::Register, Level::Session).await;
                }
            }
        }
    }
}

/// Keys of one session each, which moves between DCs with its token: set, deleted, set again, while a DC may be away. A
/// key whose last operation is of unknown outcome is left alone from then on.
pub(super) async fn recreate(mut session: Session) {
    const STEPS_MAX: usize = 12;
    let mut generation = 0;
    while session.goes_on().await {
        generation += 1;
        let as_set = generation % 2 == 0;
        let key = session.key(format!("{}/{generation}", session.number));
        for _ in 0..STEPS_MAX {
            let node = session.node(None);
            let outcome = if session.random.random_bool(0.4) {
                session.write(node, Ask::delete(&key), vec![Action::Delete { key: key.clone() }]).await
            } else {
                let value = session.value();
                let (ask, action) = if as_set {
                    let action = Action::Insert { key: key.clone(), element: value };
                    (Ask::mutate(&key, &crate::client::add_element(value)), action)
                } else {
                    let action = Action::Set { key: key.clone(), value };
                    (Ask::mutate(&key, &crate::client::set(value)), action)
                };
                session.write(node, ask, vec![action]).await
            };
            if outcome == Outcome::Unknown || !session.goes_on().await {
                break;
            }
            if session.random.random_bool(0.3) {
                let kind = if as_set { Kind::Set } else { Kind::Register };
                let node = session.node(None);
                session.read(node, &key, kind, Level::Session).await;
            }
        }
    }
}
