//! Directed graphs whose edges say why one operation comes before another, and their cycles.

use std::collections::{BTreeMap, VecDeque};

/// Why one operation comes before another; several may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Why(u8);

impl Why {
    /// The second overwrote what the first wrote.
    pub(crate) const WW: Why = Why(1);
    /// The second read what the first wrote.
    pub(crate) const WR: Why = Why(2);
    /// The second overwrote what the first read.
    pub(crate) const RW: Why = Why(4);
    /// The same session asked for the second after the first.
    pub(crate) const SESSION: Why = Why(8);
    /// The second was asked for after the first was answered.
    pub(crate) const TIME: Why = Why(16);

    /// Either of both.
    pub(crate) const fn or(self, other: Why) -> Why {
        Why(self.0 | other.0)
    }

    fn meets(self, other: Why) -> bool {
        self.0 & other.0 != 0
    }

    fn name(self) -> &'static str {
        let names = [
            (Self::WW, "ww"),
            (Self::WR, "wr"),
            (Self::RW, "rw"),
            (Self::SESSION, "session"),
            (Self::TIME, "time"),
        ];
        names.into_iter().find(|(why, _)| self.meets(*why)).map_or("?", |(_, name)| name)
    }
}

/// A graph over operations, given by their places in a history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    edges: BTreeMap<usize, BTreeMap<usize, Why>>,
}

/// Operations, each before the next and the last before the first, and why.
pub(crate) type Cycle = Vec<(usize, Why)>;

impl Graph {
    /// Notes that `first` comes before `second`. What an operation does to itself is no order.
    pub(crate) fn add(&mut self, first: usize, second: usize, why: Why) {
        if first != second {
            let all = self.edges.entry(first).or_default().entry(second).or_insert(why);
            *all = all.or(why);
        }
    }

