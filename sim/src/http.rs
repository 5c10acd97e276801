//! The client's side of a request: one connection, one request, one deadline.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use turmoil::net::TcpStream;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) token: Option<String>,
    /// Null if it is not JSON.
    pub(crate) body: Json,
    /// The body as it came.
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    /// The error's code, empty for a success.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<&'static str, String>,
    pub(crate) body: Vec<u8>,
}

impl Ask {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), ..Self::default() }
    }

    pub(crate) fn post(path: impl Into<String>, body: Json) -> Self {
        Self { method: "POST", path: path.into(), body: body.to_string().into(), ..Self::default() }
    }

    pub(crate) fn put(path: impl Into<String>, body: Vec<u8>) -> Self {
        Self { method: "PUT", path: path.into(), body, ..Self::default() }
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self { method: "DELETE", path: path.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.insert(name, value.into());
        self
    }
}

/// Asks `host` and waits for the whole answer, `deadline` at most. An error means that the outcome is unknown, except
/// [`io::ErrorKind::ConnectionRefused`].
pub(crate) async fn ask(host: &str, ask: &Ask, deadline: Duration) -> io::Result<Answer> {
    timeout(deadline, exchange(host, ask)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn exchange(host: &str, ask: &Ask) -> io::Result<Answer> {
    let mut stream = TcpStream::connect((host, 7400)).await?;
    let mut head = format!("{} {} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", ask.method, ask.path);
    for (name, value) in &ask.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", ask.body.len()));
    stream.write_all(&[head.as_bytes(), &ask.body].concat()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    parse(&bytes).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length")?.parse().ok()?;
    let bytes = bytes[end + 4..].get(..length)?.to_vec();
    let is_json = header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    let body = if is_json { serde_json::from_slice(&bytes).ok()? } else { Json::Null };
    Some(Answer { status, token: header("meridian-session"), body, bytes })
}
