//! What a client of any system can be asked to do, and the values that it writes.
//!
//! An operation means the same to every driver. A value begins with its key's number, so that an answer can be checked,
//! and goes on with letters that do not compress well, so that nobody wins by compressing a constant.

/// Bytes of a value.
pub const VALUE_BYTES: usize = 256;
/// Keys that one transaction writes.
pub const TXN_KEYS: usize = 4;
/// The key of the counter that everybody adds to.
pub const HOT_COUNTER: &str = "hot";
/// Digits at the front of a value that name its key.
const NAME_DIGITS: usize = 16;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whatever the node has: etcd's serializable.
    Eventual,
    /// Meridian's default: what the session has seen, at least.
    Session,
    /// The latest: etcd's default.
    Linearizable,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key to a fresh value.
    Put(u64),
    /// Reads a key.
    Get(u64, Level),
    /// Adds one to the hot counter.
    Add,
    /// Sets several keys at once.
    Txn([u64; TXN_KEYS]),
    /// Adds `count` elements from `first` on to a set.
    SetAdd {
        /// The number of the set.
        set: u64,
        /// The number of the first element.
        first: u64,
        /// How many.
        count: u64,
    },
}

impl Op {
    /// How many keys or elements it writes.
    pub fn writes(&self) -> u64 {
        match self {
            Self::Get(..) => 0,
            Self::Put(_) | Self::Add => 1,
            Self::Txn(keys) => keys.len() as u64,
            Self::SetAdd { count, .. } => *count,
        }
    }
}

/// The name of a key: as long as that of every other key.
pub fn key_name(key: u64) -> String {
    format!("key-{key:012}")
}

/// The name of a set.
pub fn set_name(set: u64) -> String {
    format!("set-{set:012}")
}

/// The name of an element: no two are equal, and those that follow each other are nowhere near each other in the order of names, for
/// members of sets come in no order. Nor are they spread evenly, as multiples of the golden ratio are: all pages of a B-tree would fill
/// at one pace and be split at the same time.
pub fn element_name(element: u64) -> String {
    // The finalizer of SplitMix64 (Steele, Lea, Flood, 2014), which has an inverse.
    let mixed = (element ^ element >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("element-{:016x}", mixed ^ mixed >> 31)
}

/// A value of `key`, different for each `salt`.
pub fn value(key: u64, salt: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut value = format!("{key:016x}");
    let mut random = Random::new(salt ^ key.rotate_left(32));
    while value.len() < VALUE_BYTES {
        let mut bits = random.number();
        for _ in 0..10.min(VALUE_BYTES - value.len()) {
            value.push(char::from(LETTERS[(bits & 63) as usize]));
            bits >>= 6;
        }
    }
    value
}

/// Whether `found` can be a value of `key`.
pub fn is_value_of(key: u64, found: &[u8]) -> bool {
    let number = found.get(..NAME_DIGITS).and_then(|digits| std::str::from_utf8(digits).ok());
    found.len() == VALUE_BYTES
        && number.and_then(|digits| u64::from_str_radix(digits, 16).ok()).is_some_and(|n| n == key)
}

/// Numbers that need not be good, only quick and the same in each run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.number() >> 8) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_key_and_has_its_length() {
        let one = value(77, 1);
        assert!(is_value_of(77, one.as_bytes()));
        assert!(!is_value_of(78, one.as_bytes()));
        assert!(!is_value_of(77, &one.as_bytes()[1..]));
        assert_ne!(one, value(77, 2));
    }

    #[test]
    fn elements_have_names_of_their_own_in_no_order_and_unevenly_spread() {
        let number = |name: String| u64::from_str_radix(&name["element-".len()..], 16).expect("digits");
        let mut numbers: Vec<u64> = (0..1000).map(|element| number(element_name(element))).collect();
        assert!(!numbers.is_sorted());
        numbers.sort_unstable();
        let gaps = || numbers.windows(2).map(|pair| pair[1] - pair[0]);
        let even = u64::MAX / 1000;
        assert!(gaps().all(|gap| gap > 0) && gaps().min() < Some(even / 50) && gaps().max() > Some(even * 5));
    }
}
