//! One multiplexed connection to a node: many requests in flight, writes gathered, redialled on use.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::Inner;
use super::frames::{self, FrameReader};
use super::{ForwardError, Kind};
use crate::seams::BoxStream;

/// Requests that wait for the connection; more are refused at once.
const QUEUE_MAX: usize = 4096;
/// Requests gathered into one write.
const GATHER_MAX: usize = 256;
/// The pause after a failed dial; requests that wait that long fail as not sent.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);
/// While answers are awaited, how long the other end may be silent before it is asked whether it lives.
const PING_AFTER: Duration = Duration::from_millis(500);
/// How long it may be silent before the connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(2);

const WAITING: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

struct Request {
    body: Bytes,
    // Tells apart, when the caller's deadline passes, what has left this node and what never will.
    stage: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<Bytes, ForwardError>>,
}

/// The caller's end of a connection.
#[derive(Clone)]
pub(super) struct Link(mpsc::Sender<Request>);

impl Link {
    /// A link whose task ends when its client is gone.
    pub(super) fn start(client: Weak<Inner>, node: u64, kind: Kind) -> Self {
        let (tx, rx) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(client, node, kind, rx));
        Self(tx)
    }

    pub(super) async fn call(&self, body: Bytes, deadline: Duration) -> Result<Bytes, ForwardError> {
        if body.len() > frames::BODY_BYTES_MAX {
            return Err(ForwardError::NotSent("the request is too large for a frame".into()));
        }
        let stage = Arc::new(AtomicU8::new(WAITING));
        let (answer, answered) = oneshot::channel();
        let request = Request { body, stage: stage.clone(), answer };
        self.0.try_send(request).map_err(|error| {
            ForwardError::NotSent(match error {
                mpsc::error::TrySendError::Full(_) => "too many requests wait for this node".into(),
                mpsc::error::TrySendError::Closed(_) => "the connection is closed".into(),
            })
        })?;
        match timeout(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(lost(&stage, "the connection is closed")),
            Err(_) => Err(lost(&stage, "no answer in time")),
        }
    }
}

fn lost(stage: &AtomicU8, why: &str) -> ForwardError {
    match stage.compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => ForwardError::NotSent(why.into()),
        Err(_) => ForwardError::Unknown(why.into()),
    }
}

async fn run(client: Weak<Inner>, node: u64, kind: Kind, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        let dialled = match client.upgrade() {
            Some(inner) => inner.dial(node, kind).await,
            None => return,
        };
        match dialled {
            Ok(stream) => talk(stream, first, &mut requests).await,
            Err(error) => {
                refuse(first, &error.to_string());
                while let Ok(request) = requests.try_recv() {
                    refuse(request, &error.to_string());
                }
                sleep(REDIAL_PAUSE).await;
            }
        }
    }
}

fn refuse(request: Request, why: &str) {
    // A caller that has given up does not mind.
    let _ = request.answer.send(Err(ForwardError::NotSent(why.to_owned())));
}

/// Sends and receives until the connection fails; what was sent and not answered then has an unknown outcome.
async fn talk(stream: BoxStream, first: Request, requests: &mut mpsc::Receiver<Request>) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader);
    let mut waiting: BTreeMap<u64, oneshot::Sender<Result<Bytes, ForwardError>>> = BTreeMap::new();
    let mut next_id = 0u64;
    let mut heard = Instant::now();
    let mut look = heard;
    let mut gathered = vec![first];
    let mut out = BytesMut::new();
    let why = loop {
        for request in gathered.drain(..) {
            let go = request.stage.compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire);
            if go.is_ok() {
                if waiting.is_empty() {
                    heard = Instant::now();
                    look = heard + PING_AFTER;
                }
                frames::put(&mut out, next_id, &request.body);
                waiting.insert(next_id, request.answer);
                next_id += 1;
            }
        }
        tokio::select! {
            biased;
            written = writer.write_buf(&mut out), if !out.is_empty() => match written {
                Ok(_) if out.is_empty() => {
                    if let Err(error) = writer.flush().await {
                        break error.to_string();
                    }
                }
                Ok(_) => {}
                Err(error) => break error.to_string(),
            },
            frame = reader.next() => match frame {
                Ok(Some((id, body))) => {
                    heard = Instant::now();
                    if let Some(answer) = waiting.remove(&id) {
                        // A caller that has given up does not mind.
                        let _ = answer.send(Ok(body));
                    }
                }
                Ok(None) => break "the connection was closed".to_owned(),
                Err(error) => break error.to_string(),
            },
            () = sleep_until(look), if !waiting.is_empty() => {
                let silence = heard.elapsed();
                if silence > SILENCE_MAX {
                    break "the other end is silent".to_owned();
                }
                if silence >= PING_AFTER {
                    frames::put(&mut out, frames::PING, &[]);
                }
                look = Instant::now() + PING_AFTER;
            }
            count = requests.recv_many(&mut gathered, GATHER_MAX), if out.is_empty() => {
                if count == 0 {
                    break "the client is gone".to_owned();
                }
            }
        }
        // Callers that gave up would otherwise pile up while the other end is silent.
        if waiting.len() > QUEUE_MAX {
            waiting.retain(|_, answer| !answer.is_closed());
        }
    };
    for answer in waiting.into_values() {
        let _ = answer.send(Err(ForwardError::Unknown(why.clone())));
    }
}
