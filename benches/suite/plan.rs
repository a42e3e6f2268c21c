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

use crate::counts::{Count, Tool};
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

    fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
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
const AROUND: f64 = 0.06;

/// To connect and to be served a first message, seconds.
const CONNECT: f64 = 60e-6;

/// What a process has open beside its connections, and some in reserve.
const SPARE_DESCRIPTORS: u64 = 100;

/// What fits the kernel's default range of ports towards one server.
const CONNECTIONS_MAX: u64 = 19_000;

/// The part of the machine's memory that messages under way may take: from there on the kernel holds TCP back.
const TCP_SHARE: u64 = 16;

/// A buffer larger than the messages changes nothing but memory, so it is swept where messages are large.
const SMALL_ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-16k", "mio", "floor"];
const ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-8k", "tokio-16k", "tokio-64k", "mio", "floor"];
const LARGE_ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-64k", "mio", "floor"];
const ONE_OF_EACH: &[&str] = &["plimsoll", "tokio-16k", "mio", "floor"];
/// Where a round trip is all, a server may burn its processor for it.
const SPINNERS: &[&str] = &["plimsoll", "plimsoll-spin", "tokio-16k", "mio", "floor", "floor-spin"];
const FRAMERS: &[&str] = &["plimsoll", "tokio-16k", "tokio-buffered", "mio", "floor", "floor-gathered"];
const RELAYS: &[&str] = &["plimsoll", "tokio-8k", "tokio-16k", "tokio-64k", "mio", "floor"];
const FANS: &[&str] = &["plimsoll", "tokio", "mio", "floor"];
const FAIR: &[&str] = &["plimsoll", "tokio-16k", "tokio-64k", "mio", "floor"];
/// The smallest buffer that is common, and the largest.
const HOLDERS: &[&str] = &["plimsoll", "tokio-8k", "tokio-64k", "mio", "floor"];
const COUNTED: &[&str] = &["plimsoll", "tokio-64k", "mio", "floor"];

struct Planner {
    scale: Scale,
    room: Room,
    jobs: Vec<Job>,
    warnings: Vec<String>,
}

/// What is measured of a round, and how long it runs before.
#[derive(Clone, Copy)]
struct Window {
    warm_up: f64,
    seconds: f64,
}

impl Window {
    fn arguments(self) -> String {
        format!("--warm-up {:.3} --seconds {:.3}", self.warm_up, self.seconds)
    }

    /// Of the whole round.
    fn round(self, connections: u64) -> f64 {
        AROUND + connections as f64 * CONNECT + self.warm_up + self.seconds
    }
}

impl Planner {
    fn ping_pong(&mut self) {
        let sizes: &[u64] = self.scale.pick(&[64, 65_536], &[64, 65_536], &[64, 1024, 16_384, 65_536]);
        let counts: &[u64] = self.scale.pick(&[10], &[1, 100, 1000], &[1, 10, 100, 1000, 10_000]);
        for (size, connections) in sizes.iter().flat_map(|size| counts.iter().map(move |count| (*size, *count))) {
            if self.scale == Scale::Quick && size > 64 && connections != 100 {
                continue;
            }
            let Some(connections) = self.fit("ping-pong", connections, 1) else { continue };
            if 2 * size * connections > self.room.memory_bytes / TCP_SHARE {
                self.warnings
                    .push(format!("ping-pong of {size} B on {connections} connections needs more memory: left out"));
                continue;
            }
            // Each connection has its turn twice, at least.
            let turns = 2.0 * connections as f64 * (10e-6 + size as f64 * 1e-9);
            let window = self.window(0.35, turns);
            let sides = match (size, connections) {
                (..=8192, _) => SMALL_ECHOES,
                (_, ..=1000) => ECHOES,
                // A round takes seconds, and which buffer is the best is known by then.
                _ => LARGE_ECHOES,
            };
            self.jobs.push(Job {
                parameters: named(&[("size_bytes", size), ("connections", connections)]),
                sides: self.scale.pick(ECHOES, ONE_OF_EACH, sides).to_vec(),
                open: true,
                rounds: self.scale.pick(1, 3, 9),
                work: load(
                    Role::Echo,
                    &format!("echo --connections {connections} --size {size} {}", window.arguments()),
                ),
                round_seconds: window.round(connections),
                ..job("ping-pong", "")
            });
        }
    }

