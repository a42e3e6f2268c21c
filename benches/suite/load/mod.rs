//! The generator: the peers of the server that is measured, in a process of their own.
//!
//! It has one thread, raw epoll, and allocates nothing for a message, since a generator that is slower than the
//! servers measures itself. The rule that it keeps all the same: *every byte that comes back is compared with what it
//! should be*, and the connections that were really served are counted. Where either is wrong the run is an error with
//! a sentence that says what, and never a row of the report.
//!
//! What it costs itself: the same system calls for a message as the barest server, and a tenth of that in user space.
//! So at many connections no server can look faster than this program, and the message rates of fast ones draw
//! together; the processor time that a server spends for a message has no such ceiling.
//!
//! ```text
//!   pattern ── what stands at each place of a stream       window ── what time it was, what the server had spent
//!   peer ───── a connection and where it is in its stream  poll ──── which of them are ready
//!   upstream ─ the far ends, where a relay is measured
//!
//!   closed ─── echo, frames, fairness, relayed pairs       open ──── echo at a fixed rate
//!   counted ── echo, frames, pairs for exact counts        bulk ──── one stream through a relay
//!   arrivals ─ storm and churn       fan_out               idle
//!   scenarios: what of these makes a scenario, and which figures come of it
//! ```
//!
//! Whoever starts it speaks with it over standard input and output, one line each:
//!
//! ```text
//!   ◂ ready                          or, for a relay:  ◂ upstream 127.0.0.1:PORT
//!   ▸ PORT PID                       of the server; with process 0, its processor time is not asked for
//!   ◂ {"figures": …}                 the last line
//! ```

mod arrivals;
mod bulk;
mod closed;
mod counted;
mod fan_out;
mod idle;
mod open;
mod pattern;
mod peer;
mod poll;
mod scenarios;
mod upstream;
mod window;

use crate::result::Sample;
use clap::{Args, Subcommand};
use fan_out::Bursts;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pattern::Pattern;
use peer::MESSAGE_MAX_BYTES;
use scenarios::{Exchange, Server};
use std::io::{self, Write};
use std::time::Duration;
use upstream::Upstream;
use window::Processor;

/// A frame of the frames scenario: 4 bytes of header and 60 of payload.
const FRAME_BYTES: usize = 64;

/// A header, a number, and something that is not a probe.
const FAN_OUT_MIN_BYTES: usize = 16;

/// Descriptors beside those of the connections: standard ones, epoll, a listener, and some to spare.
const DESCRIPTORS_BESIDE: u64 = 16;

