//! What the updates of a document say: the one place that knows Yjs.
//!
//! State is made of updates as bytes and never depends on a decoder; only reading a document, and checking an update
//! before it is taken in, come here. [`Document`] is all that the rest of the program asks of a document; the crate
//! `yrs` stands behind it. It is used as a pure function: a document here never makes content of its own, so the
//! identity that it has is a constant, and whatever order its maps have inside is sorted before it is shown. Edits that
//! make a document hold something else ([`YrsDocument::rewritten`]) are made in a copy, for an author who is an argument.

mod check;
mod compare;
mod render;
mod rewrite;
mod split;
mod tree;

use bytes::Bytes;
use thiserror::Error;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{ClientID, Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Update};

use crate::codec::DecodeError;
use crate::value::Value;

pub use check::check_update;
pub use rewrite::{Content, RewriteError, Rewritten};
pub use split::split_update;

/// Why an update, or a state vector, is not taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// It is not an update of Yjs in encoding v1.
    #[error("this is no update of Yjs in its encoding v1: {0}")]
    Malformed(#[from] DecodeError),
    /// It holds something that is valid for Yjs, but not taken here.
    #[error("the update holds {0}, which is not taken")]
    Unsupported(&'static str),
    /// The decoder does not take it.
    #[error("the update cannot be put into a document: {0}")]
    Refused(String),
}

/// A document that updates are put into, in any order and as often as one likes, and that is read.
pub trait Document {
    /// Puts an update in. What it builds on may come later.
    fn integrate(&mut self, update: &[u8]) -> Result<(), UpdateError>;

    /// What is here, as Yjs' state vector in encoding v1.
    fn state_vector(&self) -> Vec<u8>;

    /// An update in encoding v1 with everything that is here and is not in the state vector, with all deletions.
    fn diff(&self, state_vector: &[u8]) -> Result<Vec<u8>, UpdateError>;

    /// Whether an update brings anything that is not here.
    fn lacks(&self, update: &[u8]) -> Result<bool, UpdateError>;

    /// The root types by name, as JSON shows them.
    fn to_value(&self) -> Value;

    /// The text of one root type, without its formatting; empty if there is no such type.
    fn text(&self, root: &str) -> String;
}

/// The state vector of who has nothing.
const FROM_NOTHING: &[u8] = &[0];

/// The identity of a document that never writes.
const READER: ClientID = ClientID::new(0);

/// [`Document`] by the crate `yrs`.
#[derive(Debug)]
pub struct YrsDocument {
    doc: Doc,
}

impl Default for YrsDocument {
    fn default() -> Self {
        let mut options = Options::with_guid_and_client_id("".into(), READER);
        // Yjs counts as JavaScript does.
        options.offset_kind = OffsetKind::Utf16;
        Self { doc: Doc::with_options(options) }
    }
}

impl YrsDocument {
    /// A document of these updates, and how many of them were not taken: those that another version of this program
    /// has let in.
    pub fn of<'u>(updates: impl IntoIterator<Item = &'u Bytes>) -> (Self, usize) {
        let mut document = Self::default();
        let refused = updates.into_iter().filter(|update| document.integrate(update).is_err()).count();
        (document, refused)
    }
}

impl YrsDocument {
    /// All of it in encoding v2, which is smaller than v1 and is not what editors speak.
    pub fn to_v2(&self) -> Vec<u8> {
        self.doc.transact().encode_state_as_update_v2(&StateVector::default())
    }

    /// A document of what [`YrsDocument::to_v2`] gave. The bytes must be known to come from there: what makes of hostile
    /// ones is not looked at before they are decoded.
    pub fn of_v2(bytes: &[u8]) -> Result<Self, UpdateError> {
        let update = Update::decode_v2(bytes).map_err(refused)?;
        let document = Self::default();
        document.doc.transact_mut().apply_update(update).map_err(refused)?;
        Ok(document)
    }

    /// How many clients have made something that is here.
    pub fn clients(&self) -> usize {
        self.doc.transact().state_vector().len()
    }
}

fn refused(error: impl std::fmt::Display) -> UpdateError {
    UpdateError::Refused(error.to_string())
}

impl Document for YrsDocument {
    fn integrate(&mut self, update: &[u8]) -> Result<(), UpdateError> {
        check::check_structure(update)?;
        let update = Update::decode_v1(update).map_err(refused)?;
        // One transaction for each update: a large one is quadratic.
        self.doc.transact_mut().apply_update(update).map_err(refused)
    }