    /// One connection: nothing but the way there and back.
    fn round_trip(&mut self) {
        let window = self.window(0.3, 0.0);
        self.jobs.push(Job {
            parameters: named(&[("size_bytes", 64), ("connections", 1)]),
            sides: SPINNERS.to_vec(),
            rounds: self.scale.pick(1, 3, 9),
            work: load(Role::Echo, &format!("echo --connections 1 --size 64 {}", window.arguments())),
            round_seconds: window.round(1),
            ..job("round-trip", "")
        });
    }

    fn fixed_rate(&mut self) {
        let rates: &[u64] = self.scale.pick(&[2000], &[20_000], &[10_000, 30_000, 60_000]);
        for rate in rates {
            let window = self.window(0.8, 0.0);
            let what = format!("echo --connections 100 --size 64 --rate {rate} {}", window.arguments());
            self.jobs.push(Job {
                parameters: named(&[("size_bytes", 64), ("connections", 100), ("rate", *rate)]),
                sides: ONE_OF_EACH.to_vec(),
                open: true,
                rounds: self.scale.pick(1, 3, 9),
                work: load(Role::Echo, &what),
                round_seconds: window.round(100),
                ..job("fixed-rate", "")
            });
        }
    }

    fn frames(&mut self) {
        let depths: &[u64] = self.scale.pick(&[16], &[1, 16], &[1, 16, 128]);
        for depth in depths {
            let window = self.window(0.35, 0.0);
            let what = format!("frames --connections 50 --depth {depth} {}", window.arguments());
            self.jobs.push(Job {
                parameters: named(&[("size_bytes", 64), ("connections", 50), ("depth", *depth)]),
                sides: FRAMERS.to_vec(),
                rounds: self.scale.pick(1, 3, 9),
                work: load(Role::Frames, &what),
                round_seconds: window.round(50),
                ..job("frames", "")
            });
        }
    }

    fn relay(&mut self) {
        let rounds = self.scale.pick(1, 3, 9);
        let sides = self.scale.pick(RELAYS, ONE_OF_EACH, RELAYS);
        let mib = self.scale.pick(16, 512, 1024);
        self.jobs.push(Job {
            parameters: named(&[("mib", mib)]),
            sides: self.scale.pick(RELAYS, &["plimsoll", "tokio-8k", "tokio-64k", "mio", "floor"], RELAYS).to_vec(),
            rounds,
            work: load(Role::Relay, &format!("relay-bulk --mib {mib}")),
            round_seconds: AROUND + mib as f64 * 1.1e-3,
            ..job("relay", "bulk")
        });
        let window = self.window(0.35, 0.0);
        self.jobs.push(Job {
            parameters: named(&[("size_bytes", 64), ("connections", 100)]),
            sides: sides.to_vec(),
            rounds,
            work: load(Role::Relay, &format!("relay-pairs --connections 100 --size 64 {}", window.arguments())),
            round_seconds: window.round(200),
            ..job("relay", "pairs")
        });
        if let Some(pairs) = self.fit("relay/idle", self.scale.pick(50, 1000, 1000), 2) {
            let what = format!("relay-idle --pairs {pairs} --busy 10 --size 64 {}", window.arguments());
            self.jobs.push(Job {
                parameters: named(&[("size_bytes", 64), ("pairs", pairs), ("busy", 10)]),
                sides: sides.to_vec(),
                rounds,
                work: load(Role::Relay, &what),
                round_seconds: window.round(2 * pairs),
                ..job("relay", "idle")
            });
        }
        let (mib, stop_seconds) = self.scale.pick((64, 1), (256, 1), (1024, 3));
        self.jobs.push(Job {
            parameters: named(&[("mib", mib), ("stop_seconds", stop_seconds)]),
            sides: self.scale.pick(&["plimsoll"][..], ONE_OF_EACH, ONE_OF_EACH).to_vec(),
            rounds: self.scale.pick(1, 1, 3),
            work: Work::Slow { mib, stop_seconds },
            round_seconds: AROUND + stop_seconds as f64 + mib as f64 * 1.1e-3,
            ..job("relay", "slow")
        });
    }

