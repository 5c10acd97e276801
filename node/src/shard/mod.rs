//! One shard on one node: where clients' requests meet the Raft group.
//!
//! A follower forwards writes to the leader; the leader checks the session against its vector and proposes. Reads are
//! answered here once this node covers the session. Every wait is bounded and names its error.

pub mod clock;
mod compactor;
pub mod digests;
pub mod forward;
mod gather;
pub mod health;
mod held;
pub mod host;
pub mod keeper;
pub mod levels;
pub mod machine;
pub mod open;
pub mod proposer;
pub mod published;
mod scrubber;
pub mod transactions;
pub mod write_room;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Dot, Vector};
use meridian_gossip::GossipHandle;
use tokio::sync::watch;
use tokio::time::Instant;

pub use forward::{Lag, WriteRequest};
use forward::{Request, Response};
use health::Health;
use open::Transactions;
use proposer::{Proposer, SubmitError};
use published::{Published, Publisher, wait_for_dots};
use write_room::{Taken, WriteRoom};

use crate::peer::{ForwardError, PeerClient, PeerIdentity};
use crate::raft::{ENTRY_BYTES_MAX, Leadership, ProposeError, RaftGroup};
use crate::seams::{BoxStream, Seams};
use crate::storage::{Folder, StateStore, StateView};
use crate::txn::{Answer, Item, Outcome};
use crate::watch::Watches;

/// How long a request waits for a leader to be elected. Above the longest election, below the two seconds in which a
/// client should learn that there is no majority.
const LEADER_WAIT: Duration = Duration::from_millis(1500);
/// How long a forwarded request may take beyond its own wait.
const FORWARD_MARGIN: Duration = Duration::from_secs(5);
/// How often a request is sent again after the leader changed.
const ATTEMPTS_MAX: usize = 8;

/// The shard of this node. Cheap to share.
pub struct Shard {
    /// The name of this datacenter.
    pub dc: String,
    /// The id of this node.
    pub node: u64,
    /// The Raft group.
    pub raft: Arc<RaftGroup>,
    /// The state.
    pub store: StateStore,
    /// The data folder, for its room.
    pub folder: Arc<Folder>,
    /// What is applied and who leads.
    pub publisher: Arc<Publisher>,
    /// The way into the Raft group.
    pub proposer: Proposer,
    /// Room for the writes that this node works on, its own clients' and those that are forwarded to it.
    pub write_room: WriteRoom,
    /// Connections to the other nodes.
    pub peers: Arc<PeerClient>,
    /// Clocks and randomness.
    pub seams: Seams,
    /// Replication to the other datacenters.
    pub gossip: GossipHandle,
    /// How far behind the others this datacenter is, as the leader told last.
    pub lag: watch::Sender<LagSeen>,
    /// Whether this node has recovered what was committed when it started.
    pub ready: watch::Sender<bool>,
    /// What the background checks have found.
    pub health: Health,
    /// Whether the disk has room for writes.
    pub room: watch::Sender<bool>,
    /// The interactive transactions that are open on this node.
    pub transactions: Transactions,
    /// The watches of this node.
    pub watches: Arc<Watches>,
}

/// The leader's word on how far the others are, and when it was given.
#[derive(Clone, Debug, Default)]
pub struct LagSeen {
    /// By datacenter.
    pub by_dc: BTreeMap<String, Lag>,
    /// On the monotonic clock.
    pub at_ms: u64,
}

