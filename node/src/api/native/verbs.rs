//! What a request of the native protocol does: its terms, one call, its answer.
//!
//! Requests are counted, bounded in time and measured as HTTP's are.

use std::borrow::Cow;

use meridian_client::wire::frame::{self, Frame, Request, Staleness, Verb};
use meridian_client::wire::{ApiError, ErrorCode, Token, json};
use meridian_crdt::{Value, Vector};

use super::ANSWER_BYTES_MAX;
use super::transactions::Owned;
use crate::access::{Right, Shown};
use crate::api::calls::{self, Body, Done, Refused, Session};
use crate::api::{Api, ops};

/// What HTTP counts as its method, for requests that came in frames.
const METHOD: &str = "NATIVE";

/// Does the request and returns its answer, encoded.
pub async fn answer(api: &Api, shown: &Shown, txns: &Owned, request: Box<Request>) -> Vec<u8> {
    let id = request.id;
    let done = accounted(api, request, |request, own| async move {
        match call(api, shown, txns, request, own).await {
            frame @ Frame::Answer { outcome: Err(_), .. } => Err(Box::new(frame)),
            frame => Ok(frame),
        }
    });
    bounded(id, done.await.unwrap_or_else(|refusal| *refusal).encode())
}

/// Answers a read that this node can do as it is, without waiting for anything; all other requests come back.
pub fn answer_at_once(api: &Api, shown: &Shown, mut request: Request) -> Result<Vec<u8>, Box<Request>> {
    let Verb::Read { query, txn: None, .. } = &mut request.verb else {
        return Err(Box::new(request));
    };
    query.limit = query.limit.min(api.bounds.page_max);
    let started_ms = api.shard.seams.clock.monotonic_ms();
    // What cannot be done is refused where all requests are.
    let terms = admit(api, shown, &request.verb).and_then(|()| session(api, &request));
    let terms = terms.ok().zip(calls::enter(api).ok());
    let view = terms.and_then(|(session, counted)| {
        let view = api.shard.read_now(session.consistency, &session.dots)?;
        Some((session, counted, view))
    });
    let (Some((session, _counted, view)), Verb::Read { key, query, .. }) = (view, &request.verb) else {
        return Err(Box::new(request));
    };
    let id = request.id;
    let (answer, status) = match calls::read_from(api, &view, key, query) {
        Ok(Done { body, touched }) => {
            let token = match &request.session {
                // The session has learnt nothing.
                Some(own) if session.dots.covers_all(&touched) => Cow::Borrowed(own),
                _ => Cow::Owned(token(api, &session, &touched)),
            };
            let fields = calls::content_fields(&body);
            (frame::encode_done(id, &fields, Some(&token), &staleness(api)), 200)
        }
        Err(refused) => {
            let status = refused.error.code.status();
            (data_answer(api, id, &session, Err(refused)).encode(), status)
        }
    };
    let took_ms = api.shard.seams.clock.monotonic_ms().saturating_sub(started_ms);
    api.metrics.request(request.verb.name(), METHOD, status, took_ms);
    Ok(bounded(id, answer))
}

/// Counts a request, refuses it when the node has too many, bounds its time and measures it. The request is handed on
/// with the token that an answer carries which has learnt nothing.
pub async fn accounted<T, F>(
    api: &Api,
    request: Box<Request>,
    act: impl FnOnce(Box<Request>, Option<Vec<u8>>) -> F,
) -> Result<T, Box<Frame>>
where
    F: Future<Output = Result<T, Box<Frame>>>,
{
    let (id, route) = (request.id, request.verb.name());
    let started_ms = api.shard.seams.clock.monotonic_ms();
    let own = own_token(api, &request);
    let done = match calls::enter(api) {
        Err(error) => Err(Box::new(refusal(id, error, own))),
        Ok(_counted) => {
            let acting = act(request, own.clone());
            let acting = tokio::time::timeout(api.bounds.request_timeout, acting);
            acting.await.unwrap_or_else(|_| Err(Box::new(refusal(id, calls::took_too_long(), own))))
        }
    };
    let status = match done.as_ref().map_err(Box::as_ref) {
        Err(Frame::Answer { outcome: Err(error), .. }) => error.code.status(),
        _ => 200,
    };
    let took_ms = api.shard.seams.clock.monotonic_ms().saturating_sub(started_ms);
    api.metrics.request(route, METHOD, status, took_ms);
    done
}

/// An answer of no more than the client was told.
fn bounded(id: u64, bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() <= ANSWER_BYTES_MAX {
        return bytes;
    }
    let message = format!("the answer is above {ANSWER_BYTES_MAX} bytes; ask for smaller pages");
    refusal(id, ApiError::new(ErrorCode::TooLarge, message).with("limit", ANSWER_BYTES_MAX), None).encode()
}

/// The request's token, if it has one that is valid here: an answer that has learnt nothing still carries it.
fn own_token(api: &Api, request: &Request) -> Option<Vec<u8>> {
    let token = Token::from_bytes(request.session.as_deref()?).ok()?;
    (token.cluster == api.cluster).then(|| token.to_bytes())
}

/// An error that tells the session nothing.
pub fn refusal(id: u64, error: ApiError, session: Option<Vec<u8>>) -> Frame {
    Frame::Answer { id, outcome: Err(error), session, staleness: Vec::new() }
}

async fn call(api: &Api, shown: &Shown, txns: &Owned, request: Box<Request>, own: Option<Vec<u8>>) -> Frame {
    let id = request.id;
    if request.verb == Verb::Status {
        let outcome = status(api);
        return Frame::Answer { id, outcome, session: own, staleness: Vec::new() };
    }
    let session = match admit(api, shown, &request.verb).and_then(|()| session(api, &request)) {
        Ok(session) => session,
        Err(error) => return refusal(id, error, own),
    };
    let outcome = about_data(api, txns, &session, request.verb).await;
    data_answer(api, id, &session, outcome)
}

