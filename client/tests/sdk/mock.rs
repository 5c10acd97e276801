//! Datacenters in memory that speak the native protocol, remember request ids, and fail on command.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{SinkExt, StreamExt};
use meridian_client::net::transport::{Connect, Transport};
use meridian_client::wire::frame::{Frame, Request, RequestId, Staleness, Verb};
use meridian_client::wire::{ApiError, Token};
use meridian_client::{Client, CounterOp, ErrorCode, Mutation, Value};
use meridian_crdt::{Dot, Origin};
use tokio::io::DuplexStream;
use tokio::task::AbortHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

pub const CLUSTER: u32 = 7;

/// What becomes of the next request that is neither hello nor status.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Refused with this code.
    Refuse(ErrorCode),
    /// Done, but the connection breaks before the answer.
    LoseAnswer,
    /// Not done, and the connection breaks.
    LoseRequest,
    /// Never answered.
    Ignore,
    /// Done and answered.
    Do,
}

pub type Body = BTreeMap<String, Value>;

#[derive(Default)]
pub struct Dc {
    pub sums: BTreeMap<String, i64>,
    pub seq: u64,
    /// What requests that are not probes asked, with the node that was asked.
    pub log: Vec<(String, Request)>,
    pub fates: VecDeque<Fate>,
    /// What becomes of requests when no fate is queued.
    pub always: Option<Fate>,
    pub remembered: HashMap<(Vec<u8>, u64), Result<Body, ErrorCode>>,
    /// Events that a watch is told, by number; its cursor is the number of the last one.
    pub events: Vec<Body>,
    /// A watch breaks after so many events.
    pub break_after: Option<usize>,
    pub expired: bool,
}

struct Node {
    dc: String,
    up: bool,
    /// How long it takes to connect.
    delay: Duration,
    connections: Vec<AbortHandle>,
}

#[derive(Default)]
struct World {
    nodes: HashMap<String, Node>,
    dcs: HashMap<String, Dc>,
}

#[derive(Clone, Default)]
pub struct Net {
    world: Arc<Mutex<World>>,
}

impl Connect for Net {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(64 << 10);
            let delay = self.lock().nodes.get(address).map(|node| node.delay).unwrap_or_default();
            tokio::time::sleep(delay).await;
            let mut world = self.lock();
            let node = world.nodes.get_mut(address).filter(|node| node.up);
            let node = node.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            let task = tokio::spawn(serve(self.clone(), node.dc.clone(), address.to_owned(), far));
            node.connections.push(task.abort_handle());
            Ok(Box::new(near) as Box<dyn Transport>)
        })
    }
}

impl Net {
    /// Datacenters `a`, `b` ... with nodes `a1`, `a2` ...
    pub fn new(dcs: &[&str], nodes: usize) -> Net {
        let net = Net::default();
        for dc in dcs {
            net.lock().dcs.insert((*dc).into(), Dc::default());
            for n in 1..=nodes {
                let node =
                    Node { dc: (*dc).into(), up: true, delay: Duration::ZERO, connections: Vec::new() };
                net.lock().nodes.insert(format!("{dc}{n}"), node);
            }
        }
        net
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("not poisoned")
    }

    pub fn with<T>(&self, dc: &str, act: impl FnOnce(&mut Dc) -> T) -> T {
        act(self.lock().dcs.get_mut(dc).expect("known"))
    }

    /// Starts or stops all nodes of a datacenter.
    pub fn set_up(&self, dc: &str, up: bool) {
        for node in self.lock().nodes.values_mut().filter(|node| node.dc == dc) {
            node.up = up;
            node.connections.drain(..).for_each(|connection| connection.abort());
        }
    }

    /// Makes connecting to a datacenter slow.
    pub fn delay(&self, dc: &str, delay: Duration) {
        self.lock().nodes.values_mut().filter(|node| node.dc == dc).for_each(|node| node.delay = delay);
    }

    pub fn fate(&self, dc: &str, fates: impl IntoIterator<Item = Fate>) {
        self.with(dc, |dc| dc.fates.extend(fates));
    }

    pub fn always(&self, dc: &str, fate: Fate) {
        self.with(dc, |dc| dc.always = Some(fate));
    }

