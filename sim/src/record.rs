//! The recorder of a run: that of the workloads over real processes, on virtual time.

use std::sync::atomic::{AtomicU64, Ordering};

use meridian_history::Recorder;

/// A recorder on the run's virtual time. No two moments are the same: a session may be answered and ask again within
/// one, and readers of a history know the order of its operations by time alone. All hosts run in one thread, so that
/// the order of looks at this clock is one in which things did happen.
pub(crate) fn recorder() -> Recorder {
    let last_ns = AtomicU64::new(0);
    Recorder::on(move || {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        let now_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let now_ns = now_ns.max(last_ns.load(Ordering::Relaxed).saturating_add(1));
        last_ns.store(now_ns, Ordering::Relaxed);
        now_ns
    })
}