impl Shard {
    /// Does a client's write and answers when a majority of this datacenter has it.
    //
    // A request that waits is all of this future and of those around it, so what is large or rare in them is in a box.
    pub async fn write(&self, mut request: Box<WriteRequest>) -> Result<Answer, ApiError> {
        let room = self.room_for(&request)?;
        let deadline = Instant::now() + Duration::from_millis(request.wait_ms) + FORWARD_MARGIN;
        let caught_up_by = Instant::now() + Duration::from_millis(request.wait_ms);
        let mut last = LastError::default();
        for _ in 0..ATTEMPTS_MAX {
            if Instant::now() >= deadline {
                break;
            }
            let leadership = match self.leader().await {
                Ok(leadership) => leadership,
                Err(error) => return Err(last.or_else(error)),
            };
            let left = caught_up_by.saturating_duration_since(Instant::now());
            request.wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let attempt = if leadership.leader == Some(self.node) {
                self.write_here(&request, &room).await
            } else {
                Box::pin(self.write_there(leadership.leader.unwrap_or_default(), &request, deadline)).await
            };
            match attempt {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Final(error)) => return Err(last.or_else(error)),
                Err(Attempt::NotDone(error)) => last.not_done(error),
                Err(Attempt::Unknown(error)) if request.id.is_some() => last.unknown = Some(error),
                Err(Attempt::Unknown(error)) => return Err(error),
            }
            Box::pin(self.leader_may_change(&leadership, deadline)).await;
        }
        Err(last.take())
    }

    /// Room for a write, to be kept as long as the write takes memory.
    fn room_for(&self, request: &WriteRequest) -> Result<Taken, ApiError> {
        let overloaded = || {
            let message =
                "this node has as many bytes of writes waiting as it takes; nothing changed, repeat soon";
            ApiError::new(ErrorCode::Overloaded, message).retry_after_ms(100)
        };
        self.write_room.take(request.bytes).ok_or_else(overloaded)
    }

    /// Waits a moment for another leader than the one that has just refused.
    async fn leader_may_change(&self, refused: &Leadership, deadline: Instant) {
        let mut leadership = self.raft.leadership();
        let until = deadline.min(Instant::now() + Duration::from_millis(100));
        let changed =
            leadership.wait_for(|now| now.leader != refused.leader || now.leading != refused.leading);
        // Running out of time is no error here: the next attempt asks again.
        let _ = tokio::time::timeout_at(until, changed).await;
    }

    /// The current leader, waiting for an election if need be.
    async fn leader(&self) -> Result<Leadership, ApiError> {
        let me = self.node;
        let settled = |now: &Leadership| now.leader.is_some_and(|leader| leader != me || now.leading);
        let now = self.raft.leadership_now();
        if settled(&now) {
            return Ok(now);
        }
        let elected = async {
            let mut leadership = self.raft.leadership();
            match tokio::time::timeout(LEADER_WAIT, leadership.wait_for(settled)).await {
                Ok(Ok(leadership)) => Ok(*leadership),
                Ok(Err(_)) => Err(stopping()),
                Err(_) => Err(no_leader_in_time()),
            }
        };
        Box::pin(elected).await
    }

    /// Waits until this node, if it has just been elected, may lead. Others of its datacenter know it as the leader
    /// a moment before it has applied the first entry of its term.
    async fn until_leading(&self) {
        let mut leadership = self.raft.leadership();
        let me = self.node;
        let settled = leadership.wait_for(|now| now.leading || now.leader.is_some_and(|leader| leader != me));
        // Who still does not lead then says so when it is asked to propose.
        let _ = tokio::time::timeout(LEADER_WAIT, settled).await;
    }

    /// The leader's own part of a write.
    async fn write_here(&self, request: &WriteRequest, room: &Taken) -> Result<Answer, Attempt> {
        if !*self.room.borrow() {
            let message = "the disk is down to its headroom; free some space";
            return Err(Attempt::Final(ApiError::new(ErrorCode::StorageFull, message).retry_after_ms(5_000)));
        }
        if !self.health.clock_is_safe() {
            let message = "the clock of this datacenter's leader is off; it is about to be replaced";
            return Err(Attempt::NotDone(
                ApiError::new(ErrorCode::ClockUnsafe, message).retry_after_ms(1_000),
            ));
        }
        let wait = Duration::from_millis(request.wait_ms);
        if !self.publisher.now().state.vector.covers_all(&request.session) {
            Box::pin(self.caught_up(&request.session, wait)).await.map_err(Attempt::Final)?;
        }
        match self.proposer.submit(Item::Client(request.to_txn()), request.bytes, Some(room.clone())).await {
            Ok(Outcome::Client(answer)) => Ok(answer),
            Ok(other) => {
                tracing::error!(?other, "a write got the outcome of something else");
                Err(Attempt::Final(ApiError::new(ErrorCode::Internal, "the write got no answer of its own")))
            }
            Err(SubmitError::Overloaded) => {
                let message = "this datacenter's leader has as many writes waiting as it takes";
                Err(Attempt::Final(ApiError::new(ErrorCode::Overloaded, message).retry_after_ms(100)))
            }
            Err(SubmitError::Stopped | SubmitError::Propose(ProposeError::Stopped)) => {
                Err(Attempt::NotDone(stopping()))
            }
            Err(SubmitError::Propose(ProposeError::NotLeader { .. })) => {
                Err(Attempt::NotDone(no_leader("the leader has just changed; nothing changed, repeat soon")))
            }
            Err(SubmitError::Propose(ProposeError::NoQuorum)) => Err(Attempt::Final(no_quorum())),
            Err(SubmitError::Propose(ProposeError::DiskBehind)) => {
                let message =
                    "the disk of this datacenter's leader has fallen behind; nothing changed, repeat later";
                Err(Attempt::Final(ApiError::new(ErrorCode::Overloaded, message).retry_after_ms(1_000)))
            }
            Err(SubmitError::Propose(ProposeError::TooLarge)) => {
                let message = "the transaction does not fit into one log entry; split it";
                Err(Attempt::Final(
                    ApiError::new(ErrorCode::TooLarge, message).with("limit", ENTRY_BYTES_MAX),
                ))
            }
            Err(SubmitError::Propose(ProposeError::Unknown)) => Err(Attempt::Unknown(outcome_unknown())),
        }
    }

    /// The leader's part of a write that another node has forwarded.
    async fn write_forwarded(&self, request: &WriteRequest) -> Result<Answer, Attempt> {
        let room = self.room_for(request).map_err(Attempt::Final)?;
        self.write_here(request, &room).await
    }

    /// Waits until what is applied here covers what a session depends on.
    async fn caught_up(&self, session: &Vector, wait: Duration) -> Result<(), ApiError> {
        let mut applied = self.publisher.applied();
        match wait_for_dots(&mut applied, session, wait).await {
            Some(_) => Ok(()),
            None => Err(self.not_caught_up(&applied.borrow(), session)),
        }
    }

    async fn write_there(
        &self,
        leader: u64,
        request: &WriteRequest,
        deadline: Instant,
    ) -> Result<Answer, Attempt> {
        let time = deadline.saturating_duration_since(Instant::now());
        match self.ask(leader, &Request::Write(Box::new(request.clone())), time).await {
            Ok(Response::Write(answer)) => Ok(answer),
            Ok(Response::Failed(error)) => Err(match error.code {
                ErrorCode::NoLeader | ErrorCode::ShuttingDown | ErrorCode::ClockUnsafe => {
                    Attempt::NotDone(error)
                }
                ErrorCode::OutcomeUnknown => Attempt::Unknown(error),
                _ => Attempt::Final(error),
            }),
            Ok(_) => Err(Attempt::Unknown(outcome_unknown())),
            Err(ForwardError::NotSent(_)) => Err(Attempt::NotDone(leader_unreachable())),
            Err(_) => Err(Attempt::Unknown(outcome_unknown())),
        }
    }

    async fn ask(&self, node: u64, request: &Request, time: Duration) -> Result<Response, ForwardError> {
        let bytes = forward::encode(request).map_err(ForwardError::NotSent)?;
        let answer = self.peers.forward(node, bytes, time).await?;
        forward::decode(&answer).map_err(|e| {
            tracing::warn!(node, error = %e, "a forwarded request got an answer that does not decode");
            ForwardError::Unknown(e)
        })
    }

    /// A dot that no life of a datacenter of this cluster can have made, by what this node knows.
    pub fn foreign_dot(&self, dots: &Vector) -> Option<Dot> {
        // What is applied while a node starts may be of a time when it knew fewer lives.
        let is_ready = *self.ready.borrow();
        self.publisher.foreign_dot(dots).filter(|_| is_ready)
    }

    /// The state of this node if it satisfies `consistency` and covers `session` as it is.
    pub fn read_now(&self, consistency: Consistency, session: &Vector) -> Option<StateView> {
        let may = match consistency {
            Consistency::Eventual => true,
            Consistency::Session => {
                *self.ready.borrow() && self.publisher.now().state.vector.covers_all(session)
            }
            Consistency::Linearizable => false,
        };
        may.then(|| self.store.view())
    }

    /// The state of this node once it satisfies `consistency` and covers `session`, waiting at most `wait` for that. A
    /// linearizable read takes the round trips that it needs besides, which have a bound of their own.
    pub async fn read(
        &self,
        consistency: Consistency,
        session: &Vector,
        wait: Duration,
    ) -> Result<StateView, ApiError> {
        if let Some(view) = self.read_now(consistency, session) {
            return Ok(view);
        }
        Box::pin(self.read_later(consistency, session, wait)).await
    }

    /// The same where something has to be waited for.
    async fn read_later(
        &self,
        consistency: Consistency,
        session: &Vector,
        wait: Duration,
    ) -> Result<StateView, ApiError> {
        let deadline = Instant::now() + wait;
        self.recovered(wait.min(LEADER_WAIT)).await?;
        let mut applied = self.publisher.applied();
        if consistency == Consistency::Linearizable {
            let index = self.read_index().await?;
            let reached = applied.wait_for(|now| now.index >= index);
            if !matches!(tokio::time::timeout(wait.max(LEADER_WAIT), reached).await, Ok(Ok(_))) {
                return Err(ApiError::new(
                    ErrorCode::NotCaughtUp,
                    "this node has not caught up with its leader",
                )
                .retry_after_ms(200));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        self.caught_up(session, left).await?;
        Ok(self.store.view())
    }

    async fn recovered(&self, wait: Duration) -> Result<(), ApiError> {
        let mut ready = self.ready.subscribe();
        match tokio::time::timeout(wait, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ApiError::new(
                ErrorCode::NoQuorum,
                "this node has started and has not yet heard from a majority what was committed",
            )
            .retry_after_ms(500)),
        }
    }

    /// The log index from which on a read sees everything that was acknowledged before now.
    pub async fn read_index(&self) -> Result<u64, ApiError> {
        let leadership = self.leader().await?;
        if leadership.leader == Some(self.node) {
            return self.raft.read_index(LEADER_WAIT).await.map_err(|_| no_quorum());
        }
        match self.ask(leadership.leader.unwrap_or_default(), &Request::ReadIndex, LEADER_WAIT).await {
            Ok(Response::ReadIndex(index)) => Ok(index),
            Ok(Response::Failed(error)) => Err(error),
            _ => Err(leader_unreachable()),
        }
    }

    /// How far this datacenter is behind each other one.
    pub fn lag(&self) -> BTreeMap<String, Lag> {
        self.lag_with(|dc, lag| (dc.to_owned(), lag))
    }

    /// The same, each put into the form that is wanted.
    pub fn lag_with<T, C: FromIterator<T>>(&self, form: impl Fn(&str, Lag) -> T) -> C {
        let seen = self.lag.borrow();
        let ours = seen.by_dc.is_empty() || self.raft.leadership_now().leader == Some(self.node);
        // What the leader said has grown old since.
        let age = if ours { 0 } else { self.seams.clock.monotonic_ms().saturating_sub(seen.at_ms) };
        let now = |lag: &Lag| Lag { txns: lag.txns, ms: lag.ms + age };
        seen.by_dc.iter().map(|(dc, lag)| form(dc, now(lag))).collect()
    }

    /// The error that names the origin that the session waits for most.
    fn not_caught_up(&self, have: &Published, session: &Vector) -> ApiError {
        let missing_of = |dot: meridian_crdt::Dot| dot.seq.saturating_sub(have.state.vector.get(dot.origin));
        let worst = session.iter().max_by_key(|dot| missing_of(*dot));
        let missing = worst.map_or(0, missing_of);
        let dc = worst
            .map(|dot| have.state.dc_of(dot.origin).map_or_else(|| dot.origin.to_string(), str::to_owned))
            .unwrap_or_default();
        let ms = self.lag().get(&dc).map_or(0, |lag| lag.ms);
        let message = format!(
            "this datacenter lacks {missing} txns of {dc} that the session depends on; wait longer, or go where they are"
        );
        ApiError::new(ErrorCode::NotCaughtUp, message)
            .with("origin", dc)
            .with("behind_txns", missing)
            .with("behind_ms", ms)
            .retry_after_ms(200)
    }
}

