//! Scenarios: which loads make each of them, and the figures that come of it.

use super::arrivals::Arrivals;
use super::bulk::Stream;
use super::closed::{Group, Outcome, Run};
use super::fan_out::{Bursts, FanOut};
use super::open::Schedule;
use super::pattern::{CHUNK_BYTES, Pattern};
use super::peer::{Peer, dial_each};
use super::upstream::Upstream;
use super::window::{Clock, Latencies, Processor, Window, sample};
use super::{Load, Span, counted, idle};
use crate::result::Sample;
use std::io;
use std::time::Duration;

const GIB: f64 = (1_u64 << 30) as f64;

/// A bulk flow of the fairness scenario keeps 256 KiB in flight, in messages of 16 KiB.
const BULK_MESSAGE_BYTES: usize = 16 * 1024;
const BULK_DEPTH: usize = 16;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Server {
    pub port: u16,
    pub processor: Processor,
}

/// Connections that all do the same: echo, frames, relayed pairs.
pub struct Exchange {
    pub load: Load,
    pub span: Span,
    /// Connections that send anything.
    pub busy: usize,
    pub batch: bool,
    pub spin: bool,
    pub pattern: Pattern,
    pub upstream: Option<Upstream>,
}

impl Exchange {
    pub fn new(load: Load, span: Span) -> Exchange {
        let (busy, pattern) = (load.connections, Pattern::noise());
        Exchange { load, span, busy, batch: false, spin: false, pattern, upstream: None }
    }

    pub fn run(mut self, server: Server) -> io::Result<Sample> {
        let Load { connections, size, depth, rounds } = self.load;
        let mut peers = match &mut self.upstream {
            None => dial_each(server.port, 0..connections, size, &self.pattern)?,
            Some(upstream) => upstream.dial_pairs(server.port, 0..connections, size, &self.pattern)?,
        };
        if let Some(rounds) = rounds {
            counted::run(&mut peers, rounds, size * depth, &self.pattern, self.upstream.as_mut())?;
            return Ok(sample(connections, [("messages", (rounds as usize * connections * depth) as f64)]));
        }
        let idle = peers.split_off(self.busy.min(connections));
        let group = Group { pattern: &self.pattern, peers, size, depth, batch: self.batch };
        let run = Run {
            clock: Clock::new(),
            warm_up: self.span.warm_up,
            length: self.span.seconds,
            processor: server.processor,
            spin: self.spin,
            upstream: self.upstream.as_mut(),
        };
        let ([outcome], window) = run.closed([group])?;
        self.see_that_they_live(idle)?;
        Ok(exchanged(connections, size, &outcome, &window))
    }

    /// Who was idle all the time is still joined to its upstream.
    fn see_that_they_live(&mut self, idle: Vec<Peer>) -> io::Result<()> {
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        let mut input = vec![0; CHUNK_BYTES];
        for (index, mut peer) in idle.into_iter().enumerate() {
            let index = self.busy + index;
            upstream.streams[index].set_nonblocking(false)?;
            peer.write_all(self.load.size, &self.pattern)?;
            upstream.answer(index, self.load.size)?;
            peer.read_all(&mut input, &self.pattern)?;
        }
        Ok(())
    }
}

impl Server {
    pub fn at_rate(self, load: Load, span: Span, rate: u64) -> io::Result<Sample> {
        let pattern = Pattern::noise();
        let peers = dial_each(self.port, 0..load.connections, load.size, &pattern)?;
        let Span { warm_up, seconds: length } = span;
        let schedule = Schedule { rate, size: load.size, warm_up, length, processor: self.processor };
        let (outcome, window, behind) = schedule.run(peers, &pattern)?;
        let mut sample = exchanged(load.connections, load.size, &outcome, &window);
        sample.figures.insert("offered_per_second".to_owned(), rate as f64);
        sample.figures.insert("messages_behind".to_owned(), behind as f64);
        Ok(sample)
    }

    /// Small messages beside bulk flows: the latencies are those of the small ones, the bytes those of the bulk.
    pub fn fairness(self, bulk: usize, small: usize, span: Span) -> io::Result<Sample> {
        let pattern = Pattern::noise();
        let group = |numbers, size, depth| {
            let peers = dial_each(self.port, numbers, size, &pattern)?;
            Ok::<_, io::Error>(Group { pattern: &pattern, peers, size, depth, batch: false })
        };
        let groups = [group(0..small, 64, 1)?, group(small..small + bulk, BULK_MESSAGE_BYTES, BULK_DEPTH)?];
        let Span { warm_up, seconds: length } = span;
        let run = Run { clock: Clock::new(), warm_up, length, processor: self.processor, spin: false, upstream: None };
        let ([small_ones, bulk_ones], window) = run.closed(groups)?;

        let bytes = (bulk_ones.messages * BULK_MESSAGE_BYTES as u64) as f64;
        let figures = [
            ("messages_per_second", small_ones.messages as f64 / window.seconds()),
            ("bytes_per_second", bytes / window.seconds()),
            ("starved_connections", (small_ones.starved + bulk_ones.starved) as f64),
        ];
        let mut sample = sample(small + bulk, figures);
        put_spent(&mut sample, "server_cpu_seconds_per_gib", &window, bytes / GIB * 1e9);
        small_ones.latencies.put_into(&mut sample);
        Ok(sample)
    }

