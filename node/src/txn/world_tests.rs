//! A few datacenters of two nodes each, driven by encoded entries alone, for the tests of apply.
//!
//! Each entry is applied on both nodes from its bytes; replies, rows and states must be equal (I6). After each entry
//! the oplog tells what was applied, and is checked against the vector (I2, I3) and the bounds (I5, I8): nothing that
//! arrives may be concurrent with what is stable.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{
    Cells, Dot, Key, MemCells, Mutation, OriginName, Query, Reading, Table, Txn, TxnHead, Vector, digest,
    read,
};

use super::entry::{Answer, ClientTxn, Entry, Item, Outcome, RemoteOutcome};
use super::state::tables;
use super::{ShardState, apply_entry, oplog};

/// One node: its rows and the decoded copy of its state.
#[derive(Clone)]
pub(super) struct TestNode {
    pub state: ShardState,
    pub cells: MemCells,
}

/// A datacenter of two nodes that must stay equal.
pub(super) struct TestDc {
    pub name: OriginName,
    pub nodes: [TestNode; 2],
    pub now_ms: u64,
    pub hlc: u64,
    /// What the oplog has said so far: the vector as checked txn by txn, and the whole deps of each origin's last.
    checked: Vector,
    chain_deps: BTreeMap<meridian_crdt::Origin, Vector>,
    /// Every txn ever applied here, in order.
    pub history: Vec<Bytes>,
}

pub(super) fn name(dc: &str, epoch: u128) -> OriginName {
    OriginName { dc: dc.into(), epoch: uuid::Uuid::from_u128(epoch) }
}

pub(super) fn key(k: &str) -> Key {
    Key::new("default", k).expect("valid key")
}

/// The rows that are content: all but the state row and the memory of requests.
pub(super) fn content_rows(cells: &MemCells) -> Vec<(Table, Vec<u8>, Bytes)> {
    let bookkeeping = [
        tables::META,
        tables::REQUESTS,
        tables::REQUEST_ORDER,
        tables::CLIENT_SLOTS,
        tables::CLIENTS,
        tables::CLIENT_ORDER,
    ];
    cells
        .iter()
        .filter(|(table, _, _)| !bookkeeping.contains(table))
        .map(|(table, key, value)| (table, key.to_vec(), value.clone()))
        .collect()
}

impl TestDc {
    /// A datacenter that has begun its first life and knows its members, but has met none of them.
    pub fn new(dc: &str, epoch: u128, members: &[&str]) -> Self {
        let node = TestNode { state: ShardState::new(), cells: MemCells::new() };
        let mut new = Self {
            name: name(dc, epoch),
            nodes: [node.clone(), node],
            now_ms: 1_800_000_000_000,
            hlc: 1 << 30,
            checked: Vector::new(),
            chain_deps: BTreeMap::new(),
            history: Vec::new(),
        };
        let members = members.iter().filter(|m| **m != dc).map(|m| (*m).to_owned()).collect();
        let mint = Item::Mint { name: new.name.clone(), lost: None, ends: None };
        assert_eq!(new.apply(vec![Item::Members(members), mint]), vec![Outcome::Done, Outcome::Done]);
        new
    }

    pub fn state(&self) -> &ShardState {
        &self.nodes[0].state
    }

    pub fn cells(&self) -> &MemCells {
        &self.nodes[0].cells
    }

    pub fn digest(&self) -> u128 {
        digest(self.cells()).expect("memory")
    }

    pub fn read(&self, k: &str) -> Reading {
        read(self.cells(), &key(k), &Query::default()).expect("memory")
    }

    /// The txns that last touched a key, as far as they are not forgotten.
    pub fn touched(&self, key: &Key) -> Vec<Dot> {
        meridian_crdt::glance(self.cells(), key).expect("memory").touched.iter().collect()
    }

