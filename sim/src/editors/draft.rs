//! An editor's own copy of a document, in the library that editors use. Its content is an array of numbers that nobody
//! else writes, so that whatever is lost, torn or there twice shows.

use meridian_history::kind::ELEMENTS;
use yrs::updates::decoder::Decode;
use yrs::{
    Any, Array, ArrayRef, ClientID, Doc, Number, OffsetKind, Options, Out, ReadTxn, StateVector, Transact,
    Update,
};

/// The block that names an incarnation is longer than anything that anybody writes.
const MARK_LENGTH_MIN: u32 = 1 << 30;

/// A copy of a document.
pub(crate) struct Draft {
    doc: Doc,
    elements: ArrayRef,
    client: ClientID,
}

impl Draft {
    /// An empty copy of somebody who has this number, and must be alone with it.
    pub(crate) fn new(client: u64) -> Self {
        let client = ClientID::new(client);
        // What the library would draw by itself comes from no seed.
        let mut options = Options::with_guid_and_client_id("".into(), client);
        options.offset_kind = OffsetKind::Utf16;
        let doc = Doc::with_options(options);
        let elements = doc.get_or_insert_array(ELEMENTS);
        Self { doc, elements, client }
    }

    /// A copy of what a node has given as one update.
    pub(crate) fn of(client: u64, update: &[u8]) -> Result<Self, String> {
        let mut draft = Self::new(client);
        draft.apply(update)?;
        Ok(draft)
    }

    /// Inserts elements one behind the other, `at` so many thousandths of the way; the update that does so elsewhere.
    pub(crate) fn insert(&mut self, at: u32, elements: &[i64]) -> Vec<u8> {
        let mut txn = self.doc.transact_mut();
        let first = u64::from(self.elements.len(&txn)) * u64::from(at) / 1000;
        let first = u32::try_from(first).unwrap_or(u32::MAX);
        for (i, element) in (0u32..).zip(elements) {
            self.elements.insert(&mut txn, first + i, Any::Number(Number::Int(*element)));
        }
        txn.encode_update_v1()
    }

    /// Puts in what somebody else has made.
    pub(crate) fn apply(&mut self, update: &[u8]) -> Result<(), String> {
        let update = Update::decode_v1(update).map_err(|error| format!("an update is not one: {error}"))?;
        let applied = self.doc.transact_mut().apply_update(update);
        applied.map_err(|error| format!("an update cannot be applied: {error}"))
    }

    /// The elements in their order.
    pub(crate) fn elements(&self) -> Vec<i64> {
        let txn = self.doc.transact();
        // What is no number nobody has written.
        let number = |out: Out| match out {
            Out::Any(Any::Number(Number::Int(number))) => number,
            _ => i64::MIN,
        };
        self.elements.iter(&txn).map(number).collect()
    }

    /// Whether this copy knows of which incarnation of the document it is.
    pub(crate) fn is_marked(&self) -> bool {
        self.state_vector().iter().any(|(_, clock)| *clock >= MARK_LENGTH_MIN)
    }

    /// Whether something of this copy is not shown, because it builds on what is not there.
    pub(crate) fn lacks_foundations(&self) -> bool {
        self.doc.transact().has_missing_updates()
    }

    /// What this copy has.
    pub(crate) fn state_vector(&self) -> StateVector {
        self.doc.transact().state_vector()
    }

    /// How much of its own this copy has.
    pub(crate) fn clock(&self) -> u32 {
        self.covered_by(&self.state_vector())
    }

    /// How much of this copy's own somebody has.
    pub(crate) fn covered_by(&self, state_vector: &StateVector) -> u32 {
        state_vector.get(&self.client)
    }

    /// All that somebody lacks who has this.
    pub(crate) fn lacking(&self, state_vector: &StateVector) -> Vec<u8> {
        self.doc.transact().encode_state_as_update_v1(state_vector)
    }

    /// The same as bytes, for who has nothing.
    #[cfg(test)]
    pub(crate) fn whole(&self) -> Vec<u8> {
        self.lacking(&StateVector::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_have_the_same_show_the_same_whatever_came_first() {
        let (mut a, mut b) = (Draft::new(1), Draft::new(2));
        let (one, two) = (a.insert(0, &[1_000_001, 1_000_002]), b.insert(0, &[2_000_001]));
        a.apply(&two).expect("an update");
        b.apply(&one).expect("an update");
        assert_eq!(a.elements(), b.elements());
        let again = Draft::of(3, &a.whole()).expect("an update");
        assert_eq!(again.elements(), a.elements());
        assert_eq!((a.clock(), a.covered_by(&b.state_vector())), (2, 2));
        let behind = a.insert(1000, &[1_000_003]);
        let alone = Draft::of(4, &behind).expect("an update");
        assert!(alone.lacks_foundations() && !again.lacks_foundations());
        assert_eq!(a.elements().last(), Some(&1_000_003));
        assert_eq!(a.lacking(&b.state_vector()), a.lacking(&again.state_vector()));
    }
}
