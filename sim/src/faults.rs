//! What goes wrong in a run, and when: drawn from the seed before the run starts.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::options::{Options, Place, Shape};

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The power of these machines fails at once; they are started again at the end.
    PowerCut(Vec<Place>),
    /// The disk of a machine fails after so many more changes, and with it, at the end, its power.
    DiskDies(Place, u64),
    /// A node is told to stop, and started again at the end.
    Stop(Place),
    /// The process of a node is killed: other than at a power cut, what it wrote is there, and its connections close.
    Kill(Place),
    /// Nothing passes from the first to the second, and nothing back unless it is one way.
    Cut { from: Vec<Place>, to: Vec<Place>, both_ways: bool },
    /// Connections break at this rate per message, everywhere.
    Loss(f64),
    /// Messages between DCs take up to so many milliseconds more.
    Delay(u64),
    /// Every job of a machine's storage takes up to so many milliseconds.
    SlowDisk(Place, u64),
    /// The wall clock of a machine is off by so many milliseconds.
    ClockJump(Place, i64),
}

/// A fault with its time, in milliseconds after the load's start.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    pub(crate) fault: Fault,
}

/// Draws the faults of a run, in the order of their start.
pub(crate) fn plan(options: &Options, shape: &Shape, rng: &mut SmallRng) -> Vec<Planned> {
    let mut all: Vec<Planned> = Vec::new();
    for _ in 0..options.faults {
        let from_ms = rng.random_range(0..options.load_ms.max(1));
        let length_ms =
            if rng.random_bool(0.5) { rng.random_range(100..2000) } else { rng.random_range(2000..8000) };
        let until_ms = (from_ms + length_ms).min(options.load_ms);
        let fault = draw(shape, rng);
        if let (Fault::Cut { .. }, true) = (&fault, rng.random_bool(0.3)) {
            flap(&mut all, from_ms, until_ms, &fault, rng);
        } else {
            all.push(Planned { from_ms, until_ms, fault });
        }
    }
    all.sort_by_key(|planned| planned.from_ms);
    all
}

/// The same cut, many short times.
fn flap(all: &mut Vec<Planned>, from_ms: u64, until_ms: u64, fault: &Fault, rng: &mut SmallRng) {
    let mut at_ms = from_ms;
    while at_ms < until_ms {
        let end_ms = (at_ms + rng.random_range(50..700)).min(until_ms);
        all.push(Planned { from_ms: at_ms, until_ms: end_ms, fault: fault.clone() });
        at_ms = end_ms + rng.random_range(50..700);
    }
}

fn draw(shape: &Shape, rng: &mut SmallRng) -> Fault {
    let places = shape.places();
    let one = places.choose(rng).copied().unwrap_or(Place { dc: 0, id: 1 });
    match rng.random_range(0..100) {
        0..10 => Fault::PowerCut(vec![one]),
        10..20 => Fault::Kill(one),
        20..25 => Fault::PowerCut(shape.places_of(one.dc)),
        25..28 => Fault::PowerCut(places),
        28..42 => Fault::DiskDies(one, rng.random_range(0..200)),
        42..48 => Fault::Stop(one),
        48..76 => cut(shape, one, places, rng),
        76..81 => Fault::Loss(rng.random_range(0.0005..0.01)),
        81..86 => Fault::Delay(rng.random_range(50..1500)),
        86..93 => Fault::SlowDisk(one, rng.random_range(5..400)),
        _ => {
            let hours = 3_600_000 * rng.random_range(1..5);
            let jumps = [-hours, -20_000, -4000, -500, 500, 4000, 20_000, hours];
            Fault::ClockJump(one, jumps.choose(rng).copied().unwrap_or(hours))
        }
    }
}

fn cut(shape: &Shape, one: Place, mut places: Vec<Place>, rng: &mut SmallRng) -> Fault {
    let (from, to): (Vec<Place>, Vec<Place>) = match rng.random_range(0..4) {
        // One DC from all others.
        0 => places.into_iter().partition(|place| place.dc == one.dc),
        // One DC from one other.
        1 => {
            let other = rng.random_range(0..shape.dcs);
            (
                shape.places_of(one.dc),
                places.into_iter().filter(|p| p.dc == other && p.dc != one.dc).collect(),
            )
        }
        // One node from the rest of its DC.
        2 => (vec![one], shape.places_of(one.dc).into_iter().filter(|place| *place != one).collect()),
        // Any halves.
        _ => {
            places.shuffle(rng);
            let to = places.split_off(rng.random_range(0..=places.len()));
            (places, to)
        }
    };
    Fault::Cut { from, to, both_ways: rng.random_bool(0.6) }
}
