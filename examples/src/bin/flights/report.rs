//! The result: a table for people, an object for programs, and the one question whether all is equal.

use std::time::Duration;

use serde_json::{Value, json};

use crate::compare::Common;
use crate::faults::Faults;
use crate::progress::DcCounts;
use crate::truth::Facts;

/// Differences of one DC that the table shows.
const DIFFERENCES_SHOWN_MAX: usize = 10;

/// One DC in the end.
#[derive(Clone, Debug)]
pub struct DcResult {
    /// Its name.
    pub name: String,
    /// What its clients counted.
    pub counts: DcCounts,
    /// What it says about the flights.
    pub facts: Facts,
    /// Where that differs from the truth.
    pub differences: Vec<String>,
}

/// All that was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many flights were to be written.
    pub flights: u64,
    /// The truth.
    pub truth: Facts,
    /// How long writing took.
    pub wrote_in: Duration,
    /// What went wrong meanwhile.
    pub faults: Faults,
    /// How long after the last write all nodes were equal.
    pub converged_in: Duration,
    /// What they then had in common.
    pub common: Common,
    /// In the order of the cluster.
    pub dcs: Vec<DcResult>,
}

impl Report {
    /// Whether every DC has the truth, and every flight was exactly one transaction.
    pub fn all_equal(&self) -> bool {
        self.common.txns() == self.flights && self.dcs.iter().all(|dc| dc.differences.is_empty())
    }

    fn flights_per_s(&self) -> f64 {
        self.flights as f64 / self.wrote_in.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The object for programs.
    pub fn json(&self) -> Value {
        let ms = |duration: Duration| duration.as_millis() as u64;
        let dcs: Vec<Value> = self
            .dcs
            .iter()
            .map(|dc| {
                json!({
                    "dc": dc.name, "acknowledged": dc.counts.acknowledged, "retries": dc.counts.retries,
                    "conflicts": dc.counts.conflicts, "longest_pause_ms": ms(dc.counts.longest_pause),
                    "departures": dc.facts.departures_sum(), "destinations": dc.facts.destinations_sum(),
                    "routes": dc.facts.latest.len(), "differences": dc.differences,
                })
            })
            .collect();
        json!({
            "flights": self.flights, "all_equal": self.all_equal(), "wrote_in_ms": ms(self.wrote_in),
            "flights_per_s": self.flights_per_s().round(), "converged_in_ms": ms(self.converged_in),
            "txns": self.common.txns(), "digest": self.common.digest, "dcs": dcs,
            "truth": {"departures": self.truth.departures_sum(), "destinations": self.truth.destinations_sum(),
                "routes": self.truth.latest.len()},
            "faults": {"killed": self.faults.killed, "cut_off": self.faults.cut_off,
                "cut_for_ms": ms(self.faults.cut_for), "written_cut_off": self.faults.written_cut_off},
        })
    }

    /// The table for people, with the verdict in its last line.
    pub fn table(&self) -> String {
        let mut text = self.rows().into_iter().map(|row| line(&row)).collect::<String>();
        text.push_str(&format!(
            "\nwritten in {:.1} s ({:.0} flights/s); all nine nodes equal {} ms after the last write\n",
            self.wrote_in.as_secs_f64(),
            self.flights_per_s(),
            self.converged_in.as_millis(),
        ));
        text.push_str(&format!(
            "{} was killed while it led; {} was cut off for {:.1} s and took {} flights on its own\n",
            self.faults.killed,
            self.faults.cut_off,
            self.faults.cut_for.as_secs_f64(),
            self.faults.written_cut_off,
        ));
        for dc in &self.dcs {
            for difference in dc.differences.iter().take(DIFFERENCES_SHOWN_MAX) {
                text.push_str(&format!("{}: {difference}\n", dc.name));
            }
        }
        text.push_str(if self.all_equal() {
            "all equal: nothing lost, nothing doubled"
        } else {
            "NOT EQUAL: what the DCs hold is not what was written"
        });
        text
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |what: &str, truth: String, each: &dyn Fn(&DcResult) -> String| {
            let mut row = vec![what.to_owned(), truth];
            row.extend(self.dcs.iter().map(each));
            row
        };
        let none = || "-".to_owned();
        let truth = &self.truth;
        vec![
            row("", "truth".into(), &|dc| dc.name.clone()),
            row("flights written here", self.flights.to_string(), &|dc| dc.counts.acknowledged.to_string()),
            row("  requests repeated", none(), &|dc| dc.counts.retries.to_string()),
            row("  conflicts", none(), &|dc| dc.counts.conflicts.to_string()),
            row("  longest pause, ms", none(), &|dc| dc.counts.longest_pause.as_millis().to_string()),
            row("transactions applied", self.flights.to_string(), &|_| self.common.txns().to_string()),
            row("departures", truth.departures_sum().to_string(), &|dc| {
                dc.facts.departures_sum().to_string()
            }),
            row("destinations", truth.destinations_sum().to_string(), &|dc| {
                dc.facts.destinations_sum().to_string()
            }),
            row("routes", truth.latest.len().to_string(), &|dc| dc.facts.latest.len().to_string()),
            row("differences", "0".into(), &|dc| dc.differences.len().to_string()),
        ]
    }
}

fn line(cells: &[String]) -> String {
    let mut text = format!("{:<22}", cells[0]);
    for cell in &cells[1..] {
        text.push_str(&format!("{cell:>10}"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn report() -> Report {
        let truth = Facts { departures: BTreeMap::from([("SAN".into(), 2)]), ..Facts::default() };
        let dc = |name: &str| DcResult {
            name: name.into(),
            counts: DcCounts { acknowledged: 1, retries: 0, conflicts: 0, longest_pause: Duration::ZERO },
            facts: truth.clone(),
            differences: Vec::new(),
        };
        Report {
            flights: 2,
            truth: truth.clone(),
            wrote_in: Duration::from_secs(1),
            faults: Faults {
                killed: "eu-west/1".into(),
                cut_off: "ap-south".into(),
                cut_for: Duration::from_secs(1),
                written_cut_off: 1,
            },
            converged_in: Duration::from_millis(5),
            common: Common {
                vector: BTreeMap::from([("a".into(), 1), ("b".into(), 1)]),
                digest: "ab".into(),
            },
            dcs: vec![dc("a"), dc("b")],
        }
    }

    #[test]
    fn only_a_result_without_any_difference_and_with_one_txn_a_flight_is_equal() {
        let good = report();
        assert!(good.all_equal() && good.table().ends_with("nothing doubled"), "{}", good.table());
        let mut lost = report();
        lost.dcs[1].differences.push("departures of SAN: 1 instead of 2".into());
        assert!(!lost.all_equal() && lost.table().contains("b: departures of SAN: 1 instead of 2"));
        let mut doubled = report();
        doubled.common.vector.insert("b".into(), 2);
        assert!(!doubled.all_equal());
        assert_eq!(doubled.json()["all_equal"], json!(false));
    }
}
