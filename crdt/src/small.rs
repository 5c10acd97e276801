//! A sorted map for the few entries that headers and vectors have: in place while they are few, and then in one
//! allocation.
//!
//! Looking for a key is a binary search, changing one moves those behind it. A map of many thousands of entries belongs
//! into a B-tree.

use std::borrow::Borrow;

use smallvec::SmallVec;

/// A map of entries in the order of their keys, of which the first `N` need no allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SmallMap<K, V, const N: usize>(SmallVec<[(K, V); N]>);

impl<K, V, const N: usize> Default for SmallMap<K, V, N> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<K: Ord, V, const N: usize> SmallMap<K, V, N> {
    /// The map of nothing.
    pub const fn new() -> Self {
        Self(SmallVec::new_const())
    }

    fn position<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(k, _)| k.borrow().cmp(key))
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.position(key).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.position(key).ok().map(|at| &mut self.0[at].1)
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.position(key).is_ok()
    }

    /// Puts `value` in the place of what stands under `key`, which it returns.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.position(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.position(key).ok().map(|at| self.0.remove(at).1)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain(|(key, value)| keep(key, value));
    }

    /// The entries in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The entries from `from` on.
    pub fn range_from<Q: Ord + ?Sized>(&self, from: &Q) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let at = self.position(from).unwrap_or_else(|at| at);
        self.0[at..].iter().map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<K: Ord, V, const N: usize> FromIterator<(K, V)> for SmallMap<K, V, N> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_b_tree_does(steps in prop::collection::vec((0u8..12, prop::option::of(0u8..9)), 0..60)) {
            let mut tree: BTreeMap<u8, u8> = BTreeMap::new();
            let mut small: SmallMap<u8, u8, 2> = SmallMap::new();
            for (key, value) in steps {
                match value {
                    Some(value) => prop_assert_eq!(small.insert(key, value), tree.insert(key, value)),
                    None => prop_assert_eq!(small.remove(&key), tree.remove(&key)),
                }
                prop_assert_eq!(small.get(&key), tree.get(&key));
                prop_assert!(small.iter().eq(tree.iter()));
                prop_assert!(small.range_from(&key).eq(tree.range(key..)));
                prop_assert_eq!((small.len(), small.is_empty()), (tree.len(), tree.is_empty()));
            }
            small.retain(|key, _| key % 2 == 0);
            tree.retain(|key, _| key % 2 == 0);
            prop_assert_eq!(&small, &tree.into_iter().collect());
        }
    }
}
