//! The marks of incarnations, by which a document that was deleted is known again in the memory of its editors.
//!
//! The protocols of editors have no place for an epoch, but what an editor has is told by the clocks of clients, whoever these
//! are. So each incarnation of a document gives its editors, beside the content, one collected block of a client whose name
//! and length say which incarnation it is. It holds nothing and stands nowhere, and from then on every state vector of that
//! editor names it.
//!
//! ```text
//! client   origin (32 bits) | lower 21 bits of seq       the 53 bits of JavaScript
//! length   2^30 + 2^29 + the other bits of seq, 29 at most
//! ```
//!
//! What is as long is a mark: clients of editors have any identity of 53 bits, but none of them makes a billion edits. A later incarnation
//! of the same origin has another client, so that who has both names both.
//!
//! Editors may still bring marks of the first form, in which it had the same one, and hid those before it:
//!
//! ```text
//! client   origin | upper 21 bits of seq
//! length   2^30 + lower 30 bits of seq, below 2^29
//! ```
//!
//! Marks are not kept with documents, since they say nothing that these do not: an update that names some, as each does with which an
//! editor comes back, is kept [without them](without_marks). What reads a document needs none.

use super::UpdateError;
use super::check::{Block, Walk};
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Dot, Origin};

/// How many bits of a client are of the seq.
const CLIENT_SEQ_BITS: u32 = 21;
/// What reaches to here is a mark.
const MARK_END: u64 = 1 << 30;
/// What reaches to here is one of the present form.
const PRESENT_END: u64 = MARK_END + (1 << 29);
/// How long marks of the present form are at most.
const LENGTH_END: u64 = 1 << 31;
const SEQ_END: u64 = (LENGTH_END - PRESENT_END) << CLIENT_SEQ_BITS;
/// How many bits of a seq stood in the length of a mark of the first form.
const FIRST_FORM_BITS: u32 = 30;
/// A block of which only the length is left.
const COLLECTED: u8 = 0;

/// The mark of the incarnation that `dot` began, as an update in encoding v1. `None` if no origin writes as many txns.
pub fn incarnation_mark(dot: Dot) -> Option<Vec<u8>> {
    if dot.seq >= SEQ_END {
        return None;
    }
    let client = u64::from(dot.origin.0) << CLIENT_SEQ_BITS | dot.seq & ((1 << CLIENT_SEQ_BITS) - 1);
    let length = PRESENT_END + (dot.seq >> CLIENT_SEQ_BITS);
    let (clients, blocks, first_clock, deletions) = (1, 1, 0, 0);
    let mut out = Writer::new();
    [clients, blocks, client, first_clock].into_iter().for_each(|number| out.varint(number));
    out.u8(COLLECTED);
    out.varint(length);
    out.varint(deletions);
    Some(out.finish())
}

/// The incarnations whose marks a state vector names.
pub fn marks_of_state_vector(state_vector: &[u8]) -> Result<Vec<Dot>, UpdateError> {
    let mut walk = Walk(Reader::new(state_vector));
    let mut marks = Vec::new();
    for _ in 0..walk.count()? {
        marks.extend(incarnation(walk.client_id()?, walk.clock()?));
    }
    walk.0.finish()?;
    Ok(marks)
}

/// An update that had marks.
#[derive(Debug, PartialEq, Eq)]
pub struct Unmarked {
    /// The update byte for byte without the marks that it brought or named.
    pub update: Vec<u8>,
    /// The incarnations whose marks it brought, in the update's order.
    pub brought: Vec<Dot>,
}

/// Takes out of an update the marks that it brings, or names among what is deleted; `None` if it has none.
pub fn without_marks(update: &[u8]) -> Result<Option<Unmarked>, UpdateError> {
    let mut walk = Walk(Reader::new(update));
    let mut parts = [Vec::new(), Vec::new()];
    let mut brought = Vec::new();
    let mut has_marks = false;
    for (part, kept) in parts.iter_mut().enumerate() {
        for _ in 0..walk.count()? {
            let start = walk.0.rest();
            let mut reaches = 0;
            if part == 0 {
                let (client, blocks) = walk.client()?;
                reaches = end(&blocks);
                brought.extend(incarnation(client, reaches));
            } else {
                walk.deletions_of_client(|deleted| reaches = reaches.max(u64::from(deleted.end)))?;
            }
            if reaches >= MARK_END {
                has_marks = true;
            } else {
                kept.push(start.get(..start.len() - walk.0.rest().len()).ok_or(DecodeError::Truncated)?);
            }
        }
    }
    walk.0.finish()?;
    Ok(has_marks.then(|| {
        let mut out = Writer::new();
        for kept in parts {
            out.varint(kept.len() as u64);
            kept.into_iter().for_each(|bytes| out.raw(bytes));
        }
        Unmarked { update: out.finish(), brought }
    }))
}

/// The clock behind blocks of one client.
fn end(blocks: &[Block]) -> u64 {
    blocks.last().map_or(0, |last| u64::from(last.clock) + u64::from(last.length))
}

fn incarnation(client: u64, end: u64) -> Option<Dot> {
    let origin = Origin((client >> CLIENT_SEQ_BITS) as u32);
    let in_client = client & ((1 << CLIENT_SEQ_BITS) - 1);
    let seq = match end.checked_sub(PRESENT_END) {
        Some(in_length) => in_length << CLIENT_SEQ_BITS | in_client,
        None => in_client << FIRST_FORM_BITS | end.checked_sub(MARK_END)?,
    };
    Some(Dot::new(origin, seq)).filter(|dot| dot.seq > 0)
}

