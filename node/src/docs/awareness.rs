//! Who is present in a room, and what each says of itself: cursor, name, colour.
//!
//! ```text
//! states  count varint | (client varint, clock varint, JSON text) ...      the text `null` means: gone
//! ```
//!
//! It follows the rules of y-protocols: a state replaces one with a lower clock, and `null` also one with the same.
//! Clients of `y-websocket` send back whatever they hear of others, and say of others that they are gone. So who is not
//! newer counts only if it comes from where its client is connected. As whom a member is present shows in what it says
//! before it has heard of anybody, or else in the first thing that it says and nobody has said before.
//!
//! What somebody says of himself is kept until he takes it back, his connection ends, the node with his connection is no
//! longer heard, or nothing has been heard of him for [`EXPIRE_MS`]. None of it is durable. It is pure: the time is
//! an argument.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_crdt::codec::{DecodeError, Reader, Writer};
use thiserror::Error;

use super::presence::message::{Said, Source};

/// How long a state holds that is not renewed. Clients renew theirs every 15 s.
pub const EXPIRE_MS: u64 = 30_000;
/// Clients of one room, gone ones included until they expire. The states of more are refused.
pub const CLIENTS_MAX: usize = 2_000;
/// Bytes of one state.
pub const STATE_BYTES_MAX: usize = 16 << 10;
/// Bytes of all states of one room.
pub const ROOM_BYTES_MAX: usize = 2 << 20;

/// The state of who has left.
pub const GONE: &str = "null";

/// Numbers from here on no editor can read: the frame that they are in is lost on each, with all who are told of in it.
const NUMBER_END: u64 = 1 << 53;

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
    /// The room has as much as it takes.
    #[error("more than {CLIENTS_MAX} clients are present, or their states are above {ROOM_BYTES_MAX} bytes")]
    Full,
}

/// Where a client is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Here, as this member of the room.
    Member(u64),
    /// At another node.
    Node(Arc<Source>),
}

#[derive(Clone, Debug)]
struct State {
    clock: u64,
    /// [`GONE`] for one who has left, of whom only the clock matters.
    text: String,
    owner: Owner,
    heard_ms: u64,
}

/// Everybody of whom something is known.
#[derive(Debug, Default)]
pub struct Awareness {
    states: BTreeMap<u64, State>,
    bytes: usize,
    /// By member the client as whom it is present.
    selves: BTreeMap<u64, u64>,
}

/// What came of states that were told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Clients whose states have changed: all editors are to be told.
    pub changed: Vec<u64>,
    /// Clients that are what they were, and are connected elsewhere now.
    pub moved: Vec<u64>,
    /// Clients that are held for gone, and for what they say too old: whoever says it is to be told, and takes his place
    /// again with a higher clock.
    pub gone: Vec<u64>,
    /// Clients of whom others say that they are gone, behind the members as whom they are here. These are to be asked.
    pub contested: Vec<(u64, u64)>,
    /// States for which there was no room.
    pub dropped: usize,
}

enum Fate {
    Changed,
    Moved,
    Gone,
    Contested(u64),
    Old,
}

