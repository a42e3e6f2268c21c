//! Scenarios: the questions that are asked, at which sizes, and of whom.
//!
//! docs/measuring.md says what each is for. Here stands what is to be measured for it, as a table would have it: a full
//! run asks for all, a quick one for what matters most, a smoke run for one of each kind.

use crate::counts::{Count, Tool};
use crate::plan::{AROUND, Alone, CONNECT, CONNECTIONS_MAX, Job, Planner, Scale, TCP_SHARE, Work, job, load, named};
use crate::rivals::Role;

/// A buffer larger than the messages changes nothing but memory, so it is swept where messages are large.
const SMALL_ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-16k", "mio", "floor"];
const ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-8k", "tokio-16k", "tokio-64k", "mio", "floor"];
const LARGE_ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-64k", "mio", "floor"];
const ONE_OF_EACH: &[&str] = &["plimsoll", "tokio-16k", "mio", "floor"];
/// Of tokio the one whose buffer holds what comes at once.
const ONE_OF_EACH_LARGE: &[&str] = &["plimsoll", "tokio-64k", "mio", "floor"];
/// Where a round trip is all, a server may burn its processor for it.
const SPINNERS: &[&str] = &["plimsoll", "plimsoll-spin", "tokio-16k", "mio", "floor", "floor-spin"];
const FRAMERS: &[&str] = &["plimsoll", "tokio", "tokio-buffered", "mio", "floor", "floor-gathered"];
const RELAYS: &[&str] = &["plimsoll", "tokio-8k", "tokio-16k", "tokio-64k", "mio", "floor"];
const FANS: &[&str] = &["plimsoll", "tokio", "mio", "floor"];
/// A difference that the sleeper makes is seen between sides of one cell, whose rounds are neighbours.
const FANS_BESIDE_A_SLEEPER: &[&str] =
    &["plimsoll", "plimsoll+sleeper", "tokio", "tokio+sleeper", "mio", "mio+sleeper", "floor", "floor+sleeper"];
const FAIR: &[&str] = &["plimsoll", "tokio-16k", "tokio-64k", "mio", "floor"];
/// The smallest buffer that is common, and the largest.
const HOLDERS: &[&str] = &["plimsoll", "tokio-8k", "tokio-64k", "mio", "floor"];
const COUNTED_ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-64k", "mio", "floor"];
const COUNTED: &[&str] = &["plimsoll", "tokio-64k", "mio", "floor"];

/// What it takes to send a sleeper more than anybody keeps for it, seconds.
const FILLING: f64 = 0.3;

