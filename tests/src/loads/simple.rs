//! Loads of single operations: sets, counters, registers, and registers that must be linearizable in their DC.

use super::DCS;
use super::session::{Kind, Level, Session};
use crate::client::{Ask, add, add_element, set};
use crate::history::Action;
use rand::Rng;

/// Elements of one session in one set: small, so that reads stay cheap.
const ELEMENTS_PER_SET: usize = 60;
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
        if session.random.random_bool(0.7) {
            let element = session.value();
            let action = Action::Insert { key: key.clone(), element };
            session.write(node, Ask::mutate(&key, &add_element(element)), vec![action]).await;
        } else {
            session.read(node, &key, Kind::Set, Level::Session).await;
        }
    }
}

/// Increments of shared counters, from everywhere.
pub(super) async fn counters(mut session: Session) {
    let dc = home_or_anywhere(&session);
    while session.goes_on().await {
        let node = session.node(dc);
        let number = session.random.random_range(0..COUNTERS);
        let key = session.key(number);
        if session.random.random_bool(0.7) {
            let by = session.random.random_range(1..5);
            let action = Action::Add { key: key.clone(), by };
            session.write(node, Ask::mutate(&key, &add(by)), vec![action]).await;
        } else {
            session.read(node, &key, Kind::Counter, Level::Session).await;
        }
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
