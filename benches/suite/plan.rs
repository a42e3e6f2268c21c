//! The plan: which cells a run has, and how long they take.
//!
//! ```text
//!  scale ─┐
//!         ├──► Planner ──► jobs: scenario × size × connections, each with its sides, its rounds and its seconds
//!  room ──┘                warnings: what does not fit this machine, and what became of it
//! ```
//!
//! The rule: nobody waits longer than promised. Every job knows what a round of one side takes, so that the sum can
//! be held against the limit of its scale before anything runs: `--list` prints it and fails where it does not hold.
//!
//! Rounds are many and short, since what disturbs a machine comes and goes within seconds: it falls on all sides of a
//! round alike, and the ratio of two sides of one round is hardly touched. A long round would say more of
//! one side and less of the difference.

use crate::counts::Count;
use crate::rivals::Role;
use std::collections::BTreeMap;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scale {
    /// That everything works: seconds, and figures that mean nothing.
    Smoke,
    /// A first look.
    Quick,
    /// What a report is made from.
    Full,
}

impl Scale {
    pub fn name(self) -> &'static str {
        self.pick("smoke", "quick", "full")
    }

    /// What a run may take, in seconds.
    pub fn limit_seconds(self) -> f64 {
        self.pick(25.0, 180.0, 1800.0)
    }

    /// Fewer rounds than these a cell does not have, however slow the machine is.
    pub fn least_rounds(self) -> usize {
        self.pick(1, 1, 7)
    }

    pub fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Scale::Smoke => smoke,
            Scale::Quick => quick,
            Scale::Full => full,
        }
    }
}

/// What the machine has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub descriptors: u64,
    pub memory_bytes: u64,
}

/// A cell to be measured.
#[derive(Clone, Debug)]
pub struct Job {
    pub scenario: &'static str,
    pub variant: &'static str,
    pub parameters: BTreeMap<String, u64>,
    pub sides: Vec<&'static str>,
    /// Whether the reader's own servers take part: they are echoes.
    pub open: bool,
    pub rounds: usize,
    pub work: Work,
    /// What one round of one side takes, about.
    pub round_seconds: f64,
}

/// What a round is.
#[derive(Clone, Debug)]
pub enum Work {
    /// A server in this role, and these peers.
    Load { role: Role, load: Vec<String> },
    /// Memory of connections that are idle.
    Idle { role: Role, connections: u64 },
    /// Memory of a relay whose reader stops.
    Slow { mib: u64, stop_seconds: u64 },
    /// Instructions or system calls.
    Count(Count),
    /// All within one process, which makes cells of its own.
    Alone(Alone),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Alone {
    Timers,
    WakeUps,
}

impl Job {
    /// With so many servers of the reader's own.
    pub fn seconds(&self, servers: usize) -> f64 {
        let sides = self.sides.len() + if self.open { servers } else { 0 };
        self.round_seconds * (self.rounds * sides.max(1)) as f64
    }

    /// `ping-pong/variant, connections 10, size_bytes 64`
    pub fn title(&self) -> String {
        let mut title = self.scenario.to_owned();
        if !self.variant.is_empty() {
            title += &format!("/{}", self.variant);
        }
        self.parameters.iter().for_each(|(name, value)| title += &format!(", {name} {value}"));
        title
    }

    /// Whether `--only` means this one: by its scenario, or by scenario/variant.
    pub fn is(&self, wanted: &str) -> bool {
        wanted == self.scenario || wanted.split_once('/') == Some((self.scenario, self.variant))
    }
}

pub fn plan(scale: Scale, room: Room) -> (Vec<Job>, Vec<String>) {
    let mut planner = Planner { scale, room, jobs: Vec::new(), warnings: Vec::new() };
    planner.ping_pong();
    planner.round_trip();
    planner.fixed_rate();
    planner.frames();
    planner.relay();
    planner.fan_out();
    planner.fairness();
    planner.storm_and_churn();
    planner.memory();
    planner.counts();
    planner.alone();
    (planner.jobs, planner.warnings)
}

/// A start and an end of a server and of its peers, seconds.
pub const AROUND: f64 = 0.06;

/// To connect and to be served a first message, seconds.
pub const CONNECT: f64 = 60e-6;

/// What a process has open beside its connections, and some in reserve.
const SPARE_DESCRIPTORS: u64 = 100;

/// What fits the kernel's default range of ports towards one server.
pub const CONNECTIONS_MAX: u64 = 19_000;

/// The part of the machine's memory that messages under way may take: from there on the kernel holds TCP back.
pub const TCP_SHARE: u64 = 16;

/// Plans are made by it, scenario by scenario (`scenarios.rs`).
pub struct Planner {
    pub scale: Scale,
    pub room: Room,
    pub jobs: Vec<Job>,
    pub warnings: Vec<String>,
}

/// What is measured of a round, and how long it runs before.
#[derive(Clone, Copy)]
pub struct Window {
    pub warm_up: f64,
    pub seconds: f64,
}

impl Window {
    pub fn arguments(self) -> String {
        format!("--warm-up {:.3} --seconds {:.3}", self.warm_up, self.seconds)
    }

    /// Of the whole round.
    pub fn round(self, connections: u64) -> f64 {
        AROUND + connections as f64 * CONNECT + self.warm_up + self.seconds
    }
}

impl Planner {
    /// These numbers of connections, if a server has so many descriptors for each; those that are too large become
    /// one, which is as large as can be.
    pub fn fit(&mut self, scenario: &str, wanted: &[u64], descriptors: u64) -> Vec<u64> {
        let most = (self.room.descriptors.saturating_sub(SPARE_DESCRIPTORS) / descriptors).max(1);
        let mut fitting: Vec<u64> = wanted.iter().map(|count| most.min(*count)).collect();
        fitting.dedup();
        if fitting != wanted {
            let warning = format!("{scenario}: {most} connections at most, with {} descriptors", self.room.descriptors);
            self.warnings.push(warning);
        }
        fitting
    }

    /// `full` seconds in a full run, but no less than `least` in one that measures.
    pub fn window(&self, full: f64, least: f64) -> Window {
        let warm_up = least.max(0.3) / 4.0;
        self.scale.pick(
            Window { warm_up: 0.02, seconds: 0.05 },
            Window { warm_up, seconds: full.min(0.25).max(least) },
            Window { warm_up, seconds: full.max(least) },
        )
    }
}

pub fn job(scenario: &'static str, variant: &'static str) -> Job {
    Job {
        scenario,
        variant,
        parameters: BTreeMap::new(),
        sides: Vec::new(),
        open: false,
        rounds: 1,
        work: Work::Alone(Alone::Timers),
        round_seconds: 0.0,
    }
}

pub fn load(role: Role, words: &str) -> Work {
    Work::Load { role, load: words.split_whitespace().map(str::to_owned).collect() }
}

pub fn named(parameters: &[(&str, u64)]) -> BTreeMap<String, u64> {
    parameters.iter().map(|(name, value)| (name.to_string(), *value)).collect()
}
