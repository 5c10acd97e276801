//! Everything that parses bytes from outside a process, each as one function over bytes.
//!
//! The fuzz targets in `fuzz/` and the property test in `tests/parsers.rs` call the same functions. Each must return,
//! whatever it is given: no panic, no overflow of the stack, no memory out of proportion. And what it accepts must mean
//! the same after it was written and read once more.

pub mod documents;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use meridian::config::Config;
use meridian::seams::{Disk as _, InlineExecutor, Seams, SimDisk};
use meridian::shard::forward;
use meridian::storage::{Folder, FolderConfig, Identity, Opened, StorageError};
use meridian::txn::entry::{ClientTxn, Entry, Item};
use meridian_client::wire::frame::{Frame, Request, RequestId, Verb};
use meridian_client::wire::{ApiError, Cursor, ErrorCode, Token, headers, json, request, token};
use meridian_crdt::{
    Add, Condition, CounterOp, Ctx, DigestDeltas, Dot, Key, KeyEffect, Limits, MapOp, MemCells, Mutation,
    Origin, OriginName, RegisterOp, SetOp, Txn, TxnHead, Value, Vector, apply, execute, validate,
};
use meridian_gossip::proto::message::Message;
use redb::StorageBackend as _;

/// A parser of bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Parser {
    /// Its name: the fuzz target's.
    pub name: &'static str,
    /// Parses, and checks what it accepts.
    pub parse: fn(&[u8]),
    /// Bytes that are accepted, to start from.
    pub samples: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const PARSERS: [Parser; 13] = [
    Parser { name: "http_bodies", parse: http_bodies, samples: http_samples },
    Parser { name: "http_headers", parse: http_headers, samples: header_samples },
    Parser { name: "native_frames", parse: native_frames, samples: frame_samples },
    Parser { name: "tokens", parse: tokens, samples: token_samples },
    Parser { name: "gossip_messages", parse: gossip_messages, samples: gossip_samples },
    Parser { name: "txns", parse: txns, samples: txn_samples },
    Parser { name: "log_entries", parse: log_entries, samples: entry_samples },
    Parser { name: "forwarded_requests", parse: forwarded_requests, samples: forward_samples },
    Parser { name: "raft_frames", parse: raft_frames, samples: raft_samples },
    Parser { name: "log_files", parse: log_files, samples: log_file_samples },
    Parser { name: "editor_frames", parse: documents::editor_frames, samples: documents::frame_samples },
    Parser { name: "document_updates", parse: documents::updates, samples: documents::update_samples },
    Parser { name: "config_files", parse: config_files, samples: config_samples },
];

/// Bodies of `POST` requests: values, mutations and txns in JSON.
pub fn http_bodies(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    if let Ok(value) = json::to_value(&body) {
        let again = json::to_value(&json::from_value(&value)).expect("what was written can be read");
        assert_eq!(again, value);
        let bytes = value.to_bytes();
        assert_eq!(Value::from_bytes(&bytes).expect("what was written can be read"), value);
    }
    request::mutation(body.clone()).ok();
    request::txn("space", body).ok();
}

