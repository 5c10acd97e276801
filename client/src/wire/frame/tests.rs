use super::*;
use meridian_crdt::{CounterOp, Dot, MapOp, Origin, RegisterOp, SetOp, Version};

fn key(name: &str) -> Key {
    Key::new("default", name).expect("valid")
}

fn ops() -> Vec<(Key, Mutation)> {
    let nested = Box::new(Mutation::Register(RegisterOp::Set(Value::Bytes(vec![0, 255]))));
    vec![
        (key("a"), Mutation::Counter(CounterOp::Add(-5))),
        (key("b"), Mutation::Map(MapOp::Update { field: "f".into(), mutation: nested })),
        (key("c"), Mutation::RwSet(SetOp::AddAll(vec![Value::Nil, Value::Float(1.5)]))),
        (key("d"), Mutation::Delete(None)),
        (key("e"), Mutation::Delete(Some(meridian_crdt::Type::Set))),
    ]
}

fn verbs() -> Vec<Verb> {
    let query = Query { limit: 7, element: Some(Value::Int(3)), ..Query::default() };
    let conditions = vec![
        (key("a"), Condition::Absent),
        (key("b"), Condition::Version(Version(77))),
        (key("c"), Condition::Contains(Value::Str("x".into()))),
        (key("d"), Condition::Incarnations(vec![Dot::new(Origin(7), 12)])),
    ];
    vec![
        Verb::Hello { versions: vec![1, 2], client: "test".into(), access: Vec::new() },
        Verb::Hello {
            versions: vec![1],
            client: "test".into(),
            access: vec![AccessToken::new("a-secret").expect("a token")],
        },
        Verb::Status,
        Verb::Read { key: key("é"), query: query.clone(), txn: None, ops: vec![] },
        Verb::Read { key: key("k"), query, txn: Some(9), ops: ops() },
        Verb::List {
            space: "s".into(),
            prefix: "p".into(),
            after: Some("pa".into()),
            limit: 3,
            txn: None,
            ops: vec![],
        },
        Verb::Write { key: key("k"), mutation: Mutation::Delete(None) },
        Verb::Write { key: key("k"), mutation: Mutation::Counter(CounterOp::Reset) },
        Verb::Txn { space: "default".into(), conditions, ops: ops() },
        Verb::Begin { isolation: Isolation::Snapshot },
        Verb::Commit { txn: 9, space: "default".into(), ops: ops() },
        Verb::Abort { txn: 9 },
        Verb::Watch {
            space: "default".into(),
            watched: Watched::Key("k".into()),
            from: Some("c".into()),
            values: true,
        },
        Verb::Stop { watch: 4 },
    ]
}

#[test]
fn requests_round_trip() {
    for verb in verbs() {
        let mut request = Request::new(3, verb);
        assert_eq!(Request::decode(&request.encode()), Ok(request.clone()));
        request.session = Some(vec![1, 2, 3]);
        request.consistency = Consistency::Linearizable;
        request.wait = Some(Duration::from_millis(250));
        request.commit = Commit::Dcs(2);
        request.request_id = Some(RequestId::Number { client: [7; 16], number: 12 });
        assert_eq!(Request::decode(&request.encode()), Ok(request.clone()));
        request.request_id = Some(RequestId::Text("r-1".into()));
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
}

#[test]
fn the_bytes_of_a_request_do_not_change() {
    let add = Verb::Write { key: key("k"), mutation: Mutation::Counter(CounterOp::Add(5)) };
    let mut golden = vec![0x93, 3, 0xa5];
    golden.extend_from_slice(b"write\x83\xa3key\xa1k\xa8mutation\x83\xa2by\x05\xa2op\xa3add");
    golden.extend_from_slice(b"\xa4type\xa7counter\xa5space\xa7default");
    assert_eq!(Request::new(3, add).encode(), golden);
}

#[test]
fn each_mistake_has_its_code_and_the_id_of_its_request() {
    let frame = |verb: &str, args: &[(&str, Value)]| {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let frame = Value::Array(vec![Value::Int(5), Value::Str(verb.into()), Value::Map(args)]);
        Request::decode(&msgpack::to_vec(&frame)).map_err(|(id, e)| (id, e.code))
    };
    let wrong = |code| Err((Some(5), code));
    let key = ("key", Value::Str("k".into()));
    assert_eq!(frame("fly", &[]), wrong(ErrorCode::UnknownOp));
    assert_eq!(frame("read", &[]), wrong(ErrorCode::BadValue));
    assert_eq!(frame("read", &[("key", Value::Str(String::new()))]), wrong(ErrorCode::BadKey));
    assert_eq!(frame("read", &[key.clone(), ("limt", Value::Int(1))]), wrong(ErrorCode::UnknownField));
    assert_eq!(frame("read", &[key.clone(), ("limit", Value::Int(0))]), wrong(ErrorCode::BadHeader));
    assert_eq!(frame("read", &[key.clone(), ("session", Value::Int(0))]), wrong(ErrorCode::BadToken));
    assert_eq!(frame("read", &[key.clone(), ("wait_ms", Value::Int(-1))]), wrong(ErrorCode::BadHeader));
    assert_eq!(frame("read", &[key.clone(), ("consistency", Value::Nil)]), wrong(ErrorCode::BadHeader));
    assert_eq!(frame("write", &[key.clone(), ("mutation", Value::Nil)]), wrong(ErrorCode::BadValue));
    assert_eq!(frame("read", &[key, ("request_id", Value::Array(vec![]))]), wrong(ErrorCode::BadHeader));
    assert_eq!(
        Request::decode(b"garbage").map_err(|(id, e)| (id, e.code)),
        Err((None, ErrorCode::BadMsgpack))
    );
    assert_eq!(Request::decode(&[0x90]).map_err(|(id, _)| id), Err(None));
}

#[test]
fn answers_and_events_round_trip() {
    let body: BTreeMap<String, Value> = [("value".to_owned(), Value::Bytes(vec![1]))].into();
    let staleness = vec![Staleness { dc: "eu".into(), ms: 12, txns: 3 }];
    let error = ApiError::new(ErrorCode::NotCaughtUp, "behind").with("behind_txns", 3).retry_after_ms(200);
    for outcome in [Ok(body.clone()), Err(error)] {
        let answer = Frame::Answer { id: 1, outcome, session: Some(vec![9]), staleness: staleness.clone() };
        assert_eq!(Frame::decode(&answer.clone().encode()), Ok(answer));
    }
    let event = Frame::Event { id: 2, body };
    assert_eq!(Frame::decode(&event.clone().encode()), Ok(event));
    assert!(Frame::decode(&[0x91, 1]).is_err());
}
