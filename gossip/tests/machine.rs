//! The machine alone: who is refused, what stops a link, and which of two connections survives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use meridian_crdt::{Dot, OriginName, Txn, TxnHead, Vector};
use meridian_gossip::proto::Machine;
use meridian_gossip::proto::event::{Event, Now, Output};
use meridian_gossip::proto::message::{Hello, Message};
use meridian_gossip::{GossipConfig, Identity, Remote, RemoteOutcome, Reported, View};
use uuid::Uuid;

fn name(dc: &str, epoch: u128) -> OriginName {
    OriginName { dc: dc.into(), epoch: Uuid::from_u128(epoch) }
}

/// A machine with what it has put out, at a time of its own.
struct Bench {
    machine: Machine,
    now_ms: u64,
    out: VecDeque<Output>,
}

impl Bench {
    /// A leader of DC `dc` in `term`, configured with `a`, `b` and `c`.
    fn leader(dc: &str, term: u64, own_seq: u64) -> Bench {
        let members = ["a", "b", "c"].into_iter().filter(|d| *d != dc);
        let members: BTreeMap<String, Vec<u64>> = members.map(|d| (d.to_owned(), vec![1, 2, 3])).collect();
        let identity = Identity { cluster: 1, dc: dc.into(), node: 1, members };
        let machine = Machine::new(identity, GossipConfig::default(), 5);
        let mut bench = Bench { machine, now_ms: 1, out: VecDeque::new() };
        bench.give(Event::View(Arc::new(view(dc, term, own_seq))));
        bench
    }

    fn give(&mut self, event: Event) {
        self.machine.handle(event, Now { ms: self.now_ms, unix_ms: 1_760_000_000_000 });
        self.machine.validate();
        while let Some(output) = self.machine.poll_output() {
            self.out.push_back(output);
        }
    }

    fn say(&mut self, conn: u64, message: Message) {
        self.give(Event::Received { conn, message });
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.give(Event::Tick);
    }

    /// The messages sent over `conn` since the last look.
    fn sent(&mut self, conn: u64) -> Vec<Message> {
        let mut sent = Vec::new();
        self.out.retain(|output| match output {
            Output::Send { conn: to, message } if *to == conn => {
                sent.push(message.clone());
                false
            }
            _ => true,
        });
        sent
    }

    fn closed(&self, conn: u64) -> bool {
        self.out.iter().any(|output| matches!(output, Output::Close { conn: c, .. } if *c == conn))
    }

    fn refusal(&self, dc: &str) -> Option<String> {
        let status = self.machine.status(Now { ms: self.now_ms, unix_ms: 0 });
        let link = status.links.into_iter().find(|l| l.dc == dc).and_then(|l| l.refusal);
        link.or_else(|| status.refusals.get(dc).cloned())
    }
}

fn view(dc: &str, term: u64, own_seq: u64) -> View {
    let own = name(dc, 1);
    let mut vector = Vector::new();
    vector.set(own.origin(), own_seq);
    View {
        leading: Some(term),
        leader_node: Some(1),
        vector,
        oplog_end: own_seq,
        floor: Vector::new(),
        origins: vec![name("a", 1), name("b", 1)],
        own: Some(own),
        stable: Vector::new(),
        reported: BTreeMap::new(),
        unadmitted: BTreeSet::new(),
        forgotten: None,
    }
}

fn hello(dc: &str, term: u64) -> Hello {
    Hello {
        cluster: 1,
        dc: dc.into(),
        own: Some(name(dc, 1)),
        node: 2,
        leading: Some(term),
        leader_node: Some(2),
        vector: Vector::new(),
        floor: Vector::new(),
        origins: vec![name(dc, 1)],
        members: BTreeMap::new(),
        credit_bytes: 1 << 20,
        dial: 1,
        told: Vector::new(),
        reported: None,
    }
}

fn say_hello(bench: &mut Bench, conn: u64, hello: Hello) {
    bench.give(Event::Accepted { conn });
    bench.say(conn, Message::Hello(Box::new(hello)));
}

