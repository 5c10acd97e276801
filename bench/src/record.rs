//! One result: a line of JSON in the raw results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::driver::Kind;
use crate::load::Measured;
use crate::system::process::Usage;

/// The value of workloads at a rate that says how many operations per second all systems were given.
pub const ASKED: &str = "asked_per_s";

/// The value that says how much of all processors' time the host kept from this machine meanwhile.
pub const STOLEN: &str = "stolen_percent";

/// What one system did under one workload in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The round, from 1.
    pub round: u32,
    /// The system.
    pub system: String,
    /// The workload.
    pub workload: String,
    /// Operations that failed.
    pub errors: u64,
    /// What the last of them said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What was measured, by name; the name ends with the unit.
    pub values: BTreeMap<String, f64>,
}

impl Record {
    /// A result without values.
    pub fn new(round: u32, system: Kind, workload: &str) -> Self {
        Self {
            round,
            system: system.name().into(),
            workload: workload.into(),
            errors: 0,
            last_error: None,
            values: BTreeMap::new(),
        }
    }

    /// Adds a value.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.values.insert(name.into(), value);
        self
    }

    /// Adds throughput, latency and errors of a load.
    pub fn with_load(mut self, measured: &Measured) -> Self {
        self.errors += measured.errors;
        self.last_error = measured.last_error.clone().or(self.last_error);
        self.with("ops", measured.ops as f64)
            .with("ops_per_s", measured.rate())
            .with("p50_ms", measured.quantile_ms(0.5))
            .with("p99_ms", measured.quantile_ms(0.99))
            .with("p999_ms", measured.quantile_ms(0.999))
            .with("max_ms", measured.latency_us.max() as f64 / 1000.0)
    }

    /// Adds what the servers used for each of `ops` operations.
    pub fn with_usage(self, used: &Usage, ops: u64) -> Self {
        let each = |total: f64| if ops > 0 { total / ops as f64 } else { 0.0 };
        self.with("server_cpu_us_per_op", each(used.cpu_seconds * 1e6))
            .with("disk_bytes_per_op", each(used.written_bytes as f64))
    }
}
