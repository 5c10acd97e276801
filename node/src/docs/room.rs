//! One room: a document in memory, and the editors who have it open.
//!
//! The document is fed by the oplog alone. An edit that comes in is checked, written, and given to the others when it
//! comes back. The room never waits for an editor: who does not take frames in time is closed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use meridian_client::wire::headers::Consistency;
use meridian_crdt::{
    DocCounts, Dot, Key, Snapshot, UpdateError, Vector, YrsDocument, doc_glance, doc_state, incarnation_mark,
};
use tokio::time::{MissedTickBehavior, sleep};

mod said;

use super::Docs;
use super::close::Close;
use super::company::{Company, Doubt};
use super::door::{Ask, Doorway};
use super::edits::{Edit, Edits, Written};
use super::feed::{Attached, Event};
use super::members::{Member, Members};
use super::sheet::Sheet;
use super::wire::{self, Message};
use crate::txn::ShardState;

/// How long opening may wait for this node to have recovered.
const OPEN_WAIT: Duration = Duration::from_secs(2);
/// Updates put into a document before others get their turn.
const INTEGRATED_AT_ONCE: usize = 256;
/// How often the room looks for what time brings.
const TICK: Duration = Duration::from_secs(1);
/// How long an editor is given to say who it is before it is told of others. What clients say of themselves is among the first
/// things that they send.
const LISTEN_MS: u64 = 500;
/// How long an edit is held for the sake of others under way: as long as these are tried for.
const HELD_MS_MAX: u64 = 16_000;
/// An update that says nothing.
const NOTHING: &[u8] = &[0, 0];

/// Opens the room and keeps it until it ends.
pub async fn run(docs: Arc<Docs>, key: Key, id: u64, mut door: Doorway) {
    // Even if a fault ends it: else nobody could open the document again.
    let open = Open { docs: docs.clone(), key: key.clone(), id };
    let attached = docs.feeds.attach(&docs.shard.0, &key);
    let mut members = Members::new(docs.clone());
    // Opening takes several times the memory of what comes after it, which is not to be kept for as long as the room is.
    let opening = Box::pin(Room::open(docs.clone(), key.clone(), id, attached));
    let close = match opening.await {
        Ok(mut room) => {
            let close = room.serve(&mut door).await;
            members = room.members;
            close
        }
        Err(close) => close,
    };
    tracing::debug!(%key, code = close.code, reason = close.reason, "a room ends");
    // From here on the next editor opens another room; those who are still at this door are sent away.
    drop(open);
    door.close();
    while let Some(ask) = door.recv().await {
        if let Ask::Enter { seat, .. } = ask {
            seat.close(close);
        }
    }
    members.close(close);
}

/// That a room is open. When it is dropped, the next editor opens another one.
struct Open {
    docs: Arc<Docs>,
    key: Key,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.docs.retire(&self.key, self.id, true);
    }
}

struct Room {
    docs: Arc<Docs>,
    key: Key,
    id: u64,
    attached: Attached,
    sheet: Sheet,
    /// Bytes of all snapshots and updates.
    bytes: usize,
    /// What the document was read at.
    read_at: Vector,
    /// The incarnations whose updates are in the document.
    incarnations: Vec<Dot>,
    members: Members,
    company: Company,
    edits: Edits,
    /// What an editor has said that has to wait for the edits under way, and since when. Nobody is listened to meanwhile.
    held: Option<(u64, Message, u64)>,
    /// Since when there has been nobody.
    empty_since_ms: u64,
}

