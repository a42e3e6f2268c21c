//! Results: what a run of the suite found, as it is kept in `raw.json`.
//!
//! ```text
//!  Run ──► Cell (a scenario at one size, one number of connections) ──► SideResult (a server) ──► Sample (one round)
//! ```
//!
//! Samples are kept as they were taken. Medians and ratios are made from them when the report is, so that another
//! question can be asked of an old run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All that one run of the suite has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub machine: Machine,
    /// As it was typed.
    pub command: String,
    /// RFC 3339.
    pub started: String,
    pub seconds: f64,
    /// `smoke`, `quick` or `full`.
    pub scale: String,
    /// What could not be measured, or not as it should.
    pub warnings: Vec<String>,
    pub cells: Vec<Cell>,
}

/// A scenario at one size and one number of connections: all its sides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub scenario: String,
    /// What of the scenario, where it has parts (`bulk`, `pairs`); else empty.
    pub variant: String,
    /// `size_bytes`, `connections`, `depth` …
    pub parameters: BTreeMap<String, u64>,
    pub sides: Vec<SideResult>,
}

/// What one server did, round by round; the same index on two sides is a pair of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideResult {
    pub side: String,
    pub rounds: Vec<Sample>,
    /// Why a round is missing: a wrong byte, fewer connections served than asked for, a server that died. The figures
    /// of a side that has failed are not to be trusted, nor to be shown as a row like others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One round of one side.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// By name, which ends in the unit: `messages_per_second`, `latency_p99_ns` …
    pub figures: BTreeMap<String, f64>,
    /// Quantile (0 to 1) and nanoseconds.
    pub percentiles: Vec<(f64, u64)>,
    /// Connections that were really served.
    pub served: u64,
}

/// Where it ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: u32,
    pub memory_bytes: u64,
    pub kernel: String,
    pub rustc: String,
    /// Of plimsoll, tokio and mio.
    pub versions: BTreeMap<String, String>,
    pub congestion_control: String,
    /// Whether it ran in a network namespace of its own.
    pub namespace: bool,
    pub server_core: Option<u32>,
    pub load_core: Option<u32>,
    pub descriptor_limit: u64,
}
