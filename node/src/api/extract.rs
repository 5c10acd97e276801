//! From HTTP to values: paths, queries, bodies and the `Meridian-*` headers, each with its own clear error.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::header::{AUTHORIZATION, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use meridian_client::wire::access::ACCESS_TOKENS_MAX;
use meridian_client::wire::frame::RequestId;
use meridian_client::wire::headers::{self, Commit, Consistency};
use meridian_client::wire::{ApiError, ErrorCode, Token, request};
use meridian_crdt::Key;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::Api;
use super::answer::Failure;
use super::calls::{self, Session};
use crate::access::{Right, Shown};

fn text<'h>(map: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    let mut values = map.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::new(ErrorCode::BadHeader, format!("{name} stands twice in the request")));
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| {
        ApiError::new(ErrorCode::BadHeader, format!("{name} holds bytes that are not visible ASCII"))
    })
}

/// What the `Meridian-*` headers of a request say.
fn session_of(map: &HeaderMap, api: &Api) -> Result<Session, ApiError> {
    let known = [headers::SESSION, headers::CONSISTENCY, headers::WAIT, headers::COMMIT, headers::REQUEST_ID];
    if let Some(name) =
        map.keys().find(|n| n.as_str().starts_with("meridian-") && !known.contains(&n.as_str()))
    {
        return Err(ApiError::new(ErrorCode::BadHeader, format!("{name} is not a header of this interface")));
    }
    let commit = text(map, headers::COMMIT)?.map_or(Ok(Commit::default()), headers::commit)?;
    let request_id = text(map, headers::REQUEST_ID)?;
    request_id.map_or(Ok(()), headers::request_id)?;
    let request_id = request_id.map(|id| RequestId::Text(id.to_owned()));
    let wait = text(map, headers::WAIT)?.map(headers::wait).transpose()?;
    let token = text(map, headers::SESSION)?.map(Token::from_text).transpose()?;
    let consistency =
        text(map, headers::CONSISTENCY)?.map_or(Ok(Consistency::default()), headers::consistency)?;
    calls::session(api, token, consistency, wait, commit, request_id)
}

impl FromRequestParts<Api> for Session {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        Ok(session_of(&parts.headers, api)?)
    }
}

async fn path<T: DeserializeOwned + Send>(parts: &mut Parts, api: &Api) -> Result<T, ApiError> {
    let extracted: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, api).await;
    extracted.map(|Path(value)| value).map_err(|e| ApiError::new(ErrorCode::BadKey, e.body_text()))
}

/// The access token of a request, if it shows one.
fn shown_in(map: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = text(map, AUTHORIZATION.as_str())? else { return Ok(None) };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()))
}

/// Refuses a request that shows no access token which lets it do in `space` what its method says.
fn admit(parts: &Parts, api: &Api, space: &str) -> Result<(), ApiError> {
    if api.access.is_open(space) {
        return Ok(());
    }
    let wanted = if matches!(parts.method, Method::GET | Method::HEAD) { Right::Read } else { Right::Write };
    api.access.check(space, &Shown::of(shown_in(&parts.headers)?), wanted)
}

/// The key that the path names, which the request may read, or write if that is what it does.
pub struct KeyPath(pub Key);

impl FromRequestParts<Api> for KeyPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let (space, key): (String, String) = path(parts, api).await?;
        let key = request::key(&space, &key)?;
        admit(parts, api, &key.space)?;
        Ok(KeyPath(key))
    }
}

/// The document and the version of it that the path names, which the request may read, or write if that is what it does.
pub struct VersionPath(pub Key, pub String);

impl FromRequestParts<Api> for VersionPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let (space, key, version): (String, String, String) = path(parts, api).await?;
        let key = request::key(&space, &key)?;
        admit(parts, api, &key.space)?;
        Ok(VersionPath(key, version))
    }
}

/// The space that the path names, in which the request may do what it does.
pub struct SpacePath(pub String);