impl Room {
    async fn open(docs: Arc<Docs>, key: Key, id: u64, mut attached: Attached) -> Result<Box<Room>, Close> {
        if !attached.begun().await {
            return Err(Close::BUSY);
        }
        let shard = docs.shard.0.clone();
        let view = shard.read(Consistency::default(), &Vector::new(), OPEN_WAIT).await;
        let view = view.map_err(|error| Close::of(&error))?;
        let state = ShardState::load(&view).map_err(|e| unreadable(&key, e))?;
        let read_at = state.map_err(|e| unreadable(&key, e))?.vector;
        let state = doc_state(&view, &key).map_err(|e| unreadable(&key, e))?;
        drop(view);
        let content = state.content();
        let bytes = content.bytes();
        if bytes > docs.bounds.doc_bytes_max {
            return Err(Close::TOO_LARGE);
        }
        let now_ms = shard.seams.clock.monotonic_ms();
        let mut room = Box::new(Room {
            empty_since_ms: now_ms,
            company: Company::new(docs.presence.clone(), key.clone(), id),
            members: Members::new(docs.clone()),
            sheet: Sheet::new(docs.counts.live.clone(), now_ms),
            docs,
            key,
            id,
            attached,
            bytes,
            read_at,
            incarnations: state.incarnations,
            edits: Edits::default(),
            held: None,
        });
        for snapshot in &content.snapshots {
            let snapshot = Snapshot::decode(snapshot).map_err(|e| unreadable(&room.key, e))?;
            room.sheet.load(&snapshot, now_ms).map_err(|error| room.unusable(&error))?;
            tokio::task::yield_now().await;
        }
        for chunk in content.updates.chunks(INTEGRATED_AT_ONCE) {
            chunk.iter().try_for_each(|update| room.integrate(update))?;
            tokio::task::yield_now().await;
        }
        let incarnations = room.incarnations.clone();
        room.mark(&incarnations)?;
        Ok(room)
    }

