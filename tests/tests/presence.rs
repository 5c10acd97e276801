//! Those who are present in a document see each other, wherever they are connected: unmodified clients of `y-websocket` and of
//! Hocuspocus at nodes of two datacenters, and a crowd in one document.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use meridian_crdt::codec::{Reader, Writer};
use meridian_tests::editors::{self, Editors};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait::{self, percentile};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// After 30 s clients by themselves forget who is not heard of. What is to be the nodes' doing has to be quicker.
const BEFORE_CLIENTS_FORGET: Duration = Duration::from_secs(20);
/// Clients repeat what they say every 15 s. What is to need no repetition has to be quicker.
const BEFORE_CLIENTS_REPEAT: Duration = Duration::from_secs(10);

/// Story: one cluster for all, because starting six processes is what costs time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_present_see_each_other_at_any_node() {
    let Some(folder) = editors::install(Path::new(env!("CARGO_TARGET_TMPDIR"))).await else { return };
    let stage = Stage { editors: Editors::start(&folder), fleet: Fleet::start(BINARY, 2, 3, LATENCY).await };
    stage.all_see_who_comes_changes_and_goes().await;
    stage.who_is_beyond_a_cut_goes_and_comes_back().await;
    stage.who_was_at_a_node_that_dies_goes_and_comes_back().await;
    stage.who_goes_on_at_another_node_stays().await;
}

struct Stage {
    fleet: Fleet,
    editors: Editors,
}

const ROOM: &str = "company";

impl Stage {
    /// Opens the document by `y-websocket`.
    async fn comes(&self, editor: &str, node: &str) {
        self.editors.open(editor, &self.fleet.node(node), ROOM).await;
        self.is_called(editor, editor).await;
    }

    /// Opens it by Hocuspocus.
    async fn comes_by_hocuspocus(&self, editor: &str, node: &str) {
        self.editors.enter(editor, &self.fleet.node(node), ROOM, editor).await;
        self.is_called(editor, editor).await;
    }

    async fn is_called(&self, editor: &str, name: &str) {
        self.editors.tell(editor, "present", json!({"user": name})).await;
    }

    async fn goes(&self, editor: &str) {
        self.editors.tell(editor, "leave", json!({})).await;
    }

    /// Waits until each of these editors sees those; how long that took.
    async fn see(&self, viewers: &[&str], whom: &[&str], limit: Duration) -> Duration {
        let start = Instant::now();
        for viewer in viewers {
            wait::until(&format!("{viewer} sees {whom:?}"), limit, async || {
                let seen = self.editors.tell(viewer, "present", json!({})).await;
                if seen == json!(whom) { Ok(()) } else { Err(seen.to_string()) }
            })
            .await;
        }
        start.elapsed()
    }

    async fn all_see_who_comes_changes_and_goes(&self) {
        self.comes("a", "eu-west/1").await;
        self.comes_by_hocuspocus("b", "eu-west/2").await;
        self.comes("c", "us-east/3").await;
        self.comes_by_hocuspocus("d", "us-east/1").await;
        let all = ["a", "b", "c", "d"];
        let came = self.see(&all, &all, BEFORE_CLIENTS_REPEAT).await;
        self.is_called("a", "z").await;
        let changed = self.see(&all, &["b", "c", "d", "z"], BEFORE_CLIENTS_REPEAT).await;
        self.is_called("a", "a").await;
        self.goes("d").await;
        let went = self.see(&["a", "b", "c"], &["a", "b", "c"], BEFORE_CLIENTS_REPEAT).await;
        // Nobody says anything now: who comes has to be told.
        self.comes("e", "us-east/2").await;
        let told = self.see(&["e"], &["a", "b", "c", "e"], BEFORE_CLIENTS_REPEAT).await;
        self.goes("e").await;
        self.see(&["a", "b", "c"], &["a", "b", "c"], BEFORE_CLIENTS_REPEAT).await;
        println!(
            "all came within {came:?}, changed {changed:?}, went {went:?}; who came was told within {told:?}"
        );
    }

    async fn who_is_beyond_a_cut_goes_and_comes_back(&self) {
        self.fleet.cluster().cut("eu-west", "us-east").expect("cut");
        let went = self.see(&["a", "b"], &["a", "b"], BEFORE_CLIENTS_FORGET).await;
        self.see(&["c"], &["c"], BEFORE_CLIENTS_FORGET).await;
        self.fleet.cluster().heal(None).expect("healed");
        let all = ["a", "b", "c"];
        let came = self.see(&all, &all, BEFORE_CLIENTS_REPEAT).await;
        println!("who was beyond a cut went within {went:?} and came back within {came:?}");
    }

