//! The native protocol frame by frame: a connection without the SDK's patience, which repeats nothing and hides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use meridian_client::Value;
use meridian_client::wire::ApiError;
use meridian_client::wire::frame::{Frame, Request, VERSION, Verb};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// How long the handshake and hello may take.
const OPEN_LIMIT: Duration = Duration::from_secs(15);

/// What a node said to a request.
#[derive(Clone, Debug)]
pub struct Said {
    /// The body, of an event as well as of an answer, or the error.
    pub outcome: Result<BTreeMap<String, Value>, ApiError>,
    /// The session's token after it.
    pub session: Option<Vec<u8>>,
}

impl Said {
    /// A number in the body.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.outcome.as_ref().ok()?.get(name)? {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// `ok`, or the code of the error.
    pub fn word(&self) -> &'static str {
        self.outcome.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok")
    }
}

/// A connection that has said hello.
#[derive(Debug)]
pub struct Wire {
    socket: WebSocketStream<TcpStream>,
    next_id: u64,
}

impl Wire {
    /// Opens a connection to the node with this client address.
    ///
    /// # Errors
    /// Why there is none in time.
    pub async fn open(server: &str) -> Result<Wire, String> {
        let open = async {
            let stream = TcpStream::connect(server).await.map_err(|e| e.to_string())?;
            let url = format!("ws://{server}/v1/session");
            let (socket, _) =
                tokio_tungstenite::client_async(url, stream).await.map_err(|e| e.to_string())?;
            let mut wire = Wire { socket, next_id: 1 };
            let hello = Verb::Hello { versions: vec![VERSION], client: "test".into(), access: Vec::new() };
            wire.ask(Request::new(0, hello)).await?.outcome.map_err(|e| e.to_string())?;
            Ok(wire)
        };
        tokio::time::timeout(OPEN_LIMIT, open).await.map_err(|_| format!("{server}: no hello in time"))?
    }

    /// Sends a request under the next id, and returns that.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send(&mut self, mut request: Request) -> Result<u64, String> {
        request.id = self.next_id;
        self.next_id += 1;
        let id = request.id;
        self.socket.send(Message::binary(request.encode())).await.map_err(|e| e.to_string())?;
        Ok(id)
    }

    /// The next frame about this request; those of others are passed over.
    ///
    /// # Errors
    /// When the connection ends, or a frame is not understood.
    pub async fn said(&mut self, wanted: u64) -> Result<Said, String> {
        loop {
            let message = self.socket.next().await.ok_or("the node hung up")?.map_err(|e| e.to_string())?;
            let Message::Binary(bytes) = message else { continue };
            match Frame::decode(&bytes).map_err(|e| e.to_string())? {
                Frame::Answer { id, outcome, session, .. } if id == wanted => {
                    return Ok(Said { outcome, session });
                }
                Frame::Event { id, body } if id == wanted => {
                    return Ok(Said { outcome: Ok(body), session: None });
                }
                _ => {}
            }
        }
    }

    /// Sends a request and waits for what the node says first.
    ///
    /// # Errors
    /// When the connection ends before that.
    pub async fn ask(&mut self, request: Request) -> Result<Said, String> {
        let id = self.send(request).await?;
        self.said(id).await
    }
}
