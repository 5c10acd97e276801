//! Handlers for operators and their tools: status, health, readiness, metrics, and faults where they are allowed.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use meridian_client::wire::{ApiError, ErrorCode};
use serde_json::{Map, Value as Json, json};

use super::Api;
use super::answer::{Failure, json_response};
use super::extract::JsonBody;
use crate::txn::ShardState;

/// When to ask a node again that is not ready, in milliseconds.
const READY_AGAIN_MS: u64 = 500;

/// `GET /healthz`: the process serves requests.
pub async fn healthz() -> Response {
    json_response(StatusCode::OK, &json!({"ok": true}))
}

/// `GET /readyz`: this node has recovered, and its datacenter has a leader.
pub async fn readyz(State(api): State<Api>) -> Result<Response, Failure> {
    if !*api.shard.ready.borrow() {
        let message = "this node has not yet applied what was committed when it started";
        return Err(ApiError::new(ErrorCode::NoQuorum, message).retry_after_ms(READY_AGAIN_MS).into());
    }
    let leadership = api.shard.raft.leadership_now();
    match leadership.leader {
        Some(leader) if leader != api.shard.node || leadership.leading => {
            Ok(json_response(StatusCode::OK, &json!({"ok": true})))
        }
        _ => {
            let none = ApiError::new(ErrorCode::NoLeader, "this datacenter has no leader at the moment");
            Err(none.retry_after_ms(READY_AGAIN_MS).into())
        }
    }
}

/// `GET /v1/status`
pub async fn status(State(api): State<Api>) -> Result<Response, Failure> {
    Ok(json_response(StatusCode::OK, &status_json(&api)?))
}

/// What this node is and has.
pub fn status_json(api: &Api) -> Result<Json, ApiError> {
    let shard = &api.shard;
    let raft = shard.raft.status();
    // One view, so that all that is told of the state is of one moment.
    let internal = |why: String| ApiError::new(ErrorCode::Internal, why);
    let view = shard.store.view();
    let loaded = ShardState::load(&view).map_err(|e| internal(e.to_string()))?;
    let state = loaded.map_err(|e| internal(e.to_string()))?;
    let digest = meridian_crdt::digest(&view).map_err(|e| internal(e.to_string()))?;
    // Lives of one datacenter are shown under its name: the current one by itself, earlier ones with their id.
    let label = |origin: meridian_crdt::Origin| {
        let dc = state.dc_of(origin).unwrap_or("unknown").to_owned();
        let current =
            state.own == Some(origin) || state.members.values().any(|peer| peer.origin == Some(origin));
        if current { dc } else { format!("{dc}#{origin}") }
    };
    let shown = |vector: &meridian_crdt::Vector| -> Map<String, Json> {
        vector.iter().map(|dot| (label(dot.origin), dot.seq.into())).collect()
    };
    let lag = shard.lag();
    let origins: Map<String, Json> =
        lag.iter().map(|(dc, lag)| (dc.clone(), json!({"lag_txns": lag.txns, "lag_ms": lag.ms}))).collect();
    let links: Vec<Json> = shard
        .gossip
        .status()
        .borrow()
        .links
        .iter()
        .map(|link| {
            json!({
                "dc": link.dc, "connected": link.connected, "node": link.node,
                "lag_txns": link.lag_txns, "lag_ms": link.lag_ms, "unacked_txns": link.unacked_txns,
                "refusal": link.refusal, "last_error": link.last_error, "behind_oplog": link.behind_oplog,
                "clock_ahead_ms": link.clock_ahead_ms,
            })
        })
        .collect();
    Ok(json!({
        "dc": shard.dc, "node": shard.node, "role": raft.role, "leader": raft.leader, "term": raft.term,
        "ready": *shard.ready.borrow(),
        "applied_index": view.applied_index(),
        "epoch": state.own.and_then(|own| state.chains.get(&own)).map(|chain| chain.name.epoch.to_string()),
        "vector": shown(&state.vector), "acked": shown(&state.acked), "stable": shown(&state.stable),
        "origins": origins, "links": links,
        "recovering": state.recovering.as_ref().map(|_| json!({"unadmitted": state.unadmitted()})),
        "oplog": {"first": state.oplog_first, "end": state.oplog_end},
        "digest": format!("{digest:032x}"),
    }))
}

/// `GET /metrics`
pub async fn metrics(State(api): State<Api>) -> Response {
    let text = api.metrics.render(&api.shard, &api.docs);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// `POST /v1/faults/clock`: shifts this node's wall clock, `{"offset_ms":3600000}`.
pub async fn set_clock(State(api): State<Api>, body: JsonBody) -> Result<Response, Failure> {
    let offset_ms = body.json.get("offset_ms").and_then(Json::as_i64).ok_or_else(|| {
        ApiError::new(ErrorCode::BadValue, "the field \"offset_ms\" must be an integer of milliseconds")
    })?;
    api.shard.seams.clock.set_offset_ms(offset_ms);
    tracing::warn!(offset_ms, "the wall clock of this node was shifted on request");
    Ok(json_response(StatusCode::OK, &json!({"offset_ms": offset_ms})))
}
