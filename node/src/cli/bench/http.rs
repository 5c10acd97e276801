//! A benchmark's client over HTTP/1.1: one request at a time on one connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{BODY_BYTES_MAX, Run};
use crate::cli::args::Workload;
use crate::cli::http::encode;

/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes asked for by one read.
const READ_BYTES: usize = 64 << 10;

/// One client's connection and its buffers, used again for each request.
pub(super) struct Connection {
    /// Where to.
    pub server: String,
    /// None before the first request and after a failure.
    pub stream: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    pub fn new(server: String) -> Self {
        Self { server, stream: None, request: Vec::new(), answer: Vec::new() }
    }

    /// Forms the next request in the buffer of the last.
    pub fn form(&mut self, run: &Run, workload: Workload, key: u64) {
        use std::io::Write;
        self.request.clear();
        let (space, server, value) = (encode(&run.space), &self.server, &run.value);
        let access = run
            .access
            .as_ref()
            .map(|token| format!("\r\nauthorization: {}", token.to_header()))
            .unwrap_or_default();
        // Writing into a vector does not fail.
        match workload {
            Workload::Get | Workload::Mix => write!(
                self.request,
                "GET /v1/spaces/{space}/keys/bench-put-{key} HTTP/1.1\r\nhost: {server}{access}\r\n\r\n"
            ),
            Workload::Put => write!(
                self.request,
                "POST /v1/spaces/{space}/keys/bench-put-{key} HTTP/1.1\r\nhost: {server}{access}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n\
                 {{\"type\":\"register\",\"op\":\"set\",\"value\":\"{value}\"}}",
                value.len() + r#"{"type":"register","op":"set","value":""}"#.len(),
            ),
            Workload::Counter => write!(
                self.request,
                "POST /v1/spaces/{space}/keys/bench-counter-{key} HTTP/1.1\r\nhost: {server}{access}\r\n\
                 content-type: application/json\r\ncontent-length: 38\r\n\r\n\
                 {{\"type\":\"counter\",\"op\":\"add\",\"by\":1}}  "
            ),
        }
        .ok();
    }

    /// Sends the request and reads the whole answer; returns its status.
    pub async fn exchange(&mut self, deadline: Instant) -> Result<u16, String> {
        match tokio::time::timeout_at(deadline, self.exchange_unbounded()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.stream = None;
                Err("no answer in time".into())
            }
        }
    }

    async fn exchange_unbounded(&mut self) -> Result<u16, String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.server).await.map_err(|e| e.to_string())?;
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                self.stream.insert(stream)
            }
        };
        stream.write_all(&self.request).await.map_err(|e| e.to_string())?;
        self.answer.clear();
        let head = loop {
            read_more(stream, &mut self.answer).await?;
            if let Some(head) = parse_head(&self.answer)? {
                break head;
            }
            if self.answer.len() > HEAD_BYTES_MAX {
                return Err("the answer's head is too long".into());
            }
        };
        if head.body > BODY_BYTES_MAX {
            return Err("the answer is too long".into());
        }
        while self.answer.len() < head.end + head.body {
            read_more(stream, &mut self.answer).await?;
        }
        if head.close {
            self.stream = None;
        }
        Ok(head.status)
    }
}

pub(super) async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), String> {
    // A read takes no more than there is room for, and answers that arrive together are to be read together.
    buffer.reserve(READ_BYTES);
    match stream.read_buf(buffer).await {
        Ok(0) => Err("the server closed the connection".into()),
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// What must be known of an answer's head.
#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    /// Where the body starts.
    end: usize,
    /// How long it is.
    body: usize,
    /// Whether the server closes the connection behind it.
    close: bool,
}

/// Reads a head that is complete; `None` if it is not yet.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "the answer is not HTTP")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.ok_or("the answer is not HTTP")?;
    let mut body = None;
    let mut close = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            body = Some(value.trim().parse().map_err(|_| "the answer has a bad content-length")?);
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let body = body.ok_or("the answer has no content-length")?;
    Ok(Some(Head { status, end: end + 4, body, close }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-le"), Ok(None));
        let head = parse_head(b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{");
        assert_eq!(head, Ok(Some(Head { status: 404, end: 65, body: 12, close: true })));
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(
            parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err(),
            "an answer of unknown length would hang the client"
        );
    }

    #[test]
    fn the_lengths_of_formed_bodies_are_right() {
        let run = Run::new(Workload::Put, 1, ("default".into(), None), 2).expect("valid");
        let mut connection = Connection::new("a:1".into());
        for workload in [Workload::Put, Workload::Counter] {
            connection.form(&run, workload, 7);
            let text = String::from_utf8(connection.request.clone()).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
            serde_json::from_str::<serde_json::Value>(body).expect("JSON");
        }
    }
}