    fn fan_out(&mut self) {
        let counts: &[u64] = self.scale.pick(&[50], &[1000], &[10, 100, 1000, 5000]);
        let bursts: &[u64] = self.scale.pick(&[16], &[1, 16], &[1, 16]);
        let variants: &[(&str, &str)] = self.scale.pick(
            &[("", ""), ("sleeper", "--sleeper")],
            &[("sleeper", "--sleeper")],
            &[("", ""), ("sleeper", "--sleeper")],
        );
        for count in counts {
            let Some(subscribers) = self.fit("fan-out", *count, 1) else { continue };
            for (burst, (variant, sleeper)) in bursts.iter().flat_map(|burst| variants.iter().map(move |v| (burst, v)))
            {
                // A burst to all of them takes so long, and there are to be ten.
                let window = self.window(0.3, 10.0 * subscribers as f64 * 8e-6);
                let what = format!("fan-out --subscribers {subscribers} --size 64 --burst {burst} {sleeper}");
                self.jobs.push(Job {
                    parameters: named(&[("size_bytes", 64), ("subscribers", subscribers), ("burst", *burst)]),
                    sides: FANS.to_vec(),
                    rounds: self.scale.pick(1, 3, 7),
                    work: load(Role::FanOut, &format!("{what} {}", window.arguments())),
                    round_seconds: window.round(subscribers),
                    ..job("fan-out", variant)
                });
            }
        }
    }

    fn fairness(&mut self) {
        let window = self.window(0.8, 0.0);
        self.jobs.push(Job {
            parameters: named(&[("bulk", 4), ("small", 50)]),
            sides: self.scale.pick(FAIR, ONE_OF_EACH, FAIR).to_vec(),
            open: true,
            rounds: self.scale.pick(1, 3, 9),
            work: load(Role::Echo, &format!("fairness --bulk 4 --small 50 {}", window.arguments())),
            round_seconds: window.round(54),
            ..job("fairness", "")
        });
    }

    fn storm_and_churn(&mut self) {
        let counts: &[u64] = self.scale.pick(&[100], &[1000], &[100, 1000, CONNECTIONS_MAX]);
        for count in counts {
            let Some(connections) = self.fit("storm", *count, 1) else { continue };
            self.jobs.push(Job {
                parameters: named(&[("connections", connections)]),
                sides: ONE_OF_EACH.to_vec(),
                open: true,
                rounds: self.scale.pick(1, 3, 7),
                work: load(Role::Echo, &format!("storm --connections {connections} --size 64")),
                round_seconds: AROUND + connections as f64 * 1.5 * CONNECT,
                ..job("storm", "")
            });
        }
        let window = self.window(0.35, 0.0);
        self.jobs.push(Job {
            parameters: named(&[("size_bytes", 64)]),
            sides: ONE_OF_EACH.to_vec(),
            open: true,
            rounds: self.scale.pick(1, 3, 9),
            work: load(Role::Echo, &format!("churn --size 64 {}", window.arguments())),
            round_seconds: window.round(0),
            ..job("churn", "")
        });
    }

    fn memory(&mut self) {
        let wanted = self.scale.pick(200, 2000, CONNECTIONS_MAX);
        for (variant, role, descriptors) in [("idle", Role::Echo, 1), ("pairs", Role::Relay, 2)] {
            let Some(connections) = self.fit(&format!("memory/{variant}"), wanted, descriptors) else { continue };
            self.jobs.push(Job {
                parameters: named(&[("connections", connections)]),
                sides: HOLDERS.to_vec(),
                open: role == Role::Echo,
                work: Work::Idle { role, connections },
                round_seconds: 4.0 * AROUND + (connections * descriptors) as f64 * 2.5 * CONNECT,
                ..job("memory", variant)
            });
        }
    }