/// How an attempt to write ended without an answer.
enum Attempt {
    /// Nothing was done, and another attempt would end the same way.
    Final(ApiError),
    /// Nothing was done; another leader may do it.
    NotDone(ApiError),
    /// It may have been done.
    Unknown(ApiError),
}

/// The error of a write that was tried several times. Once an attempt may have been done, no later one can say that
/// nothing was.
#[derive(Debug, Default)]
struct LastError {
    unknown: Option<ApiError>,
    not_done: Option<ApiError>,
}

impl LastError {
    fn not_done(&mut self, error: ApiError) {
        self.not_done = Some(error);
    }

    fn or_else(self, error: ApiError) -> ApiError {
        self.unknown.unwrap_or(error)
    }

    fn take(self) -> ApiError {
        let none = || no_leader("no leader took the write in time");
        self.unknown.or(self.not_done).unwrap_or_else(none)
    }
}

fn no_quorum() -> ApiError {
    ApiError::new(
        ErrorCode::NoQuorum,
        "a majority of this datacenter's nodes cannot be reached; nothing changed",
    )
    .retry_after_ms(1_000)
}

fn no_leader(message: &str) -> ApiError {
    ApiError::new(ErrorCode::NoLeader, message).retry_after_ms(200)
}

fn leader_unreachable() -> ApiError {
    no_leader("the leader cannot be reached; nothing changed, repeat soon")
}

