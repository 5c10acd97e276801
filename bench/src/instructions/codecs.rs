//! Txns, cells, vectors and the frames of the native protocol.

use bytes::Bytes;
use meridian_client::wire::ApiError;
use meridian_client::wire::frame::{Frame, Request, Verb};
use meridian_crdt::cell::{Cell, Held};
use meridian_crdt::{
    Add, Dot, Key, KeyEffect, Mutation, Origin, Query, RegisterOp, Txn, TxnHead, Value, Vector, merge,
};

use super::{Case, measured_in_batches, told};
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

/// The check of a step that cannot fail.
fn fine<T>(_: T) -> Result<(), String> {
    Ok(())
}

fn txn_encode(times: u64) -> Result<(), String> {
    measured_in_batches(times, |seq| Ok(txn(seq)), |txn| txn.encode(), fine)
}

fn txn_decode(times: u64) -> Result<(), String> {
    let decode = |encoded: &mut Bytes| Txn::decode(encoded);
    measured_in_batches(times, |seq| Ok(txn(seq).encode()), decode, |txn| txn.map(drop).map_err(told))
}

fn txn_head_decode(times: u64) -> Result<(), String> {
    let decode = |encoded: &mut Bytes| TxnHead::decode(encoded);
    measured_in_batches(times, |seq| Ok(txn(seq).encode()), decode, |head| head.map(drop).map_err(told))
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
    let input = |seq| Ok((cell(seq), cell(seq + 1), vector(seq), vector(seq + 1)));
    measured_in_batches(times, input, |(a, b, va, vb)| merge::merge(a, va, b, vb), fine)
}

/// Two vectors of which the first is ahead.
fn vectors(seq: u64) -> Result<(Vector, Vector), String> {
    Ok((vector(seq + 1), vector(seq)))
}

fn vector_covers(times: u64) -> Result<(), String> {
    measured_in_batches(times, vectors, |(a, b)| a.covers_all(b), fine)
}

fn vector_join(times: u64) -> Result<(), String> {
    measured_in_batches(times, vectors, |(a, b)| b.join(a), fine)
}

fn vector_above(times: u64) -> Result<(), String> {
    measured_in_batches(times, vectors, |(a, b)| a.above(b), fine)
}

fn vector_clone(times: u64) -> Result<(), String> {
    measured_in_batches(times, |seq| Ok(vector(seq)), |a| a.clone(), fine)
}

fn request(n: u64, write: bool) -> Result<Vec<u8>, String> {
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
    Ok(request.encode())
}

fn frame_decode(times: u64, write: bool) -> Result<(), String> {
    let check = |read: Result<Request, (_, ApiError)>| read.map(drop).map_err(|(_, error)| error.message);
    measured_in_batches(times, |n| request(n, write), |frame| Request::decode(frame), check)
}

fn answer(n: u64) -> Frame {
    let body = [
        ("type", "register".to_owned()),
        ("value", value(n, n)),
        ("version", "5d1e0b6c94f7a2380c6be1f9d37a4e82".to_owned()),
    ];
    let body = body.into_iter().map(|(name, text)| (name.to_owned(), Value::Str(text))).collect();
    Frame::Answer { id: n, outcome: Ok(body), session: Some(vec![1; TOKEN_BYTES]), staleness: Vec::new() }
}

fn frame_encode(times: u64) -> Result<(), String> {
    // Encoding takes the answer.
    measured_in_batches(times, |n| Ok(Some(answer(n))), |answer| answer.take().map(Frame::encode), fine)
}
