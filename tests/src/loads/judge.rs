//! Which checkers a load's history must pass.

use std::collections::BTreeSet;

use super::txns::ACCOUNTS;
use super::watching::Watched;
use super::{DCS, Done, Load, rw_register};
use crate::checkers::linearizable::{self, Verdict};
use crate::checkers::{
    Law, Violation, bank, counters, exactly_once, isolation, resurrection, serializable, sessions, set_full,
    watch,
};
use crate::history::kind::kinds;
use crate::history::rest::{Rest, different, with_rest};
use crate::history::{Action, History};

impl Done {
    /// Every way in which what the load was told, and what all nodes hold at rest, break a law.
    ///
    /// # Panics
    /// When a key shows what its kind cannot.
    pub fn judge(&self, rest: &[Rest]) -> Vec<Violation> {
        let kinds = kinds(&self.history);
        let history = with_rest(&self.history, &kinds, rest);
        let mut violations = sessions::check(&self.history);
        for at_rest in different(&kinds, rest) {
            violations.extend(exactly_once::check(&self.history, &at_rest));
            violations.extend(resurrection::check(&self.history, &at_rest));
            if self.load == Load::Recreate {
                violations.extend(as_left(&self.history, &at_rest));
            }
        }
        violations.extend(self.own_laws(&history));
        violations
    }

    /// What is particular to this load. `history` has the reads at rest.
    fn own_laws(&self, history: &History) -> Vec<Violation> {
        let keys = || history.keys().into_iter();
        match self.load {
            Load::Set | Load::Document => {
                let check = |key| set_full::check(history, key, set_full::Demand::Eventual).violations;
                keys().flat_map(check).collect()
            }
            Load::Counter => {
                keys().flat_map(|key| counters::check(history, key, counters::Demand::Eventual)).collect()
            }
            Load::Register | Load::Causal => isolation::check(&self.history, isolation::Level::Causal),
            Load::Linear => keys().filter_map(|key| linearizable(&self.history, key)).collect(),
            Load::Bank => {
                let accounts = ACCOUNTS.map(|account| format!("{}/{account}", self.prefix));
                let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
                println!("  bank: {} looks at all accounts", bank::reads(history, &accounts));
                bank::check(history, &accounts, 0)
            }
            Load::Fork | Load::Claims => by_dc(history, serializable::Demand::StrongSession),
            Load::Txn | Load::Interactive => by_dc(history, serializable::Demand::Strict),
            Load::RwRegister => rw_register::judge(history, &self.prefix),
            Load::Watch => self.watched.iter().flat_map(|watched| self.stream(watched)).collect(),
            Load::Moves | Load::Recreate => Vec::new(),
        }
    }
}

impl Done {
    fn stream(&self, watched: &Watched) -> Vec<Violation> {
        let mut violations = watch::check(&self.history, |_| true, &watched.events());
        if !watched.is_whole() {
            println!("a watcher was told that its cursor has expired");
            violations.retain(|violation| violation.law != Law::Lost);
        }
        violations
    }
}

/// Serializability of what was asked of each DC, about the keys that only this DC writes.
fn by_dc(history: &History, demand: serializable::Demand) -> Vec<Violation> {
    let check = |dc: &&str| {
        let mut asked = history.of_dc(dc);
        let written: BTreeSet<String> = asked
            .ops
            .iter()
            .flat_map(|op| &op.actions)
            .filter(|action| action.is_write())
            .map(|action| action.key().to_string())
            .collect();
        for op in &mut asked.ops {
            op.actions.retain(|action| written.contains(action.key()));
        }
        asked.ops.retain(|op| !op.actions.is_empty());
        serializable::check(&asked, demand)
    };
    DCS.iter().flat_map(check).collect()
}

fn linearizable(history: &History, key: &str) -> Option<Violation> {
    match linearizable::check::<linearizable::Register>(history, key) {
        Verdict::Violated(violation) => Some(violation),
        Verdict::Linearizable => None,
        Verdict::Undecided => {
            println!("linearizability of {key} is not decided within the bound");
            None
        }
    }
}

