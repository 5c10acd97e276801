//! Durations and sizes as an operator writes them: `250ms`, `64MiB`.
//!
//! A number without a unit is refused, so that nobody has to remember which unit a key expects. The module keeps one
//! invariant: what it prints, it reads back as the same value. It knows nothing of keys or files.

use std::fmt;
use std::time::Duration;

/// The units of a duration, largest first, with their length in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The units of a size, largest first, with their number of bytes.
const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`, as in `250ms`.
///
/// # Errors
/// A sentence fragment that says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_with(text, &DURATION_UNITS, "a duration").map(Duration::from_millis)
}

/// Writes a duration in the largest unit that divides it, so that [`parse_duration`] reads it back unchanged.
/// What is finer than a millisecond is dropped: no setting is that fine.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    format_with(millis, &DURATION_UNITS, "ms")
}

/// A number of bytes, written as `64MiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many kibibytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// So many mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// So many gibibytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The size as a number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size as an index into memory; saturates where memory is smaller than the size.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    /// Reads a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`.
    fn from_str(text: &str) -> Result<Self, String> {
        parse_with(text, &SIZE_UNITS, "a size").map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_with(self.0, &SIZE_UNITS, "B"))
    }
}

/// Splits digits from the unit, and multiplies; never rounds, never wraps.
fn parse_with(text: &str, units: &[(&str, u64)], what: &str) -> Result<u64, String> {
    let names = || units.iter().rev().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    if digits.is_empty() {
        return Err(format!("{text:?} is not {what}: it must start with a whole number"));
    }
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit: write one of {} after the number", names()));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("{text:?} has the unknown unit {unit:?}: the units are {}", names()));
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is too large"))?;
    number.checked_mul(*factor).ok_or_else(|| format!("{text:?} is too large"))
}

fn format_with(value: u64, units: &[(&str, u64)], smallest: &str) -> String {
    if value == 0 {
        return format!("0{smallest}");
    }
    for (name, factor) in units {
        if value.is_multiple_of(*factor) {
            return format!("{}{name}", value / factor);
        }
    }
    format!("{value}{smallest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_read_as_they_are_written() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!("64MiB".parse(), Ok(ByteSize::mib(64)));
        assert_eq!("0B".parse(), Ok(ByteSize(0)));
        assert_eq!(format_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(ByteSize::gib(16).to_string(), "16GiB");
    }

    #[test]
    fn text_without_a_unit_or_with_a_wrong_one_is_refused_with_the_units() {
        for bad in ["", "5", "ms", "-5s", "1.5s", "5 s", "5S", "5sec", " 5s", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "64", "64MB", "64mib", "1.5GiB", "MiB", "99999999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
        let message = parse_duration("5").expect_err("no unit");
        assert!(message.contains("ms, s, m, h, d"), "{message}");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_as_the_same_value(millis in 0u64..=u64::MAX / 86_400_000, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
