//! The client side of Meridian: the wire types that clients and nodes share ([`wire`]), and the SDK.
//!
//! The SDK is the feature `net`, which is on unless default features are off. `Client` is where to begin: it knows the
//! datacenters, nearest first, and fails over between them. A `Session` carries what its user has read and written. Every
//! example of this documentation is run against real nodes.
//!
#![cfg_attr(feature = "net", doc = "```")]
#![cfg_attr(not(feature = "net"), doc = "```ignore")]
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dcs = meridian::embedded::Setup::default().start_all(&["eu-west", "us-east"]).await?;
//! # let (eu, us) = (dcs[0].addr(), dcs[1].addr());
//! use futures_util::TryStreamExt;
//! use meridian_client::{Client, Error, WatchItem};
//!
//! // A program in Europe: its own datacenter first.
//! let client = Client::builder().dc("eu-west", [eu]).dc("us-east", [us]).connect().await?;
//! let session = client.session();
//! session.set("cart:ann").add("apple").await?;
//! session.counter("budget:ann").add(20).await?;
//!
//! // Another one in America goes on with Ann's session, and reads what she wrote in Europe.
//! let token = session.token();
//! let abroad = Client::builder().dc("us-east", [us]).dc("eu-west", [eu]).connect().await?;
//! let ann = abroad.resume(&token)?;
//! assert!(ann.set("cart:ann").contains("apple").await?);
//!
//! // Many keys, all or nothing. If somebody interferes, the closure is run again.
//! let mut watch = ann.watch_prefix("paid:");
//! watch.try_next().await?; // from here on
//! let paid = ann
//!     .transaction(|txn| async move {
//!         if *txn.counter("budget:ann").value().await? < 15 {
//!             return Ok::<_, Error>(false);
//!         }
//!         txn.counter("budget:ann").add(-15);
//!         txn.counter("paid:ann").add(15);
//!         txn.set("cart:ann").clear();
//!         Ok(true)
//!     })
//!     .await?;
//! assert!(paid);
//!
//! // Who watches is told of the whole, once, in causal order, in every datacenter.
//! let Some(WatchItem::Txn(txn)) = watch.try_next().await? else { panic!("a txn") };
//! assert_eq!((txn.dc.as_str(), txn.changes[0].key.as_str()), ("us-east", "paid:ann"));
//! # Ok(()) }
//! ```

#[cfg(feature = "net")]
pub mod net;
pub mod wire;

#[cfg(feature = "net")]
pub use net::{
    Advice, Client, Error, FromValue, IntoValue, Preference, Session, Space, Transaction, TransactionOptions,
    Versioned, WatchItem, WatchOptions,
};
#[cfg(feature = "net")]
pub use wire::{
    frame::{Isolation, Staleness, Watched},
    headers::{Commit, Consistency},
};
#[cfg(feature = "net")]
pub use {
    meridian_crdt::{
        Condition, CounterOp, FlagOp, MapOp, Mutation, Query, RegisterOp, SetOp, Type, Value, Version,
    },
    wire::{AccessToken, ErrorCode},
};