    /// How many requests with this verb a datacenter got.
    pub fn asked(&self, dc: &str, verb: &str) -> usize {
        self.with(dc, |dc| dc.log.iter().filter(|(_, request)| request.verb.name() == verb).count())
    }

    pub fn sum(&self, dc: &str, key: &str) -> i64 {
        self.with(dc, |dc| dc.sums.get(key).copied().unwrap_or(0))
    }

    /// A client of all of it, in this order of datacenters.
    pub async fn client(&self, dcs: &[&str]) -> Client {
        let mut builder = Client::builder().connector(self.clone()).return_after(Duration::from_secs(5));
        for dc in dcs {
            let mut nodes: Vec<_> =
                self.lock().nodes.iter().filter(|(_, node)| node.dc == *dc).map(|(a, _)| a.clone()).collect();
            nodes.sort();
            builder = builder.dc(*dc, nodes);
        }
        builder.connect().await.expect("it connects")
    }
}

async fn serve(net: Net, dc: String, address: String, stream: DuplexStream) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a WebSocket");
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        let request = Request::decode(&bytes).expect("a request");
        if !answer(&net, &dc, &address, request, &mut socket).await {
            return;
        }
    }
}

/// Answers, and says whether the connection goes on.
async fn answer(
    net: &Net,
    dc: &str,
    address: &str,
    request: Request,
    socket: &mut WebSocketStream<DuplexStream>,
) -> bool {
    let id = request.id;
    match request.verb {
        Verb::Hello { .. } => {
            let body = Body::from([("dc".to_owned(), Value::Str(dc.into()))]);
            return send(socket, id, Ok(body), None).await;
        }
        Verb::Status => {
            let body = Body::from([("ready".to_owned(), Value::Bool(true))]);
            return send(socket, id, Ok(body), None).await;
        }
        _ => {}
    }
    let fate = net.with(dc, |dc| {
        dc.log.push((address.to_owned(), request.clone()));
        dc.fates.pop_front().or_else(|| dc.always.clone()).unwrap_or(Fate::Do)
    });
    if let (Verb::Watch { from, .. }, false) = (&request.verb, matches!(fate, Fate::Refuse(_))) {
        return watch(net, dc, id, from.as_deref(), socket).await;
    }
    let token = |dc: &Dc, name: &str| {
        let mut token = match &request.session {
            Some(bytes) => Token::from_bytes(bytes).expect("a token"),
            None => Token::new(CLUSTER),
        };
        if dc.seq > 0 {
            token.dots.advance(Dot::new(Origin(name.as_bytes()[0].into()), dc.seq));
        }
        Some(token.to_bytes())
    };
    match fate {
        Fate::Ignore => true,
        Fate::LoseRequest => false,
        Fate::Refuse(code) => {
            let error = ApiError::new(code, "as told");
            send(socket, id, Err(error), net.with(dc, |state| token(state, dc))).await
        }
        Fate::LoseAnswer => {
            net.with(dc, |dc| drop(once(dc, &request)));
            false
        }
        Fate::Do => {
            let outcome = net.with(dc, |dc| once(dc, &request));
            let outcome = outcome.map_err(|code| ApiError::new(code, "as is"));
            send(socket, id, outcome, net.with(dc, |state| token(state, dc))).await
        }
    }
}

async fn send(
    socket: &mut WebSocketStream<DuplexStream>,
    id: u64,
    outcome: Result<Body, ApiError>,
    session: Option<Vec<u8>>,
) -> bool {
    let staleness = vec![Staleness { dc: "far".into(), ms: 5, txns: 1 }];
    let frame = Frame::Answer { id, outcome, session, staleness };
    socket.send(Message::Binary(frame.encode().into())).await.is_ok()
}

/// Does a request, or returns what it came to before.
fn once(dc: &mut Dc, request: &Request) -> Result<Body, ErrorCode> {
    let name = match &request.request_id {
        Some(RequestId::Number { client, number }) => Some((client.to_vec(), *number)),
        _ => None,
    };
    if let Some(known) = name.as_ref().and_then(|name| dc.remembered.get(name)) {
        return known.clone();
    }
    let outcome = act(dc, &request.verb);
    if let Some(name) = name {
        dc.remembered.insert(name, outcome.clone());
    }
    outcome
}

