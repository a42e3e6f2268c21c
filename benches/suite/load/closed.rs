//! The closed loop: a connection sends its next message when it has had an answer.
//!
//! It finds out how much a server can do: there is always work for it, and never more than `connections × depth`
//! messages of it. How long an answer takes is then mostly how long the others take, so its latencies compare servers
//! at their limit; what a user would see at a given rate is the open loop's to say.
//!
//! ```text
//!   sliding   ▸1 ▸2 ▸3 ▸4        ◂1 ▸5   ◂2 ◂3 ▸6 ▸7        every answer lets one more out; those that come
//!                                                           together go out together
//!   batch     ▸1 ▸2 ▸3 ▸4        ◂1 ◂2   ◂3 ◂4 ▸5 ▸6 ▸7 ▸8  a whole batch is written when the last is back whole
//! ```
//!
//! Several groups may run in one loop: four bulk flows of sixteen messages of 16 KiB beside fifty small ones are the
//! fairness scenario. With an `Upstream` the far ends of a relay are served in the same loop, so that one thread is
//! both of a relay's sides.

use super::pattern::{CHUNK_BYTES, Pattern};
use super::peer::{PATIENCE, Peer, about};
use super::poll::Poll;
use super::upstream::Upstream;
use super::window::{Clock, Latencies, Phase, Processor, Window};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// Connections that all do the same.
pub struct Group<'a> {
    pub pattern: &'a Pattern,
    /// Have exchanged a message, and nothing is in flight.
    pub peers: Vec<Peer>,
    /// Bytes of a message.
    pub size: usize,
    /// Messages in flight on a connection.
    pub depth: usize,
    /// Whether the next messages wait until all of them are back.
    pub batch: bool,
}

/// What a group has done in the window.
pub struct Outcome {
    pub messages: u64,
    pub latencies: Latencies,
    /// Connections that have had no answer in it.
    pub starved: usize,
}

/// How long, and with what.
pub struct Run<'a> {
    pub warm_up: Duration,
    pub length: Duration,
    pub processor: Processor,
    pub clock: Clock,
    /// Never sleep.
    pub spin: bool,
    pub upstream: Option<&'a mut Upstream>,
}

/// Tags from here on are those of the upstream's streams.
const UPSTREAM: u64 = 1 << 32;

impl Run<'_> {
    /// Runs the groups beside each other; an outcome for each. However short the warm-up, the window does not open
    /// before every connection has had an answer: until then what is answered is what was written in one go.
    pub fn closed<const N: usize>(self, groups: [Group; N]) -> io::Result<([Outcome; N], Window)> {
        let mut window = Window::new(self.processor, self.clock.now(), self.warm_up, self.length);
        let mut all = Loop::new(self, groups)?;
        all.begin()?;
        loop {
            all.turn(true)?;
            if all.unserved > 0 {
                all.insist()?;
                continue;
            }
            match window.tick(all.clock.now())? {
                Phase::Opened => all.forget(),
                Phase::Closed => break,
                _ => {}
            }
        }
        let outcomes = all.take();
        // What is in flight belongs to no window, and is compared all the same.
        while all.flows.iter().any(|flow| flow.peer.received < flow.peer.wanted) {
            all.turn(false)?;
        }
        Ok((outcomes, window))
    }
}

struct Loop<'a, const N: usize> {
    patterns: [&'a Pattern; N],
    outcomes: [Outcome; N],
    flows: Vec<Flow>,
    /// Those that have had no answer yet.
    unserved: usize,
    upstream: Option<&'a mut Upstream>,
    poll: Poll,
    clock: Clock,
    spin: bool,
    input: Vec<u8>,
}

