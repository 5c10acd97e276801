//! Connections to each system, all alike: operations are queued, one exchange sends them and takes what has come.
//!
//! Every answer is checked: a write must be confirmed as asked for, a read must show a value of its key.

pub mod etcd;
mod grpc;
pub mod meridian;
mod msgpack;
mod protobuf;
pub mod redis;
mod wire;

use crate::op::Op;

/// An operation's id and what came of it.
pub type Done = (u8, Result<(), String>);

/// The systems that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// This project.
    Meridian,
    /// etcd over its gRPC interface.
    Etcd,
    /// Redis with an append-only file synced on every write, and replicas waited for.
    Redis,
}

impl Kind {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Meridian, Self::Etcd, Self::Redis];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meridian => "meridian",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub enum Connection {
    /// To Meridian.
    Meridian(Box<meridian::Connection>),
    /// To etcd.
    Etcd(Box<etcd::Connection>),
    /// To Redis.
    Redis(Box<redis::Connection>),
}

impl Connection {
    /// Connects; `salt` makes the client's values its own.
    pub async fn connect(kind: Kind, address: &str, salt: u64) -> Result<Self, String> {
        Ok(match kind {
            Kind::Meridian => Self::Meridian(Box::new(meridian::Connection::connect(address, salt).await?)),
            Kind::Etcd => Self::Etcd(Box::new(etcd::Connection::connect(address, salt).await?)),
            Kind::Redis => Self::Redis(Box::new(redis::Connection::connect(address, salt).await?)),
        })
    }

    /// Adds an operation to those that the next exchange sends. Its id must not be in use.
    pub fn queue(&mut self, id: u8, op: Op) -> Result<(), String> {
        match self {
            Self::Meridian(connection) => connection.queue(id, op),
            Self::Etcd(connection) => return connection.queue(id, op),
            Self::Redis(connection) => connection.queue(id, op),
        }
        Ok(())
    }

    /// Sends what was queued and takes all answers that are there, at least one. After an error the connection is of
    /// no use any more.
    pub async fn exchange(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        match self {
            Self::Meridian(connection) => connection.exchange(done).await,
            Self::Etcd(connection) => connection.exchange(done).await,
            Self::Redis(connection) => connection.exchange(done).await,
        }
    }
}