impl Planner {
    pub fn ping_pong(&mut self) {
        let sizes: &[u64] = self.scale.pick(&[64, 65_536], &[64, 65_536], &[64, 1024, 16_384, 65_536]);
        let counts: &[u64] = self.scale.pick(&[10], &[1, 100, 1000], &[1, 10, 100, 1000, 10_000]);
        let counts = self.fit("ping-pong", counts, 1);
        // Between the small and the large the most connections say nothing new, and take a minute.
        let told = |size: u64, connections: u64| size == 16_384 && connections > 1000;
        for (size, connections) in sizes.iter().flat_map(|size| counts.iter().map(move |count| (*size, *count))) {
            if told(size, connections) || self.scale == Scale::Quick && size > 64 && connections != 100 {
                continue;
            }
            if 2 * size * connections > self.room.memory_bytes / TCP_SHARE {
                self.warnings
                    .push(format!("ping-pong of {size} B on {connections} connections needs more memory: left out"));
                continue;
            }
            // Each connection has its turn twice, at least.
            let turns = 2.0 * connections as f64 * (10e-6 + size as f64 * 1e-9);
            let window = self.window(0.3, turns);
            let sides = match (size, connections) {
                (..=8192, _) => SMALL_ECHOES,
                (_, ..=1000) => ECHOES,
                // A round takes seconds, and which buffer is the best is known by then.
                _ => LARGE_ECHOES,
            };
            self.jobs.push(Job {
                parameters: named(&[("size_bytes", size), ("connections", connections)]),
                sides: self
                    .scale
                    .pick(ECHOES, if size > 8192 { ONE_OF_EACH_LARGE } else { ONE_OF_EACH }, sides)
                    .to_vec(),
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

    /// One connection: nothing but the way there and back. Its peer never sleeps, since how long this program takes to wake
    /// is no matter of the server's.
    pub fn round_trip(&mut self) {
        let window = self.window(0.3, 0.0);
        self.jobs.push(Job {
            parameters: named(&[("size_bytes", 64), ("connections", 1)]),
            sides: SPINNERS.to_vec(),
            rounds: self.scale.pick(1, 3, 9),
            work: load(Role::Echo, &format!("echo --connections 1 --size 64 --spin {}", window.arguments())),
            round_seconds: window.round(1),
            ..job("round-trip", "")
        });
    }

    pub fn fixed_rate(&mut self) {
        let rates: &[u64] = self.scale.pick(&[2000], &[20_000], &[10_000, 30_000, 60_000]);
        for rate in rates {
            let window = self.window(0.7, 0.0);
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

    pub fn frames(&mut self) {
        let depths: &[u64] = self.scale.pick(&[16], &[1, 16], &[1, 16, 128]);
        for depth in depths {
            let window = self.window(0.3, 0.0);
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

    pub fn relay(&mut self) {
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
        let window = self.window(0.3, 0.0);
        self.jobs.push(Job {
            parameters: named(&[("size_bytes", 64), ("connections", 100)]),
            sides: sides.to_vec(),
            rounds,
            work: load(Role::Relay, &format!("relay-pairs --connections 100 --size 64 {}", window.arguments())),
            round_seconds: window.round(200),
            ..job("relay", "pairs")
        });
        for pairs in self.fit("relay/idle", &[self.scale.pick(50, 1000, 1000)], 2) {
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
            // How far a server grows is bounded or it is not, and no more rounds tell more.
            rounds: self.scale.pick(1, 1, 3),
            work: Work::Slow { mib, stop_seconds },
            round_seconds: AROUND + stop_seconds as f64 + mib as f64 * 1.1e-3,
            ..job("relay", "slow")
        });
    }

    pub fn fan_out(&mut self) {
        let counts: &[u64] = self.scale.pick(&[50], &[1000], &[10, 100, 1000, 5000]);
        // Messages of a burst.
        let bursts: &[u64] = self.scale.pick(&[16], &[1, 16], &[1, 16]);
        for subscribers in self.fit("fan-out", counts, 1) {
            for &burst in bursts {
                // Among few it would be one of them, and among many it takes long to see nothing.
                let sleeper = burst == 16 && (50..=1000).contains(&subscribers);
                // A burst to all of them takes so long, and there are to be ten.
                let window = self.window(0.3, 10.0 * subscribers as f64 * 8e-6);
                let what = format!("fan-out --subscribers {subscribers} --size 64 --burst {burst}");
                self.jobs.push(Job {
                    parameters: named(&[("size_bytes", 64), ("subscribers", subscribers), ("burst", burst)]),
                    sides: if sleeper { FANS_BESIDE_A_SLEEPER } else { FANS }.to_vec(),
                    rounds: self.scale.pick(1, 3, 7),
                    work: load(Role::FanOut, &format!("{what} {}", window.arguments())),
                    round_seconds: window.round(subscribers) + if sleeper { FILLING / 2.0 } else { 0.0 },
                    ..job("fan-out", "")
                });
            }
        }
    }

    pub fn fairness(&mut self) {
        let window = self.window(0.7, 0.0);
        self.jobs.push(Job {
            parameters: named(&[("bulk", 4), ("small", 50)]),
            sides: self.scale.pick(FAIR, ONE_OF_EACH_LARGE, FAIR).to_vec(),
            open: true,
            rounds: self.scale.pick(1, 3, 9),
            work: load(Role::Echo, &format!("fairness --bulk 4 --small 50 {}", window.arguments())),
            round_seconds: window.round(54),
            ..job("fairness", "")
        });
    }

    pub fn storm_and_churn(&mut self) {
        let counts: &[u64] = self.scale.pick(&[100], &[1000], &[100, 1000, CONNECTIONS_MAX]);
        for connections in self.fit("storm", counts, 1) {
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
        let window = self.window(0.3, 0.0);
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

    pub fn memory(&mut self) {
        let wanted = self.scale.pick(200, 2000, CONNECTIONS_MAX);
        for (variant, role, descriptors) in [("idle", Role::Echo, 1), ("pairs", Role::Relay, 2)] {
            for connections in self.fit(&format!("memory/{variant}"), &[wanted], descriptors) {
                self.jobs.push(Job {
                    parameters: named(&[("connections", connections)]),
                    sides: HOLDERS.to_vec(),
                    open: role == Role::Echo,
                    // It hardly differs from round to round; that it does not is worth a look.
                    rounds: self.scale.pick(1, 1, 3),
                    work: Work::Idle { role, connections },
                    round_seconds: 4.0 * AROUND + (connections * descriptors) as f64 * 2.5 * CONNECT,
                    ..job("memory", variant)
                });
            }
        }
    }

    /// What depends on nobody else, so that one round says it all.
    pub fn counts(&mut self) {
        if self.scale != Scale::Smoke {
            self.instructions();
        }
        self.calls();
        if self.scale != Scale::Smoke {
            self.calls_of_connections_and_bursts();
        }
    }

    fn instructions(&mut self) {
        let (long, seconds) = self.scale.pick((0, 0.0), (300, 3.5), (1100, 5.0));
        let tool = Tool::Instructions;
        self.count(
            "message",
            COUNTED_ECHOES,
            &[("size_bytes", 64), ("connections", 100)],
            seconds,
            Count {
                tool,
                figure: "instructions_per_message",
                load: "echo --connections 100 --size 64",
                lengths: ("--rounds", 100, long),
                items: 100,
                ..Count::default()
            },
        );
        if self.scale != Scale::Full {
            return;
        }
        self.count(
            "connection",
            COUNTED,
            &[("size_bytes", 64)],
            4.0,
            Count {
                tool,
                figure: "instructions_per_connection",
                load: "churn --size 64",
                lengths: ("--count", 200, 2200),
                ..Count::default()
            },
        );
        self.count(
            "round-trip",
            COUNTED,
            &[("size_bytes", 64), ("connections", 20)],
            6.0,
            Count {
                tool,
                role: Role::Relay,
                figure: "instructions_per_round_trip",
                load: "relay-pairs --connections 20 --size 64",
                lengths: ("--rounds", 100, 2100),
                items: 20,
            },
        );
    }

    fn calls(&mut self) {
        let (long, seconds) = self.scale.pick((40, 1.0), (220, 1.5), (520, 3.0));
        let message = [("size_bytes", 64), ("connections", 50), ("depth", 1)];
        self.count(
            "calls",
            COUNTED,
            &message,
            seconds,
            Count {
                figure: "system_calls_per_message",
                load: "echo --connections 50 --size 64",
                lengths: ("--rounds", 20, long),
                items: 50,
                ..Count::default()
            },
        );
        if self.scale == Scale::Smoke {
            return;
        }
        let message = [("size_bytes", 1024), ("connections", 50), ("depth", 16)];
        self.count(
            "calls",
            COUNTED,
            &message,
            2.0,
            Count {
                figure: "system_calls_per_message",
                load: "echo --connections 50 --size 1024 --depth 16",
                lengths: ("--rounds", 20, 220),
                items: 50 * 16,
                ..Count::default()
            },
        );
    }

    fn calls_of_connections_and_bursts(&mut self) {
        self.count(
            "connection",
            COUNTED,
            &[("size_bytes", 64)],
            2.0,
            Count {
                figure: "system_calls_per_connection",
                load: "churn --size 64",
                lengths: ("--count", 100, 1100),
                ..Count::default()
            },
        );
        self.count(
            "fan-out",
            FANS,
            &[("size_bytes", 64), ("subscribers", 100), ("burst", 16)],
            2.0,
            Count {
                tool: Tool::Writes,
                role: Role::FanOut,
                figure: "writes_per_delivery",
                load: "fan-out --subscribers 100 --size 64 --burst 16",
                lengths: ("--messages", 160, 800),
                items: 100,
            },
        );
        if self.scale == Scale::Full {
            let sides = ["plimsoll", "tokio-8k", "tokio-64k", "mio", "floor"];
            self.count(
                "relay-bulk",
                &sides,
                &[("mib", 256)],
                1.2,
                Count {
                    role: Role::Relay,
                    figure: "system_calls_per_mib",
                    load: "relay-bulk --warm-up-mib 0",
                    lengths: ("--mib", 64, 320),
                    ..Count::default()
                },
            );
            // How much of a stream a read finds is a matter of timing, so this count differs from round to round.
            if let Some(job) = self.jobs.last_mut() {
                job.rounds = 7;
            }
        }
    }

    fn count(
        &mut self,
        variant: &'static str,
        sides: &[&'static str],
        parameters: &[(&str, u64)],
        round_seconds: f64,
        count: Count,
    ) {
        let (sides, parameters, work) = (sides.to_vec(), named(parameters), Work::Count(count));
        self.jobs.push(Job { sides, parameters, work, round_seconds, ..job("counts", variant) });
    }

    /// What needs no peers.
    pub fn alone(&mut self) {
        for (scenario, which) in [("timers", Alone::Timers), ("wake-ups", Alone::WakeUps)] {
            let round_seconds = self.scale.pick(1.0, 5.0, 40.0);
            self.jobs.push(Job { work: Work::Alone(which), round_seconds, ..job(scenario, "") });
        }
    }
}
