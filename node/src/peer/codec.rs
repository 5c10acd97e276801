//! What is asked and answered at the peer port: a version byte and MessagePack.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Encodes a message of this version.
pub fn encode<T: Serialize>(version: u8, message: &T) -> Result<Bytes, String> {
    let mut bytes = vec![version];
    rmp_serde::encode::write(&mut bytes, message).map_err(|e| e.to_string())?;
    Ok(bytes.into())
}

/// Reads what [`encode`] wrote, if it is of this version. Errors call it `what`.
pub fn decode<T: for<'de> Deserialize<'de>>(what: &str, version: u8, bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((found, body)) if *found == version => rmp_serde::from_slice(body).map_err(|e| e.to_string()),
        Some((other, _)) => Err(format!("{what} version {other} is not known to this program")),
        None => Err("an empty message".into()),
    }
}
