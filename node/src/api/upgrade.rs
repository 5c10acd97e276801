//! From a GET request to a WebSocket, for every protocol that is spoken over one.
//!
//! It is made by hand rather than by the web framework, so that errors have the one documented shape, the socket's
//! buffers have our bounds, and the connection stays counted after it has left HTTP.

use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meridian_client::wire::{ApiError, ErrorCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::answer::Failure;
use super::arrivals::Arrivals;
use super::serve::{Port, Wire};

/// A client's WebSocket. Boxed, because each function on its way would keep room for it.
pub type Socket = Pin<Box<WebSocketStream<Arrivals<Wire>>>>;

/// What a socket takes at once of what has arrived; so much of its memory is zeroed before.
const READ_BUFFER_BYTES: usize = 1 << 10;
/// How much a client that is being closed may still send before the socket is dropped: bytes that nobody reads would make
/// the system take back the goodbye.
const DISCARDED_BYTES_MAX: usize = 8 << 20;
/// How long a client that is being closed is read from, at most.
pub const DISCARD_TIME_MAX: Duration = Duration::from_millis(500);

/// Answers the handshake; once the client has taken the answer, its socket is served by `serve`.
pub fn upgrade<F>(
    mut request: Request,
    config: WebSocketConfig,
    serve: impl FnOnce(Socket, Port) -> F + Send + 'static,
) -> Result<Response, Failure>
where
    F: Future<Output = ()> + Send + 'static,
{
    let accept = accept_key(request.headers())?;
    let Some(port) = request.extensions().get::<Port>().cloned() else {
        return Err(ApiError::new(ErrorCode::Internal, "the connection cannot be upgraded").into());
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => match socket(upgraded, config).await {
                Some(socket) => serve(socket, port).await,
                None => {
                    tracing::error!("a connection that left HTTP is not one that the client port accepted")
                }
            },
            Err(error) => tracing::debug!(%error, "a client left during the handshake of a WebSocket"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// The WebSocket on what the client port accepted, which is taken back from HTTP so that what stood around it there is
/// not on the way of each message.
async fn socket(upgraded: Upgraded, config: WebSocketConfig) -> Option<Socket> {
    let parts = upgraded.downcast::<TokioIo<Wire>>().ok()?;
    let read = parts.read_buf.to_vec();
    let wire = Arrivals::new(parts.io.into_inner(), read.len() as u64);
    let config = config.read_buffer_size(READ_BUFFER_BYTES);
    Some(Box::pin(WebSocketStream::from_partially_read(wire, read, Role::Server, Some(config)).await))
}

/// Reads and throws away what the client still sends, so that it gets to read the goodbye.
pub async fn linger(mut socket: Socket) {
    let stream = socket.as_mut().get_mut().get_mut();
    let mut discarded = 0;
    let discarding = async {
        let mut buffer = vec![0; 16 << 10];
        stream.shutdown().await.ok();
        while discarded < DISCARDED_BYTES_MAX {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => discarded += n,
            }
        }
    };
    // Whether it ends in time makes no difference to anyone.
    tokio::time::timeout(DISCARD_TIME_MAX, discarding).await.ok();
}

/// Checks that the request asks for a WebSocket, and answers its key.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, ApiError> {
    let bad = |what: &str| {
        let message = format!("this path takes the handshake of a WebSocket of version 13: {what}");
        ApiError::new(ErrorCode::BadHeader, message)
    };
    let says = |name: header::HeaderName, word: &str| {
        let words = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        words.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    if !says(header::CONNECTION, "upgrade") || !says(header::UPGRADE, "websocket") {
        return Err(bad("the headers Connection: Upgrade and Upgrade: websocket are missing"));
    }
    if !says(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(bad("Sec-WebSocket-Version is not 13"));
    }
    if headers.keys().any(|name| name.as_str().starts_with("meridian-")) {
        return Err(bad("Meridian headers mean nothing here; each frame carries its own terms"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad("the key is not usable"))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::any;
    use futures_util::{SinkExt, StreamExt};
    use tokio::sync::watch;

    use super::*;
    use crate::api::serve::{ServeBounds, serve};
    use crate::seams::{Net, TcpNet};

    async fn echo(mut socket: Socket, _: Port) {
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() && socket.send(message).await.is_err() {
                return;
            }
        }
    }

    /// A client's frame with these bytes, masked with zeros.
    fn frame(bytes: &[u8]) -> Vec<u8> {
        let len = u8::try_from(bytes.len()).expect("short");
        [&[0x82, 0x80 | len, 0, 0, 0, 0], bytes].concat()
    }

    /// Story: a client does not wait for the answer to its handshake before it sends its first frame, so that HTTP reads some
    /// of it too.
    #[tokio::test]
    async fn what_came_with_the_handshake_is_not_lost() {
        let router = Router::new().route(
            "/",
            any(|request: Request| async move { upgrade(request, WebSocketConfig::default(), echo) }),
        );
        let listener = TcpNet.listen("127.0.0.1:0").await.expect("listens");
        let addr = listener.local_addr().expect("bound").to_string();
        let limit = Duration::from_secs(5);
        let bounds = ServeBounds { connections_max: 2, read_timeout: limit, drain_timeout: limit };
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(serve(listener, router, bounds, stopped));

        let mut client = TcpNet.connect(&addr).await.expect("connects");
        let handshake = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (first, second) = (frame(b"first"), frame(b"second"));
        let (begun, rest) = second.split_at(7);
        client.write_all(&[handshake.as_bytes(), &first, begun].concat()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"first") {
            assert!(client.read_buf(&mut answer).await.expect("read") > 0, "{answer:?}");
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
        client.write_all(rest).await.expect("sent");
        while !answer.ends_with(b"second") {
            assert!(client.read_buf(&mut answer).await.expect("read") > 0, "{answer:?}");
        }
        drop(client);
        stop.send_replace(true);
        served.await.expect("ends");
    }
}
