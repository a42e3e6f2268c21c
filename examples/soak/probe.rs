//! How long anybody has to wait: a message there and back, ten times a second, on a connection that stays.

use crate::{Phase, Soak};
use hdrhistogram::Histogram;
use plimsoll::{BytesMut, CloseReason, Ctx, Handler};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(100);

/// Round trips to one server, in microseconds.
pub struct Lag {
    /// Since the last line.
    recent: Histogram<u64>,
    all: Histogram<u64>,
}

impl Lag {
    pub fn new() -> Lag {
        // Whole microseconds, two digits, no upper bound.
        let histogram = || Histogram::new(2).expect("two digits are few enough");
        Lag { recent: histogram(), all: histogram() }
    }

    /// Whether there was one.
    pub fn is_known(&self) -> bool {
        !self.all.is_empty()
    }

    fn note(&mut self, trip: Duration) {
        let us = u64::try_from(trip.as_micros()).unwrap_or(u64::MAX);
        // It grows as needed, so there is nothing that it would not take.
        let _ = self.recent.record(us);
        let _ = self.all.record(us);
    }

    /// The lag since the last call, for the line.
    pub fn interval(&mut self) -> String {
        let text = format!(", lag {}…{} µs", self.recent.value_at_quantile(0.5), self.recent.max());
        self.recent.reset();
        text
    }

    pub fn total(&self) -> String {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| self.all.value_at_quantile(quantile));
        format!("{} probes, p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs, worst {} µs", self.all.len(), self.all.max())
    }
}

pub struct Probe {
    /// Which server.
    at: usize,
    sent: Instant,
}

impl Probe {
    pub fn new(at: usize) -> Probe {
        Probe { at, sent: Instant::now() }
    }

    fn send(&mut self, ctx: &mut Ctx<'_, Soak>) {
        // The turn's time would leave out what this turn took already.
        self.sent = Instant::now();
        ctx.send(b"probe");
    }
}

impl Handler<Soak> for Probe {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Soak>) {
        self.send(ctx);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Soak>, input: &mut BytesMut) {
        if input.len() < b"probe".len() {
            return;
        }
        if &input[..] != b"probe" {
            ctx.app.ledger.complain(format!("a probe came back as {input:?}"));
        }
        input.clear();
        ctx.app.lags[self.at].note(self.sent.elapsed());
        ctx.timer(0, PERIOD);
    }

    fn on_timer(&mut self, ctx: &mut Ctx<'_, Soak>, _: u32) {
        self.send(ctx);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Soak>, why: CloseReason) {
        if ctx.app.phase != Phase::Over && !ctx.app.cut_short {
            ctx.app.ledger.complain(format!("the probe of {} ended: {why}", ctx.app.servers[self.at].name));
        }
    }
}
