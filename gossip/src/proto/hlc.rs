//! The date in an HLC stamp, for lag and clock differences only; it never orders anything here.

/// 2024-01-01T00:00:00Z in milliseconds since the Unix epoch: where the stamps begin.
const EPOCH_UNIX_MS: u64 = 1_704_067_200_000;

/// The low bits of a stamp that count within one millisecond.
const COUNTER_BITS: u32 = 22;

/// Milliseconds since the Unix epoch at which `stamp` was drawn.
pub fn hlc_unix_ms(stamp: u64) -> u64 {
    EPOCH_UNIX_MS + (stamp >> COUNTER_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_counts_milliseconds_from_2024() {
        assert_eq!(hlc_unix_ms(0), 1_704_067_200_000);
        assert_eq!(hlc_unix_ms((5 << 22) | 77), 1_704_067_200_005);
    }
}