impl<'a, const N: usize> Loop<'a, N> {
    fn new(run: Run<'a>, groups: [Group<'a>; N]) -> io::Result<Loop<'a, N>> {
        let patterns = groups.each_ref().map(|group| group.pattern);
        let mut flows = Vec::new();
        for (number, group) in groups.into_iter().enumerate() {
            let (size, depth, batch) = (group.size, group.depth, group.batch);
            flows.extend(group.peers.into_iter().map(|peer| Flow::new(peer, number, size, depth, batch)));
        }
        let poll = Poll::new()?;
        for (tag, flow) in flows.iter().enumerate() {
            flow.peer.stream.set_nonblocking(true)?;
            poll.add(&flow.peer.stream, tag as u64)?;
        }
        for (tag, stream) in run.upstream.iter().flat_map(|upstream| upstream.streams.iter().enumerate()) {
            stream.set_nonblocking(true)?;
            poll.add(stream, UPSTREAM | tag as u64)?;
        }
        let Run { upstream, clock, spin, .. } = run;
        let outcomes = [(); N].map(|()| Outcome::new());
        let (unserved, input) = (flows.len(), vec![0; CHUNK_BYTES]);
        Ok(Loop { patterns, outcomes, flows, unserved, upstream, poll, clock, spin, input })
    }

    fn begin(&mut self) -> io::Result<()> {
        for (tag, flow) in self.flows.iter_mut().enumerate() {
            flow.send(flow.depth, self.clock, &self.poll, tag as u64, self.patterns[flow.group])?;
        }
        Ok(())
    }

    /// Waits, and takes what has come; with `more`, answers let further messages out.
    fn turn(&mut self, more: bool) -> io::Result<()> {
        let n = self.poll.wait(self.spin).map_err(|e| waiting(e, &self.flows))?;
        for index in 0..n {
            let (tag, writable) = self.poll.event(index);
            if let (true, Some(upstream)) = (tag >= UPSTREAM, &mut self.upstream) {
                upstream.answer_some((tag - UPSTREAM) as usize)?;
                continue;
            }
            let flow = &mut self.flows[tag as usize];
            let (pattern, outcome) = (self.patterns[flow.group], &mut self.outcomes[flow.group]);
            if writable {
                flow.peer.flush_by(&self.poll, tag, pattern)?;
            }
            let answered = flow.receive(&mut self.input, self.clock, pattern, &mut outcome.latencies)?;
            outcome.messages += answered as u64;
            self.unserved -= usize::from(answered > 0 && flow.answered == answered as u64);
            let next = if flow.batch && !flow.starts.is_empty() { 0 } else { answered };
            if more && next > 0 {
                let next = if flow.batch { flow.depth } else { next };
                flow.send(next, self.clock, &self.poll, tag, pattern)?;
            }
        }
        Ok(())
    }

    /// That some have had no answer is all right for a while.
    fn insist(&self) -> io::Result<()> {
        if self.clock.now() < PATIENCE.as_nanos() as u64 {
            return Ok(());
        }
        Err(waiting(io::Error::new(io::ErrorKind::TimedOut, "some have had no answer at all"), &self.flows))
    }

    /// The window opens: what was counted so far does not count.
    fn forget(&mut self) {
        self.flows.iter_mut().for_each(|flow| flow.at_open = flow.answered);
        for outcome in &mut self.outcomes {
            outcome.messages = 0;
            outcome.latencies.clear();
        }
    }

    /// The window closes: what was counted so far is what counts.
    fn take(&mut self) -> [Outcome; N] {
        for flow in self.flows.iter().filter(|flow| flow.answered == flow.at_open) {
            self.outcomes[flow.group].starved += 1;
        }
        std::mem::replace(&mut self.outcomes, [(); N].map(|()| Outcome::new()))
    }
}

impl Outcome {
    fn new() -> Outcome {
        Outcome { messages: 0, latencies: Latencies::new(), starved: 0 }
    }
}

/// A connection with its share of the work.
struct Flow {
    peer: Peer,
    group: usize,
    size: usize,
    depth: usize,
    batch: bool,
    /// What the peer had received before the first message.
    base: u64,
    /// Messages that are back whole; and how many they were when the window opened.
    answered: u64,
    at_open: u64,
    /// When each message in flight was written; there are never more than `depth`.
    starts: VecDeque<u64>,
}

impl Flow {
    fn new(peer: Peer, group: usize, size: usize, depth: usize, batch: bool) -> Flow {
        let (base, starts) = (peer.received, VecDeque::with_capacity(depth));
        Flow { peer, group, size, depth, batch, base, answered: 0, at_open: 0, starts }
    }

    #[inline]
    fn send(&mut self, messages: usize, clock: Clock, poll: &Poll, tag: u64, pattern: &Pattern) -> io::Result<()> {
        let now = clock.now();
        self.starts.extend(std::iter::repeat_n(now, messages));
        self.peer.wanted += (messages * self.size) as u64;
        self.peer.flush_by(poll, tag, pattern)
    }

    /// Reads once; how many messages are whole now that were not before.
    #[inline]
    fn receive(&mut self, input: &mut [u8], clock: Clock, pattern: &Pattern, to: &mut Latencies) -> io::Result<usize> {
        let n = self.peer.read(input)?;
        let now = clock.now();
        self.peer.verify(&input[..n], pattern)?;
        let answered = (self.peer.received - self.base) / self.size as u64 - self.answered;
        for start in self.starts.drain(..answered as usize) {
            to.record(start, now);
        }
        self.answered += answered;
        Ok(answered as usize)
    }
}

fn waiting(e: io::Error, flows: &[Flow]) -> io::Error {
    let served = flows.iter().filter(|flow| flow.answered > 0).count();
    let behind = flows.iter().filter(|flow| flow.peer.received < flow.peer.wanted).count();
    about(&format!("of {} connections {served} have been served and {behind} wait for an answer", flows.len()), e)
}
