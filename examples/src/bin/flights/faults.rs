//! What goes wrong while the flights are written: a leader dies, a DC is cut off, and both are mended later.
//!
//! The moments are shares of the work and not times, so that the faults always fall into the middle of it.

use std::time::Duration;

use meridian::dev::{Cluster, DevError};
use serde_json::{Value, json};

use crate::progress::Progress;

/// The DC whose leader is killed: the first.
const BEREFT: usize = 0;
/// The DC that is cut off from all others: the last of three.
const CUT_OFF: usize = 2;
/// How often the nodes are asked who leads before the search is given up, and the pause in between.
const LOOKS_MAX: usize = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What was done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The leader that was killed.
    pub killed: String,
    /// The DC that was cut off.
    pub cut_off: String,
    /// For how long.
    pub cut_for: Duration,
    /// Flights that it took meanwhile.
    pub written_cut_off: u64,
}

/// Kills at a third of the work, cuts at a half, restarts at two thirds, heals at three quarters.
pub async fn inject(cluster: &Cluster, progress: &Progress) -> Result<Faults, DevError> {
    progress.reach(1, 3).await;
    let killed = leader(cluster, &progress.dcs[BEREFT].name).await?;
    cluster.kill(&killed).await?;
    progress.event(&format!("kill -9 {killed}, the leader of its DC"));

    progress.reach(1, 2).await;
    let cut_off = &progress.dcs[CUT_OFF];
    let others = || progress.dcs.iter().map(|dc| dc.name.as_str()).filter(|name| *name != cut_off.name);
    for other in others() {
        cluster.cut(&cut_off.name, other)?;
    }
    let (cut_at, written_before) = (progress.elapsed(), cut_off.counts().acknowledged);
    progress.event(&format!("{} is cut off from all other DCs", cut_off.name));

    progress.reach(2, 3).await;
    cluster.restart(&killed).await?;
    progress.event(&format!("{killed} runs again"));

    progress.reach(3, 4).await;
    for other in others() {
        cluster.heal(Some((&cut_off.name, other)))?;
    }
    let faults = Faults {
        killed,
        cut_off: cut_off.name.clone(),
        cut_for: progress.elapsed() - cut_at,
        written_cut_off: cut_off.counts().acknowledged - written_before,
    };
    progress.event(&format!(
        "{} is healed; it took {} flights on its own",
        faults.cut_off, faults.written_cut_off
    ));
    Ok(faults)
}

/// The node that leads `dc` by its own word, such as `eu-west/2`.
async fn leader(cluster: &Cluster, dc: &str) -> Result<String, DevError> {
    let leads = |status: &&Value| status["dc"] == json!(dc) && status["role"] == json!("leader");
    for _ in 0..LOOKS_MAX {
        let statuses = cluster.statuses().await;
        if let Some(node) = statuses.iter().flatten().find(leads).and_then(|status| status["node"].as_u64()) {
            return Ok(format!("{dc}/{node}"));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(DevError::Failed(format!("no node of {dc} says that it leads")))
}
