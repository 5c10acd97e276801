//! Updates that came before what they build on.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::check::Id;

/// Updates, by the first thing that each of them misses, with how deep the types of each nest.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_need: BTreeMap<Id, BTreeMap<Bytes, usize>>,
    height: usize,
}

impl Waiting {
    /// Takes on an update that misses `need`, and of which the types nest `height` deep.
    pub fn add(&mut self, need: Id, height: usize, update: Bytes) {
        // Again and again the same one is no more than one.
        if self.by_need.entry(need).or_default().insert(update, height).is_none() {
            self.height += height;
        }
    }

    /// Takes out what missed one of the clocks of `client` from `from` up to below `to`.
    pub fn take(&mut self, client: u64, from: u32, to: u32) -> Vec<Bytes> {
        if self.by_need.is_empty() {
            return Vec::new();
        }
        let needs = self.by_need.range(Id { client, clock: from }..Id { client, clock: to });
        let needs: Vec<Id> = needs.map(|(need, _)| *need).collect();
        let taken = needs.iter().filter_map(|need| self.by_need.remove(need)).flatten();
        let mut updates = Vec::new();
        for (update, height) in taken {
            self.height -= height;
            updates.push(update);
        }
        updates
    }

    /// How deep the types of all of these nest, if each is inside the one before.
    pub fn height(&self) -> usize {
        self.height
    }

    pub fn is_empty(&self) -> bool {
        self.by_need.is_empty()
    }

    /// All of them.
    pub fn updates(&self) -> impl Iterator<Item = &Bytes> {
        self.by_need.values().flat_map(BTreeMap::keys)
    }
}