    async fn who_was_at_a_node_that_dies_goes_and_comes_back(&self) {
        self.fleet.cluster().kill("eu-west/1").await.expect("killed");
        let went = self.see(&["b", "c"], &["b", "c"], BEFORE_CLIENTS_FORGET).await;
        // Its editor tries to reach it all the time. It remembers the clocks of the others, and sees them when they rise.
        self.fleet.cluster().restart("eu-west/1").await.expect("restarted");
        let came = self.see(&["a", "b", "c"], &["a", "b", "c"], PATIENCE).await;
        println!("who was at a node that died went within {went:?}, and came back with it within {came:?}");
    }

    /// Story: an editor whose node dies goes on at another one before the others give the dead node up. When they do, he must
    /// not be given up with it.
    async fn who_goes_on_at_another_node_stays(&self) {
        self.fleet.cluster().kill("us-east/3").await.expect("killed");
        self.editors.open("c", &self.fleet.node("us-east/2"), ROOM).await;
        let gone = Instant::now() + Duration::from_secs(8);
        self.see(&["a", "b", "c"], &["a", "b", "c"], BEFORE_CLIENTS_REPEAT).await;
        while Instant::now() < gone {
            let seen = self.editors.tell("b", "present", json!({})).await;
            assert_eq!(seen, json!(["a", "b", "c"]));
        }
        self.fleet.cluster().restart("us-east/3").await.expect("restarted");
        for editor in ["a", "b", "c"] {
            self.goes(editor).await;
        }
    }
}

/// What the frames of `y-websocket` begin with.
const SYNC: u8 = 0;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const AWARENESS: u8 = 1;

/// Rounds in which everybody says something, one a second.
const ROUNDS: u64 = 10;

/// Story: a lecture. Everybody in it moves a cursor once a second, and everybody is to see that, at each node of a datacenter.
/// How many there are says `MERIDIAN_TEST_PRESENT`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_in_one_document_sees_all_of_itself() {
    let present = std::env::var("MERIDIAN_TEST_PRESENT").map_or(200, |n| n.parse().expect("a number"));
    let fleet = Fleet::start(BINARY, 1, 3, Duration::ZERO).await;
    let nodes = fleet.node_names();
    let together = Arc::new(Barrier::new(present));
    let ended = Arc::new(Barrier::new(present + 1));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..present {
        let server = fleet.node(&nodes[number % nodes.len()]).server().to_owned();
        let person = Person { number, present, start, newest: BTreeMap::new(), seen: Vec::new(), skipped: 0 };
        tasks.spawn(person.takes_part(server, together.clone(), ended.clone()));
    }
    let counted = async {
        // They wait for this too, and are all there.
        let (mut own, mut elsewhere) = (0, 0);
        wait::until("all have seen all", PATIENCE * 2, async || {
            for node in &nodes {
                let client = fleet.node(node);
                own += client.metric("meridian_presence_own").await.unwrap_or_default();
                elsewhere += client.metric("meridian_presence_elsewhere").await.unwrap_or_default();
            }
            let counted = (std::mem::take(&mut own), std::mem::take(&mut elsewhere));
            let all = present as u64;
            if counted == (all, all * (nodes.len() as u64 - 1)) {
                Ok(())
            } else {
                Err(format!("{counted:?}"))
            }
        })
        .await;
        ended.wait().await;
    };
    let (people, ()) = tokio::join!(tasks.join_all(), counted);
    let skipped: u64 = people.iter().map(|person| person.skipped).sum();
    let seen: Vec<Duration> = people.into_iter().flat_map(|person| person.seen).collect();
    let (count, half, most, all) =
        (seen.len(), percentile(seen.clone(), 0.5), percentile(seen.clone(), 0.99), percentile(seen, 1.0));
    println!(
        "{present} people said {ROUNDS} things each: {count} seen, {skipped} overtaken by newer ones; \
         p50 {half:?}, p99 {most:?}, slowest {all:?}"
    );
    // Whatever was not seen was overtaken by something newer of the same person.
    assert_eq!(count as u64 + skipped, (present * present) as u64 * ROUNDS);
    let mut lost = 0;
    for node in &nodes {
        lost += fleet.node(node).metric("meridian_presence_states_dropped_total").await.unwrap_or_default();
    }
    assert_eq!(lost, 0);
}

