//! The protocol between datacenters: its messages, and the machine that receives and sends txns.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use meridian_crdt::{Add, Dot, KeyEffect, OriginName, Txn, TxnHead, Vector, txn_hash};
use meridian_gossip::proto::Machine;
use meridian_gossip::proto::event::{Event, Now, Output};
use meridian_gossip::proto::message::{Hello, Message};
use meridian_gossip::{GossipConfig, Identity, OplogChunk, Remote, RemoteOutcome, View};
use uuid::Uuid;

use super::{Case, measured, told};
use crate::op::{key_name, value};

/// Txns of one message.
const TXNS: u64 = 64;
/// The connection.
const CONN: u64 = 9;
/// Time between two messages.
const STEP_MS: u64 = 10;

pub(super) const CASES: &[Case] = &[
    Case { name: "message-encode-of-64", step: "encoding a message of 64 txns", run: encode },
    Case { name: "message-decode-of-64", step: "decoding it", run: decode },
    Case {
        name: "proto-receive-64",
        step: "64 txns received, proposed and applied, in the machine",
        run: receive,
    },
    Case { name: "proto-send-64", step: "64 own txns applied, read and sent, in the machine", run: send },
];

fn name(dc: &str) -> OriginName {
    OriginName { dc: dc.into(), epoch: Uuid::from_u128(1) }
}

/// Txns of one origin, each building on the one before.
struct Chain {
    own: OriginName,
    seq: u64,
    prev: u64,
}

impl Chain {
    fn new(dc: &str) -> Self {
        Self { own: name(dc), seq: 0, prev: 0 }
    }

    fn next(&mut self) -> Bytes {
        self.seq += 1;
        let dot = Dot::new(self.own.origin(), self.seq);
        let head = TxnHead { dot, hlc: self.seq << 22, prev: self.prev, deps: Vector::new() };
        let add = Add { path: Bytes::from_static(&[1]), payload: value(self.seq, 1).into_bytes().into() };
        let key = key_name(self.seq);
        let effect = KeyEffect { space: "default".into(), key, removes: vec![], adds: vec![add] };
        let encoded = Txn { head, effects: vec![effect] }.encode();
        self.prev = txn_hash(&encoded);
        encoded
    }

    fn batch(&mut self) -> Vec<Bytes> {
        (0..TXNS).map(|_| self.next()).collect()
    }
}

fn encode(times: u64) -> Result<(), String> {
    let mut chain = Chain::new("b");
    (0..times).try_for_each(|_| {
        let message = Message::Txns(chain.batch());
        measured(|| message.encode()).map(drop).map_err(told)
    })
}

fn decode(times: u64) -> Result<(), String> {
    let mut chain = Chain::new("b");
    (0..times).try_for_each(|_| {
        let encoded = Message::Txns(chain.batch()).encode().map_err(told)?;
        measured(|| Message::decode(&encoded)).map(drop).map_err(told)
    })
}

/// A leader of `a` that is linked with the leader of `b`.
struct Linked {
    machine: Machine,
    now_ms: u64,
    view: View,
}

impl Linked {
    fn new() -> Result<Self, String> {
        let members = BTreeMap::from([("b".to_owned(), vec![1])]);
        let identity = Identity { cluster: 1, dc: "a".into(), node: 1, members };
        let view = View {
            leading: Some(1),
            leader_node: Some(1),
            vector: Vector::new(),
            oplog_end: 0,
            floor: Vector::new(),
            origins: vec![name("a"), name("b")],
            own: Some(name("a")),
            ..View::default()
        };
        let machine = Machine::new(identity, GossipConfig::default(), 5);
        let mut linked = Self { machine, now_ms: 1, view };
        linked.give(linked.moved());
        linked.give(Event::Accepted { conn: CONN });
        let hello = Hello {
            cluster: 1,
            dc: "b".into(),
            own: Some(name("b")),
            node: 1,
            leading: Some(1),
            leader_node: Some(1),
            vector: Vector::new(),
            floor: Vector::new(),
            origins: vec![name("a"), name("b")],
            members: BTreeMap::new(),
            credit_bytes: 8 << 20,
            dial: 1,
            told: Vector::new(),
            reported: None,
        };
        let said = linked.give(Event::Received { conn: CONN, message: Message::Hello(Box::new(hello)) });
        match said.iter().find(|output| matches!(output, Output::Close { .. } | Output::Alarm { .. })) {
            Some(refusal) => Err(format!("{refusal:?}")),
            None => Ok(linked),
        }
    }

    fn moved(&self) -> Event {
        Event::View(Arc::new(self.view.clone()))
    }

    fn give(&mut self, event: Event) -> Vec<Output> {
        self.machine.handle(event, Now { ms: self.now_ms, unix_ms: 1_760_000_000_000 + self.now_ms });
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    /// Answers proposals until there are none; returns how many txns were proposed.
    fn settle(&mut self, mut outputs: Vec<Output>) -> u64 {
        let mut txns = 0;
        while let Some(output) = outputs.pop() {
            let Output::Propose { ticket, remote } = output else { continue };
            let count = match &remote {
                Remote::Txns(all) => {
                    for txn in all {
                        self.view.oplog_end += 1;
                        if let Ok(head) = TxnHead::decode(txn) {
                            self.view.vector.advance(head.dot);
                        }
                    }
                    txns += all.len() as u64;
                    all.len()
                }
                _ => 1,
            };
            let moved = self.moved();
            outputs.extend(self.give(moved));
            let result = Ok(vec![RemoteOutcome::Applied; count]);
            outputs.extend(self.give(Event::Proposed { ticket, result }));
        }
        txns
    }
}

fn receive(times: u64) -> Result<(), String> {
    let (mut linked, mut chain) = (Linked::new()?, Chain::new("b"));
    for _ in 0..times {
        linked.now_ms += STEP_MS;
        let event = Event::Received { conn: CONN, message: Message::Txns(chain.batch()) };
        let proposed = measured(|| {
            let outputs = linked.give(event);
            linked.settle(outputs)
        });
        if proposed != TXNS {
            return Err(format!("{proposed} txns were proposed"));
        }
    }
    Ok(())
}

fn send(times: u64) -> Result<(), String> {
    let (mut linked, mut chain) = (Linked::new()?, Chain::new("a"));
    for _ in 0..times {
        linked.now_ms += STEP_MS;
        let first = linked.view.oplog_end + 1;
        let entries: Vec<(u64, Bytes)> = (first..).zip(chain.batch()).collect();
        linked.view.oplog_end += TXNS;
        linked.view.vector.set(chain.own.origin(), chain.seq);
        let acked = linked.view.vector.clone();
        let sent = measured(|| {
            let event = linked.moved();
            let mut outputs = linked.give(event);
            let mut sent = 0;
            while let Some(output) = outputs.pop() {
                match output {
                    Output::ReadOplog { conn, ticket, .. } => {
                        let next = linked.view.oplog_end + 1;
                        let chunk = OplogChunk { entries: entries.clone(), next };
                        outputs.extend(linked.give(Event::OplogRead { conn, ticket, result: Ok(chunk) }));
                    }
                    Output::Send { message: Message::Txns(txns), .. } => sent += txns.len() as u64,
                    _ => {}
                }
            }
            linked.give(Event::Received { conn: CONN, message: Message::Ack(acked) });
            sent
        });
        if sent != TXNS {
            return Err(format!("{sent} txns were sent"));
        }
    }
    Ok(())
}
