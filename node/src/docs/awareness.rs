//! Who is present in a room, and what each says of itself: cursor, name, colour.
//!
//! ```text
//! states  count varint | (client varint, clock varint, JSON text) ...      the text `null` means: gone
//! ```
//!
//! It follows the rules of y-protocols: a state replaces one with a lower clock, and `null` also one with the same.
//! What somebody says of himself is kept until he takes it back, his connection ends, or nothing has been heard for
//! [`EXPIRE_MS`]. None of it is durable, and none of it leaves this node. It is pure: the time is an argument.

use std::collections::BTreeMap;

use meridian_crdt::codec::{DecodeError, Reader, Writer};
use thiserror::Error;

/// How long a state holds that is not renewed. Clients renew theirs every 15 s.
pub const EXPIRE_MS: u64 = 30_000;
/// Clients of one room, gone ones included until they expire. The states of more are refused.
pub const CLIENTS_MAX: usize = 2_000;
/// Bytes of one state.
pub const STATE_BYTES_MAX: usize = 16 << 10;

const GONE: &str = "null";

/// Why states are not taken. None of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AwarenessError {
    /// It is not what a client writes.
    #[error("the states of those present are malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// A state is no JSON: it would break every editor that reads it.
    #[error("a state of somebody present is not JSON")]
    NotJson,
    /// A state is above [`STATE_BYTES_MAX`].
    #[error("a state of somebody present is above {STATE_BYTES_MAX} bytes")]
    TooLarge,
    /// The room has as many clients as it takes.
    #[error("more than {CLIENTS_MAX} clients are present")]
    Full,
}

#[derive(Clone, Debug)]
struct State {
    clock: u64,
    /// [`GONE`] for one who has left, of whom only the clock matters.
    text: String,
    /// The member of the room that it came in on.
    owner: u64,
    heard_ms: u64,
}

/// Everybody of whom something is known.
#[derive(Debug, Default)]
pub struct Awareness {
    states: BTreeMap<u64, State>,
}

impl Awareness {
    /// Takes what came in on the connection of `owner`. What others are to be told, if anything.
    pub fn take(
        &mut self,
        owner: u64,
        states: &[u8],
        now_ms: u64,
    ) -> Result<Option<Vec<u8>>, AwarenessError> {
        let entries = decode(states)?;
        let new = entries.iter().filter(|(client, ..)| !self.states.contains_key(client)).count();
        if self.states.len() + new > CLIENTS_MAX {
            return Err(AwarenessError::Full);
        }
        let mut told = Vec::new();
        for (client, clock, text) in entries {
            let newer = self.states.get(&client).is_none_or(|known| {
                clock > known.clock || (clock == known.clock && text == GONE && known.text != GONE)
            });
            if newer {
                told.push(client);
                self.states.insert(client, State { clock, text: text.to_owned(), owner, heard_ms: now_ms });
            }
        }
        Ok(self.encode(&told))
    }

    /// The connection of `owner` has ended: all who came in on it have left. What others are to be told.
    pub fn leave(&mut self, owner: u64, now_ms: u64) -> Option<Vec<u8>> {
        self.end(now_ms, |state| state.owner == owner)
    }

    /// Who has not been heard for too long has left. What others are to be told.
    pub fn expire(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        let is_old = |state: &State| now_ms.saturating_sub(state.heard_ms) >= EXPIRE_MS;
        // The clocks of those who have left are forgotten later than anything of theirs can still be under way.
        self.states.retain(|_, state| state.text != GONE || !is_old(state));
        self.end(now_ms, is_old)
    }

    /// The states of all who are present, if anybody is.
    pub fn all(&self) -> Option<Vec<u8>> {
        let present = self.states.iter().filter(|(_, state)| state.text != GONE);
        self.encode(&present.map(|(client, _)| *client).collect::<Vec<_>>())
    }

    fn end(&mut self, now_ms: u64, is_over: impl Fn(&State) -> bool) -> Option<Vec<u8>> {
        let mut told = Vec::new();
        for (client, state) in &mut self.states {
            if state.text != GONE && is_over(state) {
                // With the same clock: who is still there takes his place again with his next.
                GONE.clone_into(&mut state.text);
                state.heard_ms = now_ms;
                told.push(*client);
            }
        }
        self.encode(&told)
    }

