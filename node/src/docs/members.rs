//! The editors in a room, and what each has been given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Docs;
use super::close::Close;
use super::seat::Seat;

/// An editor in a room.
#[derive(Debug)]
pub struct Member {
    /// The way to it.
    pub seat: Seat,
    /// Which one of the room it is, in the order of entering.
    pub number: u64,
    /// When it entered, in milliseconds of the node's clock.
    pub entered_ms: u64,
    /// When it was last sent anything.
    pub sent_ms: u64,
    /// Whether it is told who is present.
    pub hears: bool,
}

/// All editors in a room. None of them is ever waited for: who does not take frames in time is to be closed.
#[derive(Debug)]
pub struct Members {
    docs: Arc<Docs>,
    /// Boxed, because a map keeps room for several, and most rooms have one.
    by_id: BTreeMap<u64, Box<Member>>,
    entered: u64,
}

impl Members {
    /// Nobody yet.
    pub fn new(docs: Arc<Docs>) -> Self {
        Self { docs, by_id: BTreeMap::new(), entered: 0 }
    }

    /// Lets an editor in.
    pub fn enter(&mut self, id: u64, seat: Seat) {
        let now_ms = self.now_ms();
        self.entered += 1;
        let member = Member { seat, number: self.entered, entered_ms: now_ms, sent_ms: now_ms, hears: false };
        self.by_id.insert(id, Box::new(member));
    }

    /// The number of whoever entered last.
    pub fn last(&self) -> u64 {
        self.entered
    }

    /// One of them.
    pub fn get(&self, id: u64) -> Option<&Member> {
        self.by_id.get(&id).map(|member| &**member)
    }

    /// Whether it is here and speaks Hocuspocus.
    pub fn is_hocuspocus(&self, id: u64) -> bool {
        self.by_id.get(&id).is_some_and(|member| member.seat.is_hocuspocus())
    }

    /// Lets one hear who is present from here on; whether it did not until now.
    pub fn begins_to_hear(&mut self, id: u64) -> bool {
        self.by_id.get_mut(&id).is_some_and(|member| !std::mem::replace(&mut member.hears, true))
    }

    /// Takes one out.
    pub fn remove(&mut self, id: u64) -> Option<Member> {
        self.by_id.remove(&id).map(|member| *member)
    }

    /// Whether nobody is here.
    pub fn are_none(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Those of whom something is so.
    pub fn those(&self, is_so: impl Fn(&Member) -> bool) -> Vec<u64> {
        self.by_id.iter().filter(|(_, member)| is_so(member)).map(|(id, _)| *id).collect()
    }

    /// Gives a frame to one of them; `false` if it is here and has no room for it.
    pub fn post(&mut self, id: u64, frame: &Bytes) -> bool {
        let now_ms = self.now_ms();
        let Some(member) = self.by_id.get_mut(&id) else { return true };
        let is_posted = member.seat.post(frame);
        if is_posted {
            member.sent_ms = now_ms;
            self.docs.counts.frames.fetch_add(1, Ordering::Relaxed);
        }
        is_posted
    }

    /// Gives frames to all whom they are for, by their place among these: all of one editor's together, so that they go into
    /// one write of its connection. Those who have no room for theirs.
    pub fn tell(&mut self, frames: &[Bytes], is_for: impl Fn(usize, u64, &Member) -> bool) -> Vec<u64> {
        let now_ms = self.now_ms();
        let (mut slow, mut told) = (Vec::new(), 0);
        for (id, member) in &mut self.by_id {
            for (place, frame) in frames.iter().enumerate() {
                if !is_for(place, *id, member) {
                    continue;
                }
                if !member.seat.post(frame) {
                    slow.push(*id);
                    break;
                }
                member.sent_ms = now_ms;
                told += 1;
            }
        }
        self.docs.counts.frames.fetch_add(told, Ordering::Relaxed);
        slow
    }

    /// Closes all, and tells them why.
    pub fn close(&mut self, close: Close) {
        for member in std::mem::take(&mut self.by_id).into_values() {
            member.seat.close(close);
        }
    }

    fn now_ms(&self) -> u64 {
        self.docs.shard.0.seams.clock.monotonic_ms()
    }
}
