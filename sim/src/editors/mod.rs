//! Editors of documents: people who type at one node, lose it, come back at another one, of this DC or the next, and bring
//! what they have typed meanwhile.
//!
//! What an editor has made is kept once somebody says so: Hocuspocus acknowledges it; in the protocol of `y-websocket` a
//! node that is asked anew says what it has. From then on it must be in the document, at every node at rest, and for
//! whoever reads with a token that an editor has asked for.

pub(crate) mod draft;
mod erased;
mod seat;

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use meridian_history::{Action, Outcome, Started};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use self::draft::Draft;
use self::seat::{Dialect, Heard, Seat};
use crate::documents::shown;
use crate::eraser::now;
use crate::http::{Ask, ask};
use crate::ledger::{Fact, Known};
use crate::options::Place;
use crate::slate::{Calm, SLATE};
use crate::workload::{DEADLINE, Phase, Shared, next_value};

/// Numbers of editors' copies: above those of sessions.
const CLIENTS_FROM: u64 = 1 << 31;
/// How long a copy may take after the faults to be kept, or a connection to show that it is.
const VISIT_MAX: Duration = Duration::from_secs(3);
/// How long an editor may take at rest to show what the nodes hold, and how long by one connection.
const REST_MAX: Duration = Duration::from_secs(20);
const LIVE_MAX: Duration = Duration::from_secs(5);

/// Something that an editor has made and that is not known to be kept.
struct Edit {
    facts: Vec<Fact>,
    /// How much its copy had of its own afterwards.
    clock: u32,
    /// Its place in the history, which has no word for the end of a document.
    started: Option<Started>,
}

/// How far an editor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It edits, or waits for the rest of its edits to be kept.
    Working,
    /// All that it has made is kept.
    Kept,
    /// It has shown what all nodes hold, or has been found not to.
    Over,
}

/// One editor of a document.
pub(crate) struct Editor {
    number: u64,
    document: &'static str,
    dc: usize,
    rng: SmallRng,
    draft: Draft,
    stage: Stage,
    /// The oldest first.
    pending: Vec<Edit>,
    /// All that this copy has made: who sees the last of it sees all.
    own: Known,
    /// Elements that nodes of this DC have shown or acknowledged.
    here: BTreeSet<i64>,
    /// What the token covers.
    known: Known,
    token: Option<String>,
    written: u64,
    /// Whether all was calm when this copy was begun, and when the connection was.
    born: Option<Calm>,
    since: Option<Calm>,
    /// When it first knew that everything is at rest.
    rested: Option<Instant>,
    phase: watch::Receiver<Phase>,
    shared: Shared,
}

impl Editor {
    /// The editor of this number among all clients, who begins in this DC.
    pub(crate) fn new(number: u64, document: &'static str, dc: usize, seed: u64, shared: Shared) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let draft = Draft::new(client(&mut rng));
        Self {
            number,
            document,
            dc,
            rng,
            draft,
            stage: Stage::Working,
            pending: Vec::new(),
            own: Known::default(),
            here: BTreeSet::new(),
            known: Known::default(),
            token: None,
            written: 0,
            born: Some(0),
            since: None,
            rested: None,
            phase: shared.phase.subscribe(),
            shared,
        }
    }

    /// Works from the load's start, and stays until everything has been compared.
    pub(crate) async fn run(mut self) {
        self.shared.reached(Phase::Load).await;
        while self.phase() == Phase::Load {
            self.come().await;
            self.pause().await;
        }
        let deadline = Instant::now() + self.shared.converge_max;
        while self.stage != Stage::Over {
            self.come().await;
            if self.stage == Stage::Working && Instant::now() > deadline {
                let lost: Vec<&Fact> = self.pending.iter().flat_map(|edit| &edit.facts).collect();
                self.violated(format!("gets {lost:?} kept by nobody long after all faults"));
                self.pending.clear();
                self.enter(Stage::Kept);
            }
            sleep(Duration::from_millis(self.rng.random_range(10..200))).await;
        }
    }

    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn name(&self) -> String {
        format!("editor {} in {}", self.number, self.shared.shape.dc_name(self.dc))
    }

    fn violated(&self, what: String) {
        self.shared.ledger().violated(format!("{} of {} {what}", self.name(), self.document));
    }

    fn place(&mut self) -> Place {
        Place { dc: self.dc, id: self.rng.random_range(1..=self.shared.shape.nodes as u64) }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        match stage {
            Stage::Working => {}
            Stage::Kept => self.shared.working.send_modify(|working| *working -= 1),
            Stage::Over => self.shared.comparing.send_modify(|comparing| *comparing -= 1),
        }
    }

    /// Between two connections of the load: some type on without one, look from elsewhere, move or lose everything.
    async fn pause(&mut self) {
        if self.rng.random_bool(0.3) && self.phase() == Phase::Load {
            for _ in 0..self.rng.random_range(1..4) {
                self.edit();
            }
        }
        if self.rng.random_bool(0.4) {
            self.look_elsewhere().await;
        }
        if self.rng.random_bool(0.1) {
            self.forget();
        }
        if self.rng.random_bool(0.2) {
            self.dc = self.rng.random_range(0..self.shared.shape.dcs);
            self.here.clear();
        }
        sleep(Duration::from_millis(self.rng.random_range(0..500))).await;
    }

