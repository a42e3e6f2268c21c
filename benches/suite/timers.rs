//! Timers: what thousands to a million of them cost, in time and in memory.
//!
//! A server arms a timer for nearly everything and lets hardly any of them fire. So each round arms all, moves
//! each once, takes each back; then arms all anew and lets them fire. Figures are the mean over all timers of a round.
//!
//! ```text
//!             in order                                  at random
//!  insert     each deadline behind the one before       anywhere within an hour
//!  reset      on by an hour, in the order of arming     to anywhere within the hour after, shuffled
//!  cancel     in the order of arming                    shuffled
//!  expire     in the order of arming                    in any order
//! ```
//!
//! In order, memory is walked through as it lies, and this is the price of the instructions. At random every timer is
//! a cache miss or several, and this is the price of memory: the truth of a program lies between.
//!
//! | | Plimsoll | tokio |
//! |---|---|---|
//! | a timer is | a boxed closure, by `Net::after` | a boxed `Sleep`, registered by its first poll |
//! | moved | `Net::reset` | `Sleep::reset`, which registers it anew |
//! | taken back | `Net::cancel` | dropped |
//! | has fired | when its closure has been called | when it has been polled and is ready |
//!
//! A closure that captures nothing takes no memory, and a program has hardly any such. Ours knows whom it is for, by a
//! number, so that Plimsoll pays for a box as tokio does for its own.
//!
//! Both know the time as they begin, and read no clock for each. All of tokio's sleeps are polled by one future,
//! so that no task is on their bill; its coop budget, which would send that future to the back of the queue after every 128
//! of them, is off. Firing is measured when every deadline has passed, and is the loop's own work: to find those that
//! are due and to bring each to its owner.
//!
//! Timers that belong to a connection (`keyed`) are found by search among those of that connection, so a handful each
//! is what they are made for, and what is measured; their memory is measured with a million.
//!
//! Memory is what the allocator has in use, its own share included, when the timers are armed for the first time. It
//! is asked from the C library: an allocator that counts would be in every server of this binary. A part of it is how
//! full the tables are at that moment: they double, so a million, just under 2^20, fills one, and ten thousand leave
//! more than a third of theirs empty.
#![allow(unsafe_code, reason = "mallinfo2 has no safe face")]

use crate::plan::Scale;
use crate::result::{Cell, Sample, SideResult};
use plimsoll::{BytesMut, Ctx, Fd, Handler, Reactor, TimerId, Token};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::{Instant as TokioInstant, Sleep, sleep_until};

const HOUR: Duration = Duration::from_secs(3600);

/// Timers of a round, at least: fewer alive are armed several times, since a microsecond in all measures the clock.
const ROUND_TIMERS: usize = 100_000;

const MILLION_ROUNDS: usize = 6;

/// tokio's wheel turns by milliseconds, and rounds a deadline up.
const TICKS: Duration = Duration::from_millis(3);

/// Connections with timers of their own, and how many each has where time is measured. Connections have two descriptors
/// each, and 1,024 are what a process may have where nobody has said more.
const CONNECTIONS: usize = 250;
const KEYS: usize = 8;

pub fn measure(scale: Scale) -> Vec<Cell> {
    let (largest, rounds) = match scale {
        Scale::Smoke => (10_000, 1),
        Scale::Quick => (100_000, 5),
        Scale::Full => (1_000_000, 7),
    };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut cells = Vec::new();
    for timers in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|timers| *timers <= largest) {
        // Of a million each round is the mean of so many, and takes so long, that fewer will do.
        let rounds = if timers < 1_000_000 { rounds } else { rounds.min(MILLION_ROUNDS) };
        cells.push(compare("in-order", &Plan::in_order(timers), rounds));
        cells.push(compare("at-random", &Plan::random(timers, &mut random), rounds));
    }
    let keyed = || Keyed::new().map(|mut keyed| (0..rounds).map(|_| keyed.round()).collect());
    cells.push(cell("keyed", CONNECTIONS * KEYS, vec![side("plimsoll", keyed())]));
    let memory = Keyed::new().map(|mut keyed| vec![keyed.memory(largest)]);
    cells.push(cell("keyed", largest, vec![side("plimsoll", memory)]));
    cells
}

/// A library, and the timers that a round has armed with it.
trait Timers: Sized {
    fn new(timers: usize) -> io::Result<Self>;

    /// The calls of each are timed in here, since what lies around them is none of the library's.
    fn insert(&mut self, delays: &[Duration]) -> Duration;
    /// From now on the timers are known in this order.
    fn shuffle(&mut self, walk: &[usize]);
    fn reset(&mut self, delays: &[Duration]) -> Duration;
    fn cancel(&mut self) -> Duration;
    /// All deadlines have passed.
    fn expire(&mut self) -> Duration;
}

