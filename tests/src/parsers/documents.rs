//! What editors of documents send.

use bytes::Bytes;
use meridian::docs::wire::{self, Message};
use meridian_crdt::{
    Document, Dot, Origin, YrsDocument, check_update, incarnation_mark, marks_of_state_vector, split_update,
    without_marks,
};

/// Parts that an update is split into: small, so that it happens.
const PART_BYTES: usize = 40;

/// Frames of `y-websocket`, and the state vectors in them.
pub fn editor_frames(bytes: &[u8]) {
    let frame = Bytes::copy_from_slice(bytes);
    match Message::decode(&frame) {
        Ok(Message::Step1(state_vector)) => {
            assert_eq!(wire::step_1(&state_vector), frame, "a frame has one form");
            let marks = marks_of_state_vector(&state_vector);
            assert!(YrsDocument::default().diff(&state_vector).is_err() || marks.is_ok());
        }
        Ok(Message::Step2(update)) => assert_eq!(wire::step_2(&update), frame, "a frame has one form"),
        Ok(Message::Update(update)) => assert_eq!(wire::update(&update), frame, "a frame has one form"),
        Ok(Message::Awareness(_) | Message::QueryAwareness) | Err(_) => {}
    }
}

/// Samples of [`editor_frames`].
pub fn frame_samples() -> Vec<Vec<u8>> {
    let [typed, ..] = typed();
    let frames =
        [wire::step_1(&[1, 5, 3]), wire::step_2(&typed), wire::update(&typed), wire::awareness(&[0])];
    frames.map(|frame| frame.to_vec()).to_vec()
}

/// Updates of documents: what is taken can be put into a document, alone and in parts, and without marks is taken too.
pub fn updates(bytes: &[u8]) {
    if check_update(bytes).is_err() {
        return;
    }
    let unmarked = without_marks(bytes).expect("of what is taken");
    let kept = unmarked.map_or_else(|| bytes.to_vec(), |unmarked| unmarked.update);
    assert_eq!(check_update(&kept), Ok(()));
    assert_eq!(without_marks(&kept), Ok(None));
    let mut whole = YrsDocument::default();
    // Of an identity that it gives twice, or what stands where nothing can, it may still be refused.
    if whole.integrate(&kept).is_err() {
        return;
    }
    let mut parts = YrsDocument::default();
    for part in split_update(&kept, PART_BYTES).unwrap_or_default() {
        parts.integrate(&part).expect("a part of what was taken");
    }
    whole.to_value();
    parts.to_value();
}

/// Samples of [`updates`].
pub fn update_samples() -> Vec<Vec<u8>> {
    let [a, b] = typed();
    let mut document = YrsDocument::default();
    let mark = incarnation_mark(Dot::new(Origin(0x0102_0304), 1 << 33)).expect("a mark");
    for update in [&a, &b, &mark] {
        document.integrate(update).expect("an update");
    }
    vec![a, b, mark, document.diff(&[0]).expect("an update")]
}

/// What somebody made who typed a word and deleted a part of it, and somebody else who set a field.
fn typed() -> [Vec<u8>; 2] {
    let text = [&[1, 1, 5, 0, 4, 1, 1, b't', 40][..], &[b'x'; 40], &[1, 5, 1, 3, 4]].concat();
    [text, vec![1, 1, 6, 0, 0x28, 1, 1, b'm', 1, b'f', 1, 119, 1, b'v', 0]]
}
