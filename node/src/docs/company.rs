//! Those who are present in a room, between its editors and the other nodes.
//!
//! What changes is gathered for [`GATHER_MS`], so that editors get one frame for all who have moved meanwhile, with the
//! newest of each. Other nodes are told through [`Presence`] of the clients of this one.

use std::collections::BTreeSet;
use std::sync::Arc;

use meridian_crdt::Key;

use super::awareness::{Awareness, AwarenessError, Taken};
use super::presence::Presence;
use super::presence::message::{Said, Source};

/// For how long changes are gathered before editors are told. The first one after a silence is told at once.
pub const GATHER_MS: u64 = 50;

/// Who is present in a room. When it is dropped, whoever was here has left.
#[derive(Debug)]
pub struct Company {
    presence: Arc<Presence>,
    key: Key,
    room: u64,
    awareness: Awareness,
    /// Of whom editors are to be told.
    changed: BTreeSet<u64>,
    told_ms: u64,
    /// How many of other nodes' clients have been counted.
    elsewhere: usize,
}

impl Company {
    /// Nobody yet in the room of this number.
    pub fn new(presence: Arc<Presence>, key: Key, room: u64) -> Self {
        Self {
            presence,
            key,
            room,
            awareness: Awareness::default(),
            changed: BTreeSet::new(),
            told_ms: 0,
            elsewhere: 0,
        }
    }

    /// Takes what came in on the connection of a member. What is to be told to that member alone, if anything.
    pub fn take(&mut self, member: u64, states: &[u8]) -> Result<Option<Vec<u8>>, AwarenessError> {
        let taken = self.awareness.take(member, states, self.presence.now_ms())?;
        let back = self.awareness.encode(taken.gone.iter().copied());
        self.note(&taken);
        Ok(back)
    }

    /// Takes what another node says of its clients.
    pub fn hear(&mut self, source: &Arc<Source>, states: &[Said]) {
        let taken = self.awareness.hear(source, states, self.presence.now_ms());
        self.presence.count_dropped(taken.dropped);
        self.note(&taken);
    }

    /// The connection of a member has ended.
    pub fn leave(&mut self, member: u64) {
        let changed = self.awareness.leave(member, self.presence.now_ms());
        self.note(&Taken { changed, ..Taken::default() });
    }

    /// Does what time brings.
    pub fn tick(&mut self) {
        let (presence, now_ms) = (self.presence.clone(), self.presence.now_ms());
        let changed = self.awareness.expire(now_ms, |source| presence.hears(source, now_ms));
        self.note(&Taken { changed, ..Taken::default() });
    }

    /// The states of all who are present, if anybody is.
    pub fn all(&self) -> Option<Vec<u8>> {
        self.awareness.all()
    }

    /// For how long to gather on before [`Self::gathered`] is asked; `None` if there is nothing to tell.
    pub fn gathers_ms(&self) -> Option<u64> {
        let gathered = self.presence.now_ms().saturating_sub(self.told_ms);
        (!self.changed.is_empty()).then(|| GATHER_MS.saturating_sub(gathered))
    }

    /// The states of those who have changed since this was last asked.
    pub fn gathered(&mut self) -> Option<Vec<u8>> {
        self.told_ms = self.presence.now_ms();
        self.awareness.encode(std::mem::take(&mut self.changed))
    }

    fn note(&mut self, taken: &Taken) {
        let clients = || taken.changed.iter().chain(&taken.moved).copied();
        if clients().next().is_none() {
            return;
        }
        self.presence.tell(
            &self.key,
            self.room,
            clients().map(|client| (client, self.awareness.own(client))),
        );
        self.changed.extend(&taken.changed);
        let elsewhere = self.awareness.elsewhere();
        self.presence.count_elsewhere(self.elsewhere, elsewhere);
        self.elsewhere = elsewhere;
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        self.presence.end_room(&self.key, self.room);
        self.presence.count_elsewhere(self.elsewhere, 0);
    }
}