impl FromRequestParts<Api> for SpacePath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let space: String = path(parts, api).await?;
        // A space is checked as part of a key; any valid key will do.
        request::key(&space, "k")?;
        admit(parts, api, &space)?;
        Ok(SpacePath(space))
    }
}

/// What the path of an editor's handshake names, and the access tokens that came with it. Nothing is refused here: a
/// browser cannot see why a handshake fails, so that an editor has to be told on its connection.
pub struct EditorPath<P> {
    /// The space, or the document.
    pub path: P,
    /// The tokens, from the header or the parameters `token` and `auth`.
    pub shown: Vec<String>,
}

impl<P> EditorPath<P> {
    fn of(path: P, parts: &Parts) -> Result<Self, Failure> {
        let mut shown: Vec<String> = shown_in(&parts.headers)?.map(str::to_owned).into_iter().collect();
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        // Other parameters are the application's own business, whatever they look like.
        let pairs = pairs.map(|pairs| pairs.0).unwrap_or_default();
        let tokens = pairs.into_iter().filter(|(name, _)| matches!(name.as_str(), "token" | "auth"));
        shown.extend(tokens.map(|(_, token)| token).take(ACCESS_TOKENS_MAX));
        Ok(Self { path, shown })
    }
}

impl FromRequestParts<Api> for EditorPath<Key> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let (space, key): (String, String) = path(parts, api).await?;
        Self::of(request::key(&space, &key)?, parts)
    }
}

impl FromRequestParts<Api> for EditorPath<String> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let space: String = path(parts, api).await?;
        request::key(&space, "k")?;
        Self::of(space, parts)
    }
}

/// The query's parameters, each at most once, taken one by one.
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Takes a parameter.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Takes a number from 1 to `max`.
    pub fn take_limit(&mut self, name: &str, max: usize) -> Result<usize, ApiError> {
        let Some(value) = self.take(name) else { return Ok(max) };
        value.parse().ok().filter(|n| (1..=max).contains(n)).ok_or_else(|| {
            ApiError::new(
                ErrorCode::BadHeader,
                format!("the parameter {name} takes a number from 1 to {max}"),
            )
        })
    }

    /// Refuses parameters that nobody took.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::new(
                ErrorCode::BadHeader,
                format!("the parameter {:?} means nothing here", name.chars().take(80).collect::<String>()),
            )),
        }
    }
}

impl FromRequestParts<Api> for Query {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let bad = |why: String| ApiError::new(ErrorCode::BadHeader, why);
        let pairs: axum::extract::Query<Vec<(String, String)>> =
            axum::extract::Query::from_request_parts(parts, api).await.map_err(|e| bad(e.body_text()))?;
        let mut map = BTreeMap::new();
        for (name, value) in pairs.0 {
            if map.insert(name.clone(), value).is_some() {
                return Err(bad(format!("the parameter {name:?} stands twice")).into());
            }
        }
        Ok(Query(map))
    }
}

/// A body of JSON within the limits of size and time. The content type is not looked at: there is only one.
pub struct JsonBody {
    /// What it says.
    pub json: Json,
}

/// How much of a body above its limit is read and thrown away, so that a client that sends before it listens gets to
/// read why it was refused, on a connection that stays usable.
const DISCARDED_BYTES_MAX: usize = 8 << 20;
/// How long that may take when the body was announced as too large.
const DISCARD_TIME_MAX: Duration = Duration::from_millis(500);

/// Reads a body; `None` if it is above `limit`.
async fn collect(mut body: Body, limit: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let (mut kept, mut total) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        total += data.len();
        if total <= limit {
            kept.extend_from_slice(&data);
        } else if total - limit > DISCARDED_BYTES_MAX {
            break;
        }
    }
    Ok((total <= limit).then_some(kept))
}

impl FromRequest<Api> for JsonBody {
    type Rejection = Failure;