    fn state_vector(&self) -> Vec<u8> {
        self.doc.transact().state_vector().encode_v1()
    }

    fn diff(&self, state_vector: &[u8]) -> Result<Vec<u8>, UpdateError> {
        check::check_state_vector(state_vector)?;
        let theirs = StateVector::decode_v1(state_vector).map_err(refused)?;
        Ok(self.doc.transact().encode_state_as_update_v1(&theirs))
    }

    fn lacks(&self, update: &[u8]) -> Result<bool, UpdateError> {
        check::check_structure(update)?;
        let update = Update::decode_v1(update).map_err(refused)?;
        let here = self.doc.transact().snapshot();
        let inserts = update.insertions(true);
        let is_new = |client: &ClientID| {
            let end = inserts.get(client).and_then(|ranges| ranges.iter().map(|(range, ())| range.end).max());
            end.is_some_and(|end| end > here.state_map.get(client))
        };
        let deletes = || !update.delete_set().diff(&here.delete_set).is_empty();
        Ok(inserts.client_ids().any(|client| is_new(&client)) || deletes())
    }

    fn to_value(&self) -> Value {
        render::roots(&self.doc.transact())
    }

    fn text(&self, root: &str) -> String {
        render::text(&self.doc.transact(), root)
    }
}

/// What a document of these updates reads as.
pub(crate) fn to_value(updates: &[Bytes]) -> Value {
    YrsDocument::of(updates).0.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The character `c`, typed by `client` as its `clock`-th, behind its own last one.
    fn typed(client: u8, clock: u8, c: u8) -> Vec<u8> {
        if clock == 0 {
            return vec![1, 1, client, 0, 4, 1, 1, b't', 1, c, 0];
        }
        vec![1, 1, client, clock, 0x84, client, clock - 1, 1, c, 0]
    }

    fn text_of(updates: &[Vec<u8>]) -> String {
        let updates: Vec<Bytes> = updates.iter().cloned().map(Bytes::from).collect();
        let (document, refused) = YrsDocument::of(&updates);
        assert_eq!(refused, 0);
        document.text("t")
    }

    #[test]
    fn updates_add_up_in_any_order_and_any_number() {
        let mut updates: Vec<Vec<u8>> =
            (0..8).flat_map(|clock| [typed(1, clock, b'a' + clock), typed(2, clock, b'A' + clock)]).collect();
        let all = text_of(&updates);
        assert_eq!(all, "abcdefghABCDEFGH");
        updates.reverse();
        assert_eq!(text_of(&updates), all);
        updates.extend(updates.clone());
        assert_eq!(text_of(&updates), all);
    }

    #[test]
    fn a_difference_holds_what_the_other_lacks() {
        let (mut one, mut other) = (YrsDocument::default(), YrsDocument::default());
        for clock in 0..8 {
            one.integrate(&typed(1, clock, b'a' + clock)).expect("an update");
        }
        other.integrate(&typed(1, 0, b'a')).expect("an update");
        let diff = one.diff(&other.state_vector()).expect("a state vector");
        assert!(diff.len() < one.diff(&[0]).expect("a state vector").len());
        other.integrate(&diff).expect("a difference");
        assert_eq!((other.text("t"), other.state_vector()), (one.text("t"), one.state_vector()));
        assert_eq!(one.diff(&other.state_vector()), Ok(vec![0, 0]));
        assert_eq!((one.lacks(&diff), YrsDocument::default().lacks(&diff)), (Ok(false), Ok(true)));
        // A deletion alone is something new, once.
        let deletion = [0, 1, 1, 1, 3, 2];
        assert_eq!(one.lacks(&deletion), Ok(true));
        one.integrate(&deletion).expect("an update");
        assert_eq!((one.lacks(&deletion), one.text("t").as_str()), (Ok(false), "abcfgh"));
        assert!(one.diff(&[1]).is_err());
    }

    #[test]
    fn what_the_decoder_does_not_take_leaves_the_rest_readable() {
        let updates = [typed(1, 0, b'a'), vec![0xff], typed(1, 1, b'b')].map(Bytes::from);
        let (document, refused) = YrsDocument::of(&updates);
        assert_eq!((document.text("t").as_str(), refused), ("ab", 1));
        let expected = Value::Map([("t".to_owned(), Value::Str("ab".into()))].into());
        assert_eq!(to_value(&updates), expected);
    }
}
