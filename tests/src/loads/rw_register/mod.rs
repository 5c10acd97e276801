//! The load of transactions over several registers (Elle's `rw-register`), through the Rust client: real interactive
//! transactions that read and write a few keys, hold their snapshot open for a while, meet each other, and sometimes give up.
//!
//! Every attempt is an operation of its own with values of its own, so that a value which a refused attempt left behind
//! is known by its value. What may be demanded of a key depends on who writes it, and its name says so ([`Part`]); of each
//! part some keys are read before they are written, always, so that their versions are in a known order, and one is also
//! written blindly.

mod judge;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_client::net::TransactionOptions;
use meridian_client::{Client, Error, Isolation, Transaction};
use rand::Rng;
use rand::seq::IndexedRandom;

use super::DCS;
use super::session::Session;
use crate::history::{Action, Outcome};

pub(super) use judge::{judge, of_part};

/// Sessions in each DC; behind them come those that move between DCs.
const PER_DC: usize = 3;
/// Sessions that move between DCs with their token.
const MOVERS: usize = 2;
/// All sessions.
pub(super) const SESSIONS: usize = PER_DC * DCS.len() + MOVERS;
/// Keys of a part in one generation.
const KEYS: usize = 3;
/// Those of them that are read before they are written: the rest is also written blindly.
const UPDATED: usize = 2;
/// Of a hundred transactions so many are serializable ones over the DC's own keys; from there on to the next numbers they
/// are under snapshot isolation, over keys that all DCs write, and looks at everything.
const SERIAL_BELOW: u32 = 45;
const SNAPSHOT_BELOW: u32 = 70;
const SHARED_BELOW: u32 = 85;
/// Of a hundred transactions so many give up.
const GIVE_UP_PERCENT: u32 = 5;
/// Reads and writes that are drawn for one transaction; reads before writes come on top.
const STEPS_MAX: usize = 4;
/// Rounds until new keys begin: orders of versions stay short.
const ROUNDS_PER_GENERATION: usize = 300;
/// How long a transaction may take: the client learns what became of its commit, also when a node dies meanwhile.
const PATIENT: Duration = Duration::from_secs(6);
/// The same for those that do not wait for a new leader: what became of them may stay unknown.
const IMPATIENT: Duration = Duration::from_millis(400);
/// Of a hundred transactions so many are impatient.
const IMPATIENT_PERCENT: u32 = 25;
/// How long a client may take to be connected; then it is tried again.
const CONNECT: Duration = Duration::from_secs(4);
/// Longest pause of a transaction after a step: long enough for others to commit meanwhile.
const PAUSE_MS_MAX: u64 = 12;

/// Keys of which the same holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Only written by serializable transactions of one DC: serializable there.
    Serial,
    /// Only written by transactions of one DC under snapshot isolation: snapshot isolation there.
    Snapshot,
    /// Written in every DC: causal, seen as a whole, and no update lost between transactions of one DC.
    Shared,
}

/// Those that belong to one DC.
pub(super) const OWNED: [Part; 2] = [Part::Serial, Part::Snapshot];

impl Part {
    /// In one word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Snapshot => "snapshot",
            Self::Shared => "shared",
        }
    }

    /// Begins the names of its keys, those of one DC if it belongs to one.
    fn folder(self, dc: &str) -> String {
        match self {
            Self::Serial | Self::Snapshot => format!("{dc}/{}", self.name()),
            Self::Shared => self.name().into(),
        }
    }
}

/// One step of a transaction.
#[derive(Clone, Debug)]
enum Step {
    Read(String),
    Write(String, i64),
}

impl Step {
    fn key(&self) -> &str {
        match self {
            Self::Read(key) | Self::Write(key, _) => key,
        }
    }
}

/// A transaction before it runs.
#[derive(Clone, Debug)]
struct Draft {
    isolation: Isolation,
    steps: Vec<Step>,
    pause: Duration,
    patience: Duration,
    /// Whether it gives up when all is done but the commit.
    gives_up: bool,
}

/// What a transaction did and saw so far.
#[derive(Clone, Debug, Default)]
struct Played {
    actions: Vec<Action>,
    /// Whether nothing was left to do but to commit.
    whole: bool,
}