/// A key of one session holds what that session left: each of its operations had observed all before it. An operation of
/// unknown outcome, always the key's last, may have taken place or not.
fn as_left(history: &History, at_rest: &[Action]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for read in at_rest {
        let key = read.key();
        let mut sure = Vec::new();
        let mut maybe = None;
        for op in history.ops.iter().filter(|op| op.is_possible()) {
            for action in op.actions.iter().filter(|action| action.key() == key && action.is_write()) {
                if op.is_ok() {
                    apply(&mut sure, action);
                } else {
                    let mut then = sure.clone();
                    apply(&mut then, action);
                    maybe = Some(then);
                }
            }
        }
        let mut holds: Vec<i64> = match read {
            Action::Get { value, .. } => value.iter().copied().collect(),
            Action::Members { elements, .. } => elements.iter().copied().collect(),
            _ => continue,
        };
        holds.sort_unstable();
        sure.sort_unstable();
        if let Some(maybe) = &mut maybe {
            maybe.sort_unstable();
        }
        if holds != sure && Some(&holds) != maybe.as_ref() {
            let story = format!("{key} holds {holds:?}; its only writer left {sure:?}, or perhaps {maybe:?}");
            violations.push(Violation::new(Law::Lost, story));
        }
    }
    violations
}

fn apply(state: &mut Vec<i64>, action: &Action) {
    match action {
        Action::Set { value, .. } => *state = vec![*value],
        Action::Insert { element, .. } => state.push(*element),
        Action::Delete { .. } => state.clear(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::history::{Op, Outcome};

    fn op(outcome: Outcome, begin_ns: u64, action: Action) -> Op {
        let (dc, end_ns) = ("eu-west".into(), begin_ns + 1);
        Op { session: 1, dc, node: 1, begin_ns, end_ns, outcome, actions: vec![action] }
    }

    fn done(load: Load, ops: Vec<Op>) -> Done {
        Done {
            load,
            history: History { ops },
            refusals: BTreeMap::new(),
            broken: Vec::new(),
            prefix: "p".into(),
            watched: Vec::new(),
        }
    }

    fn rest(key: &str, value: Value) -> Vec<Rest> {
        let contents = if value.is_null() { BTreeMap::new() } else { BTreeMap::from([(key.into(), value)]) };
        vec![Rest { node: "eu-west/1".into(), contents }]
    }

    fn laws(violations: Vec<Violation>) -> BTreeSet<Law> {
        violations.into_iter().map(|violation| violation.law).collect()
    }

    #[test]
    fn a_key_of_one_writer_must_be_as_it_left_it() {
        let key = || "k".to_string();
        let set = |value| Action::Set { key: key(), value };
        let ops = vec![
            op(Outcome::Ok, 0, set(1)),
            op(Outcome::Ok, 10, Action::Delete { key: key() }),
            op(Outcome::Unknown, 20, set(2)),
        ];
        let done = done(Load::Recreate, ops);
        assert!(done.judge(&rest("k", Value::Null)).is_empty());
        assert!(done.judge(&rest("k", json!(2))).is_empty());
        let found = laws(done.judge(&rest("k", json!(1))));
        assert!(found.contains(&Law::Lost) && found.contains(&Law::Resurrection), "{found:?}");
    }

    #[test]
    fn a_lost_element_two_winners_and_a_wrong_total_are_each_noticed() {
        let insert = Action::Insert { key: "p/s".into(), element: 1 };
        let found = laws(done(Load::Set, vec![op(Outcome::Ok, 0, insert)]).judge(&rest("p/s", Value::Null)));
        assert!(found.contains(&Law::Lost), "{found:?}");
        let claim = |begin_ns, value| {
            let set = Action::Set { key: "n".into(), value };
            let mut op = op(Outcome::Ok, begin_ns, Action::Get { key: "n".into(), value: None });
            op.session = begin_ns as usize;
            op.actions.push(set);
            op
        };
        let found = done(Load::Claims, vec![claim(0, 1), claim(10, 2)]).judge(&rest("n", json!(2)));
        assert!(!found.is_empty());
        let transfer = op(Outcome::Ok, 0, Action::Add { key: "p/ann".into(), by: 5 });
        let mut all = done(Load::Bank, vec![transfer]);
        for account in ACCOUNTS {
            let read = Action::Sum { key: format!("p/{account}"), value: 0 };
            all.history.ops.push(op(Outcome::Failed, 0, read));
        }
        let found = laws(all.judge(&rest("p/ann", json!(5))));
        assert_eq!(found, BTreeSet::from([Law::Total]));
    }
}
