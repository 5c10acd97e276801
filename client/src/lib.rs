//! The client side of Meridian: the wire types that clients and nodes share ([`wire`]), and the SDK.
//!
//! The SDK is the feature `net`, which is on unless default features are off. [`Client`] is where to begin.

#[cfg(feature = "net")]
pub mod net;
pub mod wire;

#[cfg(feature = "net")]
pub use net::{
    Advice, Client, Error, FromValue, IntoValue, Preference, Session, Space, Transaction, Versioned,
    WatchItem,
};
#[cfg(feature = "net")]
pub use wire::{
    frame::{Isolation, Staleness},
    headers::{Commit, Consistency},
};
#[cfg(feature = "net")]
pub use {
    meridian_crdt::{Condition, CounterOp, FlagOp, MapOp, Mutation, RegisterOp, SetOp, Type, Value, Version},
    wire::ErrorCode,
};
