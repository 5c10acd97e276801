//! What the updates of a document say: the one place that knows Yjs.
//!
//! State is made of updates as bytes and never depends on a decoder; only reading a document, and checking an update
//! before it is taken in, come here. [`Document`] is all that the rest of the program asks of a document; the crate
//! `yrs` stands behind it. It is used as a pure function: a document here never makes content of its own, so the
//! identity that it has is a constant, and whatever order its maps have inside is sorted before it is shown. Edits that
//! make a document hold something else ([`YrsDocument::rewritten`]) are made in a copy, for an author who is an argument.

mod check;
mod compare;
mod mark;
mod nesting;
mod parts;
mod render;
mod rewrite;
mod snapshot;
mod split;
mod tree;
mod waiting;

use bytes::Bytes;
use thiserror::Error;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{ClientID, Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Update, merge_updates_v1};

use crate::codec::DecodeError;
use crate::types::doc::DocContent;
use crate::value::Value;

pub use check::{check_update, nests_elsewhere};
pub use mark::{Unmarked, incarnation_mark, marks_of_state_vector, without_marks};
pub use nesting::{NESTING_MAX, NESTING_READ_MAX};
pub use rewrite::{Content, RewriteError, Rewritten};
pub use snapshot::Snapshot;
pub use split::split_update;

use nesting::{Nesting, Unplaced};
use parts::Missing;
use waiting::Waiting;

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
    /// An edit nests shared types deeper than [`NESTING_MAX`], or a document deeper than [`NESTING_READ_MAX`].
    #[error(
        "shared types nest too deeply: at most {NESTING_MAX} in an edit, {NESTING_READ_MAX} in a document"
    )]
    TooDeep,
}

/// A document that updates are put into, in any order and as often as one likes, and that is read.
///
/// Once an update has failed with [`UpdateError::TooDeep`], so does everything else that is asked of the document: all of its
/// updates count, and it is not shown without some of them.
pub trait Document {
    /// Puts an update in. One of which the foundations are not here waits until they come.
    fn integrate(&mut self, update: &[u8]) -> Result<(), UpdateError>;

    /// Puts in everything that a snapshot holds.
    fn load(&mut self, snapshot: &Snapshot) -> Result<(), UpdateError>;

    /// How deep an edit may come to nest: [`check_update`], and then where it goes. Edits that wait count as if each were
    /// inside the one before.
    fn reach(&self, edit: &[u8]) -> Result<Reach, UpdateError>;

    /// Whether an edit may be taken in: that it nests no deeper than [`NESTING_MAX`] where it goes.
    fn check(&self, edit: &[u8]) -> Result<(), UpdateError> {
        if self.reach(edit)?.fits { Ok(()) } else { Err(UpdateError::TooDeep) }
    }

    /// What is here, as Yjs' state vector in encoding v1.
    fn state_vector(&self) -> Vec<u8>;

    /// An update in encoding v1 with everything that is here and is not in the state vector, with all deletions, and with
    /// all that waits.
    fn diff(&self, state_vector: &[u8]) -> Result<Vec<u8>, UpdateError>;

    /// Everything that is here.
    fn snapshot(&self) -> Result<Snapshot, UpdateError>;

    /// Whether an update brings anything that is not here.
    fn lacks(&self, update: &[u8]) -> Result<bool, UpdateError>;

    /// The root types by name, as JSON shows them.
    fn to_value(&self) -> Value;

    /// The text of one root type, without its formatting; empty if there is no such type.
    fn text(&self, root: &str) -> String;
}

/// The state vector of who has nothing.
const FROM_NOTHING: &[u8] = &[0];
/// How many updates are merged in one step.
const MERGED_AT_ONCE: usize = 32;

/// How deep an edit may come to nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// How deep its own types nest within each other; 0 if it has none.
    pub height: usize,
    /// Where it builds on something that is not here, the depth of everything that is here or waits.
    pub above: Option<usize>,
    /// Whether it nests no deeper than [`NESTING_MAX`], with what is here and waits.
    pub fits: bool,
}

/// The identity of a document that never writes.
const READER: ClientID = ClientID::new(0);

