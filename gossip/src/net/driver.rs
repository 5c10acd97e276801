//! The one loop that owns the machine.
//!
//! Order of a turn: the newest view, then the event, then all outputs. Reads, proposals, dials and handshakes run as
//! futures of this task; sockets as tasks of their own. What full means: the event channel makes readers wait, a full
//! socket queue ends that connection, too many handshakes drop the newest stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::host::{BoxStream, Host};
use super::socket::{self, Connection, Socket};
use crate::config::{GossipConfig, Identity};
use crate::proto::Machine;
use crate::proto::event::{ConnId, Event, Now, Output};
use crate::proto::seam::View;
use crate::proto::status::GossipStatus;

/// Events of all sockets that may wait for the machine. When full, the readers wait.
const EVENTS_MAX: usize = 256;

/// How often the published status is refreshed.
const STATUS_INTERVAL_MS: u64 = 100;

/// The longest sleep when the machine has no timer.
const IDLE_MS: u64 = 1000;

/// What a future of the driver came to.
enum Done {
    Event(Event),
    Dialed { dc: String, attempt: u64, socket: Result<Socket, String> },
    Accepted(Result<Socket, String>),
}

pub(super) struct Driver {
    host: Arc<dyn Host>,
    config: GossipConfig,
    machine: Machine,
    view: watch::Receiver<Arc<View>>,
    conns: BTreeMap<ConnId, Connection>,
    conn_last: ConnId,
    handshakes: usize,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    status: watch::Sender<Arc<GossipStatus>>,
    status_at_ms: u64,
}

impl Driver {
    pub(super) fn new(
        identity: Identity,
        config: GossipConfig,
        host: Arc<dyn Host>,
        status: watch::Sender<Arc<GossipStatus>>,
    ) -> Self {
        let machine = Machine::new(identity, config.clone(), host.jitter_seed());
        let mut view = host.view();
        view.mark_changed();
        Self {
            view,
            machine,
            conns: BTreeMap::new(),
            conn_last: 0,
            handshakes: 0,
            jobs: FuturesUnordered::new(),
            events: mpsc::channel(EVENTS_MAX),
            status,
            status_at_ms: 0,
            host,
            config,
        }
    }

    /// Runs until `stopped` turns true or both senders are gone.
    pub(super) async fn run(
        mut self,
        mut accepted: mpsc::Receiver<BoxStream>,
        mut stopped: watch::Receiver<bool>,
    ) {
        loop {
            let nap = self.nap();
            let event = tokio::select! {
                biased;
                _ = stopped.changed() => return,
                Some(done) = self.jobs.next() => self.finish(done),
                event = self.events.1.recv() => event,
                changed = self.view.changed() => match changed {
                    // `changed` has marked it as seen; the turn looks again.
                    Ok(()) => { self.view.mark_changed(); None }
                    // The node has dropped its side: it is going down.
                    Err(_) => return,
                },
                stream = accepted.recv() => match stream {
                    Some(stream) => { self.greet(stream); None }
                    None => return,
                },
                () = sleep(nap) => None,
            };
            self.turn(event);
        }
    }

    fn now(&self) -> Now {
        Now { ms: self.host.now_ms(), unix_ms: self.host.unix_ms() }
    }

    fn nap(&self) -> Duration {
        let wait = self.machine.deadline_ms().map_or(IDLE_MS, |at| at.saturating_sub(self.host.now_ms()));
        Duration::from_millis(wait.min(IDLE_MS))
    }

    /// One turn: the newest view first, because an answer may rest on it.
    fn turn(&mut self, event: Option<Event>) {
        let now = self.now();
        if self.view.has_changed().unwrap_or(false) {
            let view = Arc::clone(&self.view.borrow_and_update());
            self.machine.handle(Event::View(view), now);
        }
        self.machine.handle(event.unwrap_or(Event::Tick), now);
        let mut failed = VecDeque::new();
        loop {
            while let Some(output) = self.machine.poll_output() {
                self.perform(output, &mut failed);
            }
            match failed.pop_front() {
                Some(event) => self.machine.handle(event, now),
                None => break,
            }
        }
        if now.ms >= self.status_at_ms + STATUS_INTERVAL_MS
            || self.status.borrow().leading != self.machine.is_leading()
        {
            self.status_at_ms = now.ms;
            self.status.send_replace(Arc::new(self.machine.status(now)));
        }
    }

