//! An editor's connection, frame by frame: what no proper client does, and what it would not tell.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use meridian::docs::wire;
use meridian_crdt::codec::Writer;
use meridian_tests::client::Client;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};

/// How long a frame that is awaited may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest frame that is read: a whole document.
const FRAME_BYTES_MAX: usize = 64 << 20;

const SYNC: u8 = 0;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const AUTH: u8 = 2;
const LEAVE: u8 = 7;

/// A connection.
#[derive(Debug)]
pub struct Line {
    socket: WebSocketStream<TcpStream>,
}

impl Line {
    /// Opens a document by `y-websocket`, and waits until its room has said something, unless the node refuses it.
    pub async fn open(node: &Client, doc: &str) -> Result<Self, u16> {
        let mut line = Self::connected(node, &format!("docs/{doc}"), None).await;
        line.hears(|frame| frame.starts_with(&[SYNC, STEP_1]).then_some(())).await?;
        Ok(line)
    }

    /// The same, with so little room for what comes in that the node soon has to wait.
    pub async fn open_narrow(node: &Client, doc: &str) -> Self {
        let mut line = Self::connected(node, &format!("docs/{doc}"), Some(4 << 10)).await;
        line.hears(|frame| frame.starts_with(&[SYNC, STEP_1]).then_some(())).await.expect("let in");
        line
    }

    /// A connection of Hocuspocus, without a document.
    pub async fn of_hocuspocus(node: &Client) -> Self {
        Self::connected(node, "hocuspocus", None).await
    }

    async fn connected(node: &Client, path: &str, receive_bytes: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes).expect("an option of a socket");
        }
        let address = node.server().parse().expect("an address");
        let stream = socket.connect(address).await.expect("the node listens");
        let url = format!("ws://{}/v1/spaces/default/{path}", node.server());
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let shaken = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
        Self { socket: shaken.expect("a WebSocket").0 }
    }

    /// Sends a frame.
    pub async fn says(&mut self, frame: impl Into<Bytes>) {
        // A node that has closed the connection has said why, which is what counts.
        self.socket.send(Message::Binary(frame.into())).await.ok();
    }

    /// The next frame; the code if the node closes the connection.
    pub async fn next(&mut self) -> Result<Bytes, u16> {
        loop {
            let read = timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match read.expect("a word before the end").expect("a frame") {
                Message::Binary(frame) => return Ok(frame),
                Message::Close(close) => return Err(close.map_or(1005, |close| close.code.into())),
                _ => {}
            }
        }
    }

    /// The first frame in which there is what is looked for; the code if the node closes the connection before.
    pub async fn hears<T>(&mut self, mut look: impl FnMut(&[u8]) -> Option<T>) -> Result<T, u16> {
        let found = async {
            loop {
                if let Some(found) = look(&self.next().await?) {
                    return Ok(found);
                }
            }
        };
        // Signs of life come all the time, and are not what is awaited.
        timeout(PATIENCE, found).await.expect("what is awaited comes in time")
    }

    /// Waits until another editor's update comes.
    pub async fn sees(&mut self, update: &[u8]) {
        let frame = wire::update(update);
        let seen = self.hears(|heard| (heard == frame).then_some(())).await;
        seen.expect("it is not closed before it sees an edit");
    }

    /// The code with which the node closes it.
    pub async fn closed(&mut self) -> u16 {
        let never: Result<(), u16> = self.hears(|_| None).await;
        never.expect_err("it is closed")
    }

    /// Opens a document on a connection of Hocuspocus; the answer, from its outcome on, or the code.
    pub async fn enters(&mut self, name: &str) -> Result<Vec<u8>, u16> {
        self.says(named(name, &[AUTH, 0, 0])).await;
        let answer = named(name, &[AUTH]);
        self.hears(|frame| frame.strip_prefix(&answer[..]).map(<[u8]>::to_vec)).await
    }

    /// Leaves a document of a connection of Hocuspocus.
    pub async fn leaves(&mut self, name: &str) {
        self.says(named(name, &[LEAVE])).await;
    }

    /// Waits until the node says of an edit in a document of Hocuspocus that it is kept.
    pub async fn is_kept(&mut self, name: &str) {
        let kept = named(name, &[8, 1]);
        self.hears(|frame| (frame == kept).then_some(())).await.expect("it is not closed");
    }

    /// Why a document of a connection of Hocuspocus is over.
    pub async fn is_over(&mut self, name: &str) -> String {
        let over = named(name, &[LEAVE]);
        let reason = self.hears(|frame| Some(frame.strip_prefix(&over[..])?.get(1..)?.to_vec())).await;
        String::from_utf8(reason.expect("the connection goes on")).expect("words")
    }
}

/// The question of an editor who has nothing.
pub fn question() -> Bytes {
    wire::step_1(&[0])
}

/// The beginning of the answer.
pub const ANSWER: &[u8] = &[SYNC, STEP_2];

/// The frame that says nothing, by which a node shows that the connection lives.
pub fn sign_of_life() -> Bytes {
    wire::awareness(&[0])
}

/// A message of Hocuspocus.
pub fn named(name: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.bytes(name.as_bytes());
    out.raw(message);
    out.finish()
}

/// An update of a client that types at the end of what it has typed so far into the root `t`; `upto` is how long that is.
pub fn typed(client: u64, upto: usize, text: &str) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(&[1, 1]);
    out.varint(client);
    out.varint(upto as u64);
    match upto.checked_sub(1) {
        None => out.raw(&[4, 1, 1, b't']),
        Some(last) => {
            out.u8(0x84);
            out.varint(client);
            out.varint(last as u64);
        }
    }
    out.bytes(text.as_bytes());
    out.u8(0);
    out.finish()
}

/// An update that deletes the first so many characters that a client has typed.
pub fn deleted(client: u64, length: usize) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(&[0, 1]);
    out.varint(client);
    out.raw(&[1, 0]);
    out.varint(length as u64);
    out.finish()
}