    /// Applies `items` as one entry on both nodes, from its bytes, and checks everything that must hold then.
    pub fn apply(&mut self, items: Vec<Item>) -> Vec<Outcome> {
        let bytes = Entry { now_ms: self.now_ms, items }.encode().expect("encodes");
        let before = self.state().clone();
        let [first, second] = self.nodes.each_mut().map(|node| {
            let entry = Entry::decode(&bytes).expect("decodes");
            apply_entry(&mut node.state, &mut node.cells, entry).expect("memory")
        });
        assert_eq!(first, second, "I6: the answers differ");
        assert_eq!(self.nodes[0].cells, self.nodes[1].cells, "I6: the rows differ");
        assert_eq!(self.nodes[0].state, self.nodes[1].state, "I6: the states differ");
        assert_eq!(ShardState::load(self.cells()).expect("memory").as_ref(), Ok(self.state()));
        self.check(&before);
        first.outcomes
    }

    fn check(&mut self, before: &ShardState) {
        let after = self.nodes[0].state.clone();
        after.validate();
        assert!(after.acked.covers_all(&before.acked) && after.stable.covers_all(&before.stable), "I5");
        assert!(after.acked.covers_all(&after.oplog_floor), "I8: the oplog was cut past acked");
        for position in before.oplog_end + 1..=after.oplog_end {
            let encoded = oplog::at(self.cells(), position).expect("memory");
            let encoded = encoded.expect("what was just appended is not cut at once");
            let txn = Txn::decode(&encoded).expect("the oplog decodes");
            let dot = txn.head.dot;
            assert_eq!(dot.seq, self.checked.get(dot.origin) + 1, "I3: {dot} leaves a gap");
            let deps = self.chain_deps.entry(dot.origin).or_default();
            deps.join(&txn.head.deps);
            assert!(self.checked.covers_all(deps), "I2: {dot} came before its deps");
            let mut observed = deps.clone();
            observed.set(dot.origin, dot.seq - 1);
            let stable = &before.stable;
            assert!(observed.covers_all(stable), "I5: {dot} is concurrent with what was stable: {stable:?}");
            self.checked.advance(dot);
            self.history.push(encoded);
        }
        assert_eq!(self.checked, after.vector, "the oplog tells the vector");
    }

    /// A client's transaction, which the leader has stamped.
    pub fn client(&mut self, id: Option<&str>, ops: Vec<(Key, Mutation)>) -> Answer {
        self.conditional(id, Vec::new(), ops)
    }

    pub fn conditional(
        &mut self,
        id: Option<&str>,
        conditions: Vec<(Key, meridian_crdt::Condition)>,
        ops: Vec<(Key, Mutation)>,
    ) -> Answer {
        self.submit(ClientTxn { id: id.map(str::to_owned), conditions, ops, ..ClientTxn::default() })
    }

    /// A transaction of any kind, which the leader stamps.
    pub fn submit(&mut self, txn: ClientTxn) -> Answer {
        self.hlc += 1;
        let content = content_rows(self.cells());
        let txn = ClientTxn { hlc: self.hlc, ..txn };
        let Some(Outcome::Client(answer)) = self.apply(vec![Item::Client(txn)]).pop() else {
            panic!("a client's txn has a client's answer");
        };
        if let Answer::Refused { .. } = &answer {
            assert_eq!(content_rows(self.cells()), content, "a refused txn leaves nothing behind");
        }
        answer
    }

    /// A txn that has come from elsewhere.
    pub fn remote(&mut self, encoded: &Bytes) -> RemoteOutcome {
        let content = content_rows(self.cells());
        let Some(Outcome::Remote(outcome)) = self.apply(vec![Item::Remote(encoded.clone())]).pop() else {
            panic!("a remote txn has a remote outcome");
        };
        if outcome == RemoteOutcome::Applied {
            let head = TxnHead::decode(encoded).expect("applied");
            assert!(self.state().vector.covers(head.dot));
        } else {
            assert_eq!(content_rows(self.cells()), content, "what is not applied leaves nothing behind");
        }
        outcome
    }

    /// Puts a row on both nodes, as an older program may have left it.
    pub fn put_row(&mut self, table: Table, key: &[u8], value: &[u8]) {
        for node in &mut self.nodes {
            node.cells.put(table, key, bytes::Bytes::copy_from_slice(value)).expect("memory");
        }
    }
}
