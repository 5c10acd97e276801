//! The HTTP interface: routes, and the way of a request through headers, handler and answer.
//!
//! Handlers extract, convert, make one call and answer; what a request means is decided in `client::wire` and
//! [`crate::shard`]. Every error, the framework's own included, has the one documented shape.

mod answer;
mod arrivals;
mod calls;
mod data;
pub(crate) mod docs;
mod extract;
mod limits;
mod metrics;
mod native;
mod ops;
mod serve;
mod unstalled;
mod upgrade;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use meridian_client::wire::{ApiError, ErrorCode};

pub use docs::versions::VersionBounds;
pub use limits::RequestLimits;
pub use metrics::Metrics;
pub use native::SessionBounds;
pub use serve::{ServeBounds, serve};

use crate::access::Access;
use crate::count::Count;
use crate::docs::Docs;
use crate::shard::Shard;

/// What every handler may use.
#[derive(Clone)]
pub struct Api {
    /// The shard.
    pub shard: Arc<Shard>,
    /// The documents that are being edited on this node.
    pub docs: Arc<Docs>,
    /// Which spaces take only who shows an access token.
    pub access: Arc<Access>,
    /// Counters of this process.
    pub metrics: Arc<Metrics>,
    /// The short id of the cluster, in tokens.
    pub cluster: u32,
    /// Bounds from the configuration.
    pub bounds: ApiBounds,
    /// Requests being worked on.
    pub in_flight: Count,
    /// Whether `/v1/faults` exists.
    pub allow_faults: bool,
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct ApiBounds {
    /// Bytes of a body.
    pub body_bytes_max: usize,
    /// Bounds of a mutation.
    pub request: RequestLimits,
    /// How long a client may take to send a body.
    pub body_timeout: std::time::Duration,
    /// Entries of one page.
    pub page_max: usize,
    /// Requests worked on at once.
    pub in_flight_max: usize,
    /// The wait of a request that names none.
    pub wait_default: std::time::Duration,
    /// The longest wait.
    pub wait_max: std::time::Duration,
    /// How long a whole request may take.
    pub request_timeout: std::time::Duration,
    /// Bounds of a connection of the native protocol.
    pub session: SessionBounds,
    /// Versions of documents.
    pub versions: VersionBounds,
}

/// All routes.
pub fn router(api: Api) -> Router {
    let keys = "/v1/spaces/{space}/keys";
    let doc = "/v1/spaces/{space}/docs/{doc}";
    let mut router = Router::new()
        .route(&format!("{keys}/{{key}}"), get(data::read).post(data::mutate).delete(data::delete))
        .route(&format!("{keys}/{{key}}/explain"), get(data::explain))
        .route(&format!("{keys}/"), axum::routing::any(empty_key))
        .route(keys, get(data::list))
        .route(doc, get(docs::open).put(docs::put))
        .route(&format!("{doc}/token"), get(docs::token))
        .route(&format!("{doc}/stats"), get(docs::stats))
        .route(&format!("{doc}/versions"), get(docs::versions::list).post(docs::versions::make))
        .route(&format!("{doc}/versions/{{id}}"), get(docs::versions::read).delete(docs::versions::delete))
        .route(&format!("{doc}/versions/{{id}}/restore"), post(docs::versions::restore))
        .route("/v1/spaces/{space}/hocuspocus", get(docs::open_many))
        .route("/v1/spaces/{space}/txn", post(data::txn))
        .route("/v1/session", get(native::open))
        .route("/v1/spaces/{space}/watch", get(watch::watch))
        .route("/v1/status", get(ops::status))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics));
    if api.allow_faults {
        router = router.route("/v1/faults/clock", post(ops::set_clock));
    }
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(api.clone(), extract::account))
        .with_state(api)
}

async fn empty_key() -> answer::Failure {
    ApiError::new(ErrorCode::BadKey, "the key is empty").into()
}

async fn no_such_route(uri: axum::http::Uri) -> answer::Failure {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(ErrorCode::NoSuchRoute, format!("there is nothing at {path}")).into()
}

async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> answer::Failure {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{path} does not take {method}")).into()
}
