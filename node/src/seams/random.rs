//! Randomness: ids, nonces, jitter.

use rand::TryRngCore;
use rand::rngs::OsRng;
use uuid::Uuid;

/// Where random bytes come from.
pub trait Random: Send + Sync + 'static {
    /// Fills `out` with bytes that nobody can foresee.
    fn fill(&self, out: &mut [u8]);

    /// A random 64-bit number.
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A new random id.
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// The operating system's source.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, out: &mut [u8]) {
        // Without randomness neither a handshake nor an epoch can be made safely: there is nothing to fall back to.
        OsRng.try_fill_bytes(out).expect("the operating system gives random bytes");
    }
}
