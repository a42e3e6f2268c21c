//! Soak: echo and relay under random load for minutes or days, and a verdict at the end.
//!
//! It shows whether a server leaks, tires or loses a byte when connections come and go in every manner: small, bulk,
//! half-closed, slow, paused, idle, reset, left in the middle, never used. The servers are the other two examples, as
//! processes of their own; the peers are one Plimsoll reactor, which is watched like them.
//!
//! ```text
//!   soak ──────────────────► echo ◄──┐         warm up ► drain ► baseline ► load for --minutes ► drain ► verdict
//!     └──────────► relay ────────────┘
//! ```
//!
//! The load is a tide: how many connections are wanted changes every few seconds, down to none, and now and then a
//! burst of peers connects and leaves at once. A probe on each server measures, by its round trip, how long anybody
//! there has to wait.
//!
//! ```text
//! cargo build --release --examples
//! cargo run --release --example soak -- --minutes 60
//! cargo run --release --example soak -- --minutes 0.5 --seed 7 --rate 0        # as fast as it goes
//! ```
//!
//! SIGINT ends it early, with the verdict. The exit code is 0 if the servers held what they held before, every byte
//! was accounted for and nothing went wrong. A run with the same seed draws the same peers, but time deals them out.

mod ledger;
mod peer;
mod probe;
mod server;
mod stream;

use clap::Parser;
use fastrand::Rng;
use ledger::{Ledger, Rate};
use peer::{Manner, Peer};
use plimsoll::{Loop, Reactor, Stats};
use probe::{Lag, Probe};
use server::{Holdings, Server};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What `--minutes` has to be at least: some peers have come and gone by then, be the machine ever so slow.
const SHORTEST_LOAD: Duration = Duration::from_secs(1);

/// How often the number of connections is brought toward the tide.
const TICK: Duration = Duration::from_millis(20);

/// Connections begun in one tick: 100 a second. Each keeps a port busy for a minute after its end, and the kernel has
/// 28,000 of them.
const ARRIVALS_PER_TICK: usize = 2;

/// Peers of a burst, which connect in one tick and leave.
const BURST_LEN: usize = 100;

/// How long everything may take to end once nothing new is begun. A server waits 5 s for a peer that is closed.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// Memory over the baseline that is no leak: what the allocator keeps of a larger peak. Over an hour, with 100
/// connections a second, a leak of 12 bytes a connection exceeds it.
const SLACK_BYTES: u64 = 4 << 20;

/// Load echo and relay with every kind of peer, and see that nothing is lost and nothing stays.
#[derive(Parser)]
#[command(name = "soak", version)]
struct Arguments {
    /// How long the load lasts, warm-up included; 0.5 is half a minute.
    #[arg(long, default_value_t = 1.0, value_parser = some_time)]
    minutes: f64,

    /// Connections at high tide.
    #[arg(long, default_value_t = 200)]
    connections: usize,

    /// MiB that all peers together send in a second; 0 does not limit.
    #[arg(long, default_value_t = 8.0, value_name = "MIB")]
    rate: f64,

    /// Draws the same peers as a run before.
    #[arg(long)]
    seed: Option<u64>,

    /// Seconds between two lines.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    every: f64,

    /// Where the built examples `echo` and `relay` are; by default beside this one.
    #[arg(long, value_name = "DIRECTORY")]
    servers: Option<PathBuf>,
}

/// Minutes in which something is sent: a verdict on nothing is no news.
fn some_time(text: &str) -> Result<f64, String> {
    let minutes = text.parse::<f64>().map_err(|e| e.to_string())?;
    match Duration::try_from_secs_f64(minutes * 60.0) {
        Ok(time) if time >= SHORTEST_LOAD => Ok(minutes),
        _ => Err(format!("not a time of {SHORTEST_LOAD:?} (0.017) or more")),
    }
}

