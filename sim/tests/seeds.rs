//! A handful of seeds of whole clusters under faults; long runs are for the night.

use meridian_sim::{Options, run};

/// Shapes and seeds that together meet every kind of fault.
fn demand(seeds: std::ops::Range<u64>, dcs: usize, nodes: usize) {
    let mut options = Options::default();
    options.dcs = Some(dcs);
    options.nodes = Some(nodes);
    options.load_ms = 6000;
    let (mut acked, mut edits, mut compacted) = (0, 0, 0);
    for seed in seeds {
        let report = run(seed, &options);
        assert!(report.violations.is_empty(), "{report}");
        acked += report.counts.acked;
        edits += report.counts.edits;
        compacted += report.counts.compacted;
    }
    assert!(acked > 100, "clients get something done: {acked}");
    assert!(edits > 50, "editors are told that what they have made is kept: {edits}");
    assert!(compacted > 0, "documents are compacted");
}

#[test]
fn one_datacenter_keeps_its_promises_under_faults() {
    demand(0..6, 1, 3);
}

#[test]
fn single_nodes_of_three_datacenters_keep_their_promises_under_faults() {
    demand(10..13, 3, 1);
}

#[test]
fn two_datacenters_keep_their_promises_under_faults() {
    demand(20..22, 2, 3);
}

#[test]
fn three_datacenters_keep_their_promises_under_faults() {
    demand(30..32, 3, 3);
}

#[test]
fn without_faults_every_write_is_acknowledged() {
    let mut options = Options::default();
    options.dcs = Some(2);
    options.nodes = Some(3);
    options.load_ms = 3000;
    options.faults = 0;
    let (mut acked, mut edits) = (0, 0);
    for seed in 40..44 {
        let report = run(seed, &options);
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!((report.counts.unknown, report.counts.refused), (0, 0), "{report}");
        acked += report.counts.acked;
        edits += report.counts.edits;
    }
    // How much one seed does is up to its draws: 16 to 36 edits, 136 to 192 writes in twenty of them.
    assert!(acked > 400 && edits > 80, "clients get something done: {acked} writes, {edits} edits");
}

/// Story: nodes fail again and again while several people edit. What an editor is told is kept has to be on the disks of
/// a majority by then.
#[test]
fn editors_of_nodes_that_die_again_and_again_lose_nothing_that_was_acknowledged() {
    let mut options = Options::default();
    options.dcs = Some(1);
    options.nodes = Some(3);
    options.load_ms = 5000;
    options.faults = 12;
    options.sessions = 1;
    options.editors = 4;
    let mut edits = 0;
    for seed in 80..92 {
        let report = run(seed, &options);
        assert!(report.violations.is_empty(), "{report}");
        edits += report.counts.edits;
    }
    assert!(edits > 100, "editors get something done: {edits}");
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_found_out() {
    let mut options = Options::default();
    options.dcs = Some(1);
    options.nodes = Some(1);
    options.load_ms = 4000;
    options.lying_disks = true;
    let found = (50..58).any(|seed| !run(seed, &options).violations.is_empty());
    assert!(found, "acknowledged writes that were never synced get lost, and a run must see that");
}

#[test]
fn sessions_that_forget_their_tokens_are_found_out() {
    let mut options = Options::default();
    options.dcs = Some(3);
    options.nodes = Some(1);
    options.load_ms = 5000;
    options.faults = 2;
    options.forget_tokens = true;
    // The ledger, for sessions and for editors, and the checkers of the history, each by itself.
    for words in ["knows", "editor", "MonotonicReads"] {
        let found = (60..64).any(|seed| run(seed, &options).violations.iter().any(|v| v.contains(words)));
        assert!(found, "{words}: without its token a session goes back in time, and a run must see that");
    }
}

/// Story: each datacenter compacts at moments of its own, while editors of both edit and nodes die. Whatever stands in whose
/// snapshot, all show the same.
#[test]
fn documents_read_the_same_everywhere_whoever_has_compacted_them() {
    let mut options = Options::default();
    options.dcs = Some(2);
    options.nodes = Some(1);
    options.load_ms = 6000;
    options.faults = 6;
    options.editors = 4;
    let mut compacted = 0;
    for seed in 90..95 {
        let report = run(seed, &options);
        assert!(report.violations.is_empty(), "{report}");
        compacted += report.counts.compacted;
    }
    assert!(compacted >= 5, "the runs were too tame: {compacted} compactions in all");
}

/// Story: a document is deleted in one datacenter while people type in both, and some of them come back with it later. What
/// was deleted stays so, and what was typed into the document that came after it stays too.
#[test]
fn a_document_that_is_deleted_while_people_edit_it_does_not_come_back() {
    let mut options = Options::default();
    options.dcs = Some(2);
    options.nodes = Some(1);
    options.load_ms = 8000;
    (options.sessions, options.editors, options.editors_erased) = (1, 1, 2);
    let (mut deletes, mut sent_away) = (0, 0);
    for seed in 300..306 {
        let report = run(seed, &options);
        assert!(report.violations.is_empty(), "{report}");
        deletes += report.counts.deletes;
        sent_away += report.counts.sent_away;
    }
    assert!(
        deletes >= 6 && sent_away >= 12,
        "the runs were too tame: {deletes} deletes, {sent_away} sent away"
    );
}

/// Story: people go on typing at nodes that have not heard yet that their document was deleted, and somebody has made it again by then.
/// Their edits are of the document that is gone, and would stand in the new one without what they build on.
#[test]
fn an_edit_that_meets_a_deletion_and_a_new_beginning_stays_out() {
    let mut options = Options::default();
    options.dcs = Some(1);
    options.nodes = Some(3);
    options.load_ms = 8000;
    options.faults = 4;
    (options.sessions, options.editors, options.editors_erased) = (1, 0, 4);
    let mut deletes = 0;
    for seed in 400..412 {
        let report = run(seed, &options);
        assert!(report.violations.is_empty(), "{report}");
        deletes += report.counts.deletes;
    }
    assert!(deletes >= 12, "the runs were too tame: {deletes} deletes");
}