fn compare(variant: &str, plan: &Plan, rounds: usize) -> Cell {
    let timers = plan.delays.len();
    let (mut ours, mut theirs) = (Contender::<Ours>::new(plan), Contender::<Theirs>::new(plan));
    for round in 0..rounds {
        // By turns one and the other is the first.
        if round % 2 == 0 {
            ours.round(plan);
            theirs.round(plan);
        } else {
            theirs.round(plan);
            ours.round(plan);
        }
    }
    cell(variant, timers, vec![side("plimsoll", ours.finish()), side("tokio", theirs.finish())])
}

struct Contender<T> {
    /// Or why there is none.
    timers: io::Result<T>,
    bytes_each: Option<f64>,
    samples: Vec<Sample>,
}

impl<T: Timers> Contender<T> {
    /// Arms them once: the table grows, and is in all rounds as large as it will be.
    fn new(plan: &Plan) -> Contender<T> {
        let mut bytes_each = None;
        let timers = T::new(plan.delays.len()).inspect_err(|e| eprintln!("timers: {e}")).map(|mut timers| {
            let before = bytes_in_use();
            timers.insert(&plan.delays);
            let grown = bytes_in_use().zip(before).map(|(after, before)| after as f64 - before as f64);
            bytes_each = grown.map(|grown| grown / plan.delays.len() as f64);
            timers.cancel();
            timers
        });
        Contender { timers, bytes_each, samples: Vec::new() }
    }

    fn round(&mut self, plan: &Plan) {
        let Ok(timers) = &mut self.timers else { return };
        let count = plan.delays.len();
        let repeats = ROUND_TIMERS.div_ceil(count);
        let [mut insert, mut reset, mut cancel, mut expire] = [Duration::ZERO; 4];
        for _ in 0..repeats {
            insert += timers.insert(&plan.delays);
            timers.shuffle(&plan.walk);
            reset += timers.reset(&plan.aims);
            cancel += timers.cancel();
        }
        // The wait for the deadlines is longer than what is measured, so there are fewer.
        let few = repeats.min(3);
        for _ in 0..few {
            let armed = Instant::now();
            timers.insert(&plan.soon);
            sleep((armed + plan.lead + plan.span + TICKS).saturating_duration_since(Instant::now()));
            expire += timers.expire();
        }
        let each = |time: Duration, repeats| time.as_nanos() as f64 / (count * repeats) as f64;
        let figures = [
            ("insert_ns", each(insert, repeats)),
            ("reset_ns", each(reset, repeats)),
            ("cancel_ns", each(cancel, repeats)),
            ("expire_ns", each(expire, few)),
        ];
        let bytes = self.bytes_each.map(|bytes| ("bytes_per_timer", bytes));
        self.samples.push(sample(figures.into_iter().chain(bytes)));
    }

    fn finish(self) -> io::Result<Vec<Sample>> {
        self.timers.map(|_| self.samples)
    }
}

