//! In one DC, writes and linearizable reads through any of its nodes take effect one after the other, in an order that
//! agrees with time, while the leader is killed and comes back.
//!
//! The draw comes from a seed, which is printed; `MERIDIAN_TEST_SEED` repeats it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meridian_tests::checkers::linearizable::{self, Counter, Register, Verdict};
use meridian_tests::client::{Ask, Client, Outcome as Told, add, outcome, set};
use meridian_tests::fleet::Fleet;
use meridian_tests::history::{Action, Outcome, Recorder, files};
use meridian_tests::wait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const PATIENCE: Duration = Duration::from_secs(60);
const DC: &str = "eu-west";
const SESSIONS: usize = 6;
const REGISTERS: usize = 5;
const COUNTER: &str = "linear/counter";
/// Leaders killed.
const KILLS: usize = 2;
/// Requests answered between two faults.
const BETWEEN_FAULTS: usize = 200;
/// How long a session waits after a failure: until the next leader is elected, each failure is one more unknown outcome.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linearizable_reads_see_every_answered_write_of_their_dc_through_the_loss_of_leaders() {
    let given = std::env::var("MERIDIAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("linearizable: MERIDIAN_TEST_SEED={seed}");
    let fleet = Fleet::start(BINARY, 1, 3, Duration::ZERO).await;
    let nodes: Vec<(String, Client)> =
        fleet.node_names().into_iter().map(|name| (name.clone(), fleet.node(&name))).collect();
    let (recorder, stop) = (Recorder::default(), Arc::new(AtomicBool::new(false)));
    let mut sessions = JoinSet::new();
    for session in 0..SESSIONS {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(100).wrapping_add(session as u64));
        sessions.spawn(run(session, random, nodes.clone(), recorder.clone(), stop.clone()));
    }
    for _ in 0..KILLS {
        progress(&recorder).await;
        let leader = fleet.leader(DC).await;
        fleet.cluster().kill(&leader).await.expect("killed");
        progress(&recorder).await;
        fleet.cluster().restart(&leader).await.expect("restarted");
    }
    progress(&recorder).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = sessions.join_next().await {
        ended.expect("no session panics");
    }
    let history = recorder.history();
    files::write_if_asked(&history, "linearizable");
    println!(
        "linearizable: {} done, {} refused, {} unknown",
        history.count(Outcome::Ok),
        history.count(Outcome::Failed),
        history.count(Outcome::Unknown)
    );
    for key in history.keys() {
        let verdict = if key == COUNTER {
            linearizable::check::<Counter>(&history, key)
        } else {
            linearizable::check::<Register>(&history, key)
        };
        assert_eq!(verdict, Verdict::Linearizable, "seed {seed}, {key}");
    }
}

async fn progress(recorder: &Recorder) {
    let wanted = recorder.count(Outcome::Ok) + BETWEEN_FAULTS;
    wait::until("sessions make progress", PATIENCE, async || {
        let done = recorder.count(Outcome::Ok);
        if done >= wanted { Ok(()) } else { Err(format!("{done} of {wanted}")) }
    })
    .await;
}

async fn run(
    session: usize,
    mut random: StdRng,
    nodes: Vec<(String, Client)>,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
) {
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) {
        let (name, node) = nodes.choose(&mut random).expect("there are nodes");
        writes += 1;
        let value = session as i64 * 1_000_000 + writes;
        let key = format!("linear/register/{}", random.random_range(0..REGISTERS));
        let (ask, action) = match random.random_range(0..10) {
            0..4 => (Ask::read(&key), Action::Get { key, value: None }),
            4..7 => (Ask::mutate(&key, &set(value)), Action::Set { key, value }),
            7 => (Ask::delete(&key), Action::Delete { key }),
            8 => (Ask::mutate(COUNTER, &add(1)), Action::Add { key: COUNTER.into(), by: 1 }),
            _ => (Ask::read(COUNTER), Action::Sum { key: COUNTER.into(), value: 0 }),
        };
        let ask = if action.is_write() { ask } else { ask.header("Meridian-Consistency", "linearizable") };
        let started = recorder.begin(session, name);
        let answer = node.send(&ask).await;
        let absent = matches!(&answer, Ok(reply) if reply.code() == "not_found");
        let outcome = match outcome(&answer) {
            _ if absent => Outcome::Ok,
            Told::Acked => Outcome::Ok,
            Told::NotDone(_) => Outcome::Failed,
            Told::Unknown(_) => Outcome::Unknown,
        };
        let number = answer.ok().and_then(|reply| reply.value().as_i64());
        let action = match action {
            Action::Get { key, .. } => Action::Get { key, value: number },
            Action::Sum { key, .. } => Action::Sum { key, value: number.unwrap_or(0) },
            write => write,
        };
        recorder.end(started, outcome, vec![action]);
        if outcome != Outcome::Ok {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
