//! A request between its execution and its commit: the effects, and what execution has read of the keys.
//!
//! A key's header is read once. What applies the effects, and what answers with the versions afterwards, take it from
//! here. That is right only as long as nothing else changes the cells in between, which the caller sees to: a datacenter
//! executes and applies one txn after the other.

use crate::apply::Applied;
use crate::cells::Cells;
use crate::digest::DigestDeltas;
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::execute::Ctx;
use crate::header::{Header, Version};
use crate::keys::Key;
use crate::txn::KeyEffect;
use crate::value::Value;
use crate::vector::Vector;

/// What a request comes to, as [`Executed`](crate::Executed) has it, and the keys as they were before.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the txn does, sorted by key. Empty if nothing would change.
    pub effects: Vec<KeyEffect>,
    /// For each operation what it answers.
    pub results: Vec<Option<Value>>,
    /// The keys of the operations, in their order.
    pub(crate) keys: Vec<KeyBefore>,
}

/// A key as execution found it.
#[derive(Clone, Debug)]
pub(crate) struct KeyBefore {
    key: Key,
    header: Header,
    version: Version,
}

impl KeyBefore {
    pub fn new(key: &Key, header: Header) -> Self {
        Self { key: key.clone(), version: Version(header.digest), header }
    }
}

impl Prepared {
    /// For each key of the operations the dots that had last touched it before, without those that were stable.
    pub fn touched(&self) -> impl Iterator<Item = &Vector> {
        self.keys.iter().map(|before| &before.header.touched)
    }

    /// The version of a key of the operations: the one after [`Prepared::apply`], once that was called.
    pub fn version(&self, key: &Key) -> Version {
        match self.keys.binary_search_by(|before| before.key.cmp(key)) {
            Ok(at) => self.keys[at].version,
            Err(_) => Version::default(),
        }
    }

    /// Applies the effects, or an equal copy of them, to the cells on which they were worked out, as
    /// [`apply`](crate::apply::apply) does.
    pub fn apply<C: Cells>(
        &mut self,
        cells: &mut C,
        ctx: &Ctx<'_>,
        effects: &[KeyEffect],
        digests: &mut DigestDeltas,
    ) -> Result<Applied, StoreError<C::Error>> {
        let mut keys = self.keys.iter_mut();
        let mut applied = Applied::default();
        for effect in effects {
            // Both are sorted by key, and each effect is of one of the keys.
            let of_effect = |of: &&mut KeyBefore| of.key.space == effect.space && of.key.key == effect.key;
            let Some(KeyBefore { key, header, version }) = keys.find(of_effect) else { continue };
            let edit = KeyEdit::resume(cells, key, std::mem::take(header), ctx.index);
            *version = applied.effect(edit, ctx, effect, digests)?;
        }
        Ok(applied)
    }
}
