//! Timers: what a million of them cost, in time and in memory.
//!
//! A server arms a timer for nearly everything and lets hardly any of them fire, so the price is that of the three
//! verbs, with as many others alive as there may be. Each round arms a million timers, moves each of them
//! twice and takes each of them back; figures are medians over the rounds, of the mean over the million.
//!
//! ```text
//!              in order                                       at random
//!  insert      each deadline behind the one before            anywhere within an hour
//!  reset       on by an hour, the commonest move              to the hour after, shuffled
//!  re-aim      on by another hour                             back to anywhere within the first hour
//!  cancel      in the order of arming                         shuffled
//! ```
//!
//! In order, memory is walked through as it lies, and this is the price of the instructions. At random every timer is
//! a cache miss or several, and this is the price of memory: the truth of a program lies between.
//!
//! Timers that belong to a connection are found by search among those of that connection, so a handful each is what
//! they are made for, and what is measured; there are fewer in all, as each connection takes two descriptors here. Their
//! memory is measured with a million, so that the table is as large as the other one.
//!
//! What it does not do: let timers fire, or compare with others.
//!
//! ```text
//! cargo bench --bench timers                # some ten seconds
//! cargo bench --bench timers -- --test      # to see that it runs
//! ```

#[path = "../tests/support/allocations.rs"]
#[expect(dead_code, reason = "how often memory is asked for is not measured here")]
mod allocations;

use allocations::{Counting, live_bytes};
use plimsoll::{BytesMut, Ctx, Fd, Handler, Reactor, TimerId, Token};
use std::hint::black_box;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[global_allocator]
static COUNTING: Counting = Counting;

const HOUR: Duration = Duration::from_secs(3600);

/// How much is measured.
struct Scale {
    timers: usize,
    connections: usize,
    /// Timers of one connection where time is measured.
    keys: u32,
    /// The median of fewer is a matter of luck on a machine that others use too.
    rounds: usize,
}

/// Connections have two descriptors each, and 1,024 are what a process may have where nobody has said more.
const FULL: Scale = Scale { timers: 1_000_000, connections: 250, keys: 8, rounds: 9 };

const SMOKE: Scale = Scale { timers: 10_000, connections: 10, keys: 8, rounds: 1 };

fn main() -> io::Result<()> {
    let said = |word: &str| std::env::args().any(|argument| argument == word);
    let full = said("--bench") && !said("--test");
    if !full {
        println!("Only to see that it runs. For figures: cargo bench --bench timers");
    }
    measure(if full { &FULL } else { &SMOKE })
}

fn measure(scale: &Scale) -> io::Result<()> {
    let Scale { timers, connections, keys, rounds } = *scale;
    println!("| ns each, medians of {rounds} rounds | insert | reset | re-aim | cancel |");
    println!("|---|---|---|---|---|");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let orders = [("in order", Plan::in_order(timers)), ("at random", Plan::random(timers, &mut random))];
    let mut reactor = Reactor::new(())?;
    let mut ids = Vec::with_capacity(timers);
    let before = live_bytes();
    // The first round makes the table grow; those that count find it as large as it will be.
    let first = round_of_closures(&mut reactor, &orders[0].1, &mut ids);
    let each = (live_bytes() - before) as f64 / timers as f64;
    println!("| {timers} with closures, the first: the table grows | {:.0} | | | |", first.insert);
    for (order, plan) in &orders {
        let rounds = (0..rounds).map(|_| round_of_closures(&mut reactor, plan, &mut ids));
        print_row(&format!("{timers} with closures, {order}"), rounds.collect());
    }

    let mut reactor = Reactor::new(())?;
    let peers = connect(&mut reactor, connections)?;
    for (order, plan) in
        [("in order", Plan::in_order(peers.len())), ("at random", Plan::random(peers.len(), &mut random))]
    {
        round_of_keys(&mut reactor, &peers, keys, &plan);
        let rounds = (0..rounds).map(|_| round_of_keys(&mut reactor, &peers, keys, &plan));
        print_row(&format!("{keys} each of {connections} connections, {order}"), rounds.collect());
    }
    let before = live_bytes();
    for (token, _) in &peers {
        let mut ctx = Ctx { app: &mut reactor.app, net: &mut reactor.net, token: *token };
        (0..(timers / connections) as u32).for_each(|key| ctx.timer(key, HOUR));
    }
    let each_keyed = (live_bytes() - before) as f64 / timers as f64;

    println!("\n| bytes each, {timers} alive | |");
    println!("|---|---|");
    println!("| with a closure that captures nothing, of 16 bytes | {each:.1} |");
    println!("| of {connections} connections | {each_keyed:.1} |");
    Ok(())
}