#[test]
fn foreign_unknown_and_usurping_peers_are_refused_loudly() {
    let cases: [(Hello, &str); 5] = [
        (Hello { cluster: 9, ..hello("b", 1) }, "another cluster"),
        (hello("zz", 1), "names no datacenter"),
        (Hello { own: Some(name("a", 2)), ..hello("a", 1) }, "claims the name"),
        (hello("a", 1), "this datacenter itself"),
        (Hello { origins: vec![], ..hello("b", 1) }, "without a registered own origin"),
    ];
    for (hello, why) in cases {
        let mut a = Bench::leader("a", 1, 0);
        let dc = hello.dc.clone();
        say_hello(&mut a, 9, hello);
        assert!(matches!(&a.sent(9)[..], [Message::Refuse { why: w }] if w.contains(why)), "{why}");
        assert!(a.closed(9));
        assert!(a.refusal(&dc).is_some_and(|r| r.contains(why)), "{why} is shown");
        assert!(a.out.iter().any(|o| matches!(o, Output::Alarm { .. })), "{why} is alarmed");
    }
}

#[test]
fn own_txns_that_this_dc_lost_stop_it_until_it_has_them_or_another_life() {
    let mut a = Bench::leader("a", 1, 3);
    let mut ahead = hello("b", 1);
    ahead.vector.set(name("a", 1).origin(), 5);
    say_hello(&mut a, 9, ahead.clone());
    assert!(a.out.contains(&Output::LostTail { lost: Dot::new(name("a", 1).origin(), 5) }) && a.closed(9));
    assert!(a.sent(9).is_empty());
    a.out.clear();
    a.wait(5000);
    assert!(a.out.iter().all(|o| !matches!(o, Output::Dial { .. })), "it dials nobody");
    say_hello(&mut a, 10, hello("b", 1));
    assert!(a.closed(10) && a.sent(10).is_empty());

    let reborn = View { own: Some(name("a", 2)), ..view("a", 1, 3) };
    a.give(Event::View(Arc::new(reborn)));
    say_hello(&mut a, 11, ahead);
    assert!(matches!(&a.sent(11)[..], [Message::Hello(_), ..]));
    assert!(!a.closed(11));
}

/// Found by the simulation: a DC had told another one of its newest txns and lost them before anybody had received them.
/// `Hello` compared only what peers have, so it went on in its old life, gave the numbers of the lost txns to others, and
/// its peers waited for the lost ones: nothing became stable any more.
#[test]
fn own_txns_that_a_peer_was_only_told_of_end_a_life_too() {
    let mut a = Bench::leader("a", 1, 3);
    let mut told = hello("b", 1);
    told.vector.set(name("a", 1).origin(), 2);
    told.told.set(name("a", 1).origin(), 5);
    say_hello(&mut a, 9, told);
    assert!(a.out.contains(&Output::LostTail { lost: Dot::new(name("a", 1).origin(), 5) }) && a.closed(9));
    assert!(a.sent(9).is_empty());
}

#[test]
fn others_txns_that_this_life_has_reported_to_have_and_lacks_end_it_too() {
    let of_b = |seq| [Dot::new(name("b", 1).origin(), seq)].into_iter().collect::<Vector>();
    let hello_about = |life, acked| Hello { reported: Some(Reported { life, acked }), ..hello("b", 1) };
    let own = name("a", 1).origin();
    for (life, seq, lost) in [(own, 4, true), (own, 3, false), (name("a", 0).origin(), 4, false)] {
        let mut a = Bench::leader("a", 1, 3);
        let mut has_three = view("a", 1, 3);
        has_three.vector.join(&of_b(3));
        a.give(Event::View(Arc::new(has_three)));
        say_hello(&mut a, 9, hello_about(life, of_b(seq)));
        let seen = a.out.contains(&Output::LostTail { lost: Dot::new(name("b", 1).origin(), 4) });
        assert_eq!((seen, a.closed(9)), (lost, lost), "{life} has reported {seq} of 3");
    }
}

#[test]
fn a_life_of_ours_that_we_do_not_know_ends_the_present_one_and_is_registered() {
    let mut a = Bench::leader("a", 1, 3);
    let later = name("a", 2);
    let knows = Hello { origins: vec![name("b", 1), later.clone()], ..hello("b", 1) };
    say_hello(&mut a, 9, knows.clone());
    assert!(a.out.contains(&Output::LostTail { lost: Dot::new(later.origin(), 1) }) && a.closed(9));
    a.wait(1000);
    let registers = |output: &Output| matches!(output, Output::Propose { remote: Remote::Register(name), .. } if *name == later);
    assert!(a.out.iter().any(registers), "so that it is not forgotten again");

    // Registered, it shows in the view until another life has begun, also to a leader that has met nobody.
    let mut origins = view("a", 1, 3).origins;
    origins.push(later.clone());
    let registered = View { origins, forgotten: Some(Dot::new(later.origin(), 1)), ..view("a", 1, 3) };
    a.out.clear();
    a.give(Event::View(Arc::new(registered.clone())));
    say_hello(&mut a, 10, knows.clone());
    assert!(a.out.contains(&Output::LostTail { lost: Dot::new(later.origin(), 1) }) && a.closed(10));
    a.give(Event::View(Arc::new(View { own: Some(name("a", 3)), forgotten: None, ..registered })));
    say_hello(&mut a, 11, knows);
    assert!(!a.closed(11));
}

