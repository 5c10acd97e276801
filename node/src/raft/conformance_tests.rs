//! openraft's own conformance suite over the log store and the state machine.

use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::testing::log::{StoreBuilder, Suite};

use super::RaftConfig;
use super::apply::StateMachine;
use super::log_adapter::LogAdapter;
use super::test_machine::TestMachine;
use super::types::TypeConfig;
use crate::seams::{Seams, SimDisk, Urgency};
use crate::storage::{Folder, FolderConfig, Identity, Opened};

struct Builder;

type BuildError = openraft::StorageError<TypeConfig>;

impl StoreBuilder<TypeConfig, LogAdapter, StateMachine> for Builder {
    async fn build(&self) -> Result<((), LogAdapter, StateMachine), BuildError> {
        let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: 0 };
        let seams = Seams { disk: Arc::new(SimDisk::new()), ..Seams::production() };
        let config = FolderConfig { log_segment_bytes: 4 << 10, ..FolderConfig::new("/data", identity) };
        let Opened { folder, state, log, fatal, .. } = Folder::open(config, &seams).unwrap();
        let worker = seams.executor.worker("state", Urgency::Foreground);
        let (machine, config) = (Box::<TestMachine>::default(), RaftConfig::default());
        let mut machine =
            StateMachine::new(machine, state, folder, worker, seams.clock.clone(), fatal, &config);
        assert!(machine.applied_state().await.unwrap().0.is_none());
        Ok(((), LogAdapter(log), machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stores_pass_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