    /// These depend on nobody else, so one round says it all.
    fn counts(&mut self) {
        let scale = self.scale;
        let both = scale.pick(COUNTED, COUNTED, &["plimsoll", "plimsoll-split", "tokio-64k", "mio", "floor"]);
        let mut count = |variant, sides: &[&'static str], parameters: &[(&str, u64)], round_seconds, count| {
            let work = Work::Count(count);
            let (sides, parameters) = (sides.to_vec(), named(parameters));
            self.jobs.push(Job { parameters, sides, work, round_seconds, ..job("counts", variant) });
        };
        let echo = Count { tool: Tool::Callgrind, role: Role::Echo, ..Count::default() };
        if scale != Scale::Smoke {
            let (long, seconds) = scale.pick((0, 0.0), (300, 3.5), (1100, 5.0));
            count(
                "message",
                both,
                &[("size_bytes", 64), ("connections", 100)],
                seconds,
                Count {
                    figure: "instructions_per_message",
                    load: "echo --connections 100 --size 64",
                    lengths: ("--rounds", 100, long),
                    items: 100,
                    ..echo
                },
            );
        }
        if scale == Scale::Full {
            count(
                "connection",
                COUNTED,
                &[("size_bytes", 64)],
                4.0,
                Count {
                    figure: "instructions_per_connection",
                    load: "churn --size 64",
                    lengths: ("--count", 200, 2200),
                    ..echo
                },
            );
            count(
                "round-trip",
                COUNTED,
                &[("size_bytes", 64), ("connections", 20)],
                6.0,
                Count {
                    role: Role::Relay,
                    figure: "instructions_per_round_trip",
                    load: "relay-pairs --connections 20 --size 64",
                    lengths: ("--rounds", 100, 2100),
                    items: 20,
                    ..echo
                },
            );
        }
        let calls = Count { tool: Tool::Strace, ..echo };
        let message = &[("size_bytes", 64), ("connections", 50), ("depth", 1)];
        let (long, seconds) = scale.pick((40, 1.0), (220, 1.5), (520, 3.0));
        count(
            "calls",
            COUNTED,
            message,
            seconds,
            Count {
                figure: "system_calls_per_message",
                load: "echo --connections 50 --size 64",
                lengths: ("--rounds", 20, long),
                items: 50,
                ..calls
            },
        );
        if scale == Scale::Smoke {
            return;
        }
        let message = &[("size_bytes", 1024), ("connections", 50), ("depth", 16)];
        count(
            "calls",
            COUNTED,
            message,
            2.0,
            Count {
                figure: "system_calls_per_message",
                load: "echo --connections 50 --size 1024 --depth 16",
                lengths: ("--rounds", 20, 220),
                items: 50 * 16,
                ..calls
            },
        );
        count(
            "connection",
            COUNTED,
            &[("size_bytes", 64)],
            2.0,
            Count {
                figure: "system_calls_per_connection",
                load: "churn --size 64",
                lengths: ("--count", 100, 1100),
                ..calls
            },
        );
        count(
            "fan-out",
            FANS,
            &[("subscribers", 100), ("burst", 16)],
            2.0,
            Count {
                tool: Tool::StraceOfWrites,
                role: Role::FanOut,
                figure: "writes_per_delivery",
                load: "fan-out --subscribers 100 --size 64 --burst 16",
                lengths: ("--messages", 160, 800),
                items: 100,
                ..calls
            },
        );
        if scale == Scale::Full {
            count(
                "relay-bulk",
                &["plimsoll", "tokio-8k", "tokio-64k", "mio", "floor"],
                &[("mib", 1024)],
                6.0,
                Count {
                    role: Role::Relay,
                    figure: "system_calls_per_mib",
                    load: "relay-bulk --warm-up-mib 0",
                    lengths: ("--mib", 128, 1152),
                    ..calls
                },
            );
        }
    }

    /// What needs no peers.
    fn alone(&mut self) {
        for (scenario, which) in [("timers", Alone::Timers), ("wake-ups", Alone::WakeUps)] {
            let round_seconds = self.scale.pick(1.0, 5.0, 40.0);
            self.jobs.push(Job { work: Work::Alone(which), round_seconds, ..job(scenario, "") });
        }
    }

    /// As many connections as there are descriptors for, if a server has so many for each. None where another cell of
    /// the scenario would come out the same.
    fn fit(&mut self, scenario: &str, wanted: u64, each: u64) -> Option<u64> {
        let room = self.room.descriptors.saturating_sub(SPARE_DESCRIPTORS) / each;
        if wanted <= room {
            return Some(wanted);
        }
        let warning = format!("{scenario}: {room} connections at most, with {} descriptors", self.room.descriptors);
        if room == 0 || self.warnings.contains(&warning) {
            return None;
        }
        self.warnings.push(warning);
        Some(room)
    }

    /// `full` seconds in a full run, but no less than `least` in one that measures.
    fn window(&self, full: f64, least: f64) -> Window {
        let seconds = self.scale.pick(0.05, full.min(0.25).max(least), full.max(least));
        Window { warm_up: self.scale.pick(0.02, least.max(0.4) / 4.0, least.max(0.4) / 4.0), seconds }
    }
}

fn job(scenario: &'static str, variant: &'static str) -> Job {
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

fn load(role: Role, words: &str) -> Work {
    Work::Load { role, load: words.split_whitespace().map(str::to_owned).collect() }
}

fn named(parameters: &[(&str, u64)]) -> BTreeMap<String, u64> {
    parameters.iter().map(|(name, value)| (name.to_string(), *value)).collect()
}