impl Awareness {
    /// Takes what came in on the connection of a member. `has_heard` is whether that member may have been told of others
    /// before.
    pub fn take(
        &mut self,
        member: u64,
        has_heard: bool,
        states: &[u8],
        now_ms: u64,
    ) -> Result<Taken, AwarenessError> {
        let entries = decode(states)?;
        let (mut clients, mut bytes) = (self.states.len(), self.bytes);
        let mut itself = entries.first().filter(|_| !has_heard).map(|(client, ..)| *client);
        for (client, clock, text) in &entries {
            let known = self.states.get(client);
            if known.is_none_or(|known| *clock > known.clock) {
                serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|_| AwarenessError::NotJson)?;
                itself.get_or_insert(*client);
                clients += usize::from(known.is_none());
                bytes += text.len().saturating_sub(known.map_or(0, |state| state.text.len()));
            }
        }
        if clients > CLIENTS_MAX || bytes > ROOM_BYTES_MAX {
            return Err(AwarenessError::Full);
        }
        if let Some(client) = itself {
            self.selves.entry(member).or_insert(client);
        }
        let mut taken = Taken::default();
        for (client, clock, text) in entries {
            let fate = self.put(client, clock, text, &Owner::Member(member), now_ms);
            taken.note(client, &fate);
        }
        Ok(taken)
    }

    /// Takes what another node says of its clients, as far as there is room.
    pub fn hear(&mut self, source: &Arc<Source>, states: &[Said], now_ms: u64) -> Taken {
        let (owner, mut taken) = (Owner::Node(source.clone()), Taken::default());
        for Said { client, clock, text } in states {
            let known = self.states.get(client);
            let is_full = known.is_none() && self.states.len() >= CLIENTS_MAX;
            let bytes = self.bytes - known.map_or(0, |state| state.text.len()) + text.len();
            let is_unreadable = *client >= NUMBER_END || *clock >= NUMBER_END;
            if is_unreadable
                || is_full
                || text.len() > STATE_BYTES_MAX
                || (bytes > ROOM_BYTES_MAX && bytes > self.bytes)
            {
                taken.dropped += 1;
                continue;
            }
            let fate = self.put(*client, *clock, text, &owner, now_ms);
            taken.note(*client, &fate);
        }
        taken
    }

    fn put(&mut self, client: u64, clock: u64, text: &str, owner: &Owner, now_ms: u64) -> Fate {
        if self.states.get(&client).is_some_and(|known| clock <= known.clock) {
            return self.put_again(client, clock, text, owner, now_ms);
        }
        let state = State { clock, text: text.to_owned(), owner: owner.clone(), heard_ms: now_ms };
        self.bytes += text.len();
        self.bytes -= self.states.insert(client, state).map_or(0, |before| before.text.len());
        Fate::Changed
    }

    /// Takes what is no newer than what is known.
    fn put_again(&mut self, client: u64, clock: u64, text: &str, owner: &Owner, now_ms: u64) -> Fate {
        let is_itself = |owner: &Owner| matches!(owner, Owner::Member(member) if self.selves.get(member) == Some(&client));
        let speaks_for_itself = matches!(owner, Owner::Node(_)) || is_itself(owner);
        let is_here = self.states.get(&client).is_some_and(|known| is_itself(&known.owner));
        let Some(known) = self.states.get_mut(&client) else { return Fate::Old };
        let (is_same_clock, is_same_owner) = (clock == known.clock, known.owner == *owner);
        match (text == GONE, known.text == GONE) {
            (true, true) => Fate::Old,
            (true, false) if is_same_clock && is_same_owner => {
                self.bytes = self.bytes + GONE.len() - known.text.len();
                GONE.clone_into(&mut known.text);
                known.heard_ms = now_ms;
                Fate::Changed
            }
            (true, false) => match known.owner {
                Owner::Member(member) if is_same_clock => Fate::Contested(member),
                _ => Fate::Old,
            },
            (false, true) if speaks_for_itself => Fate::Gone,
            // Who comes back to another node says at first what he has said before.
            (false, false) if is_same_clock && !is_same_owner && speaks_for_itself => {
                if is_here && matches!(owner, Owner::Node(_)) {
                    return Fate::Old;
                }
                known.owner = owner.clone();
                known.heard_ms = now_ms;
                Fate::Moved
            }
            _ => Fate::Old,
        }
    }

    /// The connection of a member has ended: all who came in on it have left. Who that is.
    pub fn leave(&mut self, member: u64, now_ms: u64) -> Vec<u64> {
        self.selves.remove(&member);
        self.end(now_ms, |state| state.owner == Owner::Member(member))
    }

    /// Who has not been heard for too long has left, and so has who is connected to a node of which `is_heard` says that
    /// it is not. Who that is.
    pub fn expire(&mut self, now_ms: u64, is_heard: impl Fn(&Source) -> bool) -> Vec<u64> {
        let is_old = |state: &State| now_ms.saturating_sub(state.heard_ms) >= EXPIRE_MS;
        // The clocks of those who have left are forgotten later than anything of theirs can still be under way.
        let bytes = &mut self.bytes;
        self.states.retain(|_, state| {
            let stays = state.text != GONE || !is_old(state);
            *bytes -= if stays { 0 } else { state.text.len() };
            stays
        });
        self.end(now_ms, |state| {
            is_old(state) || matches!(&state.owner, Owner::Node(source) if !is_heard(source))
        })
    }

    /// The states of all who are present, if anybody is.
    pub fn all(&self) -> Option<Vec<u8>> {
        self.encode(self.present().map(|(client, _)| *client))
    }

    /// How many are present who are connected to other nodes.
    pub fn elsewhere(&self) -> usize {
        self.present().filter(|(_, state)| matches!(state.owner, Owner::Node(_))).count()
    }

    /// What a client says that is connected here, or was when it left.
    pub fn own(&self, client: u64) -> Option<Said> {
        let state = self.states.get(&client).filter(|state| matches!(state.owner, Owner::Member(_)))?;
        Some(Said { client, clock: state.clock, text: state.text.clone() })
    }

    /// The member of the room as whom a client is present.
    pub fn member(&self, client: u64) -> Option<u64> {
        match self.states.get(&client).filter(|state| state.text != GONE)?.owner {
            Owner::Member(member) => Some(member),
            Owner::Node(_) => None,
        }
    }

    /// What is known of these clients.
    pub fn known(&self, clients: &[u64]) -> Vec<Said> {
        let state = |client: &u64| Some((*client, self.states.get(client)?));
        let said =
            |(client, state): (u64, &State)| Said { client, clock: state.clock, text: state.text.clone() };
        clients.iter().filter_map(state).map(said).collect()
    }

    /// The states of these clients, as they are written to editors.
    pub fn encode(&self, clients: impl IntoIterator<Item = u64>) -> Option<Vec<u8>> {
        let states = clients.into_iter().filter_map(|client| Some((client, self.states.get(&client)?)));
        let entries: Vec<Entry<'_>> =
            states.map(|(client, state)| (client, state.clock, state.text.as_str())).collect();
        (!entries.is_empty()).then(|| encode(&entries))
    }

    fn present(&self) -> impl Iterator<Item = (&u64, &State)> {
        self.states.iter().filter(|(_, state)| state.text != GONE)
    }

    fn end(&mut self, now_ms: u64, is_over: impl Fn(&State) -> bool) -> Vec<u64> {
        let mut ended = Vec::new();
        for (client, state) in &mut self.states {
            if state.text != GONE && is_over(state) {
                // With the same clock: who is still there takes his place again with his next.
                self.bytes = self.bytes + GONE.len() - state.text.len();
                GONE.clone_into(&mut state.text);
                state.heard_ms = now_ms;
                ended.push(*client);
            }
        }
        ended
    }
}

