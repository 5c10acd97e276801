//! Raft RPCs over the peer port: the sending end as openraft wants it, and the receiving end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, Raft};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::apply::{Snapshot, SnapshotData, StateMachine};
use super::codec;
use super::log_adapter::is_initialised;
use super::types::{TypeConfig, Vote};
use crate::peer::{ForwardError, PeerClient};
use crate::storage::LogStore;

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const PRE_VOTE: u8 = 3;
const TRANSFER: u8 = 4;
/// Asks whether a node's log has ever belonged to the group; see `bootstrap`.
pub(super) const PROBE: u8 = 5;

/// Appends to one follower that are on their way at once.
const APPENDS_IN_FLIGHT: usize = 8;

type StreamItem = Result<openraft::raft::StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

const ANSWER: u8 = 0;
const FAILURE: u8 = 1;

/// Makes the sending ends.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) me: u64,
    pub(super) peers: PeerClient,
    pub(super) append_limit: Duration,
    pub(super) snapshot_stall: Duration,
}

/// The sending end to one node.
pub(super) struct Sender {
    network: Network,
    target: u64,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Sender;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Sender {
        Sender { network: self.clone(), target }
    }
}

/// Sends one RPC and waits for its answer.
pub(super) async fn call<Q: Serialize, A: DeserializeOwned>(
    peers: &PeerClient,
    target: u64,
    kind: u8,
    request: &Q,
    limit: Duration,
) -> Result<A, ForwardError> {
    let not_sent = |error: &dyn std::fmt::Display| ForwardError::NotSent(error.to_string());
    let request = codec::encode_message(kind, request).map_err(|error| not_sent(&error))?;
    let answer = peers.raft(target, request, limit).await?;
    let unknown = |error: &dyn std::fmt::Display| ForwardError::Unknown(error.to_string());
    let (outcome, body) = codec::open_message(&answer).map_err(|error| unknown(&error))?;
    match outcome {
        ANSWER => codec::decode_body(body).map_err(|error| unknown(&error)),
        _ => Err(ForwardError::Unknown(codec::decode_body(body).unwrap_or_default())),
    }
}

impl Sender {
    async fn rpc<Q: Serialize, A: DeserializeOwned>(
        &self,
        action: RPCTypes,
        kind: u8,
        request: &Q,
        limit: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let Network { me, peers, .. } = &self.network;
        call(peers, self.target, kind, request, limit).await.map_err(|error| match error {
            ForwardError::NotSent(why) => Unreachable::from_string(why).into(),
            ForwardError::Unknown(why) if why.is_empty() => {
                Timeout { action, id: *me, target: self.target, timeout: limit }.into()
            }
            ForwardError::Unknown(why) => NetworkError::from_string(why).into(),
        })
    }
}