    fn perform(&mut self, output: Output, failed: &mut VecDeque<Event>) {
        match output {
            Output::Dial { dc, node, attempt } => self.dial(dc, node, attempt),
            Output::Send { conn, message } => {
                let why = match (message.encode(), self.conns.get(&conn)) {
                    (_, None) => return,
                    (Err(error), _) => error.to_string(),
                    (Ok(bytes), Some(connection)) if connection.send(&bytes) => return,
                    (Ok(_), _) => "the peer has fallen too far behind".to_owned(),
                };
                self.conns.remove(&conn);
                failed.push_back(Event::Closed { conn, why });
            }
            Output::Close { conn, why } => {
                tracing::debug!(conn, why, "closing a connection between datacenters");
                self.conns.remove(&conn);
            }
            Output::ReadOplog { conn, ticket, from, lacking, want, bytes_max } => {
                let host = Arc::clone(&self.host);
                self.jobs.push(Box::pin(async move {
                    let read = host.read_oplog(from, lacking, want, bytes_max).await;
                    Done::Event(Event::OplogRead { conn, ticket, result: read.map_err(|e| e.to_string()) })
                }));
            }
            Output::Propose { ticket, remote } => {
                let host = Arc::clone(&self.host);
                self.jobs.push(Box::pin(async move {
                    let result = host.propose(remote).await.map_err(|e| e.to_string());
                    Done::Event(Event::Proposed { ticket, result })
                }));
            }
            Output::LostTail { lost } => {
                tracing::error!(%lost, "a peer knows of a txn that this datacenter had and has lost");
                self.host.lost_tail(lost);
            }
            Output::Alarm { dc, what } => tracing::error!(dc, what, "replication alarm"),
        }
    }

    fn dial(&mut self, dc: String, node: u64, attempt: u64) {
        let host = Arc::clone(&self.host);
        let deadline = Duration::from_millis(self.config.connect_ms_max);
        self.jobs.push(Box::pin(async move {
            let opening = async {
                let stream = host.dial(&dc, node).await.map_err(|e| e.to_string())?;
                socket::open(stream).await
            };
            let socket = timeout(deadline, opening).await;
            let socket = socket.unwrap_or_else(|_| Err("dialing took too long".to_owned()));
            Done::Dialed { dc, attempt, socket }
        }));
    }

    /// Starts the handshake of an inbound stream, or drops it when too many are under way.
    fn greet(&mut self, stream: BoxStream) {
        if self.handshakes >= self.config.greeting_max {
            tracing::warn!("too many inbound connections at once; dropping one");
            return;
        }
        self.handshakes += 1;
        let deadline = Duration::from_millis(self.config.connect_ms_max);
        self.jobs.push(Box::pin(async move {
            let socket = timeout(deadline, socket::accept(stream)).await;
            Done::Accepted(socket.unwrap_or_else(|_| Err("the handshake took too long".to_owned())))
        }));
    }

    fn finish(&mut self, done: Done) -> Option<Event> {
        match done {
            Done::Event(event) => Some(event),
            Done::Dialed { dc, attempt, socket: Ok(socket) } => {
                let conn = self.connect(socket);
                Some(Event::Dialed { dc, attempt, conn })
            }
            Done::Dialed { dc, attempt, socket: Err(why) } => Some(Event::DialFailed { dc, attempt, why }),
            Done::Accepted(socket) => {
                self.handshakes -= 1;
                match socket {
                    Ok(socket) => Some(Event::Accepted { conn: self.connect(socket) }),
                    Err(why) => {
                        tracing::debug!(why, "an inbound handshake failed");
                        None
                    }
                }
            }
        }
    }

    fn connect(&mut self, socket: Socket) -> ConnId {
        self.conn_last += 1;
        let connection = Connection::start(
            socket,
            self.conn_last,
            self.config.queue_messages_max,
            Duration::from_millis(self.config.send_ms_max),
            self.events.0.clone(),
        );
        self.conns.insert(self.conn_last, connection);
        self.conn_last
    }
}