/// What to be the peers of.
#[derive(Clone, Debug, Subcommand)]
pub enum Kind {
    /// Messages that come back: as many as the server can, or at a given rate.
    Echo {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        span: Span,
        /// Messages in a second over all connections, sent when they are due (open loop).
        #[arg(long, conflicts_with_all = ["rounds", "spin"], value_parser = clap::value_parser!(u64).range(1..))]
        rate: Option<u64>,
        /// Never sleep: then the time to wake this program is not in the round trip.
        #[arg(long)]
        spin: bool,
    },
    /// Frames of 64 bytes, a batch of them written at once; the next when all are back.
    Frames {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        span: Span,
    },
    /// One stream through a relay.
    RelayBulk {
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
        mib: u64,
        /// MiB that go before those that are measured.
        #[arg(long, default_value_t = 16)]
        warm_up_mib: u64,
    },
    /// Messages through a relay and back.
    RelayPairs {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        span: Span,
    },
    /// The same on a few of many pairs.
    RelayIdle {
        #[arg(long, default_value_t = 1000)]
        pairs: usize,
        #[arg(long, default_value_t = 10)]
        busy: usize,
        #[arg(long, default_value_t = 64)]
        size: usize,
        #[command(flatten)]
        span: Span,
    },
    /// One stream through a relay, whose reader stops half-way.
    RelaySlow {
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
        mib: u64,
        /// For how many seconds.
        #[arg(long, default_value = "2", value_parser = seconds)]
        stop: Duration,
    },
    /// One publisher and many subscribers.
    FanOut {
        #[arg(long, default_value_t = 100)]
        subscribers: usize,
        /// Bytes of a frame with its header.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Frames that are written at once.
        #[arg(long, default_value_t = 1)]
        burst: usize,
        /// One subscriber more, that never reads.
        #[arg(long)]
        sleeper: bool,
        /// Frames in all; without it, the clock decides.
        #[arg(long)]
        messages: Option<u64>,
        #[command(flatten)]
        span: Span,
    },
    /// Small messages beside bulk flows.
    Fairness {
        #[arg(long, default_value_t = 4)]
        bulk: usize,
        #[arg(long, default_value_t = 50)]
        small: usize,
        #[command(flatten)]
        span: Span,
    },
    /// Connections that come all at once.
    Storm {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Connections that come, exchange a message, and go.
    Churn {
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Connections at one time.
        #[arg(long, default_value_t = 1)]
        at_once: usize,
        /// Connections in all; without it, the clock decides.
        #[arg(long)]
        count: Option<usize>,
        #[command(flatten)]
        span: Span,
    },
    /// Connections that are held open and do nothing.
    Idle {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
}

/// Who sends how much.
#[derive(Clone, Copy, Debug, Args)]
pub struct Load {
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages in flight on a connection.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// So many rounds in all, the same work in every run; without it, the clock decides.
    #[arg(long)]
    rounds: Option<u64>,
}

/// For how long.
#[derive(Clone, Copy, Debug, Args)]
pub struct Span {
    /// Seconds that are measured.
    #[arg(long, default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// Seconds before them.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    warm_up: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|e| format!("{e}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// Shakes hands with whoever started it, is the peers, and says what was found.
///
/// # Errors
/// Bytes that are wrong, connections that are not served, a server that is silent or gone, and what the kernel
/// refuses.
pub fn run(kind: Kind) -> io::Result<Sample> {
    kind.check()?;
    allow_descriptors(kind.descriptors())?;
    let upstream = kind.is_relayed().then(Upstream::new).transpose()?;
    let server = Server::shake_hands(upstream.as_ref())?;
    match kind {
        Kind::Echo { load, span, rate: Some(rate), .. } => server.at_rate(load, span, rate),
        Kind::Echo { load, span, spin, .. } => Exchange { spin, ..Exchange::new(load, span) }.run(server),
        Kind::Frames { mut load, span } => {
            load.size = FRAME_BYTES;
            let pattern = Pattern::frames(FRAME_BYTES);
            Exchange { batch: true, pattern, ..Exchange::new(load, span) }.run(server)
        }
        Kind::RelayPairs { load, span } => Exchange { upstream, ..Exchange::new(load, span) }.run(server),
        Kind::RelayIdle { pairs, busy, size, span } => {
            let load = Load { connections: pairs, size, depth: 1, rounds: None };
            Exchange { busy, upstream, ..Exchange::new(load, span) }.run(server)
        }
        Kind::RelayBulk { mib, warm_up_mib } => server.stream(upstream, warm_up_mib, mib, None),
        Kind::RelaySlow { mib, stop } => server.stream(upstream, 0, mib, Some(stop)),
        Kind::FanOut { subscribers, size, burst, sleeper, messages, span } => {
            server.fan_out(subscribers, sleeper, Bursts { size, burst, messages }, span)
        }
        Kind::Fairness { bulk, small, span } => server.fairness(bulk, small, span),
        Kind::Storm { connections, size } => server.storm(connections, size),
        Kind::Churn { size, at_once, count: Some(count), .. } => server.churn_counted(size, at_once, count),
        Kind::Churn { size, at_once, count: None, span } => server.churn(size, at_once, span),
        Kind::Idle { connections } => server.idle(connections),
    }
}

impl Kind {
    fn is_relayed(&self) -> bool {
        use Kind::{RelayBulk, RelayIdle, RelayPairs, RelaySlow};
        matches!(self, RelayBulk { .. } | RelayPairs { .. } | RelayIdle { .. } | RelaySlow { .. })
    }

    /// Connections at one time, both ends of which count where a relay is between them.
    fn descriptors(&self) -> usize {
        let connections = match self {
            Kind::Echo { load, .. } | Kind::Frames { load, .. } | Kind::RelayPairs { load, .. } => load.connections,
            Kind::RelayIdle { pairs, .. } => *pairs,
            Kind::RelayBulk { .. } | Kind::RelaySlow { .. } => 1,
            Kind::FanOut { subscribers, .. } => subscribers + 2,
            Kind::Fairness { bulk, small, .. } => bulk + small,
            Kind::Storm { connections, .. } | Kind::Idle { connections } => *connections,
            Kind::Churn { at_once, .. } => *at_once,
        };
        if self.is_relayed() { 2 * connections } else { connections }
    }

    /// What is written on a connection before anything is read.
    fn written_at_once(&self) -> usize {
        match self {
            // A closed loop reads whatever comes while it writes.
            Kind::Echo { load, .. } if load.rounds.is_none() => load.size * load.depth.min(1),
            Kind::Echo { load, .. } | Kind::RelayPairs { load, .. } => load.size * load.depth,
            Kind::Frames { load, .. } => FRAME_BYTES * load.depth,
            Kind::FanOut { size, burst, .. } => size * burst,
            Kind::RelayIdle { size, .. } | Kind::Storm { size, .. } | Kind::Churn { size, .. } => *size,
            Kind::RelayBulk { .. } | Kind::RelaySlow { .. } | Kind::Fairness { .. } | Kind::Idle { .. } => 1,
        }
    }

    fn check(&self) -> io::Result<()> {
        let wrong = match self {
            Kind::Echo { load, rate: Some(_), .. } if load.depth != 1 => "an open loop has no depth".to_owned(),
            Kind::RelayIdle { pairs, busy, .. } if !(1..=*pairs).contains(busy) => {
                "who is busy is one of all".to_owned()
            }
            Kind::FanOut { size, .. } if *size < FAN_OUT_MIN_BYTES => {
                format!("a frame has at least {FAN_OUT_MIN_BYTES} bytes")
            }
            _ if self.descriptors() == 0 => "there are no connections".to_owned(),
            _ if !(1..=MESSAGE_MAX_BYTES).contains(&self.written_at_once()) => {
                format!("1 to {MESSAGE_MAX_BYTES} bytes are written at once")
            }
            _ => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no such load: {wrong}")))
    }
}

/// As many as the system allows, if that is enough.
fn allow_descriptors(connections: usize) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let needed = connections as u64 + DESCRIPTORS_BESIDE;
    if needed > hard {
        return Err(io::Error::other(format!("{needed} descriptors are needed, and {hard} are allowed")));
    }
    Ok(())
}

impl Server {
    fn shake_hands(upstream: Option<&Upstream>) -> io::Result<Server> {
        let hello = match upstream {
            None => "ready".to_owned(),
            Some(upstream) => format!("upstream {}", upstream.address()?),
        };
        writeln!(io::stdout(), "{hello}")?;
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        let answer = line.trim().split_once(' ').and_then(|(port, pid)| Some((port.parse().ok()?, pid.parse().ok()?)));
        let (port, pid) =
            answer.ok_or_else(|| io::Error::other(format!("PORT PID was expected, and {line:?} came")))?;
        Ok(Server { port, processor: Processor::of(pid)? })
    }
}
