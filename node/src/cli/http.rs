//! A small HTTP client: one answer per call, a deadline on everything, connections kept for the next call.
//!
//! It exists so that the command line, `dev` and the tests speak to nodes the same way. It tells apart what a caller
//! must tell apart: a request that surely never reached the server, and one whose outcome is unknown.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// How long connecting may take, within the deadline of the call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an answer's body.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections kept open per server while nothing is asked.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The request could not be formed. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The server could not be connected to. Nothing was sent; another server may be asked.
    #[error("cannot connect to {server}: {cause}")]
    Unreachable {
        /// The server.
        server: String,
        /// What the system said.
        cause: String,
    },
    /// The deadline passed. The server may have done what was asked.
    #[error("{server} did not answer within {after:?}")]
    TimedOut {
        /// The server.
        server: String,
        /// The deadline.
        after: Duration,
    },
    /// The connection broke before the answer was complete. The server may have done what was asked.
    #[error("the connection to {server} broke: {cause}")]
    Broken {
        /// The server.
        server: String,
        /// What the system said.
        cause: String,
    },
}

impl HttpError {
    /// Whether the server may have done what was asked.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Broken { .. })
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The text of a header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; `None` if it is not.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// `GET`, `POST`, ...
    pub method: Method,
    /// `host:port`.
    pub server: &'a str,
    /// Path and query, already encoded; starts with `/`.
    pub path: &'a str,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; a body that is not empty is sent as JSON.
    pub body: Bytes,
    /// How long the whole may take.
    pub deadline: Duration,
}

/// The client; cheap to clone, all clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    inner: Client<HttpConnector, Full<Bytes>>,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpClient {
    /// A client without connections yet. Needs a tokio runtime when it is used.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let inner = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            // A request whose kept connection broke is not sent again behind the caller's back.
            .retry_canceled_requests(false)
            .build(connector);
        Self { inner }
    }

    /// Asks, and waits for the complete answer.
    ///
    /// # Errors
    /// [`HttpError`]; an answer with an error status is an answer.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, HttpError> {
        let request = build(&call)?;
        let server = call.server.to_string();
        match tokio::time::timeout(call.deadline, self.exchange(request, &server)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::TimedOut { server, after: call.deadline }),
        }
    }

    /// A GET without headers.
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn get(&self, server: &str, path: &str, deadline: Duration) -> Result<Answer, HttpError> {
        let call = Call { method: Method::GET, server, path, headers: &[], body: Bytes::new(), deadline };
        self.send(call).await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, server: &str) -> Result<Answer, HttpError> {
        let broken = |cause: String| HttpError::Broken { server: server.into(), cause };
        let response = self.inner.request(request).await.map_err(|e| {
            let cause = innermost(&e);
            if e.is_connect() {
                HttpError::Unreachable { server: server.into(), cause }
            } else {
                HttpError::Broken { server: server.into(), cause }
            }
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| broken(e.to_string()))?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
    }
}

fn build(call: &Call<'_>) -> Result<Request<Full<Bytes>>, HttpError> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(format!("http://{}{}", call.server, call.path))
        .body(Full::new(call.body.clone()))
        .map_err(|e| HttpError::Invalid(format!("{:?} is not an address to ask: {e}", call.server)))?;
    let headers = request.headers_mut();
    if !call.body.is_empty() {
        headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in call.headers {
        let invalid = |_| HttpError::Invalid(format!("{value:?} is not a value for the header {name}"));
        let name_invalid = |_| HttpError::Invalid(format!("{name:?} is not a header"));
        let value = HeaderValue::from_str(value).map_err(invalid)?;
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(name_invalid)?, value);
    }
    Ok(request)
}

/// The cause at the bottom of a chain of errors: what the system said.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Encodes one segment of a path, or one value of a query.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_answer_comes_back_whole_with_status_headers_and_body() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let server = listener.local_addr().expect("bound").to_string();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.expect("read");
            let answer =
                b"HTTP/1.1 404 Not Found\r\nmeridian-session: tok\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
            stream.write_all(answer).await.expect("written");
            String::from_utf8_lossy(&buffer[..read]).to_string()
        });
        let headers = [("Meridian-Wait", "0ms")];
        let call = Call {
            method: Method::POST,
            server: &server,
            path: "/v1/x",
            headers: &headers,
            body: Bytes::from_static(b"{}"),
            deadline: Duration::from_secs(5),
        };
        let answer = HttpClient::new().send(call).await.expect("answered");
        assert_eq!((answer.status, answer.header("Meridian-Session")), (404, Some("tok")));
        assert_eq!(answer.json(), Some(serde_json::json!({"a": 1})));
        let seen = peer.await.expect("served").to_lowercase();
        assert!(seen.starts_with("post /v1/x http/1.1") && seen.contains("meridian-wait: 0ms"), "{seen}");
    }

    #[tokio::test]
    async fn a_server_that_is_down_and_one_that_is_silent_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let server = listener.local_addr().expect("bound").to_string();
        let client = HttpClient::new();
        let silent = client.get(&server, "/", Duration::from_millis(100)).await.expect_err("silent");
        assert!(matches!(silent, HttpError::TimedOut { .. }) && silent.outcome_unknown(), "{silent}");
        drop(listener);
        let down = client.get(&server, "/", Duration::from_secs(5)).await.expect_err("down");
        assert!(matches!(down, HttpError::Unreachable { .. }) && !down.outcome_unknown(), "{down}");
    }

    #[test]
    fn keys_are_encoded_so_that_they_stay_one_segment() {
        assert_eq!(encode("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
    }
}