/// Nobody knows yet whether an election is on its way or cannot come about, and the message must not claim to.
fn no_leader_in_time() -> ApiError {
    ApiError::new(
        ErrorCode::NoQuorum,
        format!(
            "this datacenter has had no leader for {LEADER_WAIT:?}: an election takes long, or a majority of its nodes cannot be reached; nothing changed"
        ),
    )
    .retry_after_ms(1_000)
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the node is stopping")
}

fn outcome_unknown() -> ApiError {
    ApiError::new(
        ErrorCode::OutcomeUnknown,
        "no outcome came in time: the leader was lost, or has more to write than it can keep up with; if the request had an id, repeat it in this datacenter with the same one; else only a read tells",
    )
    .retry_after_ms(200)
}

impl Shard {
    /// Answers a request that node `from` of this datacenter forwards.
    pub(crate) async fn forwarded(&self, from: u64, request: Bytes) -> Bytes {
        let response = match forward::decode::<Request>(&request) {
            Ok(request) => self.serve(request).await,
            Err(e) => {
                tracing::warn!(from, error = %e, "a forwarded request does not decode");
                Response::Failed(ApiError::new(ErrorCode::Internal, e))
            }
        };
        forward::encode(&response).unwrap_or_else(|e| {
            tracing::error!(error = %e, "an answer to a forwarded request does not encode");
            Bytes::new()
        })
    }

