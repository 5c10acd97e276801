//! etcd's v3 interface over gRPC, as its own clients speak it.
//!
//! It has no counters: an increment is a transaction that writes the next number if the key is still at the revision
//! at which it was read, and that reads it again if not; it counts as one operation once it has succeeded.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Done;
use super::grpc::Channel;
use super::protobuf::{bytes, find_bytes, find_number, number};
use crate::op::{HOT_COUNTER, Level, Op, is_value_of, key_name, value};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// Numbers of `Compare.target` and of the field that holds what a revision is compared with.
const COMPARE_MOD: u64 = 2;

type Call = Pin<Box<dyn Future<Output = Done> + Send>>;

/// One connection; its requests run side by side.
pub struct Connection {
    channel: Channel,
    calls: FuturesUnordered<Call>,
    salt: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("calls", &self.calls.len()).finish_non_exhaustive()
    }
}

/// What a server tells of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its own id.
    pub member: u64,
    /// The leader's id; 0 if there is none.
    pub leader: u64,
}

/// Asks a server for its state.
pub async fn status(address: &str) -> Result<Status, String> {
    let answer = Channel::connect(address).await?.call(STATUS, Vec::new()).await?;
    let header = find_bytes(&answer, 1).unwrap_or_default();
    Ok(Status { member: find_number(header, 2), leader: find_number(&answer, 4) })
}

/// The hot counter's value.
pub async fn counter(address: &str) -> Result<u64, String> {
    let answer = Channel::connect(address).await?.call(RANGE, range(HOT_COUNTER, false)).await?;
    Ok(counted(&answer).0)
}

impl Connection {
    /// Connects.
    pub async fn connect(address: &str, salt: u64) -> Result<Self, String> {
        Ok(Self { channel: Channel::connect(address).await?, calls: FuturesUnordered::new(), salt })
    }

    /// Starts an operation.
    pub fn queue(&mut self, id: u8, op: Op) -> Result<(), String> {
        self.salt = self.salt.wrapping_add(1);
        let (channel, salt) = (self.channel.clone(), self.salt);
        let call: Call = match op {
            Op::Put(key) => {
                let call = channel.call(PUT, put(&key_name(key), &value(key, salt)));
                Box::pin(call.map(move |answer| (id, answer.map(drop))))
            }
            Op::Get(key, level) => {
                let call = channel.call(RANGE, range(&key_name(key), level == Level::Eventual));
                Box::pin(call.map(move |answer| (id, answer.and_then(|answer| shows(key, &answer)))))
            }
            Op::Txn(keys) => {
                let mut request = Vec::new();
                for key in keys {
                    let put = put(&key_name(key), &value(key, salt));
                    bytes(&mut request, 2, &nested(2, &put));
                }
                let check = |answer: Bytes| match find_number(&answer, 2) {
                    1 => Ok(()),
                    _ => Err("the transaction did not succeed".to_owned()),
                };
                Box::pin(channel.call(TXN, request).map(move |answer| (id, answer.and_then(check))))
            }
            Op::Add => Box::pin(add(channel).map(move |outcome| (id, outcome))),
            Op::SetAdd { .. } => return Err("etcd has no sets".into()),
        };
        self.calls.push(call);
        Ok(())
    }

    /// Takes all answers that are there, at least one.
    pub async fn exchange(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        match self.calls.next().await {
            Some(first) => done.push(first),
            None => return Err("nothing was asked".into()),
        }
        while let Some(Some(more)) = self.calls.next().now_or_never() {
            done.push(more);
        }
        Ok(())
    }
}

fn nested(field: u8, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 6);
    bytes(&mut out, field, message);
    out
}

fn put(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + value.len() + 8);
    bytes(&mut out, 1, key.as_bytes());
    bytes(&mut out, 2, value.as_bytes());
    out
}

fn range(key: &str, serializable: bool) -> Vec<u8> {
    let mut out = nested(1, key.as_bytes());
    number(&mut out, 7, u64::from(serializable));
    out
}

fn shows(key: u64, range: &[u8]) -> Result<(), String> {
    let found = find_bytes(range, 2).and_then(|pair| find_bytes(pair, 5));
    match found {
        Some(found) if is_value_of(key, found) => Ok(()),
        Some(_) => Err("a value of another key".into()),
        None => Err("the key has no value".into()),
    }
}

/// The counter's value and its revision, as an answer to a range shows them; zeroes if it is absent.
fn counted(range: &[u8]) -> (u64, u64) {
    let Some(pair) = find_bytes(range, 2) else { return (0, 0) };
    let value = find_bytes(pair, 5).and_then(|value| std::str::from_utf8(value).ok());
    (value.and_then(|value| value.parse().ok()).unwrap_or(0), find_number(pair, 3))
}

async fn add(channel: Channel) -> Result<(), String> {
    let answer = channel.clone().call(RANGE, range(HOT_COUNTER, true)).await?;
    let (mut value, mut revision) = counted(&answer);
    loop {
        let mut compare = Vec::new();
        number(&mut compare, 2, COMPARE_MOD);
        bytes(&mut compare, 3, HOT_COUNTER.as_bytes());
        // The revision of an absent key is 0, which must be written all the same: it is one of several alternatives.
        compare.push(6 << 3);
        let mut rest = revision;
        while rest >= 0x80 {
            compare.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        compare.push(rest as u8);
        let mut request = nested(1, &compare);
        bytes(&mut request, 2, &nested(2, &put(HOT_COUNTER, &(value + 1).to_string())));
        bytes(&mut request, 3, &nested(1, &range(HOT_COUNTER, false)));
        let answer = channel.clone().call(TXN, request).await?;
        if find_number(&answer, 2) == 1 {
            return Ok(());
        }
        let shown = find_bytes(&answer, 3).and_then(|one| find_bytes(one, 1));
        (value, revision) = counted(shown.ok_or("a failed transaction shows nothing")?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_show_values_and_revisions() {
        let mut pair = nested(1, b"k");
        number(&mut pair, 3, 41);
        bytes(&mut pair, 5, value(9, 1).as_bytes());
        let answer = nested(2, &pair);
        assert_eq!(shows(9, &answer), Ok(()));
        assert!(shows(8, &answer).is_err());
        assert!(shows(9, &[]).is_err());
        let mut pair = Vec::new();
        number(&mut pair, 3, 300);
        bytes(&mut pair, 5, b"12");
        assert_eq!(counted(&nested(2, &pair)), (12, 300));
    }
}
