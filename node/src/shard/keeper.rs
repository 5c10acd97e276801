//! What a shard does without being asked: begins its life, tells who leads, tidies up, watches lag and disk.
//!
//! Everything that changes state goes through the log, proposed by the leader; these loops only decide when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meridian_crdt::hlc::Clock;
use meridian_crdt::{Dot, OriginName};
use meridian_gossip::GossipStatus;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::clock::ClockGuard;
use super::forward::{Lag, Request, Response};
use super::{LagSeen, Shard, compactor, digests, scrubber, transactions};
use crate::storage::StorageError;
use crate::txn::peers::Founding;
use crate::txn::{Item, Outcome, ShardState, compaction, oplog};

/// How often housekeeping looks whether there is anything to do.
const TIDY_ALL_EVERY: Duration = Duration::from_millis(500);
/// How often it looks whether the oplog has grown by a part of an entry's rows, which is worth one at once.
const TIDY_EVERY: Duration = Duration::from_millis(100);
/// The same after an entry that was worth it: many small ones hold writes up less than a few large ones.
const TIDY_SOON: Duration = Duration::from_millis(20);
/// Which part of the rows of an entry that is.
const TIDY_PART: u64 = 10;
/// How often a follower asks its leader how far the other datacenters are.
const LAG_EVERY: Duration = Duration::from_millis(500);
/// How long that may take.
const LAG_DEADLINE: Duration = Duration::from_millis(1000);
/// How long a step that needs a majority waits before it tries again.
const RETRY: Duration = Duration::from_millis(200);

/// What the loops need besides the shard.
pub struct Keeper {
    /// The shard they keep.
    pub shard: Arc<Shard>,
    /// The datacenter's clock.
    pub clock: Arc<Mutex<Clock>>,
    /// The other datacenters of the configuration.
    pub members: Vec<String>,
    /// Reports that this datacenter has lost its tail.
    pub lost_tail: mpsc::Receiver<Dot>,
    /// How many rows one housekeeping entry looks at.
    pub tidy_rows_max: u32,
    /// From how many rows on a document is compacted.
    pub compact_rows_min: u64,
    /// Compares this node's clock with the others'.
    pub clock_guard: ClockGuard,
    /// How long the scrubber takes to read everything once.
    pub scrub_interval: Duration,
    /// How often the room on the disk is looked at.
    pub disk_check: Duration,
}