/// What the run is about at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Load until the loop, the allocators and the tables have their size.
    WarmUp,
    /// Nothing new; when all has ended, what is held is the baseline.
    FirstDrain,
    Load,
    /// When all has ended, what is held is compared with the baseline.
    LastDrain,
    Over,
}

/// A process and what it held at the moments that count.
struct Watched {
    name: &'static str,
    process: u32,
    at_start: Holdings,
    baseline: Holdings,
    at_end: Holdings,
    /// When the last line was printed.
    last: Holdings,
}

/// The state that all callbacks share.
struct Soak {
    servers: Vec<Server>,
    watched: Vec<Watched>,
    chance: Rng,
    rate: Rate,
    ledger: Ledger,
    lags: Vec<Lag>,
    phase: Phase,
    phase_began: Instant,
    warm_up: Duration,
    load: Duration,
    /// Connections at high tide, wanted now, and when that changes.
    at_most: usize,
    wanted: usize,
    turn_of_tide: Instant,
    began: Instant,
    last_line: Instant,
    last_ledger: u64,
    last_stats: Stats,
    /// The loop was told to stop with connections open.
    cut_short: bool,
}

fn main() -> ExitCode {
    env_logger::init();
    match soak(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("soak: {e}");
            ExitCode::FAILURE
        }
    }
}

fn soak(arguments: &Arguments) -> io::Result<bool> {
    let directory = match &arguments.servers {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default(),
    };
    let echo = Server::start(&directory, "echo", &[])?;
    let relay = Server::start(&directory, "relay", &[echo.address.to_string()])?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}: {} min against {directory:?}, echo {}, relay {}", arguments.minutes, echo.id(), relay.id());

    let mut reactor = Reactor::new(Soak::new(arguments, seed, vec![echo, relay]))?;
    for at in 0..reactor.app.servers.len() {
        let address = reactor.app.servers[at].address;
        reactor.net.connect(address, Probe::new(at));
    }
    reactor.net.every(TICK, tick);
    reactor.net.every(Duration::from_secs_f64(arguments.every.max(0.1)), line);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        reactor.net.on_signal(signal, interrupted)?;
    }
    reactor.run()?;
    let worst_turn = Duration::from_nanos(reactor.net.stats().worst_turn_ns);
    Ok(verdict(reactor.into_app(), worst_turn))
}

/// The first asks for the verdict now, the second does not even wait for the drain.
fn interrupted(lp: &mut Loop<'_, Soak>) {
    match lp.app.phase {
        Phase::WarmUp | Phase::FirstDrain | Phase::Load => enter(lp, Phase::LastDrain),
        Phase::LastDrain | Phase::Over => {
            lp.app.ledger.complain("interrupted while draining".to_owned());
            lp.app.cut_short = true;
            enter(lp, Phase::Over);
        }
    }
}

/// Every 20 ms: goes on to the next phase when it is time, and brings in as many peers as are wanted.
fn tick(lp: &mut Loop<'_, Soak>) {
    if let Some(phase) = lp.app.next_phase(lp.net.now()) {
        enter(lp, phase);
    }
    if !matches!(lp.app.phase, Phase::WarmUp | Phase::Load) {
        return;
    }
    let mut arrivals = lp.app.wanted.saturating_sub(lp.app.ledger.open).min(ARRIVALS_PER_TICK);
    let now = lp.net.now();
    if now >= lp.app.turn_of_tide {
        let app = &mut *lp.app;
        app.turn_of_tide = now + Duration::from_millis(app.chance.u64(2000..12_000));
        // At every fourth turn of the tide nobody is wanted.
        app.wanted = if app.chance.u8(..) < 64 { 0 } else { app.chance.usize(1..=app.at_most) };
        if app.chance.bool() {
            (0..BURST_LEN).for_each(|_| arrive(lp, &[Manner::Touch, Manner::Poke]));
            arrivals = 0;
        }
    }
    (0..arrivals).for_each(|_| arrive(lp, &Manner::ALL));
}

