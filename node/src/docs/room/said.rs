//! What a room makes of what its editors say: what is taken of it, what it is answered, and what has to wait.

use bytes::Bytes;
use meridian_crdt::{
    Document, Dot, NESTING_MAX, Reach, UpdateError, doc_state, marks_of_state_vector, without_marks,
};

use super::{HELD_MS_MAX, NOTHING, Room, unreadable};
use crate::config::Fanout;
use crate::docs::close::Close;
use crate::docs::edits::Edit;
use crate::docs::marks::{Memory, memory};
use crate::docs::wire::{self, Message};

impl Room {
    /// Nobody may bring back what was deleted, nor, for a while, what this datacenter has yet to hear of: as long as it has not, a deletion
    /// of that would not reach what is written here.
    fn check_memory(&self, marks: Vec<Dot>) -> Result<(), Close> {
        match memory(&self.docs.shard.0, &self.key, &self.incarnations, marks)? {
            Memory::Deleted => Err(Close::DELETED),
            Memory::Of { unheard } if self.docs.must_be_heard_first(&self.key, &unheard) => {
                Err(Close::UNHEARD)
            }
            Memory::Of { .. } => Ok(()),
        }
    }

    /// Hears what was held once nothing is under way; one for which it takes too long is sent away.
    pub(super) fn release(&mut self) {
        // For one that was closed meanwhile nobody waits any more.
        let held = self.held.take().filter(|(member, ..)| self.members.get(*member).is_some());
        let Some((member, message, since_ms)) = held else { return };
        if self.edits.are_settled() {
            if let Err(close) = self.say(member, message) {
                self.close(member, close);
            }
        } else if self.now_ms().saturating_sub(since_ms) >= HELD_MS_MAX {
            self.close(member, Close::NOT_KEPT);
        } else {
            self.held = Some((member, message, since_ms));
        }
    }

    /// Whether an edit might nest too deep, or be too much, with all others that are under way. Whether it is, is known when these
    /// have come back.
    fn must_wait(&self, edit: Reach, bytes: usize) -> bool {
        let deepest = edit.above.map_or(0, |above| above + self.edits.height() + edit.height);
        let may_be_too_deep = edit.height > 0 && deepest > NESTING_MAX;
        let may_be_too_much = self.bytes + self.edits.bytes() + bytes > self.docs.bounds.doc_bytes_max;
        (may_be_too_deep || may_be_too_much) && !self.edits.are_settled()
    }

    pub(super) fn say(&mut self, member: u64, mut message: Message) -> Result<(), Close> {
        if let Message::Step2(update) | Message::Update(update) = &mut message {
            if update.len() > self.docs.bounds.update_bytes_max {
                return Err(Close::TOO_LARGE);
            }
            if let Some(unmarked) = without_marks(update).map_err(|error| self.not_taken(&error))? {
                self.check_memory(unmarked.brought)?;
                *update = unmarked.update.into();
            }
        }
        let mut height = 0;
        let mut is_new = false;
        if let Message::Step2(update) | Message::Update(update) = &message
            && update != NOTHING
        {
            let reach = match self.document().and_then(|document| document.reach(update)) {
                Ok(reach) => reach,
                Err(error) => return Err(self.not_taken(&error)),
            };
            if self.must_wait(reach, update.len()) {
                self.held = Some((member, message, self.now_ms()));
                return Ok(());
            }
            if !reach.fits {
                return Err(self.not_taken(&UpdateError::TooDeep));
            }
            (height, is_new) = (reach.height, true);
        }
        match message {
            Message::Step1(state_vector) => {
                self.check_memory(marks_of_state_vector(&state_vector).map_err(|_| Close::BAD_MESSAGE)?)?;
                let mut frames = self.lacking(&state_vector)?;
                // What others were given early it would lack, and what they build on that it could not show.
                frames.extend(self.edits.told().map(|update| wire::update(update)));
                frames.iter().for_each(|frame| self.post(member, frame));
                // An editor of Hocuspocus counts the answers to what it is asked, so it is asked as often as it asks.
                if self.members.is_hocuspocus(member) {
                    self.ask_for_the_rest(member);
                }
            }
            Message::Step2(update) => {
                // Editors who come back send all deletions there ever were: most of the time nothing is new.
                let is_new = is_new && self.lacks(&update)?;
                self.edit(member, update, height, is_new)?;
                self.introduce(member);
            }
            Message::Update(update) => self.edit(member, update, height, is_new)?,
            Message::Awareness(states) => {
                let has_heard = self.members.get(member).is_none_or(|member| member.hears);
                let doubts = self.company.take(member, has_heard, &states);
                self.ask_whether_there(doubts.map_err(|_| Close::BAD_AWARENESS)?);
                self.introduce(member);
            }
            Message::QueryAwareness => {
                self.members.begins_to_hear(member);
                self.tell_all_present(member);
            }
        }
        Ok(())
    }

