//! How deep shared types nest within each other, known without building any.
//!
//! ```text
//! places   count varint | (client varint, count varint, (length varint, depth << 2 | kind varint) ...) ...
//! ```
//!
//! The decoder that builds documents recurses as deep as their types nest when it deletes and collects them, and updates
//! that are small each can nest as deep as they like together. So where everything stands is worked out before anything is
//! built. What stands next to each other at the same depth is one run: a text of any length that one client typed is one,
//! and of a structured document each type is about two, which is a small part of what it takes to build it.
//!
//! A block of an update is placed only when everything that it builds on is there, and is given to the decoder in the same step. So of an
//! identity that two updates claim, the same one is taken here and there: the one that is placed first. What an update deletes it does not
//! build on: see `parts`.

use std::collections::BTreeMap;

use super::UpdateError;
use super::check::{Block, Id, Kind, Stand, Structure};
use crate::codec::{DecodeError, Reader, Writer};

/// How deep shared types may nest in a document that is edited: what an edit puts in is no deeper. A type in a root type
/// is at depth 1.
pub const NESTING_MAX: usize = 64;
/// How deep shared types may nest in a document that is read. Edits that were taken in different datacenters may nest
/// deeper together than each of them was let; beyond this the document is not read at all. A quarter of the smallest stack
/// that documents are read on is enough for this depth.
pub const NESTING_READ_MAX: usize = 512;

/// Why an update has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unplaced {
    /// Parts of it build on each other in a circle.
    Circle,
    /// It would nest deeper than was allowed.
    TooDeep,
    /// Something in it stands in what nothing can stand in.
    NoParent,
}

impl From<Unplaced> for UpdateError {
    fn from(why: Unplaced) -> UpdateError {
        match why {
            Unplaced::TooDeep => UpdateError::TooDeep,
            Unplaced::NoParent => UpdateError::Unsupported("something inside what is no shared type"),
            Unplaced::Circle => UpdateError::Unsupported("a circle of parts that build on each other"),
        }
    }
}

/// Neighbours that stand equally deep and are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u32,
    /// The depth of what they stand in: 0 for a root type.
    depth: u16,
    kind: Kind,
}

/// What is known of one client: everything from the first run to `end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs {
    runs: Vec<Run>,
    end: u32,
}

impl Runs {
    fn from(end: u32) -> Self {
        Runs { runs: Vec::new(), end }
    }

    fn at(&self, clock: u32) -> Option<(u16, Kind)> {
        let after = self.runs.partition_point(|run| run.start <= clock);
        let run = self.runs.get(after.checked_sub(1)?).filter(|_| clock < self.end)?;
        Some((run.depth, run.kind))
    }

    /// Appends what reaches to `end`.
    fn push(&mut self, end: u32, depth: u16, kind: Kind) {
        if self.runs.last().is_none_or(|last| (last.depth, last.kind) != (depth, kind)) {
            self.runs.push(Run { start: self.end, depth, kind });
        }
        self.end = end;
    }

    /// Appends what `other` knows beyond the end of this.
    fn extend(&mut self, other: &Runs) {
        for (n, run) in other.runs.iter().enumerate() {
            let end = other.runs.get(n + 1).map_or(other.end, |next| next.start);
            if end > self.end {
                self.push(end, run.depth, run.kind);
            }
        }
    }
}

/// Where an update goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Placed {
    clients: BTreeMap<u64, Runs>,
    /// How deep the deepest of its types is.
    pub deepest: usize,
    /// Where an update is not placed to its end: by the place of its client the first of its blocks that is not, and what that needs.
    pub stuck: BTreeMap<usize, (usize, Id)>,
}

/// Where everything stands in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nesting {
    clients: BTreeMap<u64, Runs>,
    deepest: usize,
}

impl Nesting {
    /// How deep the deepest type is that ever was.
    pub fn deepest(&self) -> usize {
        self.deepest
    }