    /// One connection; how it ends is the network's business, unless the node has said what it must not.
    async fn come(&mut self) {
        let place = self.place();
        let node = self.shared.shape.host(place);
        let dialect = if self.rng.random_bool(0.5) { Dialect::YWebsocket } else { Dialect::Hocuspocus };
        let has = self.draft.state_vector();
        self.since = self.shared.ledger().slate.calm();
        let sat = match Seat::take(&node, dialect, self.document, &has, DEADLINE).await {
            Ok(mut seat) => {
                self.shared.ledger().counts.visits += 1;
                let sat = self.sit(&mut seat).await;
                self.throw_away_unmarked();
                sat
            }
            Err(error) => Err(error.into()),
        };
        match sat {
            Ok(()) | Err(Broken::Connection) => {}
            Err(Broken::Promise(why)) => self.violated(format!("at {node}: {why}")),
            Err(Broken::Deleted) => self.hear_of_deletion(&node),
        }
    }

    async fn sit(&mut self, seat: &mut Seat) -> Result<(), Broken> {
        let since = (self.phase(), Instant::now());
        let begun = now();
        let stay = Duration::from_millis(self.rng.random_range(300..6000));
        loop {
            if self.is_leaving(since, stay)? {
                return Ok(());
            }
            let pause = Duration::from_millis(self.rng.random_range(20..400));
            tokio::select! {
                biased;
                heard = seat.hear() => {
                    let heard = heard?;
                    self.check_memory(begun)?;
                    self.hear(seat, heard).await?;
                }
                // The sender is in `shared`.
                _ = self.phase.changed() => {}
                () = sleep_until(Instant::now() + pause) => {
                    if self.phase() == Phase::Load && seat.is_introduced {
                        let update = self.edit();
                        seat.tell(update).await?;
                    }
                }
            }
        }
    }

    /// Whether this connection, of that beginning, has served.
    fn is_leaving(&mut self, (phase, begun): (Phase, Instant), stay: Duration) -> Result<bool, Broken> {
        let age = begun.elapsed();
        match self.phase() {
            Phase::Boot | Phase::Load => Ok(age > stay),
            // A fault may have left it as good as dead.
            _ if phase == Phase::Load => Ok(true),
            Phase::Healed => {
                if self.stage == Stage::Working && self.pending.is_empty() {
                    self.enter(Stage::Kept);
                }
                Ok(self.stage == Stage::Working && age > VISIT_MAX)
            }
            Phase::Rested => self.compare(age),
            Phase::Over => {
                self.stage = Stage::Over;
                Ok(true)
            }
        }
    }

    /// Whether the copy shows what all nodes hold. On a connection that lives it has to, soon.
    fn compare(&mut self, age: Duration) -> Result<bool, Broken> {
        let agreed = self.shared.ledger().agreed.get(self.document).cloned().unwrap_or_default();
        let for_long = self.rested.get_or_insert_with(Instant::now).elapsed();
        let elements = self.draft.elements();
        if elements == agreed {
            self.enter(Stage::Over);
            return Ok(true);
        }
        if age.min(for_long) > LIVE_MAX || for_long > REST_MAX {
            self.enter(Stage::Over);
            return Err(Broken::Promise(format!("shows {elements:?} at rest, and nodes hold {agreed:?}")));
        }
        Ok(false)
    }

    async fn hear(&mut self, seat: &mut Seat, heard: Heard) -> Result<(), Broken> {
        match heard {
            Heard::Has(state_vector) => {
                let clock = self.draft.covered_by(&state_vector);
                self.kept_up_to(clock);
                seat.answer(self.draft.lacking(&state_vector)).await?;
            }
            Heard::Update(update) => {
                let before: BTreeSet<i64> = self.draft.elements().into_iter().collect();
                self.draft.apply(&update).map_err(Broken::Promise)?;
                let after = self.draft.elements();
                let name = self.name();
                let is_early = self.shared.shape.is_early;
                let mut ledger = self.shared.ledger();
                for element in ledger.shown(&name, self.document, &after).difference(&before) {
                    ledger.check_existing(&name, self.document, *element);
                    // What is shown early may be kept by nobody yet.
                    if !is_early {
                        self.here.insert(*element);
                    }
                }
            }
            Heard::Kept => {
                if seat.kept().map_err(Broken::Promise)? {
                    self.kept_up_to(self.draft.clock());
                    // Right now the other nodes are most likely not to have it yet.
                    if self.rng.random_bool(0.1) && self.phase() == Phase::Load {
                        self.look_elsewhere().await;
                    }
                }
            }
            Heard::Other => {}
        }
        Ok(())
    }