impl Taken {
    fn note(&mut self, client: u64, fate: &Fate) {
        match fate {
            Fate::Changed => self.changed.push(client),
            Fate::Moved => self.moved.push(client),
            Fate::Gone => self.gone.push(client),
            Fate::Contested(member) => self.contested.push((*member, client)),
            Fate::Old => {}
        }
    }
}

/// A client, its clock, and what it says.
pub type Entry<'s> = (u64, u64, &'s str);

/// Writes states as editors read them.
pub fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Writer::new();
    out.varint(entries.len() as u64);
    for (client, clock, text) in entries {
        out.varint(*client);
        out.varint(*clock);
        out.bytes(text.as_bytes());
    }
    out.finish()
}

fn decode(states: &[u8]) -> Result<Vec<Entry<'_>>, AwarenessError> {
    let mut input = Reader::new(states);
    let mut entries = Vec::new();
    for _ in 0..input.varint()? {
        let (client, clock, text) = (input.varint()?, input.varint()?, input.str()?);
        if client >= NUMBER_END || clock >= NUMBER_END {
            return Err(DecodeError::Malformed.into());
        }
        if text.len() > STATE_BYTES_MAX {
            return Err(AwarenessError::TooLarge);
        }
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
    use super::encode as states;
    use super::*;

    fn source(node: u64) -> Arc<Source> {
        Arc::new(Source { dc: "eu".into(), node, life: 1 })
    }

    fn said(client: u64, clock: u64, text: &str) -> Said {
        Said { client, clock, text: text.into() }
    }

    /// What a member says that has heard of nobody.
    fn take(present: &mut Awareness, member: u64, entry: Entry<'_>) -> Taken {
        present.take(member, false, &states(&[entry]), 0).expect("is taken")
    }

    /// What a member says that has heard of others.
    fn answer(present: &mut Awareness, member: u64, entry: Entry<'_>) -> Taken {
        present.take(member, true, &states(&[entry]), 0).expect("is taken")
    }

    fn nothing() -> Taken {
        Taken::default()
    }

    #[test]
    fn numbers_that_no_editor_can_read_are_not_taken() {
        let mut present = Awareness::default();
        for (client, clock) in [(1 << 53, 1), (7, 1 << 53), (7, u64::MAX)] {
            let refused = present.take(1, false, &states(&[(client, clock, "{}")]), 0);
            assert_eq!(refused, Err(AwarenessError::Malformed(DecodeError::Malformed)));
            assert_eq!(present.hear(&source(2), &[said(client, clock, "{}")], 0).dropped, 1);
        }
        let last = (1 << 53) - 1;
        assert_eq!(take(&mut present, 1, (last, last, "{}")).changed.len(), 1);
    }

    #[test]
    fn a_later_clock_replaces_and_null_ends_at_the_same_clock() {
        let mut present = Awareness::default();
        let mut changes = |entry: Entry<'_>| !take(&mut present, 1, entry).changed.is_empty();
        assert!(changes((7, 1, r#"{"a":1}"#)));
        assert!(!changes((7, 1, r#"{"a":2}"#)), "the same clock");
        assert!(!changes((7, 0, GONE)), "an earlier clock");
        assert!(changes((7, 1, GONE)));
        assert!(!changes((7, 1, GONE)), "gone already");
        assert!(changes((7, 2, "{}")));
        assert_eq!(present.all(), Some(states(&[(7, 2, "{}")])));
    }

    #[test]
    fn who_came_in_on_a_connection_leaves_with_it() {
        let mut present = Awareness::default();
        present.take(1, false, &states(&[(7, 3, "{}"), (8, 1, "{}")]), 0).expect("is taken");
        take(&mut present, 2, (9, 1, "{}"));
        assert_eq!(present.leave(1, 5), [7, 8]);
        assert_eq!(present.encode([7, 8]), Some(states(&[(7, 3, GONE), (8, 1, GONE)])));
        assert_eq!((present.leave(1, 5), present.all()), (vec![], Some(states(&[(9, 1, "{}")]))));
        assert_eq!(present.own(7), Some(said(7, 3, GONE)), "others are still to be told");
    }

    #[test]
    fn who_is_not_heard_of_expires_and_is_forgotten() {
        let mut present = Awareness::default();
        take(&mut present, 1, (7, 3, "{}"));
        let mut expire = |at| (present.expire(at, |_| true), present.states.len(), present.bytes);
        assert_eq!(expire(EXPIRE_MS - 1), (vec![], 1, 2));
        assert_eq!(expire(EXPIRE_MS), (vec![7], 1, 4));
        assert_eq!(expire(2 * EXPIRE_MS - 1), (vec![], 1, 4));
        assert_eq!(expire(2 * EXPIRE_MS), (vec![], 0, 0));
    }

    #[test]
    fn who_is_connected_to_a_node_that_is_not_heard_leaves_with_it() {
        let mut present = Awareness::default();
        take(&mut present, 1, (7, 1, "{}"));
        assert_eq!(present.hear(&source(2), &[said(8, 1, "{}")], 0).changed, [8]);
        assert_eq!(present.hear(&source(3), &[said(9, 1, "{}")], 0).changed, [9]);
        assert_eq!((present.elsewhere(), present.own(8)), (2, None));
        assert_eq!(present.expire(1, |source| source.node != 2), [8]);
        assert_eq!(present.all(), Some(states(&[(7, 1, "{}"), (9, 1, "{}")])));
    }

    /// Story: an editor's node dies and he comes to another one, which still has him as a client of the first, and says
    /// what he has said before, with the same clock. When the first node is given up he must not go with it.
    #[test]
    fn who_comes_from_another_node_is_of_this_one() {
        let mut present = Awareness::default();
        present.hear(&source(2), &[said(7, 4, "{}")], 0);
        assert_eq!(take(&mut present, 1, (7, 4, "{}")), Taken { moved: vec![7], ..nothing() });
        assert_eq!((present.own(7), present.member(7)), (Some(said(7, 4, "{}")), Some(1)));
        assert_eq!(present.expire(1, |_| false), [0; 0]);
        // The first node lives after all, has not found out yet, and then does.
        assert_eq!(present.hear(&source(2), &[said(7, 4, "{}")], 2), nothing());
        let left = present.hear(&source(2), &[said(7, 4, GONE)], 2);
        assert_eq!(left, Taken { contested: vec![(1, 7)], ..nothing() });
        assert_eq!(take(&mut present, 1, (7, 5, "{}")), Taken { changed: vec![7], ..nothing() });
    }

    /// Story: clients of `y-websocket` send back all that they hear, so in the frames of one there are the states of others;
    /// and a client that has lost sight of another says that it is gone.
    #[test]
    fn who_is_spoken_of_by_others_stays_where_he_is() {
        let mut present = Awareness::default();
        take(&mut present, 1, (7, 4, "{}"));
        present.hear(&source(2), &[said(8, 1, "{}")], 0);
        take(&mut present, 3, (9, 1, "{}"));
        for (client, clock) in [(7, 4), (8, 1)] {
            assert_eq!(take(&mut present, 3, (client, clock, "{}")), nothing());
        }
        assert_eq!(take(&mut present, 3, (7, 4, GONE)), Taken { contested: vec![(1, 7)], ..nothing() });
        assert_eq!(take(&mut present, 3, (8, 1, GONE)), nothing());
        assert_eq!(present.leave(3, 0), [9]);
        assert_eq!(present.all(), Some(states(&[(7, 4, "{}"), (8, 1, "{}")])));
    }

    /// Story: in a lecture most say nothing before they have heard others, and what they have heard they send back. That
    /// does not make them anybody else, neither here nor for another node.
    #[test]
    fn who_speaks_of_others_before_himself_is_none_of_them() {
        let mut present = Awareness::default();
        take(&mut present, 1, (7, 1, "{}"));
        present.hear(&source(2), &[said(8, 1, "{}")], 0);
        for (member, client) in [(3, 7), (4, 8), (5, 8)] {
            assert_eq!(answer(&mut present, member, (client, 1, "{}")), nothing());
        }
        assert_eq!(answer(&mut present, 3, (9, 1, "{}")).changed, [9]);
        // The next round: what is sent back is not of its clients.
        assert_eq!(take(&mut present, 1, (7, 2, "{}")).changed, [7]);
        assert_eq!(present.hear(&source(2), &[said(8, 2, "{}")], 0).changed, [8]);
        for (member, client) in [(3, 7), (3, 8), (4, 8), (5, 8)] {
            assert_eq!(answer(&mut present, member, (client, 2, "{}")), nothing());
        }
        assert_eq!((present.member(7), present.own(8), present.elsewhere()), (Some(1), None, 1));
        assert_eq!(present.leave(3, 0), [9]);
        assert_eq!(present.all(), Some(states(&[(7, 2, "{}"), (8, 2, "{}")])));
    }

    #[test]
    fn who_is_held_for_gone_hears_it_and_nobody_who_speaks_of_him() {
        let mut present = Awareness::default();
        take(&mut present, 1, (7, 4, "{}"));
        present.leave(1, 0);
        take(&mut present, 2, (8, 1, "{}"));
        assert_eq!(take(&mut present, 2, (7, 4, "{}")), nothing());
        assert_eq!(take(&mut present, 3, (7, 4, "{}")), Taken { gone: vec![7], ..nothing() });
        let heard = present.hear(&source(2), &[said(7, 3, "{}")], 0);
        assert_eq!(heard, Taken { gone: vec![7], ..nothing() });
    }

    #[test]
    fn what_would_hurt_the_others_is_refused_whole() {
        let mut present = Awareness::default();
        let mut refusal = |bytes: &[u8]| present.take(1, false, bytes, 0).expect_err("is refused");
        assert_eq!(refusal(&states(&[(1, 1, "{}"), (2, 1, "{")])), AwarenessError::NotJson);
        let large = format!("\"{}\"", "x".repeat(STATE_BYTES_MAX));
        assert_eq!(refusal(&states(&[(1, 1, &large)])), AwarenessError::TooLarge);
        let many: Vec<_> = (0..=CLIENTS_MAX as u64).map(|client| (client, 1, "{}")).collect();
        assert_eq!(refusal(&states(&many)), AwarenessError::Full);
        let large = format!("\"{}\"", "x".repeat(STATE_BYTES_MAX - 2));
        let many: Vec<_> = (0..=128).map(|client| (client, 1, large.as_str())).collect();
        assert_eq!(refusal(&states(&many)), AwarenessError::Full);
        assert!(matches!(refusal(&[1, 1]), AwarenessError::Malformed(_)));
        assert_eq!((present.all(), present.bytes), (None, 0));
    }

    #[test]
    fn another_node_does_not_fill_a_room_beyond_its_bounds() {
        let mut present = Awareness::default();
        let text = "x".repeat(STATE_BYTES_MAX);
        let large: Vec<_> = (0..200).map(|client| said(client, 1, &text)).collect();
        assert_eq!(present.hear(&source(2), &large, 0).dropped, 200 - 128);
        assert_eq!(present.hear(&source(2), &[said(0, 2, GONE)], 0).changed, [0]);
        let small: Vec<_> = (1_000..4_000).map(|client| said(client, 1, "{}")).collect();
        let dropped = present.hear(&source(2), &small, 0).dropped;
        assert_eq!((dropped, present.states.len()), (3_000 - (CLIENTS_MAX - 128), CLIENTS_MAX));
        assert_eq!(present.hear(&source(2), &[said(9, 2, &"x".repeat(STATE_BYTES_MAX + 1))], 0).dropped, 1);
    }
}
