//! The door of a room: what editors and other nodes have said to it and it has not heard yet.
//!
//! It takes [`ASKS_MAX`] of them, and [`BYTES_MAX`] bytes of what editors say. Whoever says more waits, and is read more slowly.

use std::sync::Arc;

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

    /// Says that an editor has gone, if there is room for that at once. Else the room finds out by itself, a moment later.
    pub fn leave(&self, member: u64) {
        self.asks.try_send(Ask::Leave { member }).ok();
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