    /// The update of a new edit of one to three elements, somewhere in the document.
    fn edit(&mut self) -> Vec<u8> {
        let elements: Vec<i64> = (0..self.rng.random_range(1..4)).map(|_| self.value()).collect();
        let facts: Vec<Fact> = elements.iter().map(|element| (self.document.to_owned(), *element)).collect();
        let place = self.place();
        let lone = {
            let mut ledger = self.shared.ledger();
            ledger.adding(&facts, &self.own);
            ledger.lone_session()
        };
        let recorder = &self.shared.recorder;
        let started = (self.document != SLATE).then(|| recorder.begin(lone, &self.shared.shape.node(place)));
        let update = self.draft.insert(self.rng.random_range(0..=1000), &elements);
        self.own.facts.extend(facts.iter().cloned());
        self.pending.push(Edit { facts, clock: self.draft.clock(), started });
        update
    }

    /// A number that nobody else writes.
    fn value(&mut self) -> i64 {
        next_value(self.number, &mut self.written)
    }

    /// Somebody has so much of what this copy has made.
    fn kept_up_to(&mut self, clock: u32) {
        let kept = self.pending.partition_point(|edit| edit.clock <= clock);
        for edit in self.pending.drain(..kept).collect::<Vec<_>>() {
            let elements: Vec<i64> = edit.facts.iter().map(|(_, element)| *element).collect();
            if self.document == SLATE {
                self.shared.ledger().slate.kept(self.dc, &elements, self.since);
            }
            self.here.extend(elements);
            self.ended(edit, Outcome::Ok);
        }
    }

    fn ended(&mut self, edit: Edit, outcome: Outcome) {
        let mut ledger = self.shared.ledger();
        ledger.added(&edit.facts, outcome, &mut Known::default());
        match outcome {
            Outcome::Ok => ledger.counts.edits += 1,
            _ => ledger.counts.edits_unknown += 1,
        }
        drop(ledger);
        let insert = |(key, element): Fact| Action::Insert { key, element };
        if let Some(started) = edit.started {
            self.shared.recorder.end(started, outcome, edit.facts.into_iter().map(insert).collect());
        }
    }

    /// The program of the editor dies, and what only it had is lost.
    fn forget(&mut self) {
        for edit in std::mem::take(&mut self.pending) {
            self.ended(edit, Outcome::Unknown);
        }
        self.draft = Draft::new(client(&mut self.rng));
        self.own = Known::default();
        self.born = self.shared.ledger().slate.calm();
    }

    /// Asks for a token of what was kept here, and reads with it at any node of any DC.
    async fn look_elsewhere(&mut self) {
        let here = self.here.clone();
        let place = self.place();
        let node = self.shared.shape.host(place);
        let asked = self.with_token(Ask::get(format!("/v1/spaces/default/docs/{}/token", self.document)));
        let Ok(answer) = ask(&node, &asked, DEADLINE).await else { return };
        match (answer.status, answer.body["token"].as_str()) {
            (200, Some(token)) => self.token = Some(token.to_owned()),
            (404, _) if here.is_empty() || self.document == SLATE => return,
            (404, _) => return self.violated(format!("knows of {here:?}, and {node} of no document")),
            _ => return self.shared.check_refusal(&self.name(), &node, &answer),
        }
        self.known.facts.extend(here.into_iter().map(|element| (self.document.to_owned(), element)));
        self.read().await;
    }

    async fn read(&mut self) {
        let dc = self.rng.random_range(0..self.shared.shape.dcs);
        let place = Place { dc, ..self.place() };
        let node = self.shared.shape.host(place);
        let lone = self.shared.ledger().lone_session();
        let asked = self.with_token(Ask::get(format!("/v1/spaces/default/keys/{}", self.document)));
        let started = self.shared.recorder.begin(lone, &self.shared.shape.node(place));
        let begun = now();
        let Ok(answer) = ask(&node, &asked, DEADLINE).await else { return };
        if answer.status != 200 && answer.code() != "not_found" {
            return self.shared.check_refusal(&self.name(), &node, &answer);
        }
        self.token = answer.token.or(self.token.take());
        let name = format!("{} at {node}", self.name());
        let mut ledger = self.shared.ledger();
        let elements = ledger.shown(&name, self.document, &shown(&answer.body["value"]));
        ledger.counts.reads += 1;
        if self.document == SLATE {
            return erased::read(&mut ledger, &name, &elements, &self.known, begun);
        }
        ledger.read_set(&name, self.document, &elements, &mut self.known);
        drop(ledger);
        let read = Action::Members { key: self.document.to_owned(), elements };
        self.shared.recorder.end(started, Outcome::Ok, vec![read]);
    }

    fn with_token(&self, ask: Ask) -> Ask {
        self.shared.with_token(ask, self.token.as_ref())
    }
}

/// The number of a new copy.
fn client(rng: &mut SmallRng) -> u64 {
    CLIENTS_FROM + u64::from(rng.random::<u32>() >> 1)
}

/// Why a connection has ended.
enum Broken {
    /// It is gone, as connections are.
    Connection,
    /// The document was deleted.
    Deleted,
    /// A node has said what it must not.
    Promise(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Deleted,
            io::ErrorKind::InvalidData => Self::Promise(error.to_string()),
            _ => Self::Connection,
        }
    }
}