    /// What comes after an operation for these reasons.
    fn after(&self, node: usize, why: Why) -> impl Iterator<Item = usize> + '_ {
        let after = self.edges.get(&node).into_iter().flatten();
        after.filter(move |(_, reasons)| reasons.meets(why)).map(|(next, _)| *next)
    }

    /// The shortest way from `from` to `to` for these reasons, both included.
    fn way(&self, from: usize, to: usize, why: Why) -> Option<Vec<usize>> {
        let mut came = BTreeMap::from([(from, from)]);
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            if node == to {
                let mut way = vec![to];
                while way[way.len() - 1] != from {
                    way.push(came[&way[way.len() - 1]]);
                }
                way.reverse();
                return Some(way);
            }
            for next in self.after(node, why) {
                if let std::collections::btree_map::Entry::Vacant(entry) = came.entry(next) {
                    entry.insert(node);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// A short cycle through an edge that `through` explains, whose other edges `others` explains; one for each
    /// strongly connected part that has one.
    pub(crate) fn cycles(&self, through: Why, others: Why) -> Vec<Cycle> {
        let mut found = Vec::new();
        for part in self.parts(through.or(others)) {
            let inside = |node: &usize| part.binary_search(node).is_ok();
            let starts = part.iter().flat_map(|a| self.after(*a, through).map(move |b| (*a, b)));
            let cycle =
                starts.filter(|(_, b)| inside(b)).find_map(|(a, b)| Some((a, self.way(b, a, others)?)));
            if let Some((a, way)) = cycle {
                let mut cycle = vec![(a, through)];
                cycle.extend(way[..way.len() - 1].iter().map(|node| (*node, others)));
                found.push(cycle);
            }
        }
        found
    }

    /// A short closed way in which no two edges that only `apart` explains follow each other, and `others` explain all
    /// the rest; one for each strongly connected part that has one. An operation may be met twice on it.
    pub(crate) fn cycles_with_apart(&self, apart: Why, others: Why) -> Vec<Cycle> {
        // Every operation twice: as it is reached by one of the others, and as it is reached by one of `apart`.
        let mut doubled = Graph::default();
        for (first, after) in &self.edges {
            for (second, why) in after {
                if why.meets(others) {
                    doubled.add(2 * first, 2 * second, others);
                    doubled.add(2 * first + 1, 2 * second, others);
                }
                if why.meets(apart) {
                    doubled.add(2 * first, 2 * second + 1, apart);
                }
            }
        }
        let all = apart.or(others);
        let cycles = doubled.cycles(all, all).into_iter();
        cycles.map(|cycle| cycle.into_iter().map(|(node, why)| (node / 2, why)).collect()).collect()
    }

    /// The strongly connected parts of more than one operation, each sorted (Tarjan 1972, without recursion).
    fn parts(&self, why: Why) -> Vec<Vec<usize>> {
        let mut search = Search::default();
        for root in self.edges.keys() {
            if !search.index.contains_key(root) {
                search.from(self, *root, why);
            }
        }
        search.parts
    }

    /// Operations in an order that every edge agrees with; nothing if there is a cycle.
    pub(crate) fn sorted(&self, nodes: &[usize]) -> Option<Vec<usize>> {
        let mut before: BTreeMap<usize, usize> =
            nodes.iter().chain(self.edges.keys()).map(|node| (*node, 0)).collect();
        for after in self.edges.values().flat_map(BTreeMap::keys) {
            *before.entry(*after).or_default() += 1;
        }
        let mut free: VecDeque<usize> =
            before.iter().filter(|(_, n)| **n == 0).map(|(node, _)| *node).collect();
        let mut sorted = Vec::new();
        while let Some(node) = free.pop_front() {
            sorted.push(node);
            for next in self.edges.get(&node).into_iter().flat_map(BTreeMap::keys) {
                let left = before.entry(*next).or_default();
                *left -= 1;
                if *left == 0 {
                    free.push_back(*next);
                }
            }
        }
        (sorted.len() == before.len()).then_some(sorted)
    }

    /// A cycle as text, with each operation as `tell` tells it.
    pub(crate) fn tell(&self, cycle: &Cycle, tell: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for (i, (node, _)) in cycle.iter().enumerate() {
            let next = cycle[(i + 1) % cycle.len()].0;
            let why = self.edges.get(node).and_then(|after| after.get(&next)).map_or("?", |why| why.name());
            text.push_str(&format!("{} --{why}--> ", tell(*node)));
        }
        text + "the first"
    }
}

#[derive(Default)]
struct Search {
    index: BTreeMap<usize, usize>,
    low: BTreeMap<usize, usize>,
    open: Vec<usize>,
    parts: Vec<Vec<usize>>,
}

impl Search {
    fn enter(&mut self, graph: &Graph, node: usize, why: Why) -> (usize, Vec<usize>) {
        self.low.insert(node, self.index.len());
        self.index.insert(node, self.index.len());
        self.open.push(node);
        (node, graph.after(node, why).collect())
    }

    fn from(&mut self, graph: &Graph, root: usize, why: Why) {
        let mut path = vec![self.enter(graph, root, why)];
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            let Some(next) = next.pop() else {
                path.pop();
                self.leave(node);
                if let Some((parent, _)) = path.last() {
                    self.lower(*parent, self.low[&node]);
                }
                continue;
            };
            match self.index.get(&next) {
                None => path.push(self.enter(graph, next, why)),
                // What has left belongs to a part that is complete.
                Some(index) if *index != usize::MAX => self.lower(node, *index),
                Some(_) => {}
            }
        }
    }

    fn lower(&mut self, node: usize, to: usize) {
        if let Some(low) = self.low.get_mut(&node) {
            *low = (*low).min(to);
        }
    }

    fn leave(&mut self, node: usize) {
        if self.low[&node] != self.index[&node] {
            return;
        }
        let start = self.open.iter().rposition(|open| *open == node).unwrap_or(0);
        let mut part = self.open.split_off(start);
        for member in &part {
            self.index.insert(*member, usize::MAX);
        }
        if part.len() > 1 {
            part.sort_unstable();
            self.parts.push(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_found_with_the_edges_asked_for_and_no_others() {
        let mut graph = Graph::default();
        graph.add(1, 2, Why::WW);
        graph.add(2, 3, Why::WR);
        graph.add(3, 1, Why::RW);
        graph.add(3, 4, Why::WW);
        graph.add(4, 4, Why::WW);
        assert!(graph.cycles(Why::WW, Why::WW).is_empty());
        assert!(graph.cycles(Why::WR, Why::WW.or(Why::WR)).is_empty());
        let single = graph.cycles(Why::RW, Why::WW.or(Why::WR));
        assert_eq!(single.len(), 1);
        let text = graph.tell(&single[0], |i| i.to_string());
        assert_eq!(text, "3 --rw--> 1 --ww--> 2 --wr--> the first");
    }

    #[test]
    fn edges_that_must_stand_apart_close_no_cycle_beside_each_other() {
        let mut graph = Graph::default();
        for (a, b, why) in [(1, 2, Why::RW), (2, 1, Why::RW), (2, 3, Why::WR), (3, 4, Why::RW)] {
            graph.add(a, b, why);
        }
        assert!(graph.cycles_with_apart(Why::RW, Why::WR).is_empty());
        graph.add(4, 1, Why::WR);
        let found = graph.cycles_with_apart(Why::RW, Why::WR);
        assert_eq!(found.len(), 1);
        let mut nodes: Vec<usize> = found[0].iter().map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        assert_eq!(nodes, [1, 2, 3, 4]);
    }

    #[test]
    fn a_graph_without_cycles_can_be_sorted() {
        let mut graph = Graph::default();
        for (a, b) in [(5, 1), (1, 3), (5, 3), (3, 2)] {
            graph.add(a, b, Why::SESSION);
        }
        assert_eq!(graph.sorted(&[9]), Some(vec![5, 9, 1, 3, 2]));
        graph.add(2, 5, Why::WR);
        assert_eq!(graph.sorted(&[]), None);
    }

    #[test]
    fn separate_cycles_are_separate_parts_however_they_are_reached() {
        let mut graph = Graph::default();
        for (a, b) in [(1, 2), (2, 1), (2, 3), (3, 4), (4, 5), (5, 3), (6, 1)] {
            graph.add(a, b, Why::WW);
        }
        let mut parts = graph.parts(Why::WW);
        parts.sort();
        assert_eq!(parts, [vec![1, 2], vec![3, 4, 5]]);
    }
}
