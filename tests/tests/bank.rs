//! A bank on eight hot keys: interactive transactions move money all the time, and nobody ever sees a total that
//! is not what was there in the beginning, in any DC, also while a leader dies.
//!
//! `MERIDIAN_TEST_TXNS` says how many transfers each of the two parts makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meridian_client::net::TransactionOptions;
use meridian_client::{Client, Error, Space, Transaction};
use meridian_tests::fleet::Fleet;
use meridian_tests::{sdk, wait};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(60);
/// No part of the test may hang; on an idle machine the whole load of 10,000 takes a fraction of this.
const PART_LIMIT: Duration = Duration::from_secs(1800);
/// When all clients must have gone on after the death of a leader.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
const ACCOUNTS: usize = 8;
const OPENING_BALANCE: i64 = 100;
const CLIENTS: usize = 32;
const TXNS_DEFAULT: u64 = 400;
const TRANSFER_MAX: i64 = 60;
/// More clients than keys run into each other often; the bank gives up on no customer.
const ATTEMPTS_MAX: u32 = 1_000;
/// How long one transfer may take, conflicts and a failover included.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);

fn account(number: usize) -> String {
    format!("account/{number}")
}

/// What has become of the transfers so far.
#[derive(Default)]
struct Tally {
    /// Given out to clients.
    started: AtomicU64,
    moved: AtomicU64,
    /// Committed as well, but the account had too little.
    declined: AtomicU64,
    /// Runs of a closure, so that runs beyond the commits are conflicts and lost nodes.
    runs: AtomicU64,
    /// Transfers that met conflicts, or nodes that did not answer, for as long as one may take.
    given_up: AtomicU64,
    /// Transfers of which the SDK could not tell what became.
    unknown: AtomicU64,
    is_over: AtomicBool,
}