/// Refuses what the access tokens of a connection do not allow. What an open transaction holds was judged when it came in.
pub fn admit(api: &Api, shown: &Shown, verb: &Verb) -> Result<(), ApiError> {
    let (read, write) = match verb {
        Verb::Read { key, ops, .. } => (Some(&key.space), &ops[..]),
        Verb::List { space, ops, .. } => (Some(space), &ops[..]),
        Verb::Watch { space, .. } => (Some(space), &[][..]),
        Verb::Write { key, .. } => return api.access.check(&key.space, shown, Right::Write),
        Verb::Txn { space, .. } => return api.access.check(space, shown, Right::Write),
        Verb::Commit { ops, .. } => (None, &ops[..]),
        Verb::Hello { .. } | Verb::Status | Verb::Begin { .. } | Verb::Abort { .. } | Verb::Stop { .. } => {
            return Ok(());
        }
    };
    read.map_or(Ok(()), |space| api.access.check(space, shown, Right::Read))?;
    write.iter().try_for_each(|(key, _)| api.access.check(&key.space, shown, Right::Write))
}

/// The terms that a request names.
pub fn session(api: &Api, request: &Request) -> Result<Session, ApiError> {
    let token = request.session.as_deref().map(Token::from_bytes).transpose()?;
    calls::session(api, token, request.consistency, request.wait, request.commit, request.request_id.clone())
}

/// The answer to a call about data.
pub fn data_answer(api: &Api, id: u64, session: &Session, outcome: calls::Result) -> Frame {
    let (outcome, touched) = match outcome {
        Ok(Done { body, touched }) => (Ok(body), touched),
        Err(refused) => {
            let Refused { error, touched } = *refused;
            (Err(error), touched)
        }
    };
    Frame::Answer { id, outcome, session: Some(token(api, session, &touched)), staleness: staleness(api) }
}

fn token(api: &Api, session: &Session, touched: &Vector) -> Vec<u8> {
    calls::token_after(api, session, touched).to_bytes()
}

fn staleness(api: &Api) -> Vec<Staleness> {
    api.shard.lag_with(|dc, lag| Staleness { dc: dc.to_owned(), ms: lag.ms, txns: lag.txns })
}

async fn about_data(api: &Api, txns: &Owned, session: &Session, verb: Verb) -> calls::Result {
    match verb {
        Verb::Read { key, mut query, txn, ops } => {
            query.limit = query.limit.min(api.bounds.page_max);
            match txn {
                Some(txn) => txns.read(api, txn, &key, &query, ops).await,
                None => calls::read(api, session, &key, &query).await,
            }
        }
        Verb::List { space, prefix, after, limit, txn, ops } => {
            let limit = limit.min(api.bounds.page_max);
            match txn {
                Some(txn) => txns.list(api, txn, (&space, &prefix), after.as_deref(), limit, ops).await,
                None => calls::list(api, session, &space, &prefix, after.as_deref(), limit).await,
            }
        }
        Verb::Write { key, mutation } => calls::write(api, session, key, mutation).await,
        Verb::Txn { conditions, ops, .. } => calls::txn(api, session, conditions, ops).await,
        Verb::Begin { isolation } => Box::pin(txns.begin(api, session, isolation)).await,
        Verb::Commit { txn, ops, .. } => Box::pin(txns.commit(api, session, txn, ops)).await,
        Verb::Abort { txn } => txns.abort(api, txn).await,
        Verb::Hello { .. } | Verb::Status | Verb::Watch { .. } | Verb::Stop { .. } => {
            // The connection answers these itself.
            Err(ApiError::new(ErrorCode::Internal, "the request was not understood by its connection").into())
        }
    }
}

fn status(api: &Api) -> Result<Body, ApiError> {
    match json::to_value(&ops::status_json(api)?)? {
        Value::Map(body) => Ok(body),
        _ => Err(ApiError::new(ErrorCode::Internal, "the status has no fields")),
    }
}

/// The answer to hello.
pub fn welcome(api: &Api, id: u64, version: u64) -> Frame {
    let number = |n: usize| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let ms = |time: std::time::Duration| Value::Int(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    let bounds = &api.bounds;
    let limits = [
        ("frame_bytes_max", number(bounds.session.frame_bytes_max)),
        ("answer_bytes_max", number(ANSWER_BYTES_MAX)),
        ("in_flight_max", number(bounds.session.in_flight_max)),
        ("page_max", number(bounds.page_max)),
        ("wait_ms_max", ms(bounds.wait_max)),
        ("request_ms_max", ms(bounds.request_timeout)),
        ("txn_life_ms", ms(bounds.session.txn_life)),
        ("ping_ms", ms(bounds.session.ping_interval)),
    ];
    let fields = [
        ("version", Value::Int(i64::try_from(version).unwrap_or(i64::MAX))),
        ("cluster", Value::Int(i64::from(api.cluster))),
        ("dc", Value::Str(api.shard.dc.clone())),
        ("node", Value::Int(i64::try_from(api.shard.node).unwrap_or(i64::MAX))),
        ("limits", Value::Map(limits.map(|(name, value)| (name.to_owned(), value)).into())),
    ];
    let body = fields.map(|(name, value)| (name.to_owned(), value)).into();
    Frame::Answer { id, outcome: Ok(body), session: None, staleness: Vec::new() }
}

/// The answer to stop.
pub fn stopped(id: u64, was_open: bool) -> Vec<u8> {
    let body = Body::from([("stopped".to_owned(), Value::Bool(was_open))]);
    Frame::Answer { id, outcome: Ok(body), session: None, staleness: Vec::new() }.encode()
}