    fn encode(&self, clients: &[u64]) -> Option<Vec<u8>> {
        if clients.is_empty() {
            return None;
        }
        let mut out = Writer::new();
        out.varint(clients.len() as u64);
        for (client, state) in clients.iter().filter_map(|client| self.states.get_key_value(client)) {
            out.varint(*client);
            out.varint(state.clock);
            out.bytes(state.text.as_bytes());
        }
        Some(out.finish())
    }
}

/// A client, its clock, and what it says.
type Entry<'s> = (u64, u64, &'s str);

fn decode(states: &[u8]) -> Result<Vec<Entry<'_>>, AwarenessError> {
    let mut input = Reader::new(states);
    let mut entries = Vec::new();
    for _ in 0..input.varint()? {
        let (client, clock, text) = (input.varint()?, input.varint()?, input.str()?);
        if text.len() > STATE_BYTES_MAX {
            return Err(AwarenessError::TooLarge);
        }
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|_| AwarenessError::NotJson)?;
        entries.push((client, clock, text));
        if entries.len() > CLIENTS_MAX {
            return Err(AwarenessError::Full);
        }
    }
    input.finish()?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut out = Writer::new();
        out.varint(entries.len() as u64);
        for (client, clock, text) in entries {
            out.varint(*client);
            out.varint(*clock);
            out.bytes(text.as_bytes());
        }
        out.finish()
    }

    #[test]
    fn a_later_clock_replaces_and_null_ends_at_the_same_clock() {
        let mut present = Awareness::default();
        let mut take = |entry: Entry<'_>| present.take(1, &states(&[entry]), 0).expect("is taken").is_some();
        assert!(take((7, 1, r#"{"a":1}"#)));
        assert!(!take((7, 1, r#"{"a":2}"#)), "the same clock");
        assert!(!take((7, 0, GONE)), "an earlier clock");
        assert!(take((7, 1, GONE)));
        assert!(!take((7, 1, GONE)), "gone already");
        assert!(take((7, 2, "{}")));
        assert_eq!(present.all(), Some(states(&[(7, 2, "{}")])));
    }

    #[test]
    fn who_came_in_on_a_connection_leaves_with_it() {
        let mut present = Awareness::default();
        present.take(1, &states(&[(7, 3, "{}"), (8, 1, "{}")]), 0).expect("is taken");
        present.take(2, &states(&[(9, 1, "{}")]), 0).expect("is taken");
        assert_eq!(present.leave(1, 5), Some(states(&[(7, 3, GONE), (8, 1, GONE)])));
        assert_eq!((present.leave(1, 5), present.all()), (None, Some(states(&[(9, 1, "{}")]))));
    }

    #[test]
    fn who_is_not_heard_of_expires_and_is_forgotten() {
        let mut present = Awareness::default();
        present.take(1, &states(&[(7, 3, "{}")]), 0).expect("is taken");
        assert_eq!(present.expire(EXPIRE_MS - 1), None);
        assert_eq!(present.expire(EXPIRE_MS), Some(states(&[(7, 3, GONE)])));
        assert_eq!(present.expire(2 * EXPIRE_MS - 1), None);
        assert_eq!((present.states.len(), present.expire(2 * EXPIRE_MS), present.states.len()), (1, None, 0));
    }

    #[test]
    fn what_would_hurt_the_others_is_refused_whole() {
        let mut present = Awareness::default();
        let mut refusal = |bytes: &[u8]| present.take(1, bytes, 0).expect_err("is refused");
        assert_eq!(refusal(&states(&[(1, 1, "{}"), (2, 1, "{")])), AwarenessError::NotJson);
        let large = format!("\"{}\"", "x".repeat(STATE_BYTES_MAX));
        assert_eq!(refusal(&states(&[(1, 1, &large)])), AwarenessError::TooLarge);
        let many: Vec<_> = (0..=CLIENTS_MAX as u64).map(|client| (client, 1, "{}")).collect();
        assert_eq!(refusal(&states(&many)), AwarenessError::Full);
        assert!(matches!(refusal(&[1, 1]), AwarenessError::Malformed(_)));
        assert_eq!(present.all(), None);
    }
}
