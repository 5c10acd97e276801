//! A set of small numbers, such as operations by their place in a history.

/// A set of numbers below a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Puts a number in.
    pub(crate) fn insert(&mut self, number: usize) {
        let word = number / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
    }

    /// Whether it is in.
    pub(crate) fn contains(&self, number: usize) -> bool {
        self.words.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Puts all of another set in; says whether that added any.
    pub(crate) fn union(&mut self, other: &Bits) -> bool {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        let mut added = false;
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            added |= more & !*word != 0;
            *word |= more;
        }
        added
    }

    /// The numbers in it, rising.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |word: u64| (0..64).filter(move |bit| word & (1 << bit) != 0);
        self.words.iter().enumerate().flat_map(move |(i, word)| bits(*word).map(move |bit| i * 64 + bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_come_back_in_order() {
        let mut bits = Bits::default();
        for number in [200, 3, 64, 3] {
            bits.insert(number);
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), [3, 64, 200]);
        assert!(!bits.contains(65) && bits.contains(200) && !bits.contains(5000));
        let mut other = Bits::default();
        other.insert(3);
        assert!(!bits.union(&other), "it had that");
        other.insert(900);
        assert!(bits.union(&other) && bits.contains(900));
    }
}
