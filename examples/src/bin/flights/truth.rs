//! What the flights amount to: computed from the file on one machine, and in the same form read back from a DC.
//!
//! It knows nothing of the cluster; two [`Facts`] are compared, and each difference becomes a sentence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use crate::data::Flight;

/// A flight's date and delay. Their order is that of the dates; flights of the same minute are ordered by delay, so that
/// there is one latest flight whatever the order in which they are seen.
pub type Latest = (String, i64);

/// The three results of the example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// How many flights left each airport.
    pub departures: BTreeMap<String, i64>,
    /// Where one can fly to from each airport.
    pub destinations: BTreeMap<String, BTreeSet<String>>,
    /// The latest flight of each route.
    pub latest: BTreeMap<String, Latest>,
}

impl Facts {
    /// The truth: one pass over all flights.
    pub fn of(flights: &[Flight]) -> Self {
        let mut facts = Self::default();
        for flight in flights {
            *facts.departures.entry(flight.origin.clone()).or_default() += 1;
            facts.destinations.entry(flight.origin.clone()).or_default().insert(flight.destination.clone());
            let seen = (flight.date.clone(), flight.delay);
            let latest = facts.latest.entry(flight.route()).or_insert_with(|| seen.clone());
            if seen > *latest {
                *latest = seen;
            }
        }
        facts
    }

    /// The sum of all departures: it must be the number of flights.
    pub fn departures_sum(&self) -> i64 {
        self.departures.values().sum()
    }

    /// How many pairs of airport and destination there are.
    pub fn destinations_sum(&self) -> usize {
        self.destinations.values().map(BTreeSet::len).sum()
    }

    /// Where `other` differs from this truth, a sentence for each key.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = differing("departures of", &self.departures, &other.departures);
        found.extend(differing("destinations of", &self.destinations, &other.destinations));
        found.extend(differing("latest delay of", &self.latest, &other.latest));
        found
    }
}

fn differing<V: PartialEq + Debug>(
    what: &str,
    truth: &BTreeMap<String, V>,
    other: &BTreeMap<String, V>,
) -> Vec<String> {
    let keys: BTreeSet<&String> = truth.keys().chain(other.keys()).collect();
    keys.into_iter()
        .filter_map(|key| match (truth.get(key), other.get(key)) {
            (truth, other) if truth == other => None,
            (Some(truth), Some(other)) => Some(format!("{what} {key}: {other:?} instead of {truth:?}")),
            (Some(truth), None) => Some(format!("{what} {key}: missing; it is {truth:?}")),
            (None, other) => Some(format!("{what} {key}: {other:?}, of which the file knows nothing")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(date: &str, origin: &str, destination: &str, delay: i64) -> Flight {
        Flight { date: date.into(), origin: origin.into(), destination: destination.into(), delay }
    }

    fn few() -> Vec<Flight> {
        vec![
            flight("2001-01-02 10:00", "SAN", "SJC", 5),
            flight("2001-01-03 10:00", "SAN", "SJC", -2),
            flight("2001-01-01 10:00", "SAN", "SJC", 90),
            flight("2001-01-01 10:00", "SAN", "PHX", 1),
            flight("2001-01-01 10:00", "PHX", "SAN", 0),
        ]
    }

    #[test]
    fn the_latest_delay_goes_by_the_date_of_the_flight_not_by_its_place_in_the_file() {
        let facts = Facts::of(&few());
        assert_eq!(facts.departures, BTreeMap::from([("PHX".into(), 1), ("SAN".into(), 4)]));
        assert_eq!((facts.departures_sum(), facts.destinations_sum()), (5, 3));
        assert_eq!(facts.latest["SAN-SJC"], ("2001-01-03 10:00".into(), -2));
        let mut turned = few();
        turned.reverse();
        assert_eq!(Facts::of(&turned), facts);
    }

    #[test]
    fn what_is_lost_doubled_or_made_up_is_named() {
        let truth = Facts::of(&few());
        assert!(truth.differences(&truth).is_empty());
        let mut other = truth.clone();
        other.departures.insert("SAN".into(), 5);
        other.destinations.remove("PHX");
        other.latest.insert("AAA-BBB".into(), ("2001-01-01 00:00".into(), 0));
        let found = truth.differences(&other);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "departures of SAN: 5 instead of 4");
    }
}