    /// Tells an editor who is present, from here on. Until then whatever it says it says of itself: a client announces itself
    /// before it answers anything, if it has anything to say of itself.
    pub(super) fn introduce(&mut self, member: u64) {
        if self.members.begins_to_hear(member) {
            self.tell_all_present(member);
        }
    }

    fn tell_all_present(&mut self, member: u64) {
        if let Some(all) = self.company.all() {
            self.post(member, &wire::awareness(&all));
        }
    }

    /// Asks an editor for what it has and the document has not.
    pub(super) fn ask_for_the_rest(&mut self, member: u64) {
        self.post(member, &wire::step_1(&self.sheet.state_vector()));
    }

    /// Takes an edit on its way into the log. What is in the document already came from there.
    fn edit(&mut self, member: u64, update: Bytes, height: usize, is_new: bool) -> Result<(), Close> {
        if let Some(refusal) = is_new.then(|| self.refusal(member)).flatten() {
            if self.lacks(&update)? {
                self.post(member, &refusal);
            } else {
                self.tell_kept(member);
            }
        } else if is_new {
            self.check_size(update.len())?;
            let told_upto = (self.docs.bounds.fanout == Fanout::Early).then_some(self.members.last());
            if told_upto.is_some() {
                self.tell(&[wire::update(&update)], |_, id, _| id != member);
            }
            self.edits.push(Edit { member, update, height, told_upto });
        } else {
            self.tell_kept(member);
        }
        Ok(())
    }

    /// How an editor is told that what it has made is refused, if it may only read.
    fn refusal(&self, member: u64) -> Option<Bytes> {
        let seat = &self.members.get(member)?.seat;
        seat.reads_only().then(|| seat.refusal())
    }

    /// Tells an editor who wants to know that one of its edits is kept.
    pub(super) fn tell_kept(&mut self, member: u64) {
        if self.members.is_hocuspocus(member) {
            self.post(member, &wire::kept());
        }
    }

    /// What an editor lacks who has `state_vector`.
    fn lacking(&mut self, state_vector: &[u8]) -> Result<Vec<Bytes>, Close> {
        let now_ms = self.now_ms();
        self.sheet.lacking(state_vector, now_ms).map_err(|error| match error {
            UpdateError::TooDeep => Close::TOO_DEEP,
            _ => Close::BAD_MESSAGE,
        })
    }

    fn lacks(&mut self, update: &[u8]) -> Result<bool, Close> {
        let lacks = self.document().and_then(|document| document.lacks(update));
        lacks.map_err(|error| self.not_taken(&error))
    }

    pub(super) fn not_taken(&self, error: &UpdateError) -> Close {
        tracing::debug!(key = %self.key, %error, "an editor sent an update that is not taken");
        if *error == UpdateError::TooDeep { Close::TOO_DEEP } else { Close::BAD_UPDATE }
    }

    /// Whether the document may take so many bytes more.
    fn check_size(&mut self, update_bytes: usize) -> Result<(), Close> {
        let bytes_max = self.docs.bounds.doc_bytes_max;
        if self.bytes + update_bytes > bytes_max {
            // It may have been compacted since it was opened.
            let view = self.docs.shard.0.store.view();
            let state = doc_state(&view, &self.key).map_err(|e| unreadable(&self.key, e))?;
            self.bytes = state.content().bytes();
        }
        if self.bytes + update_bytes <= bytes_max { Ok(()) } else { Err(Close::TOO_LARGE) }
    }
}