impl Keeper {
    /// Runs until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let Keeper {
            shard,
            clock,
            members,
            lost_tail,
            tidy_rows_max,
            compact_rows_min,
            clock_guard,
            scrub_interval,
            disk_check,
        } = self;
        let work = async {
            tokio::join!(
                lead(&shard, &clock, &members),
                recover(&shard),
                tidy(&shard, tidy_rows_max),
                watch_lag(&shard),
                watch_disk(&shard, disk_check),
                reincarnate(&shard, lost_tail),
                clock_guard.run(&shard),
                digests::run(&shard),
                scrubber::run(&shard, scrub_interval),
                compactor::run(&shard, compact_rows_min),
                transactions::expire(&shard),
            )
        };
        tokio::select! {
            _ = work => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Publishes each change of leadership; a new leader first sets its clock above every stamp of its datacenter and
/// sees to it that the shard has a life and knows its members.
async fn lead(shard: &Shard, clock: &Mutex<Clock>, members: &[String]) {
    let mut leadership = shard.raft.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if now.leading {
            let state = shard.publisher.applied().borrow().state.clone();
            let highest = state.own.and_then(|own| state.chains.get(&own)).map_or(0, |chain| chain.hlc);
            let mut clock = clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let last = clock.last();
            *clock = Clock::restore(last.max(highest));
        }
        shard.publisher.set_leadership(&now);
        if now.leading {
            let changed = async { leadership.changed().await };
            tokio::select! {
                () = found(shard, members) => {}
                ended = changed => if ended.is_err() { return } else { continue },
            }
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Proposes the list of members and the first life, as long as either is missing.
async fn found(shard: &Shard, members: &[String]) {
    if let Some(dc) = shard.publisher.applied().borrow().state.latecomer(members) {
        tracing::error!(
            dc,
            "this datacenter was not told of {dc} before it had anything, and does not take it in: {dc} would lack what is stable \
             here, and its writes would be refused; begin the cluster anew with all datacenters in every configuration"
        );
    }
    loop {
        let item = match shard.publisher.applied().borrow().state.lacks(members) {
            Some(Founding::Members) => Item::Members(members.to_vec()),
            Some(Founding::Life) => Item::Mint { name: new_life(shard), lost: None, ends: None },
            None => return,
        };
        if let Err(error) = shard.proposer.submit(item, 256, None).await {
            tracing::info!(%error, "the shard's first entries could not be proposed yet");
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn new_life(shard: &Shard) -> OriginName {
    OriginName { dc: shard.dc.clone(), epoch: shard.seams.random.uuid() }
}

/// Turns the node ready once it has applied everything that was committed when it asked.
async fn recover(shard: &Shard) {
    loop {
        if let Ok(index) = shard.read_index().await {
            let mut applied = shard.publisher.applied();
            let recovered =
                applied.wait_for(|now| now.index >= index && now.state.own.is_some()).await.is_ok();
            if recovered {
                tracing::info!(index, "ready: everything committed is applied here");
                shard.ready.send_replace(true);
            }
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Proposes housekeeping when there is something to cut or to sweep. What writes add to the oplog is cut as fast as they
/// come: an entry that has cut as much as it may is followed by the next one at once.
async fn tidy(shard: &Shard, rows_max: u32) {
    let most = u64::from(rows_max);
    let worth = most.div_ceil(TIDY_PART);
    let (mut swept_at, mut looked_at) = (None, Instant::now());
    loop {
        let state = shard.publisher.applied().borrow().state.clone();
        let is_due =
            looked_at.elapsed() >= TIDY_ALL_EVERY || state.sweep_left || oplog::excess(&state) >= worth;
        let mut pause = TIDY_EVERY;
        if is_due && shard.publisher.view().borrow().leading.is_some() {
            looked_at = Instant::now();
            if tidy_once(shard, &state, rows_max, &mut swept_at).await {
                let now = shard.publisher.applied().borrow().state.clone();
                match now.oplog_first.saturating_sub(state.oplog_first) {
                    cut if cut >= most => continue,
                    cut if cut >= worth || now.sweep_left => pause = TIDY_SOON,
                    _ => {}
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Proposes one entry if it would change something. Says whether one was applied.
async fn tidy_once(
    shard: &Shard,
    state: &ShardState,
    rows_max: u32,
    swept_at: &mut Option<(meridian_crdt::Vector, u64)>,
) -> bool {
    match something_to_tidy(shard, state, swept_at) {
        Ok(false) => false,
        Ok(true) => {
            let tidied = shard.proposer.submit(Item::Tidy { rows_max }, 16, None).await;
            tidied.inspect_err(|error| tracing::debug!(%error, "housekeeping waits")).is_ok()
        }
        Err(error) => {
            tracing::error!(%error, "housekeeping cannot read the state");
            false
        }
    }
}

/// Whether an entry would change something: the oplog can be cut, or the sweep queue has rows and something has
/// moved since it was last looked at.
fn something_to_tidy(
    shard: &Shard,
    state: &ShardState,
    swept_at: &mut Option<(meridian_crdt::Vector, u64)>,
) -> Result<bool, StorageError> {
    let view = shard.store.view();
    let abandoned = compaction::is_abandoned(state, shard.seams.clock.unix_ms());
    if state.sweep_left || abandoned || oplog::can_truncate(state, &view)? {
        return Ok(true);
    }
    let now = (state.stable.clone(), state.oplog_end);
    if swept_at.as_ref() == Some(&now) {
        return Ok(false);
    }
    let pending = meridian_crdt::sweep_pending(&view).map_err(super::machine::storage_error)?;
    *swept_at = Some(now);
    Ok(pending)
}

/// Keeps the lag behind the other datacenters: a leader takes it from its links, a follower asks its leader.
async fn watch_lag(shard: &Shard) {
    loop {
        let leadership = shard.raft.leadership_now();
        let by_dc = if leadership.leading {
            Some(own_lag(&shard.gossip.status().borrow()))
        } else {
            match leadership.leader {
                Some(leader) if leader != shard.node => {
                    match shard.ask(leader, &Request::Lag, LAG_DEADLINE).await {
                        Ok(Response::Lag(by_dc)) => Some(by_dc),
                        _ => None,
                    }
                }
                _ => None,
            }
        };
        if let Some(by_dc) = by_dc {
            shard.lag.send_replace(LagSeen { by_dc, at_ms: shard.seams.clock.monotonic_ms() });
        }
        tokio::time::sleep(LAG_EVERY).await;
    }
}

fn own_lag(status: &GossipStatus) -> BTreeMap<String, Lag> {
    status.links.iter().map(|link| (link.dc.clone(), Lag { txns: link.lag_txns, ms: link.lag_ms })).collect()
}

/// Refuses writes while the disk is down to its headroom, and takes them again when there is room.
async fn watch_disk(shard: &Shard, every: Duration) {
    loop {
        match shard.folder.check_headroom() {
            Ok(()) => {
                if !shard.room.send_replace(true) {
                    tracing::info!("the disk has room again; writes are taken");
                }
            }
            Err(error) => {
                if shard.room.send_replace(false) {
                    tracing::error!(%error, "writes are refused with storage_full");
                }
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// Begins a new life when another datacenter knows of txns that this one had and has lost: own ones would otherwise be
/// numbered like theirs, and others would go on to take our word for what we have. What is lost then comes in like a
/// stranger's, and clients may write when it has (see `txn::recovery`).
///
/// SUBTLE: a deposed leader that does not know it yet sees exactly the same, because its successor has written on. So
/// leadership is confirmed with a majority first, and apply checks once more that the txns are missing.
async fn reincarnate(shard: &Shard, mut lost_tail: mpsc::Receiver<Dot>) {
    while let Some(lost) = lost_tail.recv().await {
        // Nobody may tell of it once more: until a life has begun no link is open.
        while shard.publisher.view().borrow().leading.is_some() {
            match begin_again(shard, lost).await {
                Ok(None) => break,
                Ok(Some(outcome)) => {
                    tracing::warn!(?outcome, "the new life was proposed");
                    // What others have told of meanwhile was lost by the life that has ended.
                    while lost_tail.try_recv().is_ok() {}
                    break;
                }
                Err(why) => {
                    tracing::warn!(%lost, %why, "a new life could not be begun yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Begins a new life if `lost` is still missing once everything that a majority has is applied here; says what became of it.
async fn begin_again(shard: &Shard, lost: Dot) -> Result<Option<Outcome>, String> {
    let Some(own) = shard.publisher.applied().borrow().state.own else { return Ok(None) };
    let index = shard.raft.read_index(LAG_DEADLINE).await.map_err(|e| e.to_string())?;
    let mut applied = shard.publisher.applied();
    match tokio::time::timeout(LAG_DEADLINE, applied.wait_for(|now| now.index >= index)).await {
        Ok(Ok(now)) if now.state.vector.covers(lost) => return Ok(None),
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Ok(None),
        Err(_) => return Err("what a majority has is not applied yet".into()),
    }
    let name = new_life(shard);
    tracing::error!(%lost, epoch = %name.epoch, "this datacenter has lost its newest txns; it begins a new life");
    let mint = Item::Mint { name, lost: Some(lost), ends: Some(own) };
    shard.proposer.submit(mint, 256, None).await.map(Some).map_err(|e| e.to_string())
}