    pub fn stream(
        self,
        upstream: Option<Upstream>,
        warm_up_mib: u64,
        mib: u64,
        stop: Option<Duration>,
    ) -> io::Result<Sample> {
        let upstream = upstream.expect("what is relayed has an upstream");
        let stream = Stream { warm_up: warm_up_mib << 20, measured: mib << 20, stop, processor: self.processor };
        let carried = stream.run(self.port, &upstream)?;
        let bytes = stream.measured as f64;
        let mut sample = sample(1, [("bytes_per_second", bytes / carried.seconds), ("bytes_lost", 0.0)]);
        put_spent(&mut sample, "server_cpu_seconds_per_gib", &carried.window, bytes / GIB * 1e9);
        if stop.is_some() {
            sample.figures.insert("accepted_while_stopped_bytes".to_owned(), carried.accepted_while_stopped as f64);
        }
        Ok(sample)
    }

    pub fn fan_out(self, subscribers: usize, sleeper: bool, bursts: Bursts, span: Span) -> io::Result<Sample> {
        let mut all = FanOut::new(self.port, subscribers, sleeper)?;
        let mut latencies = Latencies::new();
        let mut window = match bursts.messages {
            None => Window::new(self.processor, all.clock.now(), span.warm_up, span.seconds),
            Some(_) => Window::by_hand(self.processor),
        };
        if bursts.messages.is_some() {
            window.open(all.clock.now())?;
        }
        let published = all.publish(bursts, &mut window, &mut latencies)?;
        if bursts.messages.is_some() {
            window.close(all.clock.now())?;
        }
        let slept = all.wake(bursts)?;

        let deliveries = published as f64 * subscribers as f64;
        let figures = [
            ("deliveries_per_second", deliveries / window.seconds()),
            ("messages_per_second", published as f64 / window.seconds()),
            ("messages", published as f64),
        ];
        let mut sample = sample(subscribers, figures);
        put_spent(&mut sample, "server_cpu_ns_per_delivery", &window, deliveries);
        latencies.put_into(&mut sample);
        if let Some(slept) = slept {
            sample.figures.insert("sleeper_bytes".to_owned(), slept.bytes as f64);
            sample.figures.insert("sleeper_missed_messages".to_owned(), slept.missed as f64);
        }
        Ok(sample)
    }

    pub fn storm(self, connections: usize, size: usize) -> io::Result<Sample> {
        let pattern = Pattern::noise();
        let mut window = Window::by_hand(self.processor);
        let mut arrivals = Arrivals::new(self.port, size, false, &pattern)?;
        arrivals.storm(connections, &mut window)?;
        Ok(arrived(connections, arrivals.answered, &arrivals.latencies, &window))
    }

    pub fn churn(self, size: usize, at_once: usize, span: Span) -> io::Result<Sample> {
        let pattern = Pattern::noise();
        let mut arrivals = Arrivals::new(self.port, size, true, &pattern)?;
        let mut window = Window::new(self.processor, arrivals.clock.now(), span.warm_up, span.seconds);
        let (connections, latencies) = arrivals.churn(at_once, &mut window)?;
        Ok(arrived(connections, connections, &latencies, &window))
    }

    pub fn churn_counted(self, size: usize, at_once: usize, count: usize) -> io::Result<Sample> {
        let pattern = Pattern::noise();
        Arrivals::new(self.port, size, true, &pattern)?.churn_counted(at_once, count)?;
        Ok(sample(count, [("connections", count as f64)]))
    }

    pub fn idle(self, connections: usize) -> io::Result<Sample> {
        idle::run(self.port, connections)?;
        Ok(sample(connections, []))
    }
}

fn exchanged(served: usize, size: usize, outcome: &Outcome, window: &Window) -> Sample {
    let messages = outcome.messages as f64;
    let figures = [
        ("messages_per_second", messages / window.seconds()),
        ("bytes_per_second", messages * size as f64 / window.seconds()),
        ("starved_connections", outcome.starved as f64),
    ];
    let mut sample = sample(served, figures);
    put_spent(&mut sample, "server_cpu_ns_per_message", window, messages);
    outcome.latencies.put_into(&mut sample);
    sample
}

fn arrived(connections: usize, served: usize, latencies: &Latencies, window: &Window) -> Sample {
    let figures = [
        ("connections_per_second", connections as f64 / window.seconds()),
        ("connect_p99_ns", latencies.quantile_ns(0.99) as f64),
        ("seconds", window.seconds()),
    ];
    let mut sample = sample(served, figures);
    put_spent(&mut sample, "server_cpu_ns_per_connection", window, connections as f64);
    latencies.put_into(&mut sample);
    sample
}

/// What the server has spent, for each of `parts`; nothing where that is not known.
fn put_spent(sample: &mut Sample, name: &str, window: &Window, parts: f64) {
    if let Some(spent) = window.spent_ns().filter(|_| parts > 0.0) {
        sample.figures.insert(name.to_owned(), spent / parts);
    }
}