fn text(text: &str) -> Value {
    Value::Str(text.into())
}

fn result(n: i64) -> Body {
    Body::from([("version".to_owned(), text(&"0".repeat(32))), ("result".to_owned(), Value::Int(n))])
}

fn act(dc: &mut Dc, verb: &Verb) -> Result<Body, ErrorCode> {
    let add = |dc: &mut Dc, key: &str, mutation: &Mutation| {
        let Mutation::Counter(CounterOp::Add(by)) = mutation else { panic!("counters only: {mutation:?}") };
        let sum = dc.sums.entry(key.to_owned()).or_default();
        *sum += by;
        result(*sum)
    };
    match verb {
        Verb::Read { key, ops, .. } => {
            let ahead: i64 = ops
                .iter()
                .filter(|(other, _)| other == key)
                .map(|(_, op)| if let Mutation::Counter(CounterOp::Add(by)) = op { *by } else { 0 })
                .sum();
            let sum = dc.sums.get(&key.key).copied().ok_or(ErrorCode::NotFound)?;
            let mut body = result(0);
            body.insert("type".into(), text("counter"));
            body.insert("value".into(), Value::Int(sum + ahead));
            Ok(body)
        }
        Verb::Write { key, mutation } => {
            dc.seq += 1;
            Ok(add(dc, &key.key, mutation))
        }
        Verb::Txn { ops, .. } | Verb::Commit { ops, .. } => {
            dc.seq += 1;
            let results = ops.iter().map(|(key, op)| Value::Map(add(dc, &key.key, op))).collect();
            Ok(Body::from([("results".to_owned(), Value::Array(results))]))
        }
        Verb::Begin { .. } => Ok(Body::from([("txn".to_owned(), Value::Int(9))])),
        _ => Ok(Body::new()),
    }
}

/// What the cursor covers that a watch is given for one that has expired.
pub fn fresh_token() -> Token {
    let mut token = Token::new(CLUSTER);
    token.dots.advance(Dot::new(Origin(9), 7));
    token
}

async fn watch(
    net: &Net,
    dc: &str,
    id: u64,
    from: Option<&str>,
    socket: &mut WebSocketStream<DuplexStream>,
) -> bool {
    if net.with(dc, |dc| std::mem::take(&mut dc.expired)) {
        let error = ApiError::new(ErrorCode::CursorExpired, "too old").with("cursor", "0");
        let error = error.with("session", fresh_token().to_text());
        return send(socket, id, Err(error), None).await;
    }
    let start: usize = from.map_or(0, |from| from.parse().expect("our cursor"));
    let (events, break_after) = net.with(dc, |dc| (dc.events.clone(), dc.break_after.take()));
    for (n, body) in events.into_iter().enumerate().skip(start) {
        if break_after == Some(n) {
            return false;
        }
        let frame = Frame::Event { id, body };
        if socket.send(Message::Binary(frame.encode().into())).await.is_err() {
            return false;
        }
    }
    true
}

/// The event of a txn that added 1 to `key`.
pub fn event(n: usize, key: &str) -> Body {
    let op = Body::from([("op".to_owned(), text("add")), ("by".to_owned(), Value::Int(1))]);
    let change = Body::from([
        ("key".to_owned(), text(key)),
        ("type".to_owned(), text("counter")),
        ("ops".to_owned(), Value::Array(vec![Value::Map(op)])),
    ]);
    let mut token = Token::new(CLUSTER);
    token.dots.advance(Dot::new(Origin(u32::from(b'a')), n as u64 + 1));
    Body::from([
        ("dc".to_owned(), text("a")),
        ("seq".to_owned(), Value::Int(n as i64 + 1)),
        ("time_ms".to_owned(), Value::Int(1)),
        ("changes".to_owned(), Value::Array(vec![Value::Map(change)])),
        ("cursor".to_owned(), text(&(n + 1).to_string())),
        ("session".to_owned(), text(&token.to_text())),
    ])
}