    /// The clock behind the last that is known of a client.
    fn end(&self, client: u64) -> u32 {
        self.clients.get(&client).map_or(0, |runs| runs.end)
    }

    /// The same once an update is here that was placed in just this document.
    pub fn end_with(&self, placed: &Placed, client: u64) -> u32 {
        placed.clients.get(&client).map_or_else(|| self.end(client), |runs| runs.end)
    }

    /// Works out where an update goes, as far as it does; no type of it may be deeper than `limit`. Nothing is changed.
    pub fn place(&self, structure: &Structure, limit: usize) -> Result<Placed, Unplaced> {
        Placing::of(self, structure, limit, false, |_, _| ()).run()
    }

    /// Takes note of an update that was placed in just this document. Says how far each of its clients was known before.
    pub fn keep(&mut self, placed: Placed) -> Vec<(u64, u32, u32)> {
        self.deepest = self.deepest.max(placed.deepest);
        self.join(placed.clients)
    }

    /// Takes over what another document knows of what this one does not.
    pub fn absorb(&mut self, other: Nesting) -> Vec<(u64, u32, u32)> {
        self.deepest = self.deepest.max(other.deepest);
        self.join(other.clients)
    }

    fn join(&mut self, clients: BTreeMap<u64, Runs>) -> Vec<(u64, u32, u32)> {
        let mut grown = Vec::new();
        for (client, runs) in clients {
            let here = self.clients.entry(client).or_default();
            let before = here.end;
            here.extend(&runs);
            grown.push((client, before, here.end));
        }
        grown
    }

    pub fn encode(&self, out: &mut Writer) {
        out.varint(self.clients.len() as u64);
        for (client, runs) in &self.clients {
            out.varint(*client);
            out.varint(runs.runs.len() as u64);
            for (n, run) in runs.runs.iter().enumerate() {
                let end = runs.runs.get(n + 1).map_or(runs.end, |next| next.start);
                out.varint(u64::from(end - run.start));
                out.varint(u64::from(run.depth) << 2 | kind_code(run.kind));
            }
        }
    }

    pub fn decode(input: &mut Reader<'_>) -> Result<Nesting, DecodeError> {
        let mut nesting = Nesting::default();
        for _ in 0..input.varint()? {
            let client = input.varint()?;
            let mut runs = Runs::default();
            for _ in 0..input.varint()? {
                let length = u32::try_from(input.varint()?).map_err(|_| DecodeError::TooLarge)?;
                let end = runs.end.checked_add(length).ok_or(DecodeError::TooLarge)?;
                let at = input.varint()?;
                let depth = u16::try_from(at >> 2).map_err(|_| DecodeError::TooLarge)?;
                let kind = kind_of(at & 3)?;
                if kind == Kind::Type {
                    nesting.deepest = nesting.deepest.max(usize::from(depth) + 1);
                }
                runs.push(end, depth, kind);
            }
            nesting.clients.insert(client, runs);
        }
        Ok(nesting)
    }
}

fn kind_code(kind: Kind) -> u64 {
    match kind {
        Kind::Gone => 0,
        Kind::Type => 1,
        Kind::Other => 2,
    }
}

fn kind_of(code: u64) -> Result<Kind, DecodeError> {
    match code {
        0 => Ok(Kind::Gone),
        1 => Ok(Kind::Type),
        2 => Ok(Kind::Other),
        _ => Err(DecodeError::Malformed),
    }
}

/// How deep the types of an update nest within each other, wherever it goes; at most [`NESTING_MAX`].
pub(super) fn height(structure: &Structure) -> Result<usize, Unplaced> {
    Ok(Placing::of(&Nesting::default(), structure, NESTING_MAX, true, |_, _| ()).run_to_the_end()?.deepest)
}