/// [`Document`] by the crate `yrs`.
///
/// The decoder gets nothing of which it does not have the foundations, nor deletions of what it does not have: what waits
/// does so here. So the decoder's state and what `nesting` knows are of the same updates in the same order, and no identity
/// stands elsewhere than is known.
#[derive(Debug)]
pub struct YrsDocument {
    doc: Doc,
    nesting: Nesting,
    waiting: Waiting,
    /// Updates that waited, and that the decoder then did not take.
    refused: Vec<Bytes>,
    /// Why the document is not to be used any more.
    broken: Option<UpdateError>,
}

impl Default for YrsDocument {
    fn default() -> Self {
        let mut options = Options::with_guid_and_client_id("".into(), READER);
        // Yjs counts as JavaScript does.
        options.offset_kind = OffsetKind::Utf16;
        Self {
            doc: Doc::with_options(options),
            nesting: Nesting::default(),
            waiting: Waiting::default(),
            refused: Vec::new(),
            broken: None,
        }
    }
}

impl YrsDocument {
    /// A document of these snapshots and updates; and the updates that were not taken: those that another version of this
    /// program has let in.
    pub fn of(content: &DocContent) -> Result<(Self, Vec<Bytes>), UpdateError> {
        let mut document = Self::default();
        let mut refused = Vec::new();
        for snapshot in &content.snapshots {
            document.load(&Snapshot::decode(snapshot)?)?;
        }
        for update in &content.updates {
            if document.integrate(update).is_err() {
                document.is_sound()?;
                refused.push(update.clone());
            }
        }
        Ok((document, refused))
    }

    /// Why nothing more is to be had of the document, if that is so: its decoder has not taken what has its foundations here.
    pub fn is_sound(&self) -> Result<(), UpdateError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Nothing more is to be had of this document.
    fn breaks(&mut self, why: UpdateError) -> UpdateError {
        self.broken = Some(why.clone());
        why
    }

    /// Puts an update in, or what of it has its foundations here, and takes the rest on among those that wait. Says how far each
    /// client was known, and is.
    fn put(&mut self, update: &[u8]) -> Result<Vec<(u64, u32, u32)>, UpdateError> {
        let structure = check::structure(update)?;
        let placed = match self.nesting.place(&structure, NESTING_READ_MAX) {
            Ok(placed) => placed,
            Err(Unplaced::TooDeep) => return Err(self.breaks(UpdateError::TooDeep)),
            Err(other) => return Err(other.into()),
        };
        if !placed.stuck.is_empty() {
            // Nothing is taken of an update that is not to be taken as a whole.
            nesting::height_or_most(&structure)?;
            Update::decode_v1(update).map_err(refused)?;
        }
        let known = |client| self.nesting.end_with(&placed, client);
        let parted = parts::part(update, &structure, &placed, known)?;
        let here = parted.as_ref().map_or(update, |parted| &parted.here);
        if !here.is_empty() {
            let here = Update::decode_v1(here).map_err(refused)?;
            self.apply(here)?;
        }
        for Missing { needs, height, update } in parted.into_iter().flat_map(|parted| parted.missing) {
            self.waiting.add(needs, height, update.into());
        }
        Ok(self.nesting.keep(placed))
    }

    /// Gives the decoder what it has the foundations of. That it does not take it would leave it where nobody knows.
    fn apply(&mut self, update: Update) -> Result<(), UpdateError> {
        // One transaction for each update: a large one is quadratic.
        let applied = self.doc.transact_mut().apply_update(update).map_err(refused);
        applied.map_err(|why| self.breaks(why))?;
        if self.doc.transact().has_missing_updates() {
            let why = UpdateError::Refused("the decoder does not have what is here".to_owned());
            return Err(self.breaks(why));
        }
        Ok(())
    }