fn http_samples() -> Vec<Vec<u8>> {
    [
        r#"{"type":"counter","op":"add","by":-5}"#,
        r#"{"type":"map","op":"update","field":"name","do":{"type":"register","op":"set","value":"Ann"}}"#,
        r#"{"type":"set","op":"add_all","elements":[1,2.5,"x",null,{"$bytes":"AAEC"},[true]]}"#,
        r#"{"if":[{"key":"k","absent":true},{"key":"k","value":[1]}],"ops":[{"key":"k","op":"delete"}]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Values of the `Meridian-*` headers, keys, spaces and versions.
pub fn http_headers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    headers::consistency(text).ok();
    headers::commit(text).ok();
    headers::wait(text).ok();
    headers::request_id(text).ok();
    request::version(text).ok();
    let (space, key) = text.split_at(text.floor_char_boundary(text.len() / 2));
    if let Ok(read) = request::key(space, key) {
        assert_eq!((read.space.as_str(), read.key.as_str()), (space, key));
    }
}

fn header_samples() -> Vec<Vec<u8>> {
    ["linearizable", "dcs:2", "all", "250ms", "30s", "request-17", "9f3c0000000000000000000000000000", "ab"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// Frames of the native protocol, in both directions, and cursors of watches.
pub fn native_frames(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    if let Ok(frame) = Frame::decode(bytes) {
        // Particulars of an error that no value can hold are left out when it is told on.
        let is_error = matches!(&frame, Frame::Answer { outcome: Err(_), .. });
        let again = Frame::decode(&frame.clone().encode()).expect("what was written can be read");
        assert!(is_error || again == frame, "{again:?} was {frame:?}");
    }
    if let Ok(cursor) = Cursor::from_bytes(bytes) {
        assert_eq!(Cursor::from_bytes(&cursor.to_bytes()), Ok(cursor));
    }
}

fn frame_samples() -> Vec<Vec<u8>> {
    let key = Key::new("default", "k").expect("valid");
    let add = Mutation::Counter(CounterOp::Add(5));
    let mut write = Request::new(1, Verb::Write { key: key.clone(), mutation: add.clone() });
    write.session = Some(Token::new(7).to_bytes());
    write.request_id = Some(RequestId::Number { client: [3; 16], number: 4 });
    let txn = Verb::Txn {
        space: "default".into(),
        conditions: vec![(key.clone(), Condition::Absent)],
        ops: vec![(key.clone(), add), (key, Mutation::Delete(None))],
    };
    let error = ApiError::new(ErrorCode::NotCaughtUp, "behind").with("behind_txns", 3);
    let answer = |outcome| Frame::Answer { id: 1, outcome, session: Some(vec![1]), staleness: Vec::new() };
    let body = || [("value".to_owned(), Value::Float(1.5))].into();
    vec![
        write.encode(),
        Request::new(2, txn).encode(),
        answer(Ok(body())).encode(),
        answer(Err(error)).encode(),
        Frame::Event { id: 3, body: body() }.encode(),
        Cursor::new(7, [Dot::new(Origin(1), 300)].into_iter().collect()).to_bytes(),
    ]
}

/// Session tokens, as bytes and as text.
pub fn tokens(bytes: &[u8]) {
    if let Ok(token) = Token::from_bytes(bytes) {
        assert_eq!(token.to_bytes(), bytes, "a token has one form");
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = Token::from_text(text)
    {
        assert_eq!(Token::from_text(&token.to_text()).expect("what was written can be read"), token);
    }
}

fn token_samples() -> Vec<Vec<u8>> {
    let mut token = Token::new(token::cluster_id("shop"));
    let empty = token.to_bytes();
    token.dots = vector();
    vec![empty, token.to_bytes(), token.to_text().into_bytes()]
}

/// Messages between DCs.
pub fn gossip_messages(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    // What was just below the limit may be above it in its longer, regular form.
    if let Ok(written) = message.encode() {
        assert_eq!(Message::decode(&written).expect("what was written can be read"), message);
    }
    if let Message::Txns(txns_in) = message {
        txns_in.iter().for_each(|txn| txns(txn));
    }
}

fn gossip_samples() -> Vec<Vec<u8>> {
    let name = OriginName { dc: "eu-west".into(), epoch: uuid::Uuid::from_u128(7) };
    let txn = Bytes::from(txn_samples().remove(0));
    [
        Message::Refuse { why: "no".into() },
        Message::Origins(vec![name]),
        Message::Txns(vec![txn.clone()]),
        Message::Part { total: 1 << 20, data: txn },
        Message::Ack(vector()),
        Message::Want { have: vector(), upto: vector() },
        Message::Admit { life: Origin(3), stable: vector() },
    ]
    .iter()
    .map(|message| message.encode().expect("a small message").to_vec())
    .collect()
}

/// Encoded txns: what is valid can also be applied.
pub fn txns(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    TxnHead::decode(&bytes).ok();
    let Ok(txn) = Txn::decode(&bytes) else { return };
    assert_eq!(Txn::decode(&txn.encode()).expect("what was written can be read"), txn);
    if validate(&txn).is_ok() {
        let mut deps = txn.head.deps.clone();
        deps.set(txn.head.dot.origin, txn.head.dot.seq - 1);
        let stable = Vector::new();
        let ctx = Ctx { dot: txn.head.dot, hlc: txn.head.hlc, deps: &deps, index: 1, stable: &stable };
        let (mut cells, mut digests) = (MemCells::new(), DigestDeltas::default());
        apply(&mut cells, &ctx, &txn.effects, &mut digests).expect("memory does not fail");
        digests.write(&mut cells).expect("memory does not fail");
    }
}

fn mutations() -> Vec<(Key, Mutation)> {
    let key = |name: &str| Key::new("space", name).expect("a key");
    let update = |field: &str, mutation| {
        Mutation::Map(MapOp::Update { field: field.into(), mutation: Box::new(mutation) })
    };
    vec![
        (key("counter"), Mutation::Counter(CounterOp::Add(5))),
        (key("map"), update("a", update("b", Mutation::Register(RegisterOp::Set(Value::Int(1)))))),
        (
            key("register"),
            Mutation::Register(RegisterOp::Set(Value::Array(vec![Value::Nil, Value::Bool(true)]))),
        ),
        (key("set"), Mutation::Set(SetOp::Add(Value::Str("x".into())))),
    ]
}

fn txn_samples() -> Vec<Vec<u8>> {
    let (deps, stable) = (vector(), Vector::new());
    let dot = Dot::new(Origin(3), 1);
    let ctx = Ctx { dot, hlc: 77, deps: &deps, index: 1, stable: &stable };
    let done = execute(&MemCells::new(), &ctx, &mutations(), &Limits::default()).expect("accepted");
    let head = TxnHead { dot, hlc: 77, prev: 9, deps: deps.clone() };
    let removal = KeyEffect {
        space: "space".into(),
        key: "set".into(),
        removes: done.effects.iter().flat_map(|effect| &effect.adds).take(1).map(removal).collect(),
        adds: Vec::new(),
    };
    let effects = [done.effects, vec![removal]];
    effects.map(|effects| Txn { head: head.clone(), effects }.encode().to_vec()).to_vec()
}

fn removal(add: &Add) -> meridian_crdt::Removal {
    meridian_crdt::Removal { path: add.path.clone(), prefix: false }
}

/// Entries of the Raft log, as other nodes of the DC send them.
pub fn log_entries(bytes: &[u8]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    let written = entry.encode().expect("what was read can be written");
    // Floats that are no number are not equal to themselves: the bytes are compared.
    let again = Entry::decode(&written).expect("what was written can be read");
    assert_eq!(again.encode().expect("what was read can be written"), written);
    for item in &entry.items {
        match item {
            Item::Client(txn) => {
                txn.fingerprint().ok();
            }
            Item::Remote(txn) => txns(txn),
            _ => {}
        }
    }
}

fn entry_samples() -> Vec<Vec<u8>> {
    let conditions = vec![(Key::new("space", "k").expect("a key"), Condition::Value(Value::Int(4)))];
    let client = ClientTxn {
        id: Some("request".into()),
        hlc: 8,
        conditions,
        ops: mutations(),
        reads: Vec::new(),
        number: None,
        settle: false,
        asked: None,
    };
    let name = OriginName { dc: "eu-west".into(), epoch: uuid::Uuid::from_u128(5) };
    let items = vec![
        Item::Client(client),
        Item::Remote(Bytes::from(txn_samples().remove(0))),
        Item::Report { member: Origin(3), vector: vector() },
        Item::Members(vec!["eu-west".into()]),
        Item::Tidy { rows_max: 10 },
        Item::Mint { name, lost: Some(Dot::new(Origin(2), 4)), ends: Some(Origin(2)) },
        Item::Admit { life: Origin(2), member: Origin(3), stable: vector() },
    ];
    vec![Entry { now_ms: 1, items }.encode().expect("a small entry").to_vec()]
}

/// The file that a node's log stands in, as a disk gives it back: the log opens with some beginning of what was written to it,
/// or says that it is corrupt.
pub fn log_files(bytes: &[u8]) {
    static DISK: LazyLock<SimDisk> = LazyLock::new(written_log);
    let disk = DISK.handover();
    let file = disk.open(Path::new(LOG_FILE), false).expect("the log has a file");
    file.write(0, &bytes[..bytes.len().min(LOG_FILE_BYTES as usize)])
        .expect("a disk in memory takes what fits");
    drop(file);
    if let Ok(opened) = open_folder(&disk) {
        let entries = opened.log.read(0..u64::MAX, usize::MAX).unwrap_or_default();
        let first = entries.first().map_or(0, |(index, _)| *index);
        assert!(
            entries.iter().zip(first..).all(|((index, _), wanted)| *index == wanted),
            "the log has a hole"
        );
    }
}

const LOG_FILE: &str = "/data/log.00000001";
const LOG_FILE_BYTES: u32 = 16 << 10;

fn open_folder(disk: &SimDisk) -> Result<Opened, StorageError> {
    let executor = Arc::new(InlineExecutor);
    let seams = Seams { disk: Arc::new(disk.clone()), executor, ..Seams::production() };
    let identity = Identity { cluster: "c".into(), dc: "a".into(), node: 1 };
    let mut config = FolderConfig::new("/data", identity);
    config.log_segment_bytes = LOG_FILE_BYTES;
    config.state_cache_bytes = 1 << 20;
    Folder::open(config, &seams)
}

fn written_log() -> SimDisk {
    let disk = SimDisk::new();
    let opened = open_folder(&disk).expect("an empty disk takes a folder");
    for index in 1..=5u8 {
        opened
            .log
            .append(vec![(index.into(), Bytes::from(vec![index; 100]))], |done| done.expect("it is written"));
    }
    drop(opened);
    disk
}

fn log_file_samples() -> Vec<Vec<u8>> {
    let file = written_log().open(Path::new(LOG_FILE), false).expect("the log has a file");
    let mut bytes = vec![0; 2048];
    file.read(0, &mut bytes).expect("it was written");
    vec![bytes]
}

/// What nodes of a DC say to each other about their log, apart from the entries' contents.
pub fn raft_frames(bytes: &[u8]) {
    meridian::raft::understands(bytes);
}

fn raft_samples() -> Vec<Vec<u8>> {
    // A request for a vote, as the node's own tests have it, then for a transfer, for appending nothing, and a probe.
    let vote = [0x93, 0x92, 0x92, 3, 1, 0xc2, 0x92, 2, 9, 0xc2];
    let frame = |kind: u8, body: &[u8]| [&[1, kind], body].concat();
    vec![
        frame(2, &vote),
        frame(3, &vote),
        frame(4, &[0x93, 0x92, 0x92, 3, 1, 0xc2, 2, 0x92, 2, 9]),
        frame(1, &[0x94, 0x92, 0x92, 3, 1, 0xc3, 0x92, 2, 9, 0x90, 0x92, 2, 9]),
        frame(5, &[]),
    ]
}

/// What nodes of a DC ask each other on behalf of clients, and answer.
pub fn forwarded_requests(bytes: &[u8]) {
    if let Ok(request) = forward::decode::<forward::Request>(bytes) {
        let written = forward::encode(&request).expect("what was read can be written");
        forward::decode::<forward::Request>(&written).expect("what was written can be read");
    }
    if let Ok(response) = forward::decode::<forward::Response>(bytes) {
        let written = forward::encode(&response).expect("what was read can be written");
        forward::decode::<forward::Response>(&written).expect("what was written can be read");
    }
}

fn forward_samples() -> Vec<Vec<u8>> {
    let write = forward::WriteRequest {
        id: None,
        conditions: Vec::new(),
        ops: mutations(),
        session: vector(),
        wait_ms: 250,
        bytes: 99,
        reads: Vec::new(),
        settle: false,
        asked: Some(3),
    };
    let requests = [
        forward::encode(&forward::Request::Write(Box::new(write))),
        forward::encode(&forward::Request::Held { dot: Dot::new(Origin(1), 2), count: 2, wait_ms: 5 }),
        forward::encode(&forward::Response::Held(vec!["eu-west".into()])),
        forward::encode(&forward::Response::Lag(
            [("eu-west".into(), forward::Lag { txns: 1, ms: 2 })].into(),
        )),
    ];
    requests.into_iter().map(|bytes| bytes.expect("a small message").to_vec()).collect()
}

/// Configuration files.
pub fn config_files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse("fuzz.toml", text, None, std::iter::empty(), &[]) {
        assert!(!error.problems.is_empty(), "a refusal says what is wrong");
    }
}

fn config_samples() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../configs/single.toml").to_vec(),
        include_bytes!("../../configs/three-node.toml").to_vec(),
        include_bytes!("../../configs/eu-west.toml").to_vec(),
    ]
}

fn vector() -> Vector {
    [Dot::new(Origin(1), 7), Dot::new(Origin(0xffff_ffff), 1 << 40)].into_iter().collect()
}
