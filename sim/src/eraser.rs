//! The clients who delete the document [`SLATE`] while others edit it, and now and then make it again at once.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use meridian_history::Outcome;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::documents::shown;
use crate::editors::draft::Draft;
use crate::http::{Ask, ask};
use crate::ledger::{Fact, Known};
use crate::options::Place;
use crate::slate::{Delete, SLATE};
use crate::workload::{DEADLINE, Phase, Shared, next_value};

/// Pauses between two deletes, so that something is kept between them that has to stay.
const PAUSE_MS: std::ops::Range<u64> = 1500..9000;

/// Virtual time, which all hosts share.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// One of them.
pub(crate) struct Eraser {
    number: u64,
    dc: usize,
    rng: SmallRng,
    written: u64,
    shared: Shared,
}

impl Eraser {
    /// The one of this number among all clients, in this DC.
    pub(crate) fn new(number: u64, dc: usize, seed: u64, shared: Shared) -> Self {
        Self { number, dc, rng: SmallRng::seed_from_u64(seed), written: 0, shared }
    }

    /// Works from the load's start until it is over, and what it has asked for is known to everybody.
    pub(crate) async fn run(mut self) {
        self.shared.reached(Phase::Load).await;
        let mut phase = self.shared.phase.subscribe();
        loop {
            let pause = Duration::from_millis(self.rng.random_range(PAUSE_MS));
            tokio::select! {
                biased;
                _ = phase.wait_for(|now| *now > Phase::Load) => break,
                () = sleep(pause) => {}
            }
            self.erase().await;
            if self.rng.random_bool(0.4) && *self.shared.phase.borrow() == Phase::Load {
                self.make().await;
            }
        }
        self.shared.working.send_modify(|working| *working -= 1);
    }

    fn name(&self) -> String {
        format!("eraser {} in {}", self.number, self.shared.shape.dc_name(self.dc))
    }

    fn host(&mut self) -> String {
        let id = self.rng.random_range(1..=self.shared.shape.nodes as u64);
        self.shared.shape.host(Place { dc: self.dc, id })
    }

    async fn erase(&mut self) {
        let delete = self.shared.ledger().slate.deleting(self.dc);
        let (outcome, token) = self.ask_until_known(Ask::delete(path("keys"))).await;
        match outcome {
            // It may take effect at any time: nothing more is known of anything.
            Outcome::Unknown => return,
            Outcome::Failed => {}
            Outcome::Ok => {
                self.shared.ledger().slate.deleted(&delete);
                self.shared.ledger().counts.deletes += 1;
                if !self.is_heard_everywhere(&delete, &token).await {
                    return;
                }
            }
        }
        self.shared.ledger().slate.settled(&delete, now());
    }

    /// Reads with the token of a delete at every node: nothing that it has observed may be there.
    async fn is_heard_everywhere(&mut self, delete: &Delete, token: &str) -> bool {
        let until = Instant::now() + self.shared.converge_max;
        let asked = Ask::get(path("keys")).header("meridian-session", token);
        for place in self.shared.shape.places() {
            let node = self.shared.shape.host(place);
            loop {
                match ask(&node, &asked, DEADLINE).await {
                    Ok(answer) if answer.status == 200 || answer.code() == "not_found" => {
                        let elements: BTreeSet<i64> = shown(&answer.body["value"]).into_iter().collect();
                        let back = self.shared.ledger().slate.observed(delete, &elements);
                        if !back.is_empty() {
                            let what = format!("{} has deleted {back:?}, and {node} shows them", self.name());
                            self.shared.ledger().violated(what);
                        }
                        break;
                    }
                    Ok(answer) => self.shared.check_refusal(&self.name(), &node, &answer),
                    Err(_) => {}
                }
                if Instant::now() > until {
                    return false;
                }
                sleep(Duration::from_millis(self.rng.random_range(10..300))).await;
            }
        }
        true
    }

    /// Puts one element into the document of whoever has it, or into a new one.
    async fn make(&mut self) {
        let element = next_value(self.number, &mut self.written);
        let fact: Fact = (SLATE.to_owned(), element);
        let since = {
            let mut ledger = self.shared.ledger();
            ledger.adding(std::slice::from_ref(&fact), &Known::default());
            ledger.slate.calm()
        };
        let update = Draft::new(element.unsigned_abs()).insert(0, &[element]);
        let put = Ask::put(format!("{}?format=update", path("docs")), update);
        let (outcome, _) = self.ask_until_known(put).await;
        let mut ledger = self.shared.ledger();
        ledger.added(&[fact], outcome, &mut Known::default());
        if outcome == Outcome::Ok {
            ledger.slate.kept(self.dc, &[element], since);
        }
    }

    /// Asks in this DC, with the same id, until it is known what came of it, and gives the token with it.
    async fn ask_until_known(&mut self, asked: Ask) -> (Outcome, String) {
        self.written += 1;
        let asked = asked.header("meridian-request-id", format!("e{}-{}", self.number, self.written));
        let until = Instant::now() + self.shared.converge_max;
        let mut outcome = Outcome::Failed;
        while Instant::now() < until {
            let node = self.host();
            match ask(&node, &asked, DEADLINE).await {
                Ok(answer) if answer.status == 200 => return (Outcome::Ok, answer.token.unwrap_or_default()),
                // What is put builds on a document that was deleted meanwhile.
                Ok(answer) if answer.code() == "precondition_failed" => {
                    return (Outcome::Failed, String::new());
                }
                Ok(answer) if matches!(answer.code(), "outcome_unknown" | "internal") => {
                    outcome = Outcome::Unknown;
                }
                Ok(answer) => {
                    self.shared.check_refusal(&self.name(), &node, &answer);
                    if outcome == Outcome::Failed && self.rng.random_bool(0.3) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => outcome = Outcome::Unknown,
            }
            sleep(Duration::from_millis(self.rng.random_range(10..300))).await;
        }
        (outcome, String::new())
    }
}

/// The path of the document, as a key or as a document.
fn path(of: &str) -> String {
    format!("/v1/spaces/default/{of}/{SLATE}")
}