/// In which order a round arms and touches its timers, and with which deadlines.
struct Plan {
    /// The deadline to arm with, by number.
    delays: Vec<Duration>,
    /// The deadline of the second move.
    aims: Vec<Duration>,
    /// In which order they are moved and taken back.
    walk: Vec<usize>,
}

impl Plan {
    fn in_order(timers: usize) -> Plan {
        let delays: Vec<_> = (0..timers as u64).map(|number| HOUR + Duration::from_micros(number)).collect();
        let aims = delays.iter().map(|delay| *delay + 2 * HOUR).collect();
        Plan { delays, aims, walk: (0..timers).collect() }
    }

    fn random(timers: usize, random: &mut Random) -> Plan {
        let mut within_an_hour =
            || (0..timers).map(|_| Duration::from_nanos(random.below(HOUR.as_nanos() as u64))).collect::<Vec<_>>();
        let (delays, aims) = (within_an_hour(), within_an_hour());
        let mut walk: Vec<usize> = (0..timers).collect();
        for place in (1..timers).rev() {
            walk.swap(place, random.below(place as u64 + 1) as usize);
        }
        Plan { delays, aims, walk }
    }
}

/// Nanoseconds each.
struct Round {
    insert: f64,
    reset: f64,
    re_aim: f64,
    cancel: f64,
}

/// Each verb walks through `ids` and deadlines as they lie: the only memory it jumps about in is the library's.
fn round_of_closures(reactor: &mut Reactor, plan: &Plan, ids: &mut Vec<TimerId>) -> Round {
    let net = &mut reactor.net;
    let timers = plan.delays.len();
    ids.clear();
    let insert = ns_each(timers, || ids.extend(plan.delays.iter().map(|delay| net.after(*delay, |_| ()))));
    let ids: Vec<TimerId> = plan.walk.iter().map(|number| ids[*number]).collect();
    Round {
        insert,
        reset: ns_each(timers, || {
            for (id, delay) in ids.iter().zip(&plan.delays) {
                black_box(net.reset(*id, *delay + HOUR));
            }
        }),
        re_aim: ns_each(timers, || {
            for (id, aim) in ids.iter().zip(&plan.aims) {
                black_box(net.reset(*id, *aim));
            }
        }),
        cancel: ns_each(timers, || {
            for id in &ids {
                assert!(net.cancel(*id), "each is alive until it is cancelled");
            }
        }),
    }
}

/// A connection, and the peer that keeps it open.
type Peer = (Token, UnixStream);

struct Quiet;

impl Handler for Quiet {
    fn on_data(&mut self, _: &mut Ctx<'_>, _: &mut BytesMut) {}
}

fn connect(reactor: &mut Reactor, connections: usize) -> io::Result<Vec<Peer>> {
    let connect = |_| {
        let (ours, peer) = UnixStream::pair()?;
        Ok((reactor.net.adopt(Fd::from_owned(OwnedFd::from(ours)), Quiet)?, peer))
    };
    let peers = (0..connections).map(connect).collect();
    reactor.turn(Some(Duration::ZERO))?;
    peers
}

/// The deadlines of a connection are its own; its keys differ by a microsecond.
fn round_of_keys(reactor: &mut Reactor, peers: &[Peer], keys: u32, plan: &Plan) -> Round {
    let timers = peers.len() * keys as usize;
    let mut each = |call: &dyn Fn(&mut Ctx<'_>, u32, usize)| {
        ns_each(timers, || {
            for number in &plan.walk {
                let mut ctx = Ctx { app: &mut reactor.app, net: &mut reactor.net, token: peers[*number].0 };
                (0..keys).for_each(|key| call(&mut ctx, key, *number));
            }
        })
    };
    let later = |key| Duration::from_micros(key as u64);
    Round {
        insert: each(&|ctx, key, number| ctx.timer(key, plan.delays[number] + later(key))),
        reset: each(&|ctx, key, number| ctx.timer(key, plan.delays[number] + later(key) + HOUR)),
        re_aim: each(&|ctx, key, number| ctx.timer(key, plan.aims[number] + later(key))),
        cancel: each(&|ctx, key, _| assert!(ctx.cancel_timer(key), "each is alive until it is cancelled")),
    }
}

fn ns_each(timers: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / timers as f64
}

fn print_row(what: &str, rounds: Vec<Round>) {
    let median = |figure: fn(&Round) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let (insert, reset, re_aim, cancel) =
        (median(|r| r.insert), median(|r| r.reset), median(|r| r.re_aim), median(|r| r.cancel));
    println!("| {what} | {insert:.0} | {reset:.0} | {re_aim:.0} | {cancel:.0} |");
}

/// Marsaglia's xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
