//! Session tokens: the dots that a session wrote and read, and nothing else.
//!
//! ```text
//! token   version=1 | cluster u32 | (origin u32, seq u64) ... in the order of origins | checksum u32
//! text    base64url without padding
//! ```
//!
//! 9 + 12 * origins bytes. Because a datacenter applies a dot only after its deps, a datacenter that covers these dots
//! has everything that the session could have seen, and owes it nothing else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_crdt::codec::{Reader, Writer};
use meridian_crdt::{Dot, Origin, Vector};
use xxhash_rust::xxh3::xxh3_64;

use super::error::{ApiError, ErrorCode};

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 12;
const FRAME_BYTES: usize = 9;
/// The most lives of datacenters that a token may name.
const ENTRIES_MAX: usize = 512;

/// The longest token text that is looked at: room for 512 lives of datacenters.
pub const TOKEN_TEXT_BYTES_MAX: usize = (FRAME_BYTES + ENTRIES_MAX * ENTRY_BYTES) * 4 / 3 + 4;

/// What a session depends on, scoped to one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// The cluster that the dots belong to, from [`cluster_id`].
    pub cluster: u32,
    /// For each origin the highest dot that the session wrote or read.
    pub dots: Vector,
}

/// The short id of the cluster called `name`, by which tokens and peers tell clusters apart.
pub fn cluster_id(name: &str) -> u32 {
    xxh3_64(name.as_bytes()) as u32
}

fn bad(why: &str) -> ApiError {
    ApiError::new(ErrorCode::BadToken, format!("the session token {why}; start a new session without one"))
}

impl Token {
    /// A session that depends on nothing.
    pub fn new(cluster: u32) -> Self {
        Self { cluster, dots: Vector::new() }
    }

    /// Adds everything that `other` depends on; a token of another cluster is refused.
    pub fn merge(&mut self, other: &Token) -> Result<(), ApiError> {
        if self.cluster != other.cluster {
            return Err(ApiError::new(ErrorCode::ForeignToken, "the tokens come from different clusters"));
        }
        self.dots.join(&other.dots);
        Ok(())
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(FRAME_BYTES + self.dots.len() * ENTRY_BYTES);
        out.u8(VERSION);
        out.u32(self.cluster);
        for dot in self.dots.iter() {
            out.u32(dot.origin.0);
            out.u64(dot.seq);
        }
        let checksum = xxh3_64(out.as_slice()) as u32;
        out.u32(checksum);
        out.finish()
    }

    /// The text form, safe in URLs and headers.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_bytes())
    }

    /// Reads the binary form; garbage and unknown versions are `bad_token`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Token, ApiError> {
        let body = bytes.len().checked_sub(FRAME_BYTES).ok_or_else(|| bad("is too short"))?;
        if body > ENTRIES_MAX * ENTRY_BYTES {
            return Err(bad("is too long"));
        }
        if super::cursor::is_cursor(bytes) {
            return Err(bad("is a watch cursor, which says nothing about a session"));
        }
        if bytes[0] != VERSION {
            return Err(bad("has a version that this node does not know"));
        }
        let (front, checksum) = bytes.split_at(bytes.len() - 4);
        if (xxh3_64(front) as u32).to_be_bytes() != checksum || body % ENTRY_BYTES != 0 {
            return Err(bad("is damaged"));
        }
        let mut input = Reader::new(&front[1..]);
        let read = |input: &mut Reader<'_>| -> Option<(Origin, u64)> {
            Some((Origin(input.u32().ok()?), input.u64().ok()?))
        };
        let cluster = input.u32().map_err(|_| bad("is too short"))?;
        let mut token = Token::new(cluster);
        let mut last = None;
        while !input.is_empty() {
            let (origin, seq) = read(&mut input).ok_or_else(|| bad("is too short"))?;
            if seq == 0 || last.is_some_and(|last| last >= origin) {
                return Err(bad("is malformed"));
            }
            last = Some(origin);
            token.dots.advance(Dot::new(origin, seq));
        }
        Ok(token)
    }

    /// Reads the text form.
    pub fn from_text(text: &str) -> Result<Token, ApiError> {
        if text.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(bad("is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("is not base64url"))?;
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Token {
        let dots = [Dot::new(Origin(1), 7), Dot::new(Origin(0xffff_ffff), 1 << 40)];
        Token { cluster: cluster_id("shop"), dots: dots.into_iter().collect() }
    }

    #[test]
    fn tokens_round_trip_within_their_size() {
        let token = sample();
        assert_eq!(Token::from_text(&token.to_text()).expect("own text"), token);
        assert!(token.to_bytes().len() <= 16 + 12 * 2);
        let empty = Token::new(3);
        assert_eq!(Token::from_bytes(&empty.to_bytes()).expect("own bytes"), empty);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = sample().to_bytes();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 0x40;
            assert_eq!(Token::from_bytes(&changed).expect_err("damaged").code, ErrorCode::BadToken);
        }
        for text in ["", "x", "!!!!", "AAAAAAAAAAAAAAAA"] {
            assert_eq!(Token::from_text(text).expect_err("garbage").code, ErrorCode::BadToken);
        }
    }
}