/// A peer of one of these manners connects to one of the servers.
fn arrive(lp: &mut Loop<'_, Soak>, manners: &[Manner]) {
    let app = &mut *lp.app;
    let manner = manners[app.chance.usize(..manners.len())];
    let server = &app.servers[app.chance.usize(..app.servers.len())];
    let peer = Peer::new(manner, server.name, app.chance.fork());
    app.ledger.open += 1;
    lp.net.connect_with(server.address, manner.options(), peer);
}

fn enter(lp: &mut Loop<'_, Soak>, phase: Phase) {
    log::info!("{phase:?}");
    let app = &mut *lp.app;
    for watched in &mut app.watched {
        match phase {
            Phase::Load => watched.baseline = Holdings::of(watched.process),
            // While the probes are still there, as they were at the start.
            Phase::Over => watched.at_end = Holdings::of(watched.process),
            Phase::WarmUp | Phase::FirstDrain | Phase::LastDrain => {}
        }
    }
    app.phase = phase;
    app.phase_began = lp.net.now();
    match phase {
        Phase::FirstDrain | Phase::LastDrain => {
            for token in lp.net.tokens() {
                // The probes are of another type, and stay.
                lp.net.tell::<Peer>(token, Peer::hurry);
            }
        }
        Phase::Over => lp.stop(),
        Phase::WarmUp | Phase::Load => {}
    }
}

/// What a user watches: one line.
fn line(lp: &mut Loop<'_, Soak>) {
    let stats = *lp.net.stats();
    let (app, now) = (&mut *lp.app, Instant::now());
    let since = now.duration_since(app.last_line).as_secs_f64().max(0.001);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let rate = mib(app.ledger.back - app.last_ledger) / since;
    let timers = (stats.timers - app.last_stats.timers).max(1);
    let own_lag = Duration::from_nanos((stats.total_timer_lag_ns - app.last_stats.total_timer_lag_ns) / timers);
    let mut text = format!("{:>6.0} s  open {:>5}", now.duration_since(app.began).as_secs_f64(), app.ledger.open);
    text += &format!("  done {:>7}  back {rate:>6.1} MiB/s", app.ledger.connections());
    let mut busy = Duration::ZERO;
    for (at, watched) in app.watched.iter_mut().enumerate() {
        let holds = Holdings::of(watched.process);
        busy += holds.busy.saturating_sub(watched.last.busy);
        watched.last = holds;
        text += &format!(" │ {} {:.2} MiB, {} fds", watched.name, mib(holds.bytes), holds.descriptors);
        text += &app.lags.get_mut(at).map_or_else(|| format!(", timers late by {own_lag:.1?}"), Lag::interval);
    }
    let load = 100.0 * busy.as_secs_f64() / since;
    println!("{text} │ cpu {load:.0} % │ errors {}", app.ledger.errors);
    (app.last_line, app.last_ledger, app.last_stats) = (now, app.ledger.back, stats);
}

impl Soak {
    fn new(arguments: &Arguments, seed: u64, servers: Vec<Server>) -> Soak {
        let now = Instant::now();
        let total = Duration::from_secs_f64(arguments.minutes * 60.0);
        let warm_up = (total / 5).min(Duration::from_secs(60));
        Soak {
            lags: servers.iter().map(|_| Lag::new()).collect(),
            servers,
            watched: Vec::new(),
            chance: Rng::with_seed(seed),
            rate: Rate::new(arguments.rate.max(0.0) * f64::from(1 << 20), now),
            ledger: Ledger::default(),
            phase: Phase::WarmUp,
            phase_began: now,
            warm_up,
            load: total - warm_up,
            at_most: arguments.connections.max(1),
            // The baseline is to know the highest tide.
            wanted: arguments.connections.max(1),
            turn_of_tide: now + warm_up / 2,
            began: now,
            last_line: now,
            last_ledger: 0,
            last_stats: Stats::default(),
            cut_short: false,
        }
    }

