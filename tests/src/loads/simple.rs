//! Loads of single operations: sets, counters, registers, registers that must be linearizable in their DC, and sessions
//! that move.

use rand::Rng;
use serde_json::Value;

use super::DCS;
use super::session::{Level, Session};
use crate::client::{Ask, add, add_element, edit_in, set};
use crate::history::Action;
use crate::history::kind::Kind;

/// Elements of one session in one set: small, so that reads stay cheap.
const ELEMENTS_PER_SET: usize = 60;
/// Keys of moving sessions: sets, registers and counters that are never deleted, of each.
const KEYS_OF_A_KIND: usize = 4;
/// Registers of moving sessions that are deleted too.
const DELETED: usize = 100;
const COUNTERS: usize = 3;
const REGISTERS: usize = 6;
/// Rounds of a linearizable register: the search for an order is bounded.
const OPERATIONS_PER_REGISTER: usize = 60;

/// Unique elements into shared sets; each session in a DC of its own, every fourth anywhere.
pub(super) async fn sets(mut session: Session) {
    let dc = home_or_anywhere(&session);
    while session.goes_on().await {
        let node = session.node(dc);
        let book = session.drawn() / ELEMENTS_PER_SET;
        let key = session.key(book);
        insert_or_list(&mut session, node, key, add_element, 0.7).await;
    }
}

/// Unique elements into shared documents, as sets get them.
pub(super) async fn documents(mut session: Session) {
    let dc = home_or_anywhere(&session);
    while session.goes_on().await {
        let node = session.node(dc);
        let book = session.drawn() / ELEMENTS_PER_SET;
        let key = session.key(book);
        insert_or_list(&mut session, node, key, edit_in, 0.7).await;
    }
}

/// Increments of shared counters, from everywhere.
pub(super) async fn counters(mut session: Session) {
    let dc = home_or_anywhere(&session);
    while session.goes_on().await {
        let node = session.node(dc);
        let number = session.random.random_range(0..COUNTERS);
        let key = session.key(number);
        add_or_sum(&mut session, node, key).await;
    }
}

/// Unique values into shared registers, from everywhere.
pub(super) async fn registers(mut session: Session) {
    let dc = home_or_anywhere(&session);
    while session.goes_on().await {
        let node = session.node(dc);
        let number = session.random.random_range(0..REGISTERS);
        let key = session.key(number);
        set_or_get(&mut session, node, key, Level::Session).await;
    }
}

/// Registers that only one DC writes and reads, at the level that is linearizable there, through all its nodes.
pub(super) async fn linear(mut session: Session) {
    let dc = DCS[session.number % DCS.len()];
    let per_dc = OPERATIONS_PER_REGISTER * DCS.len();
    while session.goes_on().await {
        let round = session.ground.round.fetch_add(1, std::sync::atomic::Ordering::Relaxed) / per_dc;
        let node = session.node(Some(dc));
        let key = session.key(format!("{dc}/{round}"));
        set_or_get(&mut session, node, key, Level::Linearizable).await;
    }
}

/// Sessions that ask one node after the other, of any DC, about keys of every kind, and take their token along.
pub(super) async fn moves(mut session: Session) {
    while session.goes_on().await {
        let node = session.node(None);
        let number = session.random.random_range(0..KEYS_OF_A_KIND);
        match session.random.random_range(0..4) {
            0 => {
                let key = session.key(format!("register/{number}"));
                set_or_get(&mut session, node, key, Level::Session).await;
            }
            1 => {
                let key = session.key(format!("counter/{number}"));
                add_or_sum(&mut session, node, key).await;
            }
            2 => {
                // A book after the other, so that reads stay cheap.
                let key = session.key(format!("set/{number}/{}", session.drawn() / ELEMENTS_PER_SET));
                insert_or_list(&mut session, node, key, add_element, 0.45).await;
            }
            // Many keys, so that most deletions are the only one of theirs, and say so to the checker.
            _ => {
                let number = session.random.random_range(0..DELETED);
                let key = session.key(format!("deleted/{number}"));
                if session.random.random_bool(0.2) {
                    session.write(node, Ask::delete(&key), vec![Action::Delete { key: key.clone() }]).await;
                } else {
                    set_or_get(&mut session, node, key, Level::Session).await;
                }
            }
        }
    }
}

async fn insert_or_list(
    session: &mut Session,
    node: usize,
    key: String,
    insert: impl Fn(i64) -> Value,
    inserts: f64,
) {
    if session.random.random_bool(inserts) {
        let element = session.value();
        let action = Action::Insert { key: key.clone(), element };
        session.write(node, Ask::mutate(&key, &insert(element)), vec![action]).await;
    } else {
        session.read(node, &key, Kind::Set, Level::Session).await;
    }
}

async fn add_or_sum(session: &mut Session, node: usize, key: String) {
    if session.random.random_bool(0.5) {
        let by = session.random.random_range(1..5);
        let action = Action::Add { key: key.clone(), by };
        session.write(node, Ask::mutate(&key, &add(by)), vec![action]).await;
    } else {
        session.read(node, &key, Kind::Counter, Level::Session).await;
    }
}

async fn set_or_get(session: &mut Session, node: usize, key: String, level: Level) {
    if session.random.random_bool(0.5) {
        let value = session.value();
        let action = Action::Set { key: key.clone(), value };
        session.write(node, Ask::mutate(&key, &set(value)), vec![action]).await;
    } else {
        session.read(node, &key, Kind::Register, level).await;
    }
}

fn home_or_anywhere(session: &Session) -> Option<&'static str> {
    DCS.get(session.number % (DCS.len() + 1)).copied()
}
