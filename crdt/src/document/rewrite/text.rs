//! Texts: which characters go and which come, with their formatting.

use std::collections::BTreeMap;

use yrs::Text;

use super::super::compare;
use super::super::tree::{self, Marks, Piece, Run};
use super::{Edits, RewriteError, Sight, UPDATE_BYTES, index};

/// An item of a text: a character or something that stands in it, with its formatting, by number.
type Unit = (u32, u32);
/// Where the numbers of things that are no characters begin.
const EMBEDS: u32 = 0x11_0000;

impl Edits<'_> {
    /// Makes a text hold `wanted`. As JSON sees it only characters matter, and new ones look like those before them.
    pub(super) fn text(
        &mut self,
        text: &impl Text,
        wanted: &[Run],
        sight: Sight,
    ) -> Result<(), RewriteError> {
        let mut numbers = Numbers::default();
        let is = tree::runs(text, self.txn())?;
        let mut at = 0;
        // Units that JSON does not see stay where they are.
        let (mut old, mut places) = (Vec::new(), Vec::new());
        for (unit, length) in numbers.units(&is, sight) {
            if sight == Sight::Whole || unit.0 < EMBEDS {
                old.push(unit);
                places.push((at, length));
            }
            at += length;
        }
        let new: Vec<(Unit, u32)> = numbers.units(wanted, sight);
        let new_units: Vec<Unit> = new.iter().map(|(unit, _)| *unit).collect();
        let pieces = Pieces { wanted, sight };
        let as_char = |unit: Unit| char::from_u32(unit.0).unwrap_or(' ');
        // From the back, so that places before stay what they are.
        for change in compare::texts(&old, &new_units, as_char).iter().rev() {
            let removed = &places[change.before.clone()];
            // What is new comes where something goes, or else right behind what is before it.
            let before = change.before.start.checked_sub(1).map_or(0, |last| places[last].0 + places[last].1);
            let place = removed.first().map_or(before, |(at, _)| *at);
            for run in adjacent(removed).iter().rev() {
                text.remove_range(self.txn(), run.0, run.1);
                self.made(2);
            }
            self.insert_text(text, place, pieces.between(&change.after))?;
        }
        Ok(())
    }

    fn insert_text(
        &mut self,
        text: &impl Text,
        mut at: u32,
        runs: Vec<(Piece, Option<Marks>)>,
    ) -> Result<(), RewriteError> {
        for (piece, marks) in runs {
            let chars = match piece {
                Piece::Chars(chars) => chars,
                Piece::Embed(value) => {
                    let bytes = tree::any_key(&value).len();
                    text.insert_embed_with_attributes(
                        self.txn(),
                        at,
                        value,
                        attrs(marks.unwrap_or_default()),
                    );
                    self.made(bytes);
                    at += 1;
                    continue;
                }
            };
            for part in parts(&chars) {
                match &marks {
                    None => text.insert(self.txn(), at, part),
                    Some(marks) => text.insert_with_attributes(self.txn(), at, part, attrs(marks.clone())),
                }
                self.made(part.len());
                at += part.chars().map(|c| c.len_utf16() as u32).sum::<u32>();
            }
        }
        Ok(())
    }
}

fn attrs(marks: Marks) -> yrs::types::Attrs {
    marks.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// A text in parts of the size of an update, none of which splits a character.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while rest.len() > UPDATE_BYTES {
        let (part, behind) = rest.split_at(rest.floor_char_boundary(UPDATE_BYTES));
        parts.push(part);
        rest = behind;
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

/// Removed places as ranges (from, length) without gaps.
fn adjacent(places: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for (at, length) in places {
        match ranges.last_mut() {
            Some(last) if last.0 + last.1 == *at => last.1 += length,
            _ => ranges.push((*at, *length)),
        }
    }
    ranges
}

/// Numbers for formattings and for things that stand in texts: equal ones have the same.
#[derive(Default)]
struct Numbers {
    marks: BTreeMap<Vec<u8>, u32>,
    embeds: BTreeMap<Vec<u8>, u32>,
}

impl Numbers {
    /// The units of a text, and how much room each takes as Yjs counts.
    fn units(&mut self, runs: &[Run], sight: Sight) -> Vec<(Unit, u32)> {
        let mut units = Vec::new();
        for run in runs {
            let marks = match sight {
                Sight::Json => 0,
                Sight::Whole => number(&mut self.marks, tree::marks_key(&run.marks)),
            };
            match &run.insert {
                Piece::Chars(text) => {
                    units.extend(text.chars().map(|c| ((u32::from(c), marks), c.len_utf16() as u32)));
                }
                Piece::Embed(value) => {
                    units.push(((EMBEDS + number(&mut self.embeds, tree::any_key(value)), marks), 1));
                }
            }
        }
        units
    }
}

fn number(known: &mut BTreeMap<Vec<u8>, u32>, key: Vec<u8>) -> u32 {
    let next = index(known.len());
    *known.entry(key).or_insert(next)
}

/// A wanted text, to be taken apart.
struct Pieces<'w> {
    wanted: &'w [Run],
    sight: Sight,
}

impl Pieces<'_> {
    /// The pieces of a range of units, with the formatting that they are to have, if that matters.
    fn between(&self, range: &std::ops::Range<usize>) -> Vec<(Piece, Option<Marks>)> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for run in self.wanted {
            let marks = (self.sight == Sight::Whole).then(|| run.marks.clone());
            let length = match &run.insert {
                Piece::Chars(text) => text.chars().count(),
                Piece::Embed(_) => 1,
            };
            let from = range.start.clamp(start, start + length) - start;
            let to = range.end.clamp(start, start + length) - start;
            if from < to {
                let piece = match &run.insert {
                    Piece::Chars(text) => Piece::Chars(text.chars().skip(from).take(to - from).collect()),
                    embed => embed.clone(),
                };
                pieces.push((piece, marks));
            }
            start += length;
        }
        pieces
    }
}
