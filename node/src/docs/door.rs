//! The door of a room: what editors and other nodes have said to it and it has not heard yet.
//!
//! It takes [`ASKS_MAX`] of them, and [`BYTES_MAX`] bytes of what editors say. Whoever says more waits, and is read more slowly.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};

use super::presence::message::{Said, Source};
use super::seat::Seat;
use super::wire::Message;

/// What waits to be heard.
pub const ASKS_MAX: usize = 256;
/// Bytes of what editors have said and waits to be heard. A single larger message waits until it is alone.
pub const BYTES_MAX: u32 = 4 << 20;

/// What comes through the door of a room.
#[derive(Debug)]
pub enum Ask {
    /// An editor comes in.
    Enter {
        /// Who it is.
        member: u64,
        /// The way to it. Boxed, because a door keeps room for many of the largest thing that comes through it.
        seat: Box<Seat>,
    },
    /// An editor says something.
    Say {
        /// Who it is.
        member: u64,
        /// What it says.
        message: Message,
    },
    /// An editor has gone.
    Leave {
        /// Who it was.
        member: u64,
    },
    /// Another node says who is present there.
    Hear {
        /// The node.
        source: Arc<Source>,
        /// The states.
        states: Vec<Said>,
    },
    /// Another node holds clients of this one for gone.
    Contradict {
        /// As what it has them.
        states: Vec<Said>,
    },
}

/// The side from which one comes in; clones lead to the same room.
#[derive(Clone, Debug)]
pub struct Door {
    asks: mpsc::Sender<Ask>,
    room: Arc<Semaphore>,
}

/// The room's side.
#[derive(Debug)]
pub struct Doorway {
    asks: mpsc::Receiver<Ask>,
    room: Arc<Semaphore>,
}

/// A door and its two sides.
pub fn door() -> (Door, Doorway) {
    let (sender, asks) = mpsc::channel(ASKS_MAX);
    let room = Arc::new(Semaphore::new(BYTES_MAX as usize));
    (Door { asks: sender, room: room.clone() }, Doorway { asks, room })
}

fn weight(message: &Message) -> u32 {
    u32::try_from(message.bytes()).unwrap_or(BYTES_MAX).min(BYTES_MAX)
}

impl Door {
    /// Waits until there is room for it; `false` if the room is gone.
    pub async fn send(&self, ask: Ask) -> bool {
        let Ask::Say { message, .. } = &ask else { return self.asks.send(ask).await.is_ok() };
        let Ok(room) = self.room.acquire_many(weight(message)).await else { return false };
        let is_sent = self.asks.send(ask).await.is_ok();
        if is_sent {
            // The room gives it back when it takes the message.
            room.forget();
        }
        is_sent
    }

    /// Says that an editor who has entered is gone, and waits for room for that by itself. So there are at most as many who
    /// wait as have entered.
    ///
    /// SUBTLE: The room may not be left to find out. An editor of Hocuspocus can leave one document while its connection, by
    /// which the room knows who is gone, lives on with others.
    pub fn leave(&self, member: u64) {
        let Err(TrySendError::Full(leave)) = self.asks.try_send(Ask::Leave { member }) else { return };
        let asks = self.asks.clone();
        // A runtime that is gone has taken the room with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { asks.send(leave).await.ok() });
        }
    }
}

impl Doorway {
    /// What comes next. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Ask> {
        let ask = self.asks.recv().await?;
        if let Ask::Say { message, .. } = &ask {
            self.room.add_permits(weight(message) as usize);
        }
        Some(ask)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty()
    }

    /// Lets nobody in any more; who is at the door already may still be taken.
    pub fn close(&mut self) {
        self.asks.close();
        self.room.close();
    }
}

impl Drop for Doorway {
    fn drop(&mut self) {
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear() -> Ask {
        Ask::Contradict { states: Vec::new() }
    }

    /// Story: an editor of Hocuspocus closed one document of its connection while the door of the room was full. Nobody told the
    /// room, and since the connection lived on, it did not find out by itself: the editor was in the room, and seen by
    /// others, for as long as the connection lived.
    #[tokio::test]
    async fn who_leaves_by_a_full_door_has_left_once_the_room_has_heard_what_was_said_before() {
        let (door, mut doorway) = door();
        for _ in 0..ASKS_MAX {
            assert!(door.send(hear()).await);
        }
        door.leave(7);
        tokio::task::yield_now().await;
        for _ in 0..ASKS_MAX {
            assert!(matches!(doorway.recv().await, Some(Ask::Contradict { .. })));
        }
        let next = tokio::time::timeout(std::time::Duration::from_secs(5), doorway.recv()).await;
        assert!(matches!(next, Ok(Some(Ask::Leave { member: 7 }))), "{next:?}");
        assert!(doorway.is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_to_leave_by_a_door_that_is_closed() {
        let (door, mut doorway) = door();
        for _ in 0..ASKS_MAX {
            assert!(door.send(hear()).await);
        }
        door.leave(7);
        tokio::task::yield_now().await;
        doorway.close();
        let mut heard = 0;
        while doorway.recv().await.is_some() {
            heard += 1;
        }
        assert_eq!(heard, ASKS_MAX);
        door.leave(8);
        tokio::task::yield_now().await;
        assert_eq!(door.asks.strong_count(), 1, "whoever waited has given up");
    }
}
