//! The client side of Meridian: the wire types that clients and nodes share.

pub mod wire;
