//! The SDK: sessions, typed handles, transactions and watches over the native protocol, with failover between
//! datacenters.
//!
//! [`Client`] holds one connection to each node, kept by a task of its own (`node`); `fleet` knows all of them and
//! which datacenter is home (`home`, a pure decision). A request goes through `call`, the one place that decides
//! about repeating and failover; `connection` knows whether a request may have reached its node, and `ids` names
//! mutations so that repeating one in its datacenter does nothing new. Everything else is shape: handles, values,
//! transactions, streams.

mod backoff;
mod call;
mod client;
mod connection;
mod error;
mod fleet;
mod handle;
mod home;
mod ids;
mod node;
mod read;
mod session;
mod settings;
mod space;
pub mod transport;
mod txn;
mod value;
mod watching;

pub use client::Client;
pub use error::{Advice, Error, Guarantee};
pub use fleet::HomeChange;
pub use handle::{Counter, DwFlag, Elements, Flag, Map, MvRegister, Raw, Register, RwSet, Set, Source};
pub use home::{RETURN_AFTER, RETURN_AFTER_MAX};
pub use read::{Content, Field, KeysPage, Listed, Versioned, Written};
pub use session::Session;
pub use settings::{
    ATTEMPT_TIMEOUT, Builder, CONNECT_TIMEOUT, DC_PATIENCE, PROBE_INTERVAL, PROBE_TIMEOUT, Preference,
    REQUEST_TIMEOUT,
};
pub use space::{Keys, Space};
pub use txn::{OneShot, Transaction, TransactionOptions};
pub use value::{FromValue, IntoValue};
pub use watching::{Change, Watch, WatchItem, WatchOptions, WatchTxn};