    /// Puts in what waited for what has come, and what waited for that.
    fn release(&mut self, mut grown: Vec<(u64, u32, u32)>) -> Result<(), UpdateError> {
        while let Some((client, from, to)) = grown.pop() {
            for update in self.waiting.take(client, from, to) {
                match self.put(&update) {
                    Ok(more) => grown.extend(more),
                    Err(why) => {
                        self.is_sound()?;
                        debug_assert_ne!(why, UpdateError::TooDeep);
                        self.refused.push(update);
                    }
                }
            }
        }
        Ok(())
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

/// Updates as one. Few at a time, and what these came to again: merging many at once takes as much for each block as there are
/// updates.
fn merged(updates: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, UpdateError> {
    if updates.len() <= MERGED_AT_ONCE {
        return merge_updates_v1(updates).map_err(refused);
    }
    let parts: Vec<Vec<u8>> = updates.chunks(MERGED_AT_ONCE).map(merged).collect::<Result<_, _>>()?;
    merged(&parts)
}

fn refused(error: impl std::fmt::Display) -> UpdateError {
    UpdateError::Refused(error.to_string())
}

impl Document for YrsDocument {
    fn integrate(&mut self, update: &[u8]) -> Result<(), UpdateError> {
        self.is_sound()?;
        let grown = self.put(update)?;
        self.release(grown)
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), UpdateError> {
        self.is_sound()?;
        if !snapshot.merged.is_empty() {
            if snapshot.nesting.deepest() > NESTING_READ_MAX {
                return Err(self.breaks(UpdateError::TooDeep));
            }
            let update = Update::decode_v2(&snapshot.merged).map_err(refused)?;
            self.apply(update)?;
            let grown = self.nesting.absorb(snapshot.nesting.clone());
            self.release(grown)?;
        }
        for update in &snapshot.apart {
            if self.integrate(update).is_err() {
                self.is_sound()?;
                self.refused.push(update.clone());
            }
        }
        Ok(())
    }

    fn reach(&self, edit: &[u8]) -> Result<Reach, UpdateError> {
        self.is_sound()?;
        let structure = check::structure(edit)?;
        let height = nesting::height(&structure)?;
        let below = self.waiting.height();
        let (above, deepest) = match self.nesting.place(&structure, NESTING_MAX) {
            Ok(placed) if !placed.stuck.is_empty() => {
                let above = self.nesting.deepest() + below;
                (Some(above), if height == 0 { 0 } else { above + height })
            }
            Ok(placed) if placed.deepest == 0 => (None, 0),
            Ok(placed) => (None, placed.deepest + below),
            Err(Unplaced::TooDeep) => (None, NESTING_MAX + 1),
            Err(why) => return Err(why.into()),
        };
        Update::decode_v1(edit).map_err(refused)?;
        Ok(Reach { height, above, fits: deepest <= NESTING_MAX })
    }

    fn state_vector(&self) -> Vec<u8> {
        self.doc.transact().state_vector().encode_v1()
    }

    fn diff(&self, state_vector: &[u8]) -> Result<Vec<u8>, UpdateError> {
        self.is_sound()?;
        check::check_state_vector(state_vector)?;
        let theirs = StateVector::decode_v1(state_vector).map_err(refused)?;
        let here = self.doc.transact().encode_state_as_update_v1(&theirs);
        if self.waiting.is_empty() {
            return Ok(here);
        }
        let all: Vec<&[u8]> =
            std::iter::once(&here[..]).chain(self.waiting.updates().map(|update| &update[..])).collect();
        merged(&all)
    }

    fn snapshot(&self) -> Result<Snapshot, UpdateError> {
        self.is_sound()?;
        let merged = self.to_v2();
        let apart = self.waiting.updates().chain(&self.refused).cloned().collect();
        Ok(Snapshot { merged: merged.into(), apart, nesting: self.nesting.clone() })
    }

    fn lacks(&self, update: &[u8]) -> Result<bool, UpdateError> {
        self.is_sound()?;
        check::structure(update)?;
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

/// What a document of these parts reads as: nothing, if it nests too deep to be read.
pub(crate) fn to_value(content: &DocContent) -> Value {
    match YrsDocument::of(content) {
        Ok((document, _)) => document.to_value(),
        Err(_) => Value::Nil,
    }
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

    fn content(updates: impl IntoIterator<Item = Vec<u8>>) -> DocContent {
        DocContent { updates: updates.into_iter().map(Bytes::from).collect(), ..DocContent::default() }
    }

    fn text_of(updates: &[Vec<u8>]) -> String {
        let (document, refused) = YrsDocument::of(&content(updates.to_vec())).expect("a shallow document");
        assert_eq!(refused.len(), 0);
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
        let updates = content([typed(1, 0, b'a'), vec![0xff], typed(1, 1, b'b')]);
        let (document, refused) = YrsDocument::of(&updates).expect("a shallow document");
        assert_eq!((document.text("t").as_str(), refused), ("ab", vec![Bytes::from_static(&[0xff])]));
        let expected = Value::Map([("t".to_owned(), Value::Str("ab".into()))].into());
        assert_eq!(to_value(&updates), expected);
    }

    #[test]
    fn what_deletes_something_that_is_not_here_withholds_nothing_else() {
        let mut document = YrsDocument::default();
        // Client 9 is to type two characters, and 8 none that ever comes.
        let mut update = typed(1, 0, b'a');
        let deletions = [2, 9, 1, 0, 2, 8, 1, 3, 1];
        update.splice(update.len() - 1.., deletions);
        document.integrate(&update).expect("is put in");
        assert_eq!(document.text("t"), "a");
        let mut other = YrsDocument::default();
        other.integrate(&document.diff(FROM_NOTHING).expect("an update")).expect("is put in");
        let mut again = YrsDocument::default();
        again.load(&document.snapshot().expect("a snapshot")).expect("is put in");
        for (clock, c) in [(0, b'x'), (1, b'y'), (2, b'z')] {
            for document in [&mut document, &mut other, &mut again] {
                document.integrate(&typed(9, clock, c)).expect("is put in");
                assert_eq!(document.text("t"), if clock == 2 { "az" } else { "a" });
                assert_eq!(document.waiting.updates().count(), if clock == 0 { 2 } else { 1 });
            }
        }
    }

    #[test]
    fn whatever_waits_is_given_on_however_much_it_is() {
        let clients = 1..40;
        let mut document = YrsDocument::default();
        for update in clients.clone().flat_map(|client| (1..120).map(move |clock| typed(client, clock, b'x')))
        {
            document.integrate(&update).expect("is put in");
        }
        assert_eq!(document.text("t"), "");
        let mut other = YrsDocument::default();
        other.integrate(&document.diff(FROM_NOTHING).expect("an update")).expect("is put in");
        clients.clone().for_each(|client| other.integrate(&typed(client, 0, b'x')).expect("is put in"));
        assert_eq!(other.text("t"), "x".repeat(clients.len() * 120));
    }

    #[test]
    fn what_waits_is_given_on_and_is_put_in_when_its_foundations_come() {
        let mut document = YrsDocument::default();
        document.integrate(&typed(1, 1, b'b')).expect("it waits");
        document.integrate(&typed(1, 2, b'c')).expect("it waits");
        // A deletion of something that is not here.
        document.integrate(&[0, 1, 1, 1, 1, 1]).expect("it waits");
        assert_eq!((document.text("t").as_str(), document.state_vector()), ("", vec![0]));
        let mut other = YrsDocument::default();
        other.integrate(&document.diff(&[0]).expect("a difference")).expect("it waits there too");
        let mut third = YrsDocument::default();
        third.load(&document.snapshot().expect("a snapshot")).expect("an own snapshot");
        for document in [&mut document, &mut other, &mut third] {
            document.integrate(&typed(1, 0, b'a')).expect("an update");
            assert_eq!(document.text("t"), "ac");
            assert!(document.waiting.is_empty());
        }
    }

    #[test]
    fn a_snapshot_is_what_its_updates_were_however_it_is_put_together() {
        let updates: Vec<Vec<u8>> =
            (0..8).flat_map(|clock| [typed(1, clock, b'a' + clock), typed(2, clock, b'A' + clock)]).collect();
        let of = |updates: &[Vec<u8>]| {
            let (document, _) = YrsDocument::of(&content(updates.to_vec())).expect("a shallow document");
            document.snapshot().expect("a snapshot").encode()
        };
        let all = text_of(&updates);
        for cut in 0..updates.len() {
            let snapshots = vec![of(&updates[cut..]), of(&updates[..cut + 1])];
            let (document, _) =
                YrsDocument::of(&DocContent { snapshots, updates: Vec::new() }).expect("a shallow document");
            assert_eq!(document.text("t"), all);
            assert_eq!(document.diff(&document.state_vector()), Ok(vec![0, 0]));
        }
    }
}