/// The same, of an update that was taken in although it nests deeper.
pub(super) fn height_or_most(structure: &Structure) -> Result<usize, Unplaced> {
    match height(structure) {
        Err(Unplaced::TooDeep) => Ok(NESTING_MAX),
        height => height,
    }
}

/// All blocks of an update, each behind those that it builds on: by the place of their client, and their place there.
pub(super) fn order(structure: &Structure) -> Result<Vec<(usize, usize)>, Unplaced> {
    let mut order = Vec::new();
    let nothing = Nesting::default();
    let placing =
        Placing::of(&nothing, structure, NESTING_MAX, true, |client, block| order.push((client, block)));
    placing.run_to_the_end()?;
    Ok(order)
}

/// The blocks of one client, and how many of them are placed.
struct Section<'u> {
    client: u64,
    blocks: &'u [Block],
    next: usize,
    /// Whether something of it waits for another section.
    waits: bool,
}

/// An update while it is placed: the sections are worked off one after the other, but what one needs of another comes
/// first.
struct Placing<'n, 'u, F> {
    nesting: &'n Nesting,
    sections: Vec<Section<'u>>,
    placed: Placed,
    limit: usize,
    /// Whether what is not here stands in a root type, for all that matters.
    loose: bool,
    /// Is told of each block as it is placed.
    told: F,
}

/// How working off a section ended.
enum Flow {
    Done,
    Needs(Id),
}

impl<'n, 'u, F: FnMut(usize, usize)> Placing<'n, 'u, F> {
    fn of(nesting: &'n Nesting, structure: &'u Structure, limit: usize, loose: bool, told: F) -> Self {
        let sections = structure
            .clients
            .iter()
            .map(|(client, blocks)| Section { client: *client, blocks, next: 0, waits: false })
            .collect();
        Placing { nesting, sections, placed: Placed::default(), limit, loose, told }
    }

    /// Places everything, or fails.
    fn run_to_the_end(self) -> Result<Placed, Unplaced> {
        let placed = self.run()?;
        if placed.stuck.is_empty() { Ok(placed) } else { Err(Unplaced::Circle) }
    }

    fn run(mut self) -> Result<Placed, Unplaced> {
        for first in 0..self.sections.len() {
            if self.placed.stuck.contains_key(&first) {
                continue;
            }
            // Each on the stack waits for what the one above it brings, until a clock is there.
            let mut stack: Vec<(usize, Option<Id>)> = vec![(first, None)];
            while let Some((top, until)) = stack.last().copied() {
                match self.work(top, until)? {
                    Flow::Done => {
                        self.sections[top].waits = false;
                        stack.pop();
                    }
                    Flow::Needs(id) => {
                        self.sections[top].waits = true;
                        if let Some(other) = self.may_bring(id) {
                            stack.push((other, Some(id)));
                        } else {
                            // What waits for this comes to the same end when it is worked on again.
                            self.placed.stuck.insert(top, (self.sections[top].next, id));
                            stack.pop();
                        }
                    }
                }
            }
        }
        Ok(self.placed)
    }

    /// The section that is to be worked on for the sake of `id`, if there is one.
    fn may_bring(&self, id: Id) -> Option<usize> {
        let found = self.sections.binary_search_by_key(&id.client, |section| section.client);
        let other = found.ok().filter(|other| !self.placed.stuck.contains_key(other))?;
        let section = &self.sections[other];
        (!section.waits && section.next < section.blocks.len()).then_some(other)
    }

    fn end(&self, client: u64) -> u32 {
        self.nesting.end_with(&self.placed, client)
    }

    fn at(&self, id: Id) -> Option<(u16, Kind)> {
        let new = self.placed.clients.get(&id.client).and_then(|runs| runs.at(id.clock));
        new.or_else(|| self.nesting.clients.get(&id.client)?.at(id.clock))
    }

