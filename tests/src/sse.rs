//! A reader of server-sent events, and a watcher that is moved from node to node and keeps what it was shown.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long a node may take to begin a stream.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The id, where it has one: a cursor.
    pub id: Option<String>,
    /// `txn`, `cursor` or `error`.
    pub name: String,
    /// The data.
    pub data: Value,
}

/// An open stream.
#[derive(Debug)]
pub struct Sse {
    body: Incoming,
    read: Vec<u8>,
}

impl Sse {
    /// Opens a stream at the node with this client address.
    ///
    /// # Errors
    /// When there is none; says why, or what the node answered instead.
    pub async fn open(server: &str, path: &str) -> Result<Self, String> {
        tokio::time::timeout(OPEN_LIMIT, Self::begin(server, path))
            .await
            .map_err(|_| "no stream in time".to_string())?
    }

    async fn begin(server: &str, path: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(server).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // It ends with the stream.
        tokio::spawn(connection);
        let request = Request::get(path).header("host", server).body(Empty::<Bytes>::new());
        let answer =
            sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body = answer.into_body();
        if status.as_u16() == 200 {
            return Ok(Self { body, read: Vec::new() });
        }
        let error = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        Err(format!("{status}: {}", String::from_utf8_lossy(&error)))
    }

    /// The next event; comments are passed over.
    ///
    /// # Errors
    /// When the stream breaks, ends, or says nothing for `limit`.
    pub async fn next(&mut self, limit: Duration) -> Result<Event, String> {
        loop {
            while let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let frame: Vec<u8> = self.read.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8_lossy(&frame)) {
                    return Ok(event);
                }
            }
            let frame = tokio::time::timeout(limit, self.body.frame()).await;
            let frame = frame.map_err(|_| "silence".to_string())?.ok_or("the stream ended")?;
            if let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

fn parse(frame: &str) -> Option<Event> {
    let field = |name: &str| {
        frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_string)
    };
    let data = serde_json::from_str(&field("data")?).ok()?;
    Some(Event { id: field("id"), name: field("event")?, data })
}

/// A watcher that keeps its place and everything that it was shown, wherever it reads.
#[derive(Clone, Debug)]
pub struct Watcher {
    path: String,
    /// Where it resumes.
    pub cursor: Option<String>,
    /// The data of every txn that it was shown, in order.
    pub txns: Vec<Value>,
    /// How many streams it has opened.
    pub streams: usize,
    /// How many of them broke.
    pub broken: usize,
}

impl Watcher {
    /// A watcher of the keys of the space `default` that start with `prefix`, which has not begun yet.
    pub fn new(prefix: &str) -> Self {
        let path = format!("/v1/spaces/default/watch?prefix={}", meridian::cli::http::encode(prefix));
        Self { path, cursor: None, txns: Vec::new(), streams: 0, broken: 0 }
    }

    /// Begins, or resumes, at a node, and reads until it has been shown `most` more txns, or nothing for `limit`.
    ///
    /// # Errors
    /// When the node has no stream for it, or the stream breaks. What was read before that is kept.
    pub async fn read(&mut self, server: &str, most: usize, limit: Duration) -> Result<(), String> {
        let from = self.cursor.as_ref().map(|cursor| format!("&from={cursor}")).unwrap_or_default();
        let mut stream = Sse::open(server, &format!("{}{from}", self.path)).await?;
        self.streams += 1;
        let enough = self.txns.len() + most;
        while self.txns.len() < enough {
            let event = match stream.next(limit).await {
                Ok(event) => event,
                Err(silence) if silence == "silence" => return Ok(()),
                Err(why) => {
                    self.broken += 1;
                    return Err(why);
                }
            };
            match event.name.as_str() {
                "txn" => self.txns.push(event.data),
                "cursor" => {}
                _ => return Err(event.data.to_string()),
            }
            self.cursor = event.id;
        }
        Ok(())
    }

    /// Which txns it was shown, as DC and seq, in order.
    pub fn dots(&self) -> Vec<(String, u64)> {
        let dot = |txn: &Value| {
            (txn["dc"].as_str().unwrap_or_default().to_string(), txn["seq"].as_u64().unwrap_or_default())
        };
        self.txns.iter().map(dot).collect()
    }

    /// Every mutation of `key` that it was shown, in order.
    pub fn ops(&self, key: &str) -> Vec<&Value> {
        let changes = self.txns.iter().flat_map(|txn| txn["changes"].as_array().into_iter().flatten());
        let of_key = changes.filter(|change| change["key"] == key);
        of_key.flat_map(|change| change["ops"].as_array().into_iter().flatten()).collect()
    }
}
