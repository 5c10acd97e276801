//! How much memory the writes may take that a node works on.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for the writes that are under way, in bytes.
#[derive(Debug)]
pub struct WriteRoom {
    free: Arc<Semaphore>,
    bytes_max: usize,
}

/// What a write has of the room. It is given back when the last copy is dropped: that of whoever waits, who may give up, or that
/// of what waits to be proposed and goes on without them.
#[derive(Clone, Debug)]
pub struct Taken {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl WriteRoom {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes_max)), bytes_max }
    }

    /// Room for a write of about so many bytes, if there is that much. One that is larger than all of it has all of it.
    pub fn take(&self, bytes: usize) -> Option<Taken> {
        let bytes = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        let permit = self.free.clone().try_acquire_many_owned(bytes).ok()?;
        Some(Taken { _permit: Arc::new(permit) })
    }

    /// How many bytes are taken.
    pub fn taken(&self) -> usize {
        self.bytes_max - self.free.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back_and_a_large_write_waits_for_nobody_else() {
        let room = WriteRoom::new(100);
        let (small, rest) = (room.take(60), room.take(40));
        assert!(small.is_some() && rest.is_some());
        assert_eq!((room.taken(), room.take(1).is_none(), room.take(0).is_some()), (100, true, true));
        let copy = small.clone();
        drop(small);
        assert_eq!(room.taken(), 100);
        drop(copy);
        assert_eq!((room.taken(), room.take(61).is_none()), (40, true));
        drop(rest);
        let large = room.take(1000);
        assert_eq!((large.is_some(), room.taken(), room.take(1).is_none()), (true, 100, true));
    }
}