    async fn from_request(req: Request<Body>, api: &Api) -> Result<Self, Failure> {
        let RawBody(body) = RawBody::from_request(req, api).await?;
        let json = serde_json::from_slice(&body)
            .map_err(|e| ApiError::new(ErrorCode::BadJson, format!("the body is not JSON: {e}")))?;
        Ok(JsonBody { json })
    }
}

/// A body of any kind within the limits of size and time.
pub struct RawBody(pub Vec<u8>);

impl FromRequest<Api> for RawBody {
    type Rejection = Failure;

    async fn from_request(req: Request<Body>, api: &Api) -> Result<Self, Failure> {
        let limit = api.bounds.body_bytes_max;
        let too_large = || {
            ApiError::new(ErrorCode::TooLarge, format!("the body is above {limit} bytes"))
                .with("limit", limit)
        };
        let announced =
            req.headers().get("content-length").and_then(|n| n.to_str().ok()?.parse::<usize>().ok());
        let asks_first = req.headers().contains_key("expect");
        if announced.is_some_and(|n| n > limit) {
            if !asks_first {
                // Whatever comes of it, the answer is the same.
                let _ = tokio::time::timeout(DISCARD_TIME_MAX, collect(req.into_body(), limit)).await;
            }
            return Err(too_large().into());
        }
        let collecting = collect(req.into_body(), limit);
        let body = match tokio::time::timeout(api.bounds.body_timeout, collecting).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return Err(too_large().into()),
            Ok(Err(e)) => {
                return Err(ApiError::new(ErrorCode::BadJson, format!("the body broke off: {e}")).into());
            }
            Err(_) => {
                let message = "the body did not arrive in time; nothing changed";
                return Err(ApiError::new(ErrorCode::BadJson, message).into());
            }
        };
        Ok(RawBody(body))
    }
}

/// Counts the request, refuses it when too many are being worked on, bounds its time, and measures it.
pub async fn account(State(api): State<Api>, req: Request, next: Next) -> Response {
    let route = req.extensions().get::<MatchedPath>().map_or("none", |path| metric_route(path.as_str()));
    let method = req.method().as_str().to_owned();
    let started_ms = api.shard.seams.clock.monotonic_ms();
    let token = if route == "ops" { None } else { own_token(req.headers(), api.cluster) };
    let (_counted, before) = api.in_flight.enter();
    let mut response = if before >= api.bounds.in_flight_max && route != "ops" {
        Failure::from(calls::overloaded()).into_response()
    } else {
        match tokio::time::timeout(api.bounds.request_timeout, next.run(req)).await {
            Ok(response) => response,
            Err(_) => Failure::from(calls::took_too_long()).into_response(),
        }
    };
    if let Some(token) = token {
        // An answer that has learnt nothing still carries what the client came with.
        response.headers_mut().entry(HeaderName::from_static(headers::SESSION)).or_insert(token);
    }
    let took_ms = api.shard.seams.clock.monotonic_ms().saturating_sub(started_ms);
    api.metrics.request(route, &method, response.status().as_u16(), took_ms);
    response
}

/// The request's token, if it has one that is valid here.
fn own_token(map: &HeaderMap, cluster: u32) -> Option<HeaderValue> {
    let token = Token::from_text(text(map, headers::SESSION).ok()??).ok()?;
    HeaderValue::from_str(&token.to_text()).ok().filter(|_| token.cluster == cluster)
}

fn metric_route(path: &str) -> &'static str {
    match path {
        "/v1/spaces/{space}/keys/{key}" => "key",
        "/v1/spaces/{space}/keys/{key}/explain" => "explain",
        "/v1/spaces/{space}/keys" => "keys",
        "/v1/spaces/{space}/txn" => "txn",
        "/v1/session" => "session",
        "/v1/spaces/{space}/watch" => "watch",
        path if path.starts_with("/v1/spaces/{space}/docs/") || path == "/v1/spaces/{space}/hocuspocus" => {
            "docs"
        }
        _ => "ops",
    }
}
