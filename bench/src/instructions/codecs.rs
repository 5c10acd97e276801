//! Txns, cells, vectors and the frames of the native protocol.

use bytes::Bytes;
use meridian_client::wire::frame::{Frame, Request, Verb};
use meridian_crdt::cell::{Cell, Held};
use meridian_crdt::{
    Add, Dot, Key, KeyEffect, Mutation, Origin, Query, RegisterOp, Txn, TxnHead, Value, Vector, merge,
};

use super::{Case, measured, told};
use crate::op::{key_name, value};

/// Origins of the vectors and cells.
const ORIGINS: u32 = 8;
/// Bytes of a token of one origin.
const TOKEN_BYTES: usize = 21;

pub(super) const CASES: &[Case] = &[
    Case { name: "txn-encode", step: "encoding a txn with one register of 256 bytes", run: txn_encode },
    Case { name: "txn-decode", step: "decoding it", run: txn_decode },
    Case { name: "txn-head-decode", step: "decoding its head alone", run: txn_head_decode },
    Case { name: "cell-merge", step: "merging two cells of 8 origins", run: cell_merge },
    Case { name: "vector-covers-all", step: "comparing two vectors of 8 origins", run: vector_covers },
    Case { name: "vector-join", step: "joining them", run: vector_join },
    Case { name: "vector-above", step: "their difference", run: vector_above },
    Case { name: "vector-clone", step: "copying one", run: vector_clone },
    Case {
        name: "frame-decode-read",
        step: "decoding the request for a read with a token",
        run: |n| frame_decode(n, false),
    },
    Case {
        name: "frame-decode-write",
        step: "decoding the request that sets a register of 256 bytes",
        run: |n| frame_decode(n, true),
    },
    Case { name: "frame-encode-answer", step: "encoding the answer that shows it", run: frame_encode },
];

fn txn(seq: u64) -> Txn {
    let head = TxnHead { dot: Dot::new(Origin(1), seq), hlc: seq << 20, prev: seq, deps: Vector::new() };
    let add = Add { path: Bytes::from_static(&[1]), payload: value(seq, seq).into_bytes().into() };
    let effect = KeyEffect { space: "default".into(), key: key_name(seq), removes: vec![], adds: vec![add] };
    Txn { head, effects: vec![effect] }
}

fn txn_encode(times: u64) -> Result<(), String> {
    for seq in 1..=times {
        let txn = txn(seq);
        measured(|| txn.encode());
    }
    Ok(())
}

fn txn_decode(times: u64) -> Result<(), String> {
    (1..=times).try_for_each(|seq| {
        let encoded = txn(seq).encode();
        measured(|| Txn::decode(&encoded)).map(drop).map_err(told)
    })
}

fn txn_head_decode(times: u64) -> Result<(), String> {
    (1..=times).try_for_each(|seq| {
        let encoded = txn(seq).encode();
        measured(|| TxnHead::decode(&encoded)).map(drop).map_err(told)
    })
}

fn cell(seq: u64) -> Cell {
    let held = |origin| Held {
        dot: Dot::new(Origin(origin), seq + u64::from(origin % 2)),
        hlc: seq,
        payload: Bytes::from_static(b"payload"),
    };
    Cell { dots: (1..=ORIGINS).map(held).collect() }
}

fn vector(seq: u64) -> Vector {
    (1..=ORIGINS).map(|origin| Dot::new(Origin(origin), seq + u64::from(origin))).collect()
}

fn cell_merge(times: u64) -> Result<(), String> {
    for seq in 1..=times {
        let (a, b, va, vb) = (cell(seq), cell(seq + 1), vector(seq), vector(seq + 1));
        measured(|| merge::merge(&a, &va, &b, &vb));
    }
    Ok(())
}

fn vector_covers(times: u64) -> Result<(), String> {
    for seq in 1..=times {
        let (a, b) = (vector(seq + 1), vector(seq));
        measured(|| a.covers_all(&b));
    }
    Ok(())
}

fn vector_join(times: u64) -> Result<(), String> {
    for seq in 1..=times {
        let (mut a, b) = (vector(seq), vector(seq + 1));
        measured(|| a.join(&b));
    }
    Ok(())
}

fn vector_above(times: u64) -> Result<(), String> {
    for seq in 1..=times {
        let (a, b) = (vector(seq + 1), vector(seq));
        measured(|| a.above(&b));
    }
    Ok(())
}

fn vector_clone(times: u64) -> Result<(), String> {
    for seq in 1..=times {
        let a = vector(seq);
        measured(|| a.clone());
    }
    Ok(())
}

fn frame_decode(times: u64, write: bool) -> Result<(), String> {
    for n in 1..=times {
        let key = Key::new("default", key_name(n)).map_err(told)?;
        let verb = match write {
            true => {
                let mutation = Mutation::Register(RegisterOp::Set(Value::Str(value(n, n))));
                Verb::Write { key, mutation }
            }
            false => Verb::Read { key, query: Query::default(), txn: None, ops: Vec::new() },
        };
        let mut request = Request::new(n, verb);
        request.session = Some(vec![1; TOKEN_BYTES]);
        let frame = request.encode();
        measured(|| Request::decode(&frame)).map_err(|(_, error)| error.message)?;
    }
    Ok(())
}

fn frame_encode(times: u64) -> Result<(), String> {
    for n in 1..=times {
        let body = [
            ("type", "register".to_owned()),
            ("value", value(n, n)),
            ("version", "5d1e0b6c94f7a2380c6be1f9d37a4e82".to_owned()),
        ];
        let body = body.into_iter().map(|(name, text)| (name.to_owned(), Value::Str(text))).collect();
        let session = Some(vec![1; TOKEN_BYTES]);
        let answer = Frame::Answer { id: n, outcome: Ok(body), session, staleness: Vec::new() };
        measured(|| answer.encode());
    }
    Ok(())
}
