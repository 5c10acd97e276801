//! How much memory the writes may take that a node works on.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Room for the writes that are under way, in bytes. What they take of it is theirs until their permit is dropped.
#[derive(Debug)]
pub struct WriteRoom {
    free: Semaphore,
    bytes_max: usize,
}

impl WriteRoom {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { free: Semaphore::new(bytes_max), bytes_max }
    }

    /// Room for a write of about so many bytes, if there is that much. One that is larger than all of it has all of it.
    pub fn take(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        self.free.try_acquire_many(bytes).ok()
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
        drop(small);
        assert_eq!((room.taken(), room.take(61).is_none()), (40, true));
        drop(rest);
        let large = room.take(1000);
        assert_eq!((large.is_some(), room.taken(), room.take(1).is_none()), (true, 100, true));
    }
}