    /// Runs until the room ends; says why.
    async fn serve(&mut self, door: &mut Doorway) -> Close {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let gathers = self.company.gathers_ms();
            let writes = self.gathers_ms();
            let flow = tokio::select! {
                event = self.attached.next() => match event {
                    Some(event) => self.event(&event),
                    None => ControlFlow::Break(Close::GONE),
                },
                written = self.edits.written() => self.written(written),
                ask = door.recv(), if self.edits.have_room() && self.held.is_none() => match ask {
                    Some(ask) => self.ask(ask),
                    None => ControlFlow::Break(Close::GONE),
                },
                // It is told, and written, below.
                () = sleep(Duration::from_millis(gathers.unwrap_or_default())), if gathers.is_some() => {
                    ControlFlow::Continue(())
                }
                () = sleep(Duration::from_millis(writes.unwrap_or_default())), if writes.is_some() => {
                    ControlFlow::Continue(())
                }
                _ = tick.tick() => self.tick(door.is_empty()),
            };
            if let ControlFlow::Break(close) = flow {
                return close;
            }
            self.release();
            if self.company.gathers_ms() == Some(0) {
                self.tell_presence();
            }
            if self.gathers_ms() == Some(0) {
                let (now_ms, time) = (self.now_ms(), self.docs.bounds.write_timeout);
                self.edits.write(&self.docs.shard.0, &self.key, &self.incarnations, now_ms, time);
            }
        }
    }

    /// For how long edits are held back so that more can join them; `None` also if the room has yet to hear of the incarnation
    /// that its first edit has begun.
    fn gathers_ms(&self) -> Option<u64> {
        if self.edits.were_kept() && self.incarnations.is_empty() {
            return None;
        }
        let gather_ms = u64::try_from(self.docs.bounds.gather.as_millis()).unwrap_or(u64::MAX);
        self.edits.gathers_ms(self.now_ms(), gather_ms)
    }

    fn now_ms(&self) -> u64 {
        self.docs.shard.0.seams.clock.monotonic_ms()
    }

    /// Puts in an update that counts. The room ends if the document cannot be held with it.
    fn integrate(&mut self, update: &Bytes) -> Result<(), Close> {
        let now_ms = self.now_ms();
        self.sheet.integrate(update, now_ms).map_err(|error| self.unusable(&error))
    }

    /// Puts in the marks of incarnations, by which they are known again in the memory of editors. The frames that bring these to
    /// who is here: as an answer, since nobody has edited anything.
    fn mark(&mut self, incarnations: &[Dot]) -> Result<Vec<Bytes>, Close> {
        let marks = incarnations.iter().filter_map(|dot| incarnation_mark(*dot)).map(Bytes::from);
        let mut frames = Vec::new();
        for mark in marks {
            self.integrate(&mark)?;
            frames.push(wire::step_2(&mark));
        }
        Ok(frames)
    }

    /// The document, to look into.
    fn document(&mut self) -> Result<&mut YrsDocument, UpdateError> {
        let now_ms = self.now_ms();
        self.sheet.live(now_ms)
    }

    /// Why editors are sent away of whose document there is no use.
    fn unusable(&self, error: &UpdateError) -> Close {
        tracing::warn!(key = %self.key, %error, "a document cannot be edited");
        if *error == UpdateError::TooDeep { Close::TOO_DEEP } else { Close::INTERNAL }
    }

    /// A txn has touched the key.
    fn event(&mut self, event: &Event) -> ControlFlow<Close> {
        if self.read_at.covers(event.dot) {
            return ControlFlow::Continue(());
        }
        let view = self.docs.shard.0.store.view();
        let (living, counts) = match doc_glance(&view, &self.key, event.dot) {
            Ok(glance) => glance,
            Err(error) => return ControlFlow::Break(unreadable(&self.key, error)),
        };
        // What is in memory cannot be taken out again: with one incarnation less it is another document.
        if self.incarnations.iter().any(|dot| !living.contains(dot)) {
            return ControlFlow::Break(Close::DELETED);
        }
        match counts {
            DocCounts::Yes => {}
            // An update whose incarnation had ended elsewhere before it came is told, and does not count. If it is of this room,
            // what its editors have seen was deleted before the room came to hear of it.
            DocCounts::No => {
                let own = event.updates().filter(|update| self.edits.came_back(update).is_some()).count();
                return if own > 0 { ControlFlow::Break(Close::DELETED) } else { ControlFlow::Continue(()) };
            }
            // The room is so far behind that the document was compacted meanwhile. Whoever opens it anew is not.
            DocCounts::Perhaps => return ControlFlow::Break(Close::GONE),
        }
        let begun: Vec<Dot> = living.iter().filter(|dot| !self.incarnations.contains(dot)).copied().collect();
        self.incarnations = living;
        // Before the content, since who leaves between the two must not be left with that alone.
        match self.mark(&begun) {
            Ok(marks) => self.tell(&marks, |_, _, _| true),
            Err(close) => return ControlFlow::Break(close),
        }
        let (mut frames, mut own) = (Vec::new(), Vec::new());
        for update in event.updates() {
            self.bytes += update.len();
            if let Err(close) = self.integrate(update) {
                return ControlFlow::Break(close);
            }
            own.push(self.edits.came_back(update));
            frames.push(wire::update(update));
        }
        let has_it = |edit: &Edit, id: u64, member: &Member| {
            edit.member == id || edit.told_upto.is_some_and(|upto| member.number <= upto)
        };
        self.tell(&frames, |place, id, member| {
            !own[place].as_ref().is_some_and(|edit| has_it(edit, id, member))
        });
        ControlFlow::Continue(())
    }

    /// A write has ended.
    fn written(&mut self, written: Written) -> ControlFlow<Close> {
        let Written { edits, outcome } = written;
        let Err(error) = outcome else {
            self.docs.counts.updates.fetch_add(edits.len() as u64, Ordering::Relaxed);
            edits.iter().for_each(|edit| self.tell_kept(edit.member));
            self.docs.was_edited(&self.key);
            return ControlFlow::Continue(());
        };
        let close = Close::of(&error);
        tracing::info!(key = %self.key, %error, edits = edits.len(), "edits could not be kept");
        if close == Close::DELETED {
            return ControlFlow::Break(close);
        }
        let is_told = edits.iter().any(|edit| edit.told_upto.is_some());
        for edit in edits {
            self.close(edit.member, close);
        }
        // Who has seen what is not kept holds something else than the document, until he comes in anew.
        if is_told { ControlFlow::Break(Close::NOT_KEPT) } else { ControlFlow::Continue(()) }
    }

    fn ask(&mut self, ask: Ask) -> ControlFlow<Close> {
        match ask {
            Ask::Enter { member, seat } => {
                self.members.enter(member, *seat);
                if !self.members.is_hocuspocus(member) {
                    self.ask_for_the_rest(member);
                }
            }
            Ask::Say { member, message } if self.members.get(member).is_some() => {
                if let Err(close) = self.say(member, message) {
                    self.close(member, close);
                }
            }
            // It was closed, and what it said before it heard of that is void.
            Ask::Say { .. } => {}
            Ask::Leave { member } => self.leave(member),
            Ask::Hear { source, states } => {
                let doubts = self.company.hear(&source, &states);
                self.ask_whether_there(doubts);
            }
            Ask::Contradict { states } => self.ask_whether_there(self.company.contradicted(&states)),
        }
        ControlFlow::Continue(())
    }

    fn tick(&mut self, all_is_heard: bool) -> ControlFlow<Close> {
        let now_ms = self.now_ms();
        // What somebody said before he went is heard before that.
        let gone = self.members.those(|member| all_is_heard && member.seat.is_gone());
        gone.into_iter().for_each(|member| self.leave(member));
        self.company.tick();
        if let Err(error) = self.sheet.tire(now_ms) {
            return ControlFlow::Break(self.unusable(&error));
        }
        for member in self.members.those(|member| !member.hears && now_ms - member.entered_ms >= LISTEN_MS) {
            self.introduce(member);
        }
        let keep_alive_ms = self.docs.bounds.keep_alive.as_millis();
        let is_silent = |since_ms: u64| u128::from(now_ms.saturating_sub(since_ms)) >= keep_alive_ms;
        let silent = self.members.those(|member| is_silent(member.sent_ms));
        // Nobody's states: a frame that says nothing.
        silent.into_iter().for_each(|member| self.post(member, &wire::awareness(&[0])));
        if !self.members.are_none() || !self.edits.are_done() {
            self.empty_since_ms = now_ms;
        }
        let idle_ms = self.docs.bounds.idle.as_millis();
        let is_idle = u128::from(now_ms.saturating_sub(self.empty_since_ms)) >= idle_ms;
        if is_idle && self.docs.retire(&self.key, self.id, false) {
            return ControlFlow::Break(Close::GONE);
        }
        ControlFlow::Continue(())
    }

    /// An editor has left by itself. What it has said is written all the same.
    fn leave(&mut self, member: u64) {
        if let Some(left) = self.members.remove(member) {
            left.seat.part();
            self.company.leave(member);
        }
    }

    /// Closes an editor. What it has said and is not yet being written is void, as long as it alone has it.
    fn close(&mut self, member: u64, close: Close) {
        if let Some(closed) = self.members.remove(member) {
            closed.seat.close(close);
            self.edits.forget(member);
            self.company.leave(member);
        }
    }

    /// Lets those who are held for gone say that they are there.
    fn ask_whether_there(&mut self, doubts: Vec<Doubt>) {
        for Doubt { member, states } in doubts {
            self.post(member, &wire::awareness(&states));
            // Hocuspocus raises its clock when it hears that, and keeps it to itself.
            if self.members.is_hocuspocus(member) {
                self.post(member, &wire::query_awareness());
            }
        }
    }

    /// Tells everybody whose presence has changed; its sender too, who takes this for the sign of life that it waits for.
    fn tell_presence(&mut self) {
        if let Some(states) = self.company.gathered() {
            self.tell(&[wire::awareness(&states)], |_, _, member| member.hears);
        }
    }

    /// Gives frames to all whom they are for.
    fn tell(&mut self, frames: &[Bytes], is_for: impl Fn(usize, u64, &Member) -> bool) {
        let slow = self.members.tell(frames, is_for);
        slow.into_iter().for_each(|member| self.slow(member));
    }

    fn post(&mut self, to: u64, frame: &Bytes) {
        if !self.members.post(to, frame) {
            self.slow(to);
        }
    }

    /// One has no room for a frame. Who is gone is not slow: what it said before that may still be at the door, and behind it that it
    /// has left.
    fn slow(&mut self, member: u64) {
        if self.members.get(member).is_none_or(|member| member.seat.is_gone()) {
            return;
        }
        self.docs.counts.slow.fetch_add(1, Ordering::Relaxed);
        self.close(member, Close::SLOW);
    }
}

/// Why a room ends whose document is not to be read.
pub(super) fn unreadable(key: &Key, error: impl std::fmt::Display) -> Close {
    tracing::error!(%key, %error, "a document cannot be read");
    Close::INTERNAL
}
