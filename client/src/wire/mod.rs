//! What goes over the wire between clients and nodes, as values and text: no IO, no clock.
//!
//! One place says how a value looks in JSON, which fields a mutation has, which errors exist and what a session token
//! is made of; the HTTP API, the CLI and the SDK all speak through it.

pub mod access;
pub mod change;
pub mod cursor;
pub mod error;
pub mod frame;
pub mod headers;
pub mod json;
pub mod msgpack;
pub mod request;
pub mod token;

pub use access::AccessToken;
pub use cursor::Cursor;
pub use error::{ApiError, ErrorCode};
pub use token::Token;
