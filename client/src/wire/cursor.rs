//! Watch cursors: where a watch resumes, in any datacenter.
//!
//! ```text
//! cursor  version=0x81 | cluster u32 | vector | checksum u32
//! text    base64url without padding
//! ```
//!
//! A cursor is a whole vector, not what a session depends on: it must never be merged into a token, and the two refuse
//! each other by their first byte.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_crdt::Vector;
use meridian_crdt::codec::{Reader, Writer};
use xxhash_rust::xxh3::xxh3_64;

use super::error::{ApiError, ErrorCode};
use super::token;

/// The first byte of a cursor. Tokens count from 1 upwards, cursors from 0x81.
const VERSION: u8 = 0x81;
/// From here on first bytes belong to cursors.
const KIND: u8 = 0x80;
const CHECKSUM_BYTES: usize = 4;
/// Most bytes of one entry of the vector.
const ENTRY_BYTES_MAX: usize = 14;

/// The longest cursor text that is looked at: room for 512 lives of datacenters.
pub const CURSOR_TEXT_BYTES_MAX: usize = (16 + 512 * ENTRY_BYTES_MAX) * 4 / 3 + 4;

/// Every txn that a watch has been through, scoped to one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The cluster that the vector belongs to, from [`cluster_id`](token::cluster_id).
    pub cluster: u32,
    /// For each origin the highest txn that the watch has been through.
    pub vector: Vector,
}

fn bad(why: &str) -> ApiError {
    ApiError::new(ErrorCode::BadHeader, format!("the watch cursor {why}; take one from a listing"))
}

/// Whether `bytes` claim to be a cursor.
pub(super) fn is_cursor(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|kind| *kind >= KIND)
}

impl Cursor {
    /// A cursor at `vector`.
    pub fn new(cluster: u32, vector: Vector) -> Self {
        Self { cluster, vector }
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        out.u32(self.cluster);
        self.vector.encode(&mut out);
        let checksum = xxh3_64(out.as_slice()) as u32;
        out.u32(checksum);
        out.finish()
    }

    /// The text form, safe in URLs and headers.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_bytes())
    }

    /// Reads the binary form; whatever is none is `bad_header`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Cursor, ApiError> {
        match bytes.first() {
            None => return Err(bad("is empty")),
            Some(&VERSION) => {}
            Some(kind) if *kind < KIND && token::Token::from_bytes(bytes).is_ok() => {
                return Err(bad("is a session token, which says nothing about where a watch resumes"));
            }
            Some(_) => return Err(bad("is none, or has a version that this node does not know")),
        }
        let body = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| bad("is too short"))?;
        let (front, checksum) = bytes.split_at(body);
        if (xxh3_64(front) as u32).to_be_bytes() != checksum {
            return Err(bad("is damaged"));
        }
        let mut input = Reader::new(front.get(1..).unwrap_or_default());
        let cluster = input.u32().map_err(|_| bad("is too short"))?;
        let vector = Vector::decode(&mut input).map_err(|_| bad("is malformed"))?;
        input.finish().map_err(|_| bad("is malformed"))?;
        Ok(Cursor { cluster, vector })
    }

    /// Reads the text form.
    pub fn from_text(text: &str) -> Result<Cursor, ApiError> {
        if text.len() > CURSOR_TEXT_BYTES_MAX {
            return Err(bad("is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("is not base64url"))?;
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use meridian_crdt::{Dot, Origin};

    use super::super::token::{Token, cluster_id};
    use super::*;

    fn sample() -> Cursor {
        let dots = [Dot::new(Origin(1), 7), Dot::new(Origin(0xffff_ffff), 1 << 40)];
        Cursor::new(cluster_id("shop"), dots.into_iter().collect())
    }

    #[test]
    fn cursors_round_trip() {
        for cursor in [sample(), Cursor::new(3, Vector::new())] {
            assert_eq!(Cursor::from_text(&cursor.to_text()).expect("own text"), cursor);
        }
        let golden = [0x81, 0, 0, 0, 3, 1, 0, 0, 0, 1, 7];
        let cursor = Cursor::new(3, [Dot::new(Origin(1), 7)].into_iter().collect());
        assert_eq!(cursor.to_bytes()[..golden.len()], golden);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = sample().to_bytes();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 0x40;
            assert_eq!(Cursor::from_bytes(&changed).expect_err("damaged").code, ErrorCode::BadHeader);
            assert!(Cursor::from_bytes(&bytes[..i]).is_err());
        }
        for text in ["", "x", "!!!!", "gQ", "AAAAAAAAAAAAAAAA"] {
            assert_eq!(Cursor::from_text(text).expect_err("garbage").code, ErrorCode::BadHeader);
        }
    }

    #[test]
    fn a_token_is_no_cursor_and_a_cursor_no_token() {
        let token = Token { cluster: 3, dots: sample().vector };
        let refused = Cursor::from_text(&token.to_text()).expect_err("a token");
        assert_eq!(refused.code, ErrorCode::BadHeader);
        assert!(refused.message.contains("session token"), "{refused}");
        let refused = Token::from_text(&sample().to_text()).expect_err("a cursor");
        assert_eq!(refused.code, ErrorCode::BadToken);
        assert!(refused.message.contains("watch cursor"), "{refused}");
    }
}
