//! A datacenter in a few lines, for the tests of this crate.

use std::cell::Cell as Count;
use std::convert::Infallible;

use bytes::Bytes;

use crate::cells::{Cells, MemCells, ReadCells, Table, Visit};
use crate::execute::{ExecuteError, Executed};
use crate::{
    Ctx, DigestDeltas, Dot, Key, Limits, Mutation, Origin, Query, ReadValue, Refusal, Txn, TxnHead, Value,
    Vector, apply, digest, execute, read, sweep, validate,
};

/// Rows in memory that count how they are used.
#[derive(Debug, Default)]
pub struct CountingCells {
    pub rows: MemCells,
    pub reads: Count<usize>,
    pub scanned: Count<usize>,
    pub writes: usize,
}

impl ReadCells for CountingCells {
    type Error = Infallible;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        self.reads.set(self.reads.get() + 1);
        self.rows.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Infallible> {
        self.rows.scan(table, from, to, &mut |key, value| {
            self.scanned.set(self.scanned.get() + 1);
            visit(key, value)
        })
    }
}

impl Cells for CountingCells {
    fn put(&mut self, table: Table, key: &[u8], value: Bytes) -> Result<(), Infallible> {
        self.writes += 1;
        self.rows.put(table, key, value)
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Infallible> {
        self.writes += 1;
        self.rows.remove(table, key)
    }
}

pub fn key() -> Key {
    Key::new("default", "k").expect("well formed")
}

pub fn text(s: &str) -> Value {
    Value::Str(s.into())
}

#[derive(Debug)]
pub struct Replica {
    pub cells: CountingCells,
    pub vector: Vector,
    pub origin: Origin,
    pub stable: Vector,
    pub index: u64,
}

impl Replica {
    pub fn new(origin: u32) -> Self {
        Self {
            cells: CountingCells::default(),
            vector: Vector::new(),
            origin: Origin(origin),
            stable: Vector::new(),
            index: 0,
        }
    }

    pub fn execute(&self, ops: &[(Key, Mutation)]) -> Result<Executed, ExecuteError<Infallible>> {
        let dot = Dot::new(self.origin, self.vector.get(self.origin) + 1);
        let ctx = Ctx { dot, hlc: 0, deps: &self.vector, index: self.index + 1, stable: &self.stable };
        execute(&self.cells, &ctx, ops, &Limits::default())
    }

    /// The refusal of a request that must be refused.
    pub fn refusal(&self, mutation: Mutation) -> Refusal {
        match self.execute(&[(key(), mutation)]) {
            Err(ExecuteError::Refused { refusal, .. }) => refusal,
            other => panic!("was not refused: {other:?}"),
        }
    }

    /// Commits a request, stamped `hlc`. Its txn carries the whole deps.
    pub fn commit(&mut self, hlc: u64, ops: &[(Key, Mutation)]) -> (Txn, Vec<Option<Value>>) {
        let done = self.execute(ops).expect("is accepted");
        let dot = Dot::new(self.origin, self.vector.get(self.origin) + 1);
        let mut deps = self.vector.clone();
        deps.set(self.origin, 0);
        let txn = Txn { head: TxnHead { dot, hlc, prev: 0, deps }, effects: done.effects };
        if !txn.effects.is_empty() {
            self.receive(&txn);
        }
        (txn, done.results)
    }

    pub fn write(&mut self, hlc: u64, mutation: Mutation) -> Txn {
        self.commit(hlc, &[(key(), mutation)]).0
    }

    pub fn receive(&mut self, txn: &Txn) {
        let encoded = txn.encode();
        let txn = Txn::decode(&encoded).expect("own encoding");
        validate(&txn).expect("own effects");
        let dot = txn.head.dot;
        let mut deps = txn.head.deps.clone();
        deps.set(dot.origin, dot.seq - 1);
        assert!(self.vector.covers_all(&deps), "deps are applied first");
        self.index += 1;
        let ctx = Ctx { dot, hlc: txn.head.hlc, deps: &deps, index: self.index, stable: &self.stable };
        let mut digests = DigestDeltas::default();
        apply(&mut self.cells, &ctx, &txn.effects, &mut digests).expect("memory");
        digests.write(&mut self.cells).expect("memory");
        self.vector.advance(dot);
    }

    /// Takes everything applied here as stable, and sweeps until nothing ripe is left.
    pub fn settle(&mut self) -> usize {
        self.stable = self.vector.clone();
        let mut removed = 0;
        loop {
            let swept = sweep(&mut self.cells, &self.stable, self.index + 1, 16).expect("memory");
            removed += swept.removed;
            if !swept.ripe_left {
                return removed;
            }
        }
    }

    pub fn value(&self) -> Option<Value> {
        let content = read(&self.cells, &key(), &Query::default()).expect("memory").content;
        content.map(|c| ReadValue::to_value(&c.value))
    }

    pub fn digest(&self) -> u128 {
        digest(&self.cells).expect("memory")
    }

    pub fn rows(&self, table: Table) -> usize {
        self.cells.rows.count(table)
    }
}
