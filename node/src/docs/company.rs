//! Those who are present in a room, between its editors and the other nodes.
//!
//! What changes is gathered for [`GATHER_MS`], so that editors get one frame for all who have moved meanwhile, with the
//! newest of each. Other nodes are told through [`Presence`] of the clients of this one.

use std::collections::BTreeSet;
use std::sync::Arc;

use meridian_crdt::Key;

use super::awareness::{self, Awareness, AwarenessError, GONE, Taken};
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

/// That somebody who is here is held for gone somewhere. He is to hear of it: then he raises his clock, which convinces
/// everybody.
#[derive(Debug, PartialEq, Eq)]
pub struct Doubt {
    /// As which member he is here.
    pub member: u64,
    /// The states that say it.
    pub states: Vec<u8>,
}

impl Doubt {
    fn of(member: u64, client: u64, clock: u64) -> Self {
        Self { member, states: awareness::encode(&[(client, clock, GONE)]) }
    }
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

    /// Takes what came in on the connection of a member. `has_heard` is whether it has been told of others.
    pub fn take(
        &mut self,
        member: u64,
        has_heard: bool,
        states: &[u8],
    ) -> Result<Vec<Doubt>, AwarenessError> {
        let taken = self.awareness.take(member, has_heard, states, self.presence.now_ms())?;
        self.note(&taken);
        let gone = self.awareness.known(&taken.gone);
        let back = gone.iter().map(|said| Doubt::of(member, said.client, said.clock));
        Ok(back.chain(self.contested(&taken)).collect())
    }

    /// Takes what another node says of its clients.
    pub fn hear(&mut self, source: &Arc<Source>, states: &[Said]) -> Vec<Doubt> {
        let taken = self.awareness.hear(source, states, self.presence.now_ms());
        self.presence.count_dropped(taken.dropped);
        if !taken.gone.is_empty() {
            self.presence.contradict(source, self.key.clone(), self.awareness.known(&taken.gone));
        }
        self.note(&taken);
        self.contested(&taken).collect()
    }

    /// Another node holds these clients for gone.
    pub fn contradicted(&self, states: &[Said]) -> Vec<Doubt> {
        let here = states.iter().filter_map(|said| Some((self.awareness.member(said.client)?, said)));
        here.map(|(member, said)| Doubt::of(member, said.client, said.clock)).collect()
    }

    fn contested(&self, taken: &Taken) -> impl Iterator<Item = Doubt> {
        let doubt = |(member, client): &(u64, u64)| {
            let clock = self.awareness.own(*client)?.clock;
            Some(Doubt::of(*member, *client, clock))
        };
        taken.contested.iter().filter_map(doubt)
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