impl Tally {
    fn committed(&self) -> u64 {
        self.moved.load(Ordering::Relaxed) + self.declined.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A transfer is declined if the account has too little: no balance is ever negative.
    NoOverdraft,
    /// Transfers of different DCs merge, so that balances may become negative; their sum never changes.
    Merge,
}

async fn transfer(
    space: &Space,
    tally: &Tally,
    rule: Rule,
    from: usize,
    to: usize,
    amount: i64,
) -> Result<bool, Error> {
    let options = TransactionOptions::default().attempts_max(ATTEMPTS_MAX).timeout(TRANSFER_LIMIT);
    let body = |txn: Transaction| {
        tally.runs.fetch_add(1, Ordering::Relaxed);
        async move {
            let balance = *txn.counter(account(from)).value().await?;
            if rule == Rule::NoOverdraft && balance < amount {
                return Ok(false);
            }
            txn.counter(account(from)).add(-amount);
            txn.counter(account(to)).add(amount);
            Ok(true)
        }
    };
    space.transaction_with(options, body).await
}

/// One customer: transfers of random amounts between random accounts, until as many as wanted were started. Returns how
/// long each took.
async fn customer(client: Client, seed: u64, rule: Rule, txns: u64, tally: Arc<Tally>) -> Vec<Duration> {
    let space = client.session().space(space_of(rule));
    let mut random = StdRng::seed_from_u64(seed);
    let mut took = Vec::new();
    while tally.started.fetch_add(1, Ordering::Relaxed) < txns {
        let from = random.random_range(0..ACCOUNTS);
        let to = (from + random.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let start = Instant::now();
        match transfer(&space, &tally, rule, from, to, random.random_range(1..=TRANSFER_MAX)).await {
            Ok(true) => tally.moved.fetch_add(1, Ordering::Relaxed),
            Ok(false) => tally.declined.fetch_add(1, Ordering::Relaxed),
            // Either way the total stays; a client that must know looks it up.
            Err(Error::OutcomeUnknown { .. }) => tally.unknown.fetch_add(1, Ordering::Relaxed),
            // Nothing changed; on a machine with too much to do a customer may meet others again and again.
            Err(Error::Unavailable { .. } | Error::Conflict { .. }) => {
                tally.given_up.fetch_add(1, Ordering::Relaxed)
            }
            Err(error) => panic!("a transfer failed after {:?}: {error}", start.elapsed()),
        };
        took.push(start.elapsed());
    }
    took
}

fn space_of(rule: Rule) -> &'static str {
    match rule {
        Rule::NoOverdraft => "bank",
        Rule::Merge => "merging-bank",
    }
}

async fn balances(space: &Space) -> Result<Vec<i64>, Error> {
    let read = |txn: Transaction| async move {
        let mut balances = Vec::new();
        for number in 0..ACCOUNTS {
            balances.push(*txn.counter(account(number)).value().await?);
        }
        Ok(balances)
    };
    space.transaction(read).await
}

fn check(balances: &[i64], rule: Rule, whose: &str) {
    let total: i64 = balances.iter().sum();
    assert_eq!(total, OPENING_BALANCE * ACCOUNTS as i64, "{whose} sees {balances:?}");
    if rule == Rule::NoOverdraft {
        assert!(balances.iter().all(|balance| *balance >= 0), "{whose} sees a debt: {balances:?}");
    }
}

/// Reads all accounts again and again; returns how often, and how often they had changed.
async fn auditor(client: Client, dc: &'static str, rule: Rule, tally: Arc<Tally>) -> (usize, usize) {
    let space = client.session().space(space_of(rule));
    let (mut looks, mut fresh, mut last) = (0, 0, Vec::new());
    while !tally.is_over.load(Ordering::Relaxed) {
        match balances(&space).await {
            Ok(balances) => {
                check(&balances, rule, dc);
                looks += 1;
                fresh += usize::from(balances != last);
                last = balances;
            }
            // A DC that looks for a new leader may not be able to answer for a while.
            Err(Error::Unavailable { .. } | Error::NotCaughtUp { .. }) => {}
            Err(error) => panic!("{dc}: {error}"),
        }
    }
    (looks, fresh)
}

struct Clients {
    /// For each DC in the order of [`DCS`].
    customers: Vec<Vec<Client>>,
    auditors: Vec<Client>,
}

/// Runs all transfers with auditors in every DC; `customers` are the DCs whose clients make them. In the middle the
/// leader of the first DC dies if `kill` says so, and returns at three quarters.
async fn trade(fleet: &Fleet, clients: &Clients, rule: Rule, dcs: &[usize], txns: u64, kill: bool) {
    let home = clients.auditors[0].session().space(space_of(rule));
    let opening = (0..ACCOUNTS).fold(home.txn(), |txn, number| txn.add(account(number), OPENING_BALANCE));
    opening.commit().await.expect("opened");
    fleet.converged(PATIENCE).await;

    let tally = Arc::new(Tally::default());
    let mut auditors = JoinSet::new();
    for (dc, client) in DCS.into_iter().zip(&clients.auditors) {
        auditors.spawn(auditor(client.clone(), dc, rule, tally.clone()));
    }
    let start = Instant::now();
    let mut customers = JoinSet::new();
    for number in 0..CLIENTS {
        let of_dc = &clients.customers[dcs[number % dcs.len()]];
        let client = of_dc[number / dcs.len() % of_dc.len()].clone();
        customers.spawn(customer(client, number as u64, rule, txns, tally.clone()));
    }
    if kill {
        reached(&tally, txns / 2).await;
        let leader = fleet.leader(DCS[0]).await;
        fleet.cluster().kill(&leader).await.expect("killed");
        let killed = (Instant::now(), tally.committed());
        reached(&tally, killed.1 + CLIENTS as u64 + 1).await;
        assert!(killed.0.elapsed() < FAILOVER_LIMIT, "{:?}", killed.0.elapsed());
        println!(
            "{rule:?}: {leader} was killed after {} transfers; all went on within {:?}",
            killed.1,
            killed.0.elapsed()
        );
        reached(&tally, txns * 3 / 4).await;
        fleet.cluster().restart(&leader).await.expect("restarted");
    }
    let done = tokio::time::timeout(PART_LIMIT, customers.join_all()).await.expect("all transfers end");
    let took = start.elapsed();
    tally.is_over.store(true, Ordering::Relaxed);
    let looks = auditors.join_all().await;
    tell(&tally, rule, done.into_iter().flatten().collect(), took, &looks);
    at_rest(fleet, clients, rule).await;
}

async fn reached(tally: &Tally, transfers: u64) {
    wait::until("transfers go on", PART_LIMIT, async || {
        let now = tally.committed();
        if now >= transfers { Ok(()) } else { Err(format!("{now} of {transfers}")) }
    })
    .await;
}

fn tell(tally: &Tally, rule: Rule, each: Vec<Duration>, took: Duration, looks: &[(usize, usize)]) {
    let [moved, declined, runs, unknown, given_up] =
        [&tally.moved, &tally.declined, &tally.runs, &tally.unknown, &tally.given_up]
            .map(|n| n.load(Ordering::Relaxed));
    let commits = tally.committed();
    println!(
        "{rule:?}: {moved} transfers and {declined} declined, {unknown} unknown, {given_up} given up, by {CLIENTS} clients in {took:?}: {:.0} \
         commits/s, {:.2} runs again per commit, {:?} at the median, {:?} at p99",
        commits as f64 / took.as_secs_f64(),
        (runs - commits) as f64 / commits as f64,
        wait::median(each.clone()),
        wait::percentile(each, 0.99),
    );
    println!("{rule:?}: audits (of these at something new) in each DC, none with another total: {looks:?}");
    assert!(moved > 0 && looks.iter().all(|(_, fresh)| *fresh > 1), "auditors saw money move");
    assert!(given_up * 100 <= commits, "hardly any customer is kept from the end for {TRANSFER_LIMIT:?}");
    assert!(unknown <= CLIENTS as u64, "only the commits that a dead leader took along may be unknown");
}

/// When all is done, every DC has the same balances.
async fn at_rest(fleet: &Fleet, clients: &Clients, rule: Rule) {
    fleet.cluster().wait_ready(PATIENCE).await.expect("all are there again");
    fleet.converged(PATIENCE).await;
    let mut first = None;
    for (dc, client) in DCS.into_iter().zip(&clients.auditors) {
        let now = balances(&client.session().space(space_of(rule))).await.expect("read");
        check(&now, rule, dc);
        assert_eq!(*first.get_or_insert_with(|| now.clone()), now, "{dc}");
    }
    for node in fleet.node_names() {
        let client = fleet.node(&node);
        let [committed, conflicts] = [
            client.metric("meridian_txns_committed_total").await,
            client.metric("meridian_txns_conflicts_total").await,
        ];
        println!(
            "{rule:?}: {node} since its start: {} committed, {} conflicts",
            committed.unwrap_or_default(),
            conflicts.unwrap_or_default()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_total_never_changes_in_any_dc_at_any_moment_that_a_reader_sees() {
    let txns = std::env::var("MERIDIAN_TEST_TXNS").ok().and_then(|n| n.parse().ok()).unwrap_or(TXNS_DEFAULT);
    let fleet = Fleet::start(BINARY, 3, 3, LATENCY).await;
    let mut clients = Clients { customers: Vec::new(), auditors: Vec::new() };
    for (index, dc) in DCS.into_iter().enumerate() {
        clients.auditors.push(sdk::client_of(&fleet, dc).await);
        let mut customers = Vec::new();
        // The first DC alone makes all transfers of the first part.
        for _ in 0..if index == 0 { CLIENTS } else { CLIENTS.div_ceil(DCS.len()) } {
            customers.push(sdk::client_of(&fleet, dc).await);
        }
        clients.customers.push(customers);
    }
    trade(&fleet, &clients, Rule::NoOverdraft, &[0], txns, true).await;
    clients.customers[0].truncate(CLIENTS.div_ceil(DCS.len()));
    trade(&fleet, &clients, Rule::Merge, &[0, 1, 2], txns, false).await;
}