#[test]
fn a_life_is_admitted_once_it_is_logged_and_whoever_needs_that_logs_it() {
    let mut a = Bench::leader("a", 1, 3);
    say_hello(&mut a, 9, hello("b", 1));
    assert!(!a.sent(9).iter().any(|said| matches!(said, Message::Admit { .. })), "nothing is logged yet");
    let (life, stable) =
        (name("b", 1).origin(), [Dot::new(name("a", 1).origin(), 2)].into_iter().collect::<Vector>());
    let reported = BTreeMap::from([("b".to_owned(), Reported { life, acked: Vector::new() })]);
    for _ in 0..2 {
        a.give(Event::View(Arc::new(View {
            reported: reported.clone(),
            stable: stable.clone(),
            ..view("a", 1, 3)
        })));
    }
    let said: Vec<_> = a.sent(9).into_iter().filter(|said| matches!(said, Message::Admit { .. })).collect();
    assert_eq!(said, [Message::Admit { life, stable: stable.clone() }], "once");

    for (unadmitted, logs) in [(true, true), (false, false)] {
        let mut b = Bench::leader("b", 1, 0);
        let waits = unadmitted.then(|| "a".to_owned()).into_iter().collect();
        b.give(Event::View(Arc::new(View { unadmitted: waits, ..view("b", 1, 0) })));
        say_hello(&mut b, 9, hello("a", 1));
        for life in [name("b", 0).origin(), name("b", 1).origin()] {
            b.say(9, Message::Admit { life, stable: stable.clone() });
            b.wait(1000);
        }
        let logged: Vec<_> = b
            .out
            .iter()
            .filter_map(|output| match output {
                Output::Propose { remote: Remote::Admit { life, member, stable }, .. } => {
                    Some((*life, *member, stable.clone()))
                }
                _ => None,
            })
            .collect();
        let expected = (name("b", 1).origin(), name("a", 1).origin(), stable.clone());
        assert_eq!(logged, if logs { vec![expected] } else { vec![] });
    }
}

#[test]
fn a_report_that_tells_of_more_than_its_member_has_by_now_ends_the_connection_so_that_the_member_hears_of_it()
{
    for (has_by_now, closed) in [(5, false), (4, true)] {
        let mut b = Bench::leader("b", 1, 0);
        let of_a = |seq| [Dot::new(name("a", 1).origin(), seq)].into_iter().collect();
        say_hello(&mut b, 9, Hello { vector: of_a(5), ..hello("a", 1) });
        b.wait(1000);
        let report = b.out.iter().find_map(|output| match output {
            Output::Propose { ticket, remote: Remote::Report { .. } } => Some(*ticket),
            _ => None,
        });
        // While the report is being logged, the link breaks and the peer comes back.
        b.give(Event::Closed { conn: 9, why: "gone".into() });
        say_hello(&mut b, 10, Hello { vector: of_a(has_by_now), ..hello("a", 2) });
        assert!(!b.closed(10));
        let ticket = report.expect("it reports");
        b.give(Event::Proposed { ticket, result: Ok(vec![RemoteOutcome::Applied]) });
        assert_eq!(b.closed(10), closed, "it has {has_by_now} of 5");
    }
}