fn sample(figures: impl IntoIterator<Item = (&'static str, f64)>) -> Sample {
    let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Sample { figures, ..Sample::default() }
}

fn side(name: &str, rounds: io::Result<Vec<Sample>>) -> SideResult {
    let error = rounds.as_ref().err().map(io::Error::to_string);
    SideResult { side: name.to_owned(), rounds: rounds.unwrap_or_default(), error }
}

fn cell(variant: &str, timers: usize, sides: Vec<SideResult>) -> Cell {
    let parameters = BTreeMap::from([("timers".to_owned(), timers as u64)]);
    Cell { scenario: "timers".to_owned(), variant: variant.to_owned(), parameters, sides }
}

/// What the allocator has handed out, on the heap and in mappings of their own; `None` if it does not tell.
fn bytes_in_use() -> Option<usize> {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no precondition; it locks the arenas and counts.
    let in_use = Some(unsafe { libc::mallinfo2() }).map(|info| info.uordblks + info.hblkhd);
    #[cfg(not(target_env = "gnu"))]
    let in_use = None;
    in_use
}

// ── What a round does ────────────────────────────────────────────────────────────────────────────────────────

/// In which order a round arms and touches its timers, and with which deadlines.
struct Plan {
    /// The deadlines to arm with, by number.
    delays: Vec<Duration>,
    /// In which order they are moved and taken back.
    walk: Vec<usize>,
    /// Where they are moved to, in that order.
    aims: Vec<Duration>,
    /// The deadlines of those that are to fire: not before `lead`, so that all are armed by then, and within `span`.
    soon: Vec<Duration>,
    lead: Duration,
    span: Duration,
}

impl Plan {
    fn in_order(timers: usize) -> Plan {
        let delays: Vec<_> = (0..timers as u64).map(|number| HOUR + Duration::from_micros(number)).collect();
        let aims = delays.iter().map(|delay| *delay + HOUR).collect();
        let (lead, span) = Plan::soon(timers);
        let soon = (0..timers).map(|number| lead + span.mul_f64(number as f64 / timers as f64)).collect();
        Plan { delays, walk: (0..timers).collect(), aims, soon, lead, span }
    }

    fn random(timers: usize, random: &mut Random) -> Plan {
        let mut within = |first: Duration, span: Duration| {
            let mut any = || first + Duration::from_nanos(random.below(span.as_nanos() as u64));
            (0..timers).map(|_| any()).collect::<Vec<_>>()
        };
        let (lead, span) = Plan::soon(timers);
        // Nobody is due while a round is under way.
        let (delays, aims, soon) = (within(HOUR / 60, HOUR), within(HOUR, HOUR), within(lead, span));
        let mut walk: Vec<usize> = (0..timers).collect();
        for place in (1..timers).rev() {
            walk.swap(place, random.below(place as u64 + 1) as usize);
        }
        Plan { delays, walk, aims, soon, lead, span }
    }

    /// `lead` is as long as it takes to arm them on a slow machine.
    fn soon(timers: usize) -> (Duration, Duration) {
        let lead = Duration::from_millis(2) + Duration::from_nanos(500) * timers as u32;
        (lead, lead / 4)
    }
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

fn permuted<T>(values: Vec<T>, walk: &[usize]) -> Vec<T> {
    let mut values: Vec<Option<T>> = values.into_iter().map(Some).collect();
    walk.iter().filter_map(|number| values[*number].take()).collect()
}

// ── Plimsoll ─────────────────────────────────────────────────────────────────────────────────────────────────

struct Ours {
    /// Counts those that have fired.
    reactor: Reactor<usize>,
    ids: Vec<TimerId>,
}

impl Timers for Ours {
    fn new(timers: usize) -> io::Result<Ours> {
        Ok(Ours { reactor: Reactor::new(0)?, ids: Vec::with_capacity(timers) })
    }

    fn insert(&mut self, delays: &[Duration]) -> Duration {
        self.ids.clear();
        self.turn();
        let net = &mut self.reactor.net;
        let start = Instant::now();
        self.ids.extend(delays.iter().zip(0_u64..).map(|(delay, owner)| {
            net.after(*delay, move |lp| {
                black_box(owner);
                *lp.app += 1;
            })
        }));
        start.elapsed()
    }

    fn shuffle(&mut self, walk: &[usize]) {
        self.ids = permuted(std::mem::take(&mut self.ids), walk);
    }

    fn reset(&mut self, delays: &[Duration]) -> Duration {
        let start = Instant::now();
        for (id, delay) in self.ids.iter().zip(delays) {
            black_box(self.reactor.net.reset(*id, *delay));
        }
        start.elapsed()
    }

    fn cancel(&mut self) -> Duration {
        let start = Instant::now();
        for id in &self.ids {
            assert!(self.reactor.net.cancel(*id), "each is alive until it is cancelled");
        }
        start.elapsed()
    }

    fn expire(&mut self) -> Duration {
        assert_eq!(self.reactor.app, 0, "none fires before its turn");
        let start = Instant::now();
        while self.reactor.app < self.ids.len() {
            self.turn();
        }
        self.reactor.app = 0;
        start.elapsed()
    }
}

impl Ours {
    fn turn(&mut self) {
        self.reactor.turn(Some(Duration::ZERO)).expect("a loop without sockets can wait");
    }
}

// ── Plimsoll, timers of connections ──────────────────────────────────────────────────────────────────────────

struct Keyed {
    reactor: Reactor,
    /// Each with the peer that keeps it open.
    connections: Vec<(Token, UnixStream)>,
}

struct Quiet;

impl Handler for Quiet {
    fn on_data(&mut self, _: &mut Ctx<'_>, _: &mut BytesMut) {}
}

impl Keyed {
    fn new() -> io::Result<Keyed> {
        let mut reactor = Reactor::new(())?;
        let connect = |_| {
            let (ours, peer) = UnixStream::pair()?;
            Ok((reactor.net.adopt(Fd::from_owned(OwnedFd::from(ours)), Quiet)?, peer))
        };
        let connections = (0..CONNECTIONS).map(connect).collect::<io::Result<_>>()?;
        reactor.turn(Some(Duration::ZERO))?;
        let mut keyed = Keyed { reactor, connections };
        // The table grows.
        keyed.round();
        Ok(keyed)
    }

    /// The keys of a connection differ by a microsecond.
    fn round(&mut self) -> Sample {
        let later = |key| Duration::from_micros(key as u64);
        let repeats = ROUND_TIMERS / (CONNECTIONS * KEYS);
        let [mut insert, mut reset, mut cancel] = [Duration::ZERO; 3];
        for _ in 0..repeats {
            insert += self.each(KEYS, |ctx, key| ctx.timer(key, HOUR + later(key)));
            reset += self.each(KEYS, |ctx, key| ctx.timer(key, 2 * HOUR + later(key)));
            cancel += self.each(KEYS, |ctx, key| assert!(ctx.cancel_timer(key), "each is alive until it is cancelled"));
        }
        let each = |time: Duration| time.as_nanos() as f64 / (CONNECTIONS * KEYS * repeats) as f64;
        sample([("insert_ns", each(insert)), ("reset_ns", each(reset)), ("cancel_ns", each(cancel))])
    }

    fn memory(&mut self, timers: usize) -> Sample {
        let before = bytes_in_use();
        self.each(timers / CONNECTIONS, |ctx, key| ctx.timer(key, HOUR));
        let grown = bytes_in_use().zip(before).map(|(after, before)| after as f64 - before as f64);
        sample(grown.map(|grown| ("bytes_per_timer", grown / timers as f64)))
    }

    fn each(&mut self, keys: usize, call: impl Fn(&mut Ctx<'_>, u32)) -> Duration {
        let start = Instant::now();
        for (token, _) in &self.connections {
            let mut ctx = Ctx { app: &mut self.reactor.app, net: &mut self.reactor.net, token: *token };
            (0..keys as u32).for_each(|key| call(&mut ctx, key));
        }
        start.elapsed()
    }
}

// ── tokio ────────────────────────────────────────────────────────────────────────────────────────────────────

struct Theirs {
    runtime: Runtime,
    sleeps: Vec<Pin<Box<Sleep>>>,
}

impl Timers for Theirs {
    fn new(timers: usize) -> io::Result<Theirs> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        Ok(Theirs { runtime, sleeps: Vec::with_capacity(timers) })
    }

    fn insert(&mut self, delays: &[Duration]) -> Duration {
        self.sleeps.clear();
        self.within(|sleeps, task| {
            let start = Instant::now();
            let now = TokioInstant::now();
            for delay in delays {
                let mut sleep = Box::pin(sleep_until(now + *delay));
                // Its first poll registers it.
                let _ = black_box(sleep.as_mut().poll(task));
                sleeps.push(sleep);
            }
            Poll::Ready(start.elapsed())
        })
    }

    fn shuffle(&mut self, walk: &[usize]) {
        self.sleeps = permuted(std::mem::take(&mut self.sleeps), walk);
    }

    fn reset(&mut self, delays: &[Duration]) -> Duration {
        self.within(|sleeps, _| {
            let start = Instant::now();
            let now = TokioInstant::now();
            for (sleep, delay) in sleeps.iter_mut().zip(delays) {
                sleep.as_mut().reset(now + *delay);
            }
            Poll::Ready(start.elapsed())
        })
    }

    fn cancel(&mut self) -> Duration {
        self.within(|sleeps, _| {
            let start = Instant::now();
            sleeps.drain(..).for_each(drop);
            Poll::Ready(start.elapsed())
        })
    }

    fn expire(&mut self) -> Duration {
        // The runtime looks for what is due while this waits, and wakes it when it has woken all that are.
        let mut start = None;
        let mut fired = 0;
        self.within(|sleeps, task| {
            let Some(start) = start else {
                start = Some(Instant::now());
                return Poll::Pending;
            };
            while let Some(sleep) = sleeps.get_mut(fired) {
                if sleep.as_mut().poll(task).is_pending() {
                    return Poll::Pending;
                }
                fired += 1;
            }
            Poll::Ready(start.elapsed())
        })
    }
}

impl Theirs {
    /// In a future of the runtime, whose polls are not counted.
    fn within<R>(&mut self, mut work: impl FnMut(&mut Vec<Pin<Box<Sleep>>>, &mut Context<'_>) -> Poll<R>) -> R {
        let Theirs { runtime, sleeps } = self;
        runtime.block_on(tokio::task::unconstrained(poll_fn(|task| work(sleeps, task))))
    }
}
