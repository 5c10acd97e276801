//! Unary gRPC calls over one HTTP/2 connection.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Method, Request};
use tokio::net::TcpStream;

/// Window of a stream and of the connection, so that flow control never holds an answer up.
const WINDOW_BYTES: u32 = 4 << 20;
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A connection; clones share it.
#[derive(Clone, Debug)]
pub struct Channel {
    sender: SendRequest<Bytes>,
    authority: String,
}

impl Channel {
    /// Connects. The connection lives as long as a clone of the channel does.
    pub async fn connect(address: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (sender, connection) = builder.handshake(stream).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            // How a connection ends shows in the calls that it carried.
            drop(connection.await);
        });
        Ok(Self { sender, authority: address.to_owned() })
    }

    /// Calls `path` with one message and returns the answer's message.
    pub async fn call(mut self, path: &'static str, message: Vec<u8>) -> Result<Bytes, String> {
        let uri = format!("http://{}{path}", self.authority);
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|e| e.to_string())?;
        std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await.map_err(|e| e.to_string())?;
        let (answer, mut body) = self.sender.send_request(request, false).map_err(|e| e.to_string())?;
        let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).map_err(|e| e.to_string())?);
        framed.put_slice(&message);
        body.send_data(framed.freeze(), true).map_err(|e| e.to_string())?;
        let (head, mut body) = answer.await.map_err(|e| e.to_string())?.into_parts();
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(|e| e.to_string())?;
            body.flow_control().release_capacity(chunk.len()).map_err(|e| e.to_string())?;
            whole.extend_from_slice(&chunk);
            if whole.len() > ANSWER_BYTES_MAX {
                return Err("an answer is too long".into());
            }
        }
        let trailers = body.trailers().await.map_err(|e| e.to_string())?.unwrap_or_default();
        let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
        if status.is_none_or(|status| status != "0") {
            let message = trailers.get("grpc-message").or_else(|| head.headers.get("grpc-message"));
            return Err(format!("gRPC status {status:?}, {message:?}"));
        }
        if whole.len() < PREFIX_BYTES {
            return Err("an answer without a message".into());
        }
        Ok(whole.freeze().slice(PREFIX_BYTES..))
    }
}