    /// Begins to watch the servers, and ourselves, when all that is to stay open is open.
    fn watch(&mut self) {
        let servers = self.servers.iter().map(|server| (server.name, server.id()));
        let all = servers.chain([("soak", std::process::id())]);
        self.watched = all
            .map(|(name, process)| {
                let holds = Holdings::of(process);
                Watched { name, process, at_start: holds, baseline: holds, at_end: Holdings::default(), last: holds }
            })
            .collect();
    }

    /// Where to go from here, if it is time.
    fn next_phase(&mut self, now: Instant) -> Option<Phase> {
        if self.watched.is_empty() {
            // No peer may come before.
            if !self.lags.iter().all(Lag::is_known) {
                self.phase_began = now;
                return None;
            }
            self.watch();
        }
        let gone = self.servers.iter_mut().find_map(|server| (!server.runs()).then_some(server.name));
        if let Some(name) = gone {
            self.ledger.complain(format!("{name} has ended by itself"));
            self.cut_short = true;
            return Some(Phase::Over);
        }
        let passed = now.duration_since(self.phase_began);
        match self.phase {
            Phase::WarmUp => (passed >= self.warm_up).then_some(Phase::FirstDrain),
            Phase::Load => (passed >= self.load).then_some(Phase::LastDrain),
            Phase::FirstDrain => self.drained(passed).then_some(Phase::Load),
            Phase::LastDrain => self.drained(passed).then_some(Phase::Over),
            Phase::Over => None,
        }
    }

    /// Whether all has ended, or is not going to.
    fn drained(&mut self, passed: Duration) -> bool {
        let held = |watched: &Watched| Holdings::of(watched.process).descriptors;
        let ended = self.ledger.open == 0 && self.watched.iter().all(|w| held(w) <= w.at_start.descriptors);
        if !ended && passed >= DRAIN_PATIENCE {
            self.ledger.complain(format!("{} connections do not end, or leave descriptors", self.ledger.open));
            self.cut_short = true;
        }
        ended || passed >= DRAIN_PATIENCE
    }
}

/// Says what was found, and whether all of it is well.
fn verdict(app: Soak, worst_turn: Duration) -> bool {
    let Soak { servers, watched, ledger, lags, .. } = app;
    let mut well = true;
    let mut say = |good: bool, what: String| {
        println!("{}  {what}", if good { "well " } else { "WRONG" });
        well &= good;
    };
    let ended = Manner::ALL.map(|manner| format!("{manner:?} {}", ledger.ended[manner as usize]));
    say(ledger.open == 0, format!("{} connections ended: {}", ledger.connections(), ended.join(", ")));
    let of_all = format!("of all, {} were sent and {} came back before an end on purpose", ledger.sent, ledger.back);
    // Nothing sent and nothing back is no news.
    let whole = ledger.whole_sent > 0 && ledger.whole_sent == ledger.whole_back;
    say(whole, format!("whole streams: {} bytes sent, {} back; {of_all}", ledger.whole_sent, ledger.whole_back));
    say(ledger.errors == 0, format!("{} errors", ledger.errors));
    for Watched { name, at_start, baseline, at_end, .. } in watched {
        let descriptors = format!("{} descriptors, {} at the start", at_end.descriptors, at_start.descriptors);
        say(at_end.descriptors == at_start.descriptors, format!("{name}: {descriptors}"));
        let memory = format!("{} KiB, {} after the warm-up", at_end.bytes >> 10, baseline.bytes >> 10);
        say(at_end.bytes > 0 && at_end.bytes <= baseline.bytes + SLACK_BYTES, format!("{name}: {memory}"));
    }
    for (server, lag) in servers.into_iter().zip(&lags) {
        println!("       {}: {}", server.name, lag.total());
        let (name, ended) = (server.name, server.stop());
        say(ended.is_ok(), ended.err().unwrap_or_else(|| format!("{name} ended in order")));
    }
    println!("       soak: longest turn {worst_turn:.1?}");
    println!("{}", if well { "verdict: well" } else { "verdict: WRONG" });
    well
}