/// Somebody in the crowd.
struct Person {
    number: usize,
    present: usize,
    start: Instant,
    /// The newest that is known of everybody.
    newest: BTreeMap<u64, u64>,
    /// How long it took to see what was seen.
    seen: Vec<Duration>,
    /// What was never seen because something newer came first.
    skipped: u64,
}

impl Person {
    async fn takes_part(mut self, server: String, together: Arc<Barrier>, ended: Arc<Barrier>) -> Self {
        let stream = TcpStream::connect(&server).await.expect("the node listens");
        let url = format!("ws://{server}/v1/spaces/default/docs/crowd");
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
        let nothing_known = Message::Binary(Bytes::from_static(&[SYNC, STEP_1, 1, 0]));
        socket.send(nothing_known).await.expect("is sent");
        together.wait().await;
        // Not all at the same moment.
        let first = tokio::time::Instant::now()
            + Duration::from_secs(1).mul_f64(self.number as f64 / self.present as f64);
        let mut second = tokio::time::interval_at(first, Duration::from_secs(1));
        let mut round = 0;
        while round < ROUNDS {
            tokio::select! {
                _ = second.tick() => {
                    round += 1;
                    self.says(&mut socket, round).await;
                }
                message = socket.next() => self.hears(message.expect("no end").expect("a frame"), &mut socket).await,
            }
        }
        let everything = async {
            while self.newest.len() < self.present || self.newest.values().any(|clock| *clock < ROUNDS) {
                let message = socket.next().await;
                self.hears(message.expect("no end").expect("a frame"), &mut socket).await;
            }
        };
        let limit = tokio::time::timeout(PATIENCE, everything).await;
        let newest: Vec<_> = self.newest.iter().filter(|(_, clock)| **clock < ROUNDS).collect();
        assert!(
            limit.is_ok(),
            "{} has seen {} people, and not the last of {newest:?}",
            self.number,
            self.newest.len()
        );
        // Who goes earlier would be told to have gone.
        let mut waiting = std::pin::pin!(ended.wait());
        loop {
            tokio::select! {
                // First: from here on those who go are told of.
                biased;
                _ = &mut waiting => break,
                message = socket.next() => self.hears(message.expect("no end").expect("a frame"), &mut socket).await,
            }
        }
        self
    }

    async fn says(&self, socket: &mut WebSocketStream<TcpStream>, round: u64) {
        let mut states = Writer::new();
        states.varint(1);
        states.varint(self.number as u64 + 1);
        states.varint(round);
        let said = json!({"at": self.start.elapsed().as_micros() as u64, "user": {"name": "somebody", "color": "#30bced"}});
        states.bytes(said.to_string().as_bytes());
        let mut frame = Writer::new();
        frame.raw(&[AWARENESS]);
        frame.bytes(&states.finish());
        socket.send(Message::binary(frame.finish())).await.expect("is sent");
    }

    /// Hears what is said, and sends back what is new of others, as `y-websocket` does. It says so to most before it has
    /// said anything of itself.
    async fn hears(&mut self, message: Message, socket: &mut WebSocketStream<TcpStream>) {
        let Message::Binary(frame) = message else { return };
        let body = match *frame {
            [SYNC, STEP_1, ..] => {
                let nothing_more = Message::Binary(Bytes::from_static(&[SYNC, STEP_2, 2, 0, 0]));
                return socket.send(nothing_more).await.expect("is sent");
            }
            [AWARENESS, ..] => frame.slice(1..),
            _ => return,
        };
        let mut body = Reader::new(&body);
        let mut states = Reader::new(body.bytes().expect("states"));
        let before = self.seen.len();
        for _ in 0..states.varint().expect("a number") {
            let (client, clock) = (states.varint().expect("a client"), states.varint().expect("a clock"));
            let said: Value = serde_json::from_str(states.str().expect("a text")).expect("JSON");
            let at = Duration::from_micros(said["at"].as_u64().expect("nobody has gone"));
            let newest = self.newest.entry(client).or_default();
            if clock > *newest {
                self.skipped += clock - *newest - 1;
                *newest = clock;
                self.seen.push(self.start.elapsed().saturating_sub(at));
            }
        }
        if self.seen.len() > before {
            socket.send(Message::Binary(frame)).await.expect("is sent");
        }
    }
}