    /// Places the blocks of a section until `until` is there, or to its end.
    fn work(&mut self, at: usize, until: Option<Id>) -> Result<Flow, Unplaced> {
        let Section { client, blocks, .. } = self.sections[at];
        loop {
            if until.is_some_and(|id| self.at(id).is_some()) {
                return Ok(Flow::Done);
            }
            let Some(block) = blocks.get(self.sections[at].next) else {
                return Ok(until.map_or(Flow::Done, Flow::Needs));
            };
            if let Some(needs) = self.block(client, block)? {
                return Ok(Flow::Needs(needs));
            }
            (self.told)(at, self.sections[at].next);
            self.sections[at].next += 1;
        }
    }

    /// Places one block, or says what has to be there before.
    fn block(&mut self, client: u64, block: &Block) -> Result<Option<Id>, Unplaced> {
        let end = block.clock + block.length;
        let known = self.end(client);
        if known >= end {
            return Ok(None);
        }
        let Some((kind, stand)) = block.is else {
            return Ok((!self.loose).then_some(Id { client, clock: known }));
        };
        if known < block.clock {
            if !self.loose {
                return Ok(Some(Id { client, clock: known }));
            }
            self.placed.clients.entry(client).or_insert_with(|| Runs::from(block.clock));
        }
        let depth = match self.depth(stand)? {
            Ok(depth) => depth,
            Err(needs) => return Ok(Some(needs)),
        };
        // The rest of a block of which the front is here follows upon that front.
        let before = known.checked_sub(1).filter(|_| known > block.clock);
        let beside = before.and_then(|clock| self.at(Id { client, clock })).map_or(0, |(depth, _)| depth);
        let depth = depth.max(beside);
        if kind == Kind::Type {
            let level = usize::from(depth) + 1;
            if level > self.limit {
                return Err(Unplaced::TooDeep);
            }
            self.placed.deepest = self.placed.deepest.max(level);
        }
        let runs = self.placed.clients.entry(client).or_insert_with(|| Runs::from(known));
        if runs.end < block.clock {
            // Only where gaps do not matter: nobody asks for what would be in it.
            runs.push(block.clock, 0, Kind::Gone);
        }
        runs.push(end, depth, kind);
        Ok(None)
    }

    /// How deep what a block stands in is, or what has to be there before that is known.
    fn depth(&self, stand: Stand) -> Result<Result<u16, Id>, Unplaced> {
        match stand {
            Stand::Root => Ok(Ok(0)),
            Stand::In(parent) => match self.known(parent) {
                Ok(Some((_, Kind::Other))) => Err(Unplaced::NoParent),
                Ok(parent) => Ok(Ok(parent.map_or(0, |(depth, _)| depth.saturating_add(1)))),
                Err(needs) => Ok(Err(needs)),
            },
            Stand::Beside(left, right) => {
                let mut deepest = 0;
                for id in [left, right].into_iter().flatten() {
                    match self.known(id) {
                        Ok(beside) => deepest = deepest.max(beside.map_or(0, |(depth, _)| depth)),
                        Err(needs) => return Ok(Err(needs)),
                    }
                }
                Ok(Ok(deepest))
            }
        }
    }

    /// Where something is, or nothing if it is elsewhere and that does not matter.
    fn known(&self, id: Id) -> Result<Option<(u16, Kind)>, Id> {
        if let Some(at) = self.at(id) {
            return Ok(Some(at));
        }
        if !self.loose {
            return Err(id);
        }
        // It is elsewhere, unless this update brings it.
        let found = self.sections.binary_search_by_key(&id.client, |section| section.client);
        let brings = |section: &Section<'_>| {
            let after = section.blocks.partition_point(|block| block.clock <= id.clock);
            let block = after.checked_sub(1).and_then(|at| section.blocks.get(at));
            block.is_some_and(|block| id.clock < block.clock + block.length && block.is.is_some())
        };
        match found.ok().and_then(|at| self.sections.get(at)) {
            Some(section) if brings(section) => Err(id),
            _ => Ok(None),
        }
    }
}
