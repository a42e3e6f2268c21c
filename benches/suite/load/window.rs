//! The measured window: what time it was, what the server had spent, and how long the answers took.
//!
//! A window has exact ends. Whatever is counted, and the server's processor time, are read at the same two moments,
//! between two batches of events; the length of the window is what the clock says and not what was asked for.
//!
//! ```text
//!   dial ── warm-up ──┤ opens: clock, processor time          closes: clock, processor time ├── what is in flight
//!                     ├──────────────── counted ────────────────────────────────────────────┤   comes back, is
//!                                                                                               compared, not counted
//! ```
//!
//! The processor time is that of the server's process clock (`clock_getcpuclockid`): nanoseconds, all threads, right at
//! the moment of the reading. What /proc says of a thread that runs is up to a tick old.
//!
//! Time is read twice a message: when its bytes have been read (before they are compared) and before it is written. One
//! reading for a batch of events would make every latency up to a batch too short or too long, and a batch is anything
//! from one message to five hundred; 25 ns twice are one part in a hundred of the system calls that move a message. On
//! a busy connection count a latency has the wait for this thread in it, on all sides alike: a closed loop of N
//! connections can answer no message sooner than N messages take.

use crate::result::Sample;
use hdrhistogram::Histogram;
use nix::time::ClockId;
use nix::unistd::Pid;
use std::io;
use std::time::{Duration, Instant};

/// Nanoseconds since it was made.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn new() -> Clock {
        Clock(Instant::now())
    }

    #[inline]
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// The processor time of the server; `None` where nobody wants to know it.
#[derive(Clone, Copy)]
pub struct Processor(Option<ClockId>);

impl Processor {
    /// Of process `pid`; of none, for 0.
    pub fn of(pid: i32) -> io::Result<Processor> {
        let clock = |pid| ClockId::pid_cpu_clock_id(Pid::from_raw(pid));
        let clock = (pid != 0).then(|| clock(pid)).transpose();
        Ok(Processor(
            clock.map_err(|e| io::Error::other(format!("there is no server with the process id {pid}: {e}")))?,
        ))
    }

    fn read(self) -> io::Result<Option<u64>> {
        let Some(clock) = self.0 else { return Ok(None) };
        let spent = clock.now().map_err(|e| io::Error::other(format!("the server is gone: {e}")))?;
        Ok(Some(Duration::from(spent).as_nanos() as u64))
    }
}

/// Where the time stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    WarmUp,
    /// Begins with this answer: what was counted so far does not count.
    Opened,
    Open,
    /// Ends with this answer: what was counted so far is what counts.
    Closed,
    Over,
}

/// The two moments.
pub struct Window {
    processor: Processor,
    opens: u64,
    length: u64,
    opened: Option<Reading>,
    closed: Option<Reading>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: u64,
    spent: Option<u64>,
}

impl Window {
    /// Opens `warm_up` after `now`.
    pub fn new(processor: Processor, now: u64, warm_up: Duration, length: Duration) -> Window {
        let (opens, length) = (now + warm_up.as_nanos() as u64, length.as_nanos() as u64);
        Window { processor, opens, length, opened: None, closed: None }
    }

    /// One that is opened and closed by hand, where it is not the clock that decides.
    pub fn by_hand(processor: Processor) -> Window {
        Window { processor, opens: 0, length: u64::MAX / 2, opened: None, closed: None }
    }

    /// Between two batches of events.
    #[inline]
    pub fn tick(&mut self, now: u64) -> io::Result<Phase> {
        match self.opened {
            None if now < self.opens => Ok(Phase::WarmUp),
            None => self.open(now).map(|()| Phase::Opened),
            Some(opened) if self.closed.is_none() && now < opened.at + self.length => Ok(Phase::Open),
            Some(_) if self.closed.is_none() => self.close(now).map(|()| Phase::Closed),
            Some(_) => Ok(Phase::Over),
        }
    }

    pub fn open(&mut self, now: u64) -> io::Result<()> {
        self.opened = Some(Reading { at: now, spent: self.processor.read()? });
        Ok(())
    }

    pub fn close(&mut self, now: u64) -> io::Result<()> {
        self.closed = Some(Reading { at: now, spent: self.processor.read()? });
        Ok(())
    }

    pub fn seconds(&self) -> f64 {
        self.between(|reading| Some(reading.at)).map_or(0.0, |ns| ns / 1e9)
    }

    /// What the server spent in it, if that is known.
    pub fn spent_ns(&self) -> Option<f64> {
        self.between(|reading| reading.spent)
    }

    fn between(&self, of: impl Fn(&Reading) -> Option<u64>) -> Option<f64> {
        let (from, to) = (of(self.opened.as_ref()?)?, of(self.closed.as_ref()?)?);
        Some(to.saturating_sub(from) as f64)
    }
}

/// How long answers took, in nanoseconds.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Longer than any run; what takes longer still is counted as this.
    const MAX_NS: u64 = 300_000_000_000;

    /// Dense where the tail is, since that is where servers differ.
    /// So many latencies are to lie beyond a deep quantile.
    const BEYOND: f64 = 10.0;

    const QUANTILES: [f64; 12] = [0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1.0];

    /// Of a fixed size: recording does not allocate.
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, Latencies::MAX_NS, 3).expect("the bounds are in order"))
    }

    #[inline]
    pub fn record(&mut self, from: u64, to: u64) {
        self.0.saturating_record(to.saturating_sub(from));
    }

    pub fn clear(&mut self) {
        self.0.reset();
    }

    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// Puts the percentiles and the curve into a sample; nothing, if nothing was recorded.
    pub fn put_into(&self, sample: &mut Sample) {
        if self.0.is_empty() {
            return;
        }
        let named = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];
        for (name, quantile) in named.into_iter().filter(|(_, quantile)| *quantile <= 0.99 || self.carries(*quantile)) {
            sample.figures.insert(format!("latency_{name}_ns"), self.quantile_ns(quantile) as f64);
        }
        let carried = Latencies::QUANTILES.into_iter().filter(|quantile| self.carries(*quantile));
        sample.percentiles = carried.map(|quantile| (quantile, self.quantile_ns(quantile))).collect();
    }

    /// Whether enough latencies lie beyond a quantile for it to be more than another name for the largest.
    fn carries(&self, quantile: f64) -> bool {
        quantile == 1.0 || self.0.len() as f64 * (1.0 - quantile) >= Latencies::BEYOND
    }
}

/// Figures by name.
pub fn sample<const N: usize>(served: usize, figures: [(&str, f64); N]) -> Sample {
    let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Sample { figures, percentiles: Vec::new(), served: served as u64 }
}
