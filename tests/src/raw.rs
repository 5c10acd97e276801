//! HTTP as bytes: requests that no proper client would send.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// An answer, taken apart.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// The head in lower case, with the status line.
    pub head: String,
    /// The body; null if it is not JSON.
    pub body: Value,
}

/// Sends these bytes on a connection of their own and reads the answer until the node closes it.
///
/// # Panics
/// When there is no answer in time, or it is not HTTP.
pub async fn exchange(server: &str, request: &[u8]) -> RawAnswer {
    let talk = async {
        let mut stream = TcpStream::connect(server).await.unwrap_or_else(|e| panic!("{server}: {e}"));
        // A node may refuse by the head alone and close; that answer is what counts.
        stream.write_all(request).await.ok();
        let mut answer = Vec::new();
        let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
        assert!(read.is_ok() || !answer.is_empty(), "no answer: {read:?}");
        answer
    };
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    let answer = tokio::time::timeout(DEADLINE, talk).await;
    parse(&answer.unwrap_or_else(|_| panic!("no answer within {DEADLINE:?} to {shown}")))
}

/// The bytes of a request with these header lines and this body; the connection is closed after the answer.
pub fn request(method: &str, target: &[u8], headers: &[&[u8]], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} ").into_bytes();
    bytes.extend_from_slice(target);
    bytes.extend_from_slice(b" HTTP/1.1\r\nhost: node\r\nconnection: close\r\n");
    for header in headers {
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn parse(answer: &[u8]) -> RawAnswer {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.get(end + 4..).unwrap_or_default();
    RawAnswer {
        status: status.unwrap_or_else(|| panic!("not HTTP: {head:?}")),
        body: serde_json::from_slice(body).unwrap_or_default(),
        head,
    }
}