impl RaftNetworkV2<TypeConfig> for Sender {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // A follower may be in the middle of an fsync: giving up at each heartbeat would send everything again.
        let limit = option.soft_ttl().max(self.network.append_limit);
        self.rpc(RPCTypes::AppendEntries, APPEND, &rpc, limit).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, StreamItem>, RPCError<TypeConfig>>>
    where
        S: futures_util::Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let limit = option.soft_ttl().max(self.network.append_limit);
        let sender = &*self;
        // Several appends are on their way at once; answers come back in the order of the requests. The first that
        // is not a whole success ends the stream: what follows it would not fit the follower's log.
        let answers = input
            .map(move |request| {
                let prev = request.prev_log_id;
                let last = request.entries.last().map(RaftEntry::log_id).or(prev);
                async move {
                    let answer: AppendEntriesResponse<TypeConfig> =
                        sender.rpc(RPCTypes::AppendEntries, APPEND, &request, limit).await?;
                    let partly = matches!(answer, AppendEntriesResponse::PartialSuccess(_));
                    Ok((answer.into_stream_result(prev, last), partly))
                }
            })
            .buffered(APPENDS_IN_FLIGHT);
        let answers = answers.scan(false, |ended, answer: Result<_, RPCError<TypeConfig>>| {
            if *ended {
                return std::future::ready(None);
            }
            *ended = !matches!(&answer, Ok((Ok(_), false)));
            std::future::ready(Some(answer.map(|(result, _)| result)))
        });
        Box::pin(std::future::ready(Ok(Box::pin(answers) as BoxStream<'s, StreamItem>)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(RPCTypes::Vote, VOTE, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(RPCTypes::Vote, PRE_VOTE, &rpc, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(RPCTypes::TransferLeader, TRANSFER, &req, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Local(view) = snapshot.snapshot else {
            let why = "a received snapshot is not sent on";
            return Err(StreamingError::Unreachable(Unreachable::from_string(why)));
        };
        let Network { peers, snapshot_stall, .. } = &self.network;
        let sending = super::snapshot::send(peers, self.target, vote, &snapshot.meta, &view, *snapshot_stall);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }
}

/// Answers one RPC.
pub(super) async fn answer(raft: &Raft<TypeConfig, StateMachine>, log: &LogStore, request: &[u8]) -> Bytes {
    let outcome = match Rpc::decode(request) {
        Ok(rpc) => dispatch(raft, log, rpc).await,
        Err(error) => Err(error),
    };
    let failure = |why: String| codec::encode_message(FAILURE, &why).unwrap_or_default();
    outcome.unwrap_or_else(failure)
}

/// Whether `frame` is an RPC that would be handed to the group, and not answered as broken. It does nothing with it; for
/// fuzzing what other nodes may send.
pub fn understands(frame: &[u8]) -> bool {
    Rpc::decode(frame).is_ok()
}

/// What another node may ask.
enum Rpc {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    Probe,
}

impl Rpc {
    fn decode(frame: &[u8]) -> Result<Self, String> {
        fn body<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
            codec::decode_body(body).map_err(|error| error.to_string())
        }
        let (kind, rest) = codec::open_message(frame).map_err(|error| error.to_string())?;
        Ok(match kind {
            APPEND => Rpc::Append(body(rest)?),
            VOTE => Rpc::Vote(body(rest)?),
            PRE_VOTE => Rpc::PreVote(body(rest)?),
            TRANSFER => Rpc::Transfer(body(rest)?),
            PROBE => Rpc::Probe,
            other => return Err(format!("an RPC of the unknown kind {other}")),
        })
    }
}

async fn dispatch(raft: &Raft<TypeConfig, StateMachine>, log: &LogStore, rpc: Rpc) -> Result<Bytes, String> {
    fn encode<T: Serialize, E: std::fmt::Display>(answer: Result<T, E>) -> Result<Bytes, String> {
        let answer = answer.map_err(|error| error.to_string())?;
        codec::encode_message(ANSWER, &answer).map_err(|error| error.to_string())
    }
    match rpc {
        Rpc::Append(request) => encode(raft.append_entries(request).await),
        Rpc::Vote(request) => encode(raft.vote(request).await),
        Rpc::PreVote(request) => encode(raft.pre_vote(request).await),
        Rpc::Transfer(request) => encode(raft.handle_transfer_leader(request).await),
        Rpc::Probe => encode(is_initialised(log)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;
    use crate::storage::LogPosition;

    #[test]
    fn golden_bytes_of_a_request_for_a_vote_are_understood_and_broken_ones_are_not() {
        let last = log_id(LogPosition { term: 2, index: 9 });
        let request = VoteRequest::<TypeConfig>::new(Vote::new(3, 1), Some(last));
        let bytes = codec::encode_message(VOTE, &request).expect("encodes");
        let golden: &[u8] = &[1, VOTE, 0x93, 0x92, 0x92, 3, 1, 0xc2, 0x92, 2, 9, 0xc2];
        assert_eq!(&bytes[..], golden);
        assert!(understands(&bytes));
        for end in 0..bytes.len() {
            assert!(!understands(&bytes[..end]), "{end} bytes");
        }
        assert!(!understands(&[1, 99]) && understands(&[1, PROBE]));
    }
}