#[cfg(test)]
mod tests {
    use super::super::{Document, YrsDocument, check_update};
    use super::*;

    const DOTS: [Dot; 4] = [
        Dot { origin: Origin(7), seq: 1 },
        Dot { origin: Origin(u32::MAX), seq: SEQ_END - 1 },
        Dot { origin: Origin(0), seq: (1 << CLIENT_SEQ_BITS) - 1 },
        Dot { origin: Origin(0x0102_0304), seq: 1 << CLIENT_SEQ_BITS },
    ];

    #[test]
    fn golden_bytes_do_not_change() {
        let mark = incarnation_mark(DOTS[0]).expect("a mark");
        // One client of one block: 7 * 2^21 + 1, from 0 on; collected, 2^30 + 2^29 long; nothing deleted.
        assert_eq!(mark, [1, 1, 0x81, 0x80, 0x80, 7, 0, 0, 0x80, 0x80, 0x80, 0x80, 6, 0]);
        let first_form = [1, 1, 0x80, 0x80, 0x80, 7, 0, 0, 0x81, 0x80, 0x80, 0x80, 4, 0];
        let brought = without_marks(&first_form).expect("well formed").expect("a mark").brought;
        assert_eq!(brought, [DOTS[0]]);
        assert_eq!(incarnation_mark(Dot::new(Origin(1), SEQ_END)), None);
    }

    #[test]
    fn a_document_keeps_marks_and_shows_nothing_of_them() {
        let mut document = YrsDocument::default();
        for dot in DOTS {
            let mark = incarnation_mark(dot).expect("a mark");
            assert_eq!(check_update(&mark), Ok(()));
            let nothing = vec![0, 0];
            assert_eq!(without_marks(&mark), Ok(Some(Unmarked { update: nothing, brought: vec![dot] })));
            assert_eq!(document.lacks(&mark), Ok(true));
            document.integrate(&mark).expect("is put in");
            assert_eq!(document.lacks(&mark), Ok(false));
        }
        let sorted = |mut marks: Vec<Dot>| {
            marks.sort();
            marks
        };
        let of_state_vector = |document: &YrsDocument| {
            sorted(marks_of_state_vector(&document.state_vector()).expect("well formed"))
        };
        let mut dots = DOTS.to_vec();
        dots.sort();
        assert_eq!(of_state_vector(&document), dots);
        // As editors have it who come back: with all that was ever deleted.
        let whole = document.diff(&[0]).expect("an update");
        let unmarked = without_marks(&whole).expect("well formed").expect("with marks");
        assert_eq!(sorted(unmarked.brought), dots);
        assert_eq!(document.lacks(&whole), Ok(false));
        assert_eq!(document.to_value(), YrsDocument::default().to_value());
        let mut again = YrsDocument::default();
        again.load(&document.snapshot().expect("a snapshot")).expect("is put in");
        assert_eq!(of_state_vector(&again), dots);
    }

    #[test]
    fn who_has_been_given_a_later_mark_still_names_the_one_before() {
        let mut document = YrsDocument::default();
        let dots = [Dot::new(Origin(7), 104), Dot::new(Origin(7), 158)];
        for dot in dots {
            document.integrate(&incarnation_mark(dot).expect("a mark")).expect("is put in");
        }
        let mut named = marks_of_state_vector(&document.state_vector()).expect("well formed");
        named.sort();
        assert_eq!(named, dots);
    }

    #[test]
    fn an_update_is_kept_without_marks_and_otherwise_as_it_came() {
        let text = [1, 1, 5, 0, 4, 1, 1, b't', 1, b'a', 1, 5, 1, 0, 1];
        assert_eq!(without_marks(&text), Ok(None));
        let mut document = YrsDocument::default();
        document.integrate(&text).expect("is put in");
        let plain = document.diff(&[0]).expect("an update");
        let mark = incarnation_mark(DOTS[3]).expect("a mark");
        document.integrate(&mark).expect("is put in");
        let whole = document.diff(&[0]).expect("an update");
        assert_ne!(whole, plain);
        let brought = vec![DOTS[3]];
        assert_eq!(without_marks(&whole), Ok(Some(Unmarked { update: plain, brought })));
        // Who has the mark names it among what is deleted all the same.
        let known = document.diff(&document.state_vector()).expect("an update");
        let unmarked = Unmarked { update: vec![0, 1, 5, 1, 0, 1], brought: Vec::new() };
        assert_eq!(without_marks(&known), Ok(Some(unmarked)));
        for n in 0..whole.len() {
            assert!(without_marks(&whole[..n]).is_err(), "the first {n} bytes");
        }
    }

    #[test]
    fn clients_of_editors_are_no_marks() {
        // The largest identity of all, as clients of yrs have them.
        let client = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
        let text = [&[1, 1][..], &client, &[0, 4, 1, 1, b't', 1, b'a', 0]].concat();
        assert_eq!(check_update(&text), Ok(()));
        assert_eq!(without_marks(&text), Ok(None));
        let state_vector = [&[1][..], &client, &[0xff, 0xff, 0xff, 0x7f]].concat();
        assert_eq!(marks_of_state_vector(&state_vector), Ok(Vec::new()));
        assert_eq!(marks_of_state_vector(&[0]), Ok(Vec::new()));
        assert!(marks_of_state_vector(&[1, 0]).is_err());
    }
}