/// Why a transaction did not commit.
#[derive(Debug)]
enum End {
    GaveUp,
    Error(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Transactions over registers. Sessions stay in their DC, or, the last ones, move between all of them.
pub(super) async fn rw_register(mut session: Session) {
    let home = session.number / PER_DC;
    let dcs = if home < DCS.len() { &DCS[home..=home] } else { &DCS[..] };
    let mut clients = Vec::new();
    for dc in dcs {
        let Some(client) = session.connect(dc, CONNECT).await else { return };
        clients.push((*dc, client));
    }
    let mut token: Option<String> = None;
    while session.goes_on().await {
        let (dc, client) = clients.choose(&mut session.random).expect("there is a client");
        let draft = draw(&mut session, dc);
        transact(&mut session, dc, client, &mut token, draft).await;
    }
    for (_, client) in clients {
        client.close().await;
    }
}

/// Whether every snapshot of a session is current when it is taken: that of any other may be behind.
fn is_linearizable(session: usize) -> bool {
    session < PER_DC * DCS.len() && session % PER_DC == PER_DC - 1
}

fn moves(session: usize) -> bool {
    session >= PER_DC * DCS.len()
}

/// Runs one transaction, once, and notes what came of it.
async fn transact(
    session: &mut Session,
    dc: &str,
    client: &Client,
    token: &mut Option<String>,
    draft: Draft,
) {
    let mut asking = client.session();
    if let Some(token) = token {
        asking.join(token).expect("a token that a session gave is one");
    }
    if is_linearizable(session.number) {
        asking = asking.linearizable();
    }
    let options =
        TransactionOptions::default().isolation(draft.isolation).attempts_max(1).timeout(draft.patience);
    let node = session.node(Some(dc));
    let played = Arc::<Mutex<Played>>::default();
    let started = session.begin(node);
    let body = |txn| play(txn, draft.clone(), played.clone());
    let ended = asking.space("default").transaction_with(options, body).await;
    let Played { actions, whole } = played.lock().unwrap_or_else(PoisonError::into_inner).clone();
    session.end(started, outcome(&ended, whole), actions);
    *token = Some(asking.token());
    match ended {
        Err(End::Error(error @ (Error::WrongType { .. } | Error::Protocol { .. }))) => {
            panic!("a register of numbers: {error}")
        }
        Err(End::Error(error)) => session.count(&error.to_string()),
        Ok(()) | Err(End::GaveUp) => {}
    }
}

/// What is known of a transaction. One that was not whole never asked for its commit.
fn outcome(ended: &Result<(), End>, whole: bool) -> Outcome {
    match ended {
        Ok(()) => Outcome::Ok,
        Err(End::GaveUp) => Outcome::Failed,
        Err(End::Error(_)) if !whole => Outcome::Failed,
        Err(End::Error(
            Error::Conflict { .. }
            | Error::Refused(_)
            | Error::NotCaughtUp { .. }
            | Error::Unavailable { .. },
        )) => Outcome::Failed,
        Err(End::Error(_)) => Outcome::Unknown,
    }
}

async fn play(txn: Transaction, draft: Draft, played: Arc<Mutex<Played>>) -> Result<(), End> {
    let note = |action| played.lock().unwrap_or_else(PoisonError::into_inner).actions.push(action);
    for step in draft.steps {
        match step {
            Step::Read(key) => {
                let value = txn.register(key.as_str()).get::<i64>().await?.into_inner();
                note(Action::Get { key, value });
            }
            Step::Write(key, value) => {
                txn.register(key.as_str()).set(value);
                note(Action::Set { key, value });
            }
        }
        tokio::time::sleep(draft.pause).await;
    }
    if draft.gives_up {
        return Err(End::GaveUp);
    }
    played.lock().unwrap_or_else(PoisonError::into_inner).whole = true;
    Ok(())
}

/// Draws a transaction of a session that asks `dc`.
fn draw(session: &mut Session, dc: &str) -> Draft {
    let generation = session.ground.round.fetch_add(1, Ordering::Relaxed) / ROUNDS_PER_GENERATION;
    // Who moves owns no keys.
    let from = if moves(session.number) { SNAPSHOT_BELOW } else { 0 };
    let (isolation, steps) = match session.random.random_range(from..100) {
        0..SERIAL_BELOW => {
            // Beside keys of its own one that other DCs write too: both must be seen as a whole.
            let mut keys = keys(session, Part::Serial, dc, generation);
            let shared = self::keys(session, Part::Shared, dc, generation);
            keys.extend(shared.choose(&mut session.random).cloned());
            (Isolation::Serializable, draw_steps(session, &keys))
        }
        SERIAL_BELOW..SNAPSHOT_BELOW => {
            let keys = keys(session, Part::Snapshot, dc, generation);
            (Isolation::Snapshot, draw_steps(session, &keys))
        }
        SNAPSHOT_BELOW..SHARED_BELOW => {
            let keys = keys(session, Part::Shared, dc, generation);
            (Isolation::Serializable, draw_steps(session, &keys))
        }
        _ => (Isolation::Serializable, draw_look(session, generation)),
    };
    let pause = Duration::from_millis(session.random.random_range(0..=PAUSE_MS_MAX));
    let gives_up = session.random.random_ratio(GIVE_UP_PERCENT, 100);
    let impatient = session.random.random_ratio(IMPATIENT_PERCENT, 100);
    let patience = if impatient { IMPATIENT } else { PATIENT };
    let mut draft = Draft { isolation, steps, pause, patience, gives_up };
    if draft.gives_up
        && let Some(last) = draft.steps.last().map(|step| step.key().to_string())
    {
        // With this read its writes travel to the node, which then has something to forget.
        draft.steps.push(Step::Read(last));
    }
    draft
}

/// The keys of a part; `true` stands beside those that are read before they are written.
fn keys(session: &Session, part: Part, dc: &str, generation: usize) -> Vec<(String, bool)> {
    let key = |number| (session.key(format!("{}/{generation}/{number}", part.folder(dc))), number < UPDATED);
    (0..KEYS).map(key).collect()
}

/// Reads and writes of these keys.
fn draw_steps(session: &mut Session, keys: &[(String, bool)]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..session.random.random_range(1..=STEPS_MAX) {
        let (key, updated) = keys.choose(&mut session.random).cloned().expect("there are keys");
        if session.random.random_bool(0.5) {
            steps.push(Step::Read(key));
            continue;
        }
        if updated && !steps.iter().any(|step| step.key() == key) {
            steps.push(Step::Read(key.clone()));
        }
        steps.push(Step::Write(key, session.value()));
    }
    steps
}

/// Reads of whatever any DC writes, of this generation or the one before.
fn draw_look(session: &mut Session, generation: usize) -> Vec<Step> {
    let generation = generation.saturating_sub(session.random.random_range(0..2));
    let of = *DCS.choose(&mut session.random).expect("there are DCs");
    let parts = [Part::Serial, Part::Snapshot, Part::Shared];
    let all: Vec<_> = parts.iter().flat_map(|part| keys(session, *part, of, generation)).collect();
    let count = session.random.random_range(2..=all.len());
    let drawn: Vec<_> = all.choose_multiple(&mut session.random, count).cloned().collect();
    drawn.into_iter().map(|(key, _)| Step::Read(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_have_asked_for_its_commit_is_of_unknown_outcome() {
        let lost = || Error::OutcomeUnknown { dc: "eu-west".into(), reason: "cut".into() };
        let away = || Error::Unavailable { reason: "cut".into(), error: None };
        for (ended, whole, expected) in [
            (Ok(()), true, Outcome::Ok),
            (Err(End::GaveUp), false, Outcome::Failed),
            (Err(End::Error(lost())), false, Outcome::Failed),
            (Err(End::Error(lost())), true, Outcome::Unknown),
            (Err(End::Error(Error::Closed)), true, Outcome::Unknown),
            (Err(End::Error(away())), true, Outcome::Failed),
        ] {
            assert_eq!(outcome(&ended, whole), expected, "{ended:?}");
        }
    }
}