    /// Takes over a gossip connection of another datacenter.
    pub(crate) fn linked(&self, stream: BoxStream, from: &PeerIdentity) {
        if !self.gossip.accept(Box::new(stream)) {
            tracing::debug!(dc = %from.dc, node = from.node, "a link was not taken; its peer will dial again");
        }
    }

    /// Does what another node of this datacenter asks. It never forwards further.
    async fn serve(&self, request: Request) -> Response {
        if matches!(request, Request::Write(_) | Request::ReadIndex) {
            self.until_leading().await;
        }
        match request {
            Request::Write(write) => match self.write_forwarded(&write).await {
                Ok(answer) => Response::Write(answer),
                Err(Attempt::Final(error) | Attempt::NotDone(error) | Attempt::Unknown(error)) => {
                    Response::Failed(error)
                }
            },
            Request::ReadIndex => match self.raft.read_index(LEADER_WAIT).await {
                Ok(index) => Response::ReadIndex(index),
                Err(_) => Response::Failed(no_quorum()),
            },
            Request::Held { dot, count, wait_ms } => {
                Response::Held(self.held_here(dot, count, Duration::from_millis(wait_ms)).await)
            }
            Request::Lag => Response::Lag(self.lag.borrow().by_dc.clone()),
            Request::Clock => Response::Clock(self.seams.clock.unix_ms()),
            Request::Digests => match self.digest_notes() {
                Ok(notes) => Response::Digests(notes),
                Err(e) => Response::Failed(ApiError::new(ErrorCode::Internal, e.to_string())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_an_attempt_may_have_been_done_no_error_says_that_nothing_was() {
        let error = |code| ApiError::new(code, "");
        let mut last = LastError::default();
        let none = last.take();
        assert_eq!((none.code, none.retry_after_ms), (ErrorCode::NoLeader, Some(200)));
        last = LastError::default();
        last.not_done(error(ErrorCode::ClockUnsafe));
        assert_eq!(last.or_else(error(ErrorCode::NoQuorum)).code, ErrorCode::NoQuorum);
        last = LastError { unknown: Some(outcome_unknown()), not_done: None };
        last.not_done(error(ErrorCode::NoLeader));
        assert_eq!(last.take().code, ErrorCode::OutcomeUnknown);
        last = LastError { unknown: Some(outcome_unknown()), not_done: None };
        assert_eq!(last.or_else(error(ErrorCode::NoQuorum)).code, ErrorCode::OutcomeUnknown);
    }
}
