//! Transfers between accounts never change their total, at any moment that a reader sees.
//!
//! The bank test of Jepsen (Kingsbury), for snapshot isolation and up in one DC, and for atomic visibility between DCs. Every
//! txn that reads all accounts must see the same total, whatever transfers were under way. Reads of some accounts only say
//! nothing. Balances of registers and of counters count alike; an absent account holds nothing.

use std::collections::BTreeMap;

use super::{Law, Violation};
use crate::{Action, History};

/// Every read of all `accounts` that does not sum up to `total`.
pub fn check(history: &History, accounts: &[&str], total: i64) -> Vec<Violation> {
    let mut violations = Vec::new();
    for op in history.ops.iter().filter(|op| op.is_ok()) {
        let balances: BTreeMap<&str, i64> = op
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Get { key, value } => Some((key.as_str(), value.unwrap_or(0))),
                Action::Sum { key, value } => Some((key.as_str(), *value)),
                _ => None,
            })
            .filter(|(key, _)| accounts.contains(key))
            .collect();
        let sum: i64 = balances.values().sum();
        if balances.len() == accounts.len() && sum != total {
            let story = format!("session {} at {}/{} reads {balances:?}: {sum}", op.session, op.dc, op.node);
            violations.push(Violation::new(Law::Total, story));
        }
    }
    violations
}

/// How many reads saw all accounts: without any, the check proves nothing.
pub fn reads(history: &History, accounts: &[&str]) -> usize {
    let all = |actions: &[Action]| {
        let read = |key: &&str| actions.iter().any(|action| !action.is_write() && action.key() == *key);
        accounts.iter().all(read)
    };
    history.ops.iter().filter(|op| op.is_ok() && all(&op.actions)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testkit::{add, get, laws, serial, sum};

    #[test]
    fn half_a_transfer_is_noticed_and_a_whole_one_is_not() {
        let accounts = ["a", "b"];
        let transfer = (1, vec![add("a", -3), add("b", 3)]);
        let seen = |a, b| serial(vec![transfer.clone(), (2, vec![sum("a", a), sum("b", b)])]);
        assert_eq!(check(&seen(7, 3), &accounts, 10), []);
        assert_eq!(check(&seen(10, 0), &accounts, 10), []);
        assert_eq!(laws(&check(&seen(7, 0), &accounts, 10)), [Law::Total]);
        assert_eq!(reads(&seen(7, 0), &accounts), 1);
        let part = serial(vec![(2, vec![sum("a", 7)]), (2, vec![get("a", 10), get("b", None)])]);
        assert_eq!((check(&part, &accounts, 10), reads(&part, &accounts)), (vec![], 1));
    }
}
