//! The load of interactive transactions, through the Rust client: it begins, reads and commits over the native protocol,
//! and runs again after a conflict.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_client::net::TransactionOptions;
use meridian_client::{Error, FromValue, IntoValue, Value};
use rand::Rng;
use rand::seq::IndexedRandom;

use super::DCS;
use super::session::Session;
use crate::history::{Action, Outcome};

/// Lists of each DC at a time.
const LISTS: usize = 3;
/// Rounds until new lists begin: reads stay cheap.
const ROUNDS_PER_LIST: usize = 120;
/// How long a transaction is run again and again.
const TRANSACTION: Duration = Duration::from_secs(6);
/// How long a client may take to be connected; then it is tried again.
const CONNECT: Duration = Duration::from_secs(4);

/// What one attempt read and wrote. The last one counts: those before it were refused.
type Attempt = Arc<Mutex<Vec<Action>>>;

/// Transactions over lists that only one DC writes: each reads some, appends to one or two of them, and commits.
pub(super) async fn interactive(mut session: Session) {
    let dc = DCS[session.number % DCS.len()];
    let Some(client) = session.connect(dc, CONNECT).await else { return };
    let space = client.session().space("default");
    while session.goes_on().await {
        let node = session.node(Some(dc));
        let keys = draw_keys(&mut session, dc);
        let values = [session.value(), session.value()];
        let attempt = Attempt::default();
        let options = TransactionOptions::default().timeout(TRANSACTION);
        let started = session.begin(node);
        let result =
            space.transaction_with(options, |txn| append(txn, keys.clone(), values, attempt.clone())).await;
        let outcome = match &result {
            Ok(()) => Outcome::Ok,
            Err(
                Error::Conflict { .. }
                | Error::Refused(_)
                | Error::NotCaughtUp { .. }
                | Error::Unavailable { .. },
            ) => Outcome::Failed,
            Err(_) => Outcome::Unknown,
        };
        if let Err(e) = &result {
            session.count(&e.to_string());
        }
        let actions = attempt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        session.end(started, outcome, actions);
    }
    client.close().await;
}

fn draw_keys(session: &mut Session, dc: &str) -> Vec<String> {
    let round = session.ground.round.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let generation = round / ROUNDS_PER_LIST;
    let count = session.random.random_range(1..=LISTS);
    let lists: Vec<usize> = (0..LISTS).collect();
    let drawn: Vec<usize> = lists.choose_multiple(&mut session.random, count).copied().collect();
    drawn.into_iter().map(|list| session.key(format!("{dc}/{generation}/{list}"))).collect()
}

async fn append(
    txn: meridian_client::Transaction,
    keys: Vec<String>,
    values: [i64; 2],
    attempt: Attempt,
) -> Result<(), Error> {
    let note = |action| attempt.lock().unwrap_or_else(PoisonError::into_inner).push(action);
    attempt.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut lists = Vec::new();
    for key in &keys {
        let list: Vec<Value> = txn.register(key).get().await?.into_inner().unwrap_or_default();
        note(Action::List { key: key.clone(), values: list.iter().cloned().filter_map(number).collect() });
        lists.push(list);
    }
    for ((key, mut list), value) in keys.iter().zip(lists).zip(values) {
        list.push(value.into_value());
        txn.register(key).set(list);
        note(Action::Append { key: key.clone(), value });
    }
    Ok(())
}

fn number(value: Value) -> Option<i64> {
    i64::from_value(value).ok()
}