#[test]
fn a_follower_answers_with_its_leader_and_a_dialer_follows() {
    let mut follower = Bench::leader("a", 1, 0);
    follower.give(Event::View(Arc::new(View { leading: None, leader_node: Some(3), ..view("a", 1, 0) })));
    say_hello(&mut follower, 9, hello("b", 1));
    let answer = match &follower.sent(9)[..] {
        [Message::Hello(answer)] => (**answer).clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((answer.leading, answer.leader_node), (None, Some(3)));
    assert!(follower.closed(9));

    let mut b = Bench::leader("b", 1, 0);
    b.wait(500);
    let dial = |b: &mut Bench| {
        b.out.iter().find_map(|o| match o {
            Output::Dial { dc, node, attempt } if dc == "a" => Some((*node, *attempt)),
            _ => None,
        })
    };
    let (_, attempt) = dial(&mut b).expect("b dials a");
    b.out.clear();
    b.give(Event::Dialed { dc: "a".into(), attempt, conn: 1 });
    b.say(1, Message::Hello(Box::new(answer)));
    b.wait(200);
    assert_eq!(dial(&mut b).map(|(node, _)| node), Some(3));
}

#[test]
fn both_sides_keep_the_same_one_of_two_simultaneous_connections() {
    for (term_a, term_b, a_dials_wins) in [(1, 1, true), (2, 1, true), (1, 2, false)] {
        for a_hears_first in [true, false] {
            let (mut a, mut b) = (Bench::leader("a", term_a, 0), Bench::leader("b", term_b, 0));
            a.wait(400);
            b.wait(400);
            let attempt = |bench: &Bench, to: &str| {
                bench.out.iter().find_map(|o| match o {
                    Output::Dial { dc, attempt, .. } if dc == to => Some(*attempt),
                    _ => None,
                })
            };
            let (of_a, of_b) = (attempt(&a, "b").expect("a dials"), attempt(&b, "a").expect("b dials"));
            // Connection 1 was dialed by a, 2 by b.
            a.give(Event::Dialed { dc: "b".into(), attempt: of_a, conn: 1 });
            b.give(Event::Dialed { dc: "a".into(), attempt: of_b, conn: 2 });
            a.give(Event::Accepted { conn: 2 });
            b.give(Event::Accepted { conn: 1 });
            for turn in 0..6 {
                let from_a = (turn % 2 == 0) == a_hears_first;
                let (from, to) = if from_a { (&mut a, &mut b) } else { (&mut b, &mut a) };
                for conn in [1, 2] {
                    for message in from.sent(conn) {
                        to.say(conn, message);
                    }
                }
            }
            let (kept, closed) = if a_dials_wins { (1, 2) } else { (2, 1) };
            assert!(a.closed(closed) || b.closed(closed), "terms {term_a} {term_b}");
            assert!(!a.closed(kept) && !b.closed(kept), "terms {term_a} {term_b}");
            for side in [&mut a, &mut b] {
                side.give(Event::Closed { conn: closed, why: "the other side".into() });
                let status = side.machine.status(Now { ms: side.now_ms, unix_ms: 0 });
                assert_eq!(status.links.iter().filter(|l| l.connected).count(), 1);
            }
        }
    }
}

fn txn(dc: &str, seq: u64, deps: &[Dot]) -> Bytes {
    let dot = Dot::new(name(dc, 1).origin(), seq);
    let head = TxnHead { dot, hlc: 0, prev: 0, deps: deps.iter().copied().collect() };
    Txn { head, effects: vec![] }.encode()
}

fn proposal(bench: &Bench) -> Option<(u64, Vec<Bytes>)> {
    bench.out.iter().find_map(|o| match o {
        Output::Propose { ticket, remote: Remote::Txns(txns) } => Some((*ticket, txns.clone())),
        _ => None,
    })
}

#[test]
fn a_txn_that_apply_refuses_stops_its_link_for_long() {
    let mut a = Bench::leader("a", 1, 0);
    say_hello(&mut a, 9, hello("b", 1));
    a.say(9, Message::Txns(vec![txn("b", 1, &[])]));
    let (ticket, _) = proposal(&a).expect("it is next and has no deps");
    let refused = RemoteOutcome::Refused { why: "the chain is broken".into() };
    a.give(Event::Proposed { ticket, result: Ok(vec![refused]) });
    assert!(a.closed(9));
    assert!(a.refusal("b").is_some_and(|r| r.contains("the chain is broken")));
    a.out.clear();
    a.wait(5000);
    assert!(a.out.iter().all(|o| !matches!(o, Output::Dial { dc, .. } if dc == "b")));
    // Nor is it listened to when it dials, unless it has begun another life.
    say_hello(&mut a, 10, hello("b", 1));
    assert!(a.closed(10));
    assert!(
        a.refusal("b").is_some_and(|r| r.contains("the chain is broken")),
        "it still stands in the status"
    );
    a.wait(6000);
    assert!(a.out.iter().any(|o| matches!(o, Output::Dial { dc, .. } if dc == "b")));
}

/// Story: a datacenter writes on in an old history, more than one txn of which is proposed at once. What follows the refused one
/// is no more than early, and must not hide it.
#[test]
fn a_refused_txn_stops_its_link_whatever_follows_it() {
    let refused = || RemoteOutcome::Refused { why: "the chain is broken".into() };
    for (outcomes, stops, done) in [
        (vec![refused(), RemoteOutcome::Early], true, 0),
        (vec![RemoteOutcome::Applied, refused()], true, 1),
        (vec![RemoteOutcome::Applied, RemoteOutcome::Early], false, 1),
        (vec![RemoteOutcome::Early, RemoteOutcome::Early], false, 0),
    ] {
        let mut a = Bench::leader("a", 1, 0);
        say_hello(&mut a, 9, hello("b", 1));
        a.say(9, Message::Txns(vec![txn("b", 1, &[]), txn("b", 2, &[])]));
        a.sent(9);
        let (ticket, _) = proposal(&a).expect("both may pass");
        a.out.clear();
        a.give(Event::Proposed { ticket, result: Ok(outcomes.clone()) });
        assert_eq!(a.closed(9), stops, "{outcomes:?}");
        if !stops {
            let b = name("b", 1).origin();
            let wants = |m: &Message| {
                matches!(m, Message::Want { have, upto }
                if have.get(b) == done && upto.get(b) == 2)
            };
            assert!(a.sent(9).iter().any(wants), "{outcomes:?}: what is missing is asked for again");
        }
    }
}

#[test]
fn a_failed_proposal_is_asked_for_again_and_only_what_is_applied_is_acknowledged() {
    let mut a = Bench::leader("a", 1, 0);
    say_hello(&mut a, 9, hello("b", 1));
    a.say(9, Message::Txns(vec![txn("b", 1, &[]), txn("b", 2, &[])]));
    a.sent(9);
    let (ticket, txns) = proposal(&a).expect("both may pass");
    assert_eq!(txns.len(), 2);
    a.out.clear();
    a.give(Event::Proposed { ticket, result: Err("no majority".into()) });
    let b = name("b", 1).origin();
    assert!(a.sent(9).iter().any(|m| matches!(m, Message::Want { have, upto }
        if have.get(b) == 0 && upto.get(b) == 2)));
    a.wait(600);
    assert!(a.sent(9).iter().all(|m| !matches!(m, Message::Ack(vector) if vector.get(b) > 0)));
    let mut applied = view("a", 1, 0);
    applied.vector.set(b, 2);
    a.give(Event::View(Arc::new(applied)));
    a.wait(20);
    assert!(a.sent(9).iter().any(|m| matches!(m, Message::Ack(vector) if vector.get(b) == 2)));
}

#[test]
fn a_silent_link_is_closed_and_dialed_again() {
    let mut a = Bench::leader("a", 1, 0);
    say_hello(&mut a, 9, hello("b", 1));
    a.wait(2900);
    assert!(!a.closed(9));
    a.wait(200);
    assert!(a.closed(9));
    a.out.clear();
    a.wait(600);
    assert!(a.out.iter().any(|o| matches!(o, Output::Dial { dc, .. } if dc == "b")));
}

#[test]
fn sending_starts_from_the_peers_vector_and_stays_within_its_credit() {
    let mut a = Bench::leader("a", 1, 10);
    let own = name("a", 1).origin();
    let mut behind = hello("b", 1);
    behind.vector.set(own, 4);
    behind.credit_bytes = 60;
    say_hello(&mut a, 9, behind);
    let read = a.out.iter().find_map(|o| match o {
        Output::ReadOplog { ticket, lacking, want, bytes_max, .. } => {
            Some((*ticket, lacking.get(own), want.get(own), *bytes_max))
        }
        _ => None,
    });
    let (ticket, lacking, want, bytes_max) = read.expect("it reads");
    assert_eq!((lacking, want, bytes_max), (4, 10, 60));
    a.out.clear();
    let size = txn("a", 5, &[]).len() as u64;
    let entries = (5..=6).map(|seq| (seq, txn("a", seq, &[]))).collect();
    let chunk = meridian_gossip::OplogChunk { entries, next: 7 };
    a.give(Event::OplogRead { conn: 9, ticket, result: Ok(chunk) });
    assert!(matches!(&a.sent(9)[..], [Message::Txns(txns)] if txns.len() == 2));
    let room = a.out.iter().find_map(|o| match o {
        Output::ReadOplog { bytes_max, lacking, .. } => Some((lacking.get(own), *bytes_max)),
        _ => None,
    });
    assert_eq!(room, Some((6, 60 - 2 * size)).filter(|(_, room)| *room > 0));
}

#[test]
fn a_txn_from_the_future_flags_its_link_and_is_proposed_all_the_same() {
    let mut a = Bench::leader("a", 1, 0);
    say_hello(&mut a, 9, hello("b", 1));
    let dot = Dot::new(name("b", 1).origin(), 1);
    // An hour ahead of the clock that the bench gives.
    let hlc = (1_760_000_000_000 + 3_600_000 - 1_704_067_200_000) << 22;
    let head = TxnHead { dot, hlc, prev: 0, deps: Vector::new() };
    a.say(9, Message::Txns(vec![Txn { head, effects: vec![] }.encode()]));
    assert!(proposal(&a).is_some());
    let status = a.machine.status(Now { ms: a.now_ms, unix_ms: 0 });
    assert_eq!(status.links.iter().map(|l| l.clock_ahead_ms).max(), Some(3_600_000));
}

#[test]
fn a_peer_behind_the_oplog_is_shown_and_gets_nothing_with_a_gap() {
    let mut a = Bench::leader("a", 1, 10);
    let own = name("a", 1).origin();
    let mut truncated = view("a", 1, 10);
    truncated.floor.set(own, 6);
    a.give(Event::View(Arc::new(truncated)));
    let mut behind = hello("b", 1);
    behind.vector.set(own, 4);
    say_hello(&mut a, 9, behind);
    assert!(a.out.iter().all(|o| !matches!(o, Output::ReadOplog { .. })));
    let status = a.machine.status(Now { ms: a.now_ms, unix_ms: 0 });
    assert!(status.links.iter().any(|l| l.dc == "b" && l.behind_oplog));
}

#[test]
fn garbage_in_place_of_a_txn_stops_the_link() {
    let mut a = Bench::leader("a", 1, 0);
    say_hello(&mut a, 9, hello("b", 1));
    a.say(9, Message::Txns(vec![Bytes::from_static(b"garbage")]));
    assert!(a.closed(9));
    assert!(a.refusal("b").is_some_and(|r| r.contains("cannot be decoded")));
}

#[test]
fn a_stranger_is_registered_before_its_txns_are_proposed() {
    let mut a = Bench::leader("a", 1, 0);
    let mut from_c = hello("c", 1);
    from_c.origins.push(name("b", 1));
    say_hello(&mut a, 9, from_c);
    a.say(9, Message::Txns(vec![txn("c", 1, &[])]));
    a.wait(50);
    assert!(proposal(&a).is_none());
    let wanted = Remote::Register(name("c", 1));
    assert!(a.out.iter().any(|o| matches!(o, Output::Propose { remote, .. } if *remote == wanted)));
    let mut known = view("a", 1, 0);
    known.origins.push(name("c", 1));
    a.give(Event::View(Arc::new(known)));
    assert!(proposal(&a).is_some());
}

#[test]
fn a_large_txn_travels_in_parts() {
    let mut a = Bench::leader("a", 1, 1);
    say_hello(&mut a, 9, hello("b", 1));
    let read = a.out.iter().find_map(|o| match o {
        Output::ReadOplog { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let own = Dot::new(name("a", 1).origin(), 1);
    let add = meridian_crdt::Add { path: Bytes::from_static(b"p"), payload: vec![1; 600 << 10].into() };
    let effect =
        meridian_crdt::KeyEffect { space: "s".into(), key: "k".into(), removes: vec![], adds: vec![add] };
    let head = TxnHead { dot: own, hlc: 0, prev: 0, deps: Vector::new() };
    let whole = Txn { head, effects: vec![effect] }.encode();
    let chunk = meridian_gossip::OplogChunk { entries: vec![(1, whole.clone())], next: 2 };
    a.sent(9);
    a.give(Event::OplogRead { conn: 9, ticket: read.expect("it reads"), result: Ok(chunk) });
    let parts = a.sent(9);
    assert_eq!(parts.len(), 3);

    let mut b = Bench::leader("b", 1, 0);
    say_hello(&mut b, 7, hello("a", 1));
    for part in parts {
        assert!(part.encode().is_ok(), "each fits a message");
        b.say(7, part);
    }
    assert_eq!(proposal(&b).map(|(_, txns)| txns), Some(vec![whole]));
}
