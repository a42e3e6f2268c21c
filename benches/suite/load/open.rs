//! The open loop: messages are sent when they are due, whether or not the last has been answered.
//!
//! A closed loop is polite: while the server stalls, it sends nothing, and a stall of a second is one slow answer
//! among thousands of quick ones. Users are not polite. So here there is a schedule that nothing can move, and a
//! latency is counted *from the moment that a message was due*, not from the moment when it could be written:
//!
//! ```text
//!   due       1   2   3   4   5   6   7   8        message k is due at k / rate, on connection k mod N
//!   answered  1 2             3 4 5 6 7   8
//!                     ├ 3 ────┤                    a closed loop would have seen one slow answer;
//!                         ├ 4 ──┤                  these four were late as well
//!                             ├ 5 ┤
//! ```
//!
//! That is what others call the correction of coordinated omission (Gil Tene). Nothing is corrected afterwards: the
//! due time of the n-th message of a connection follows from n, so it is not even kept.
//!
//! What is in flight on a connection is bounded; what is due beyond that waits here, its time running. When the window
//! closes, what was due in it and is not answered is counted (`messages_behind`), gets as long again to come, and what
//! then still has not enters the histogram with the time that it has waited so far.
//!
//! Between messages this thread spins: a sleep is a millisecond or 50 µs too long, and that would be the server's.

use super::closed::Outcome;
use super::pattern::{CHUNK_BYTES, Pattern};
use super::peer::{MESSAGE_MAX_BYTES, Peer};
use super::poll::Poll;
use super::window::{Clock, Latencies, Phase, Processor, Window};
use std::io;
use std::time::Duration;

/// Messages that may become due between two looks at what has come. Those of one connection are written together, so
/// that a loop that is behind does not fall back further.
const DUE_A_TURN: usize = 256;

/// The least that unanswered messages are waited for when the window has closed.
const GRACE: Duration = Duration::from_secs(1);

/// A sleep may take a tick longer than it was told; what is due sooner than this is waited for awake.
const SPIN: Duration = Duration::from_millis(3);

/// A fixed rate over all connections.
pub struct Schedule {
    /// Messages in a second.
    pub rate: u64,
    /// Bytes of a message.
    pub size: usize,
    pub warm_up: Duration,
    pub length: Duration,
    pub processor: Processor,
}

impl Schedule {
    /// `peers` have exchanged a message, and nothing is in flight. Beside the outcome and its window, how many messages
    /// were due in it that had not been answered when it closed.
    ///
    /// # Errors
    /// A connection that had no answer while the window was open and none after it, and what is wrong with bytes.
    pub fn run(self, peers: Vec<Peer>, pattern: &Pattern) -> io::Result<(Outcome, Window, u64)> {
        let mut course = Course::new(self, peers, pattern)?;
        let Schedule { warm_up, length, processor, .. } = course.schedule;
        let mut window = Window::new(processor, course.begun, warm_up, length);
        loop {
            course.send_due()?;
            course.receive(course.nap())?;
            match window.tick(course.clock.now())? {
                Phase::Opened => course.open(),
                Phase::Closed => break,
                _ => {}
            }
        }
        let (messages, behind) = (course.messages, course.total - course.answered);
        let starved = course.starved();
        course.wait_for_the_rest(length.max(GRACE))?;
        Ok((Outcome { messages, latencies: course.latencies, starved }, window, behind))
    }
}

struct Course<'a> {
    schedule: Schedule,
    pattern: &'a Pattern,
    poll: Poll,
    clock: Clock,
    /// When message 0 is due.
    begun: u64,
    flows: Vec<Flow>,
    input: Vec<u8>,
    /// The first message that is not due yet, and the first that never will be.
    next: u64,
    total: u64,
    /// The first that is due in the window.
    first: u64,
    answered: u64,
    /// Answered since the window opened.
    messages: u64,
    latencies: Latencies,
}

/// Messages of one connection: `answered <= sent <= due`.
struct Flow {
    peer: Peer,
    base: u64,
    due: u64,
    sent: u64,
    answered: u64,
    at_open: u64,
}

impl<'a> Course<'a> {
    fn new(schedule: Schedule, peers: Vec<Peer>, pattern: &'a Pattern) -> io::Result<Course<'a>> {
        let poll = Poll::new()?;
        let mut flows = Vec::with_capacity(peers.len());
        for (tag, peer) in peers.into_iter().enumerate() {
            peer.stream.set_nonblocking(true)?;
            poll.add(&peer.stream, tag as u64)?;
            flows.push(Flow { base: peer.received, peer, due: 0, sent: 0, answered: 0, at_open: 0 });
        }
        let until = |time: Duration| (time.as_nanos() * u128::from(schedule.rate)).div_ceil(1_000_000_000) as u64;
        let (first, total) = (until(schedule.warm_up), until(schedule.warm_up + schedule.length));
        let clock = Clock::new();
        let (begun, input, latencies) = (clock.now(), vec![0; CHUNK_BYTES], Latencies::new());
        let (next, answered, messages) = (0, 0, 0);
        Ok(Course {
            schedule,
            pattern,
            poll,
            clock,
            begun,
            flows,
            input,
            next,
            total,
            first,
            answered,
            messages,
            latencies,
        })
    }

    /// Sends what has become due.
    fn send_due(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        let first = self.next;
        let end = self.total.min(first + DUE_A_TURN as u64);
        while self.next < end && self.due_at(self.next) <= now {
            self.mark_due();
        }
        // A connection that is in it twice has nothing left to send the second time.
        (first..self.next).try_for_each(|message| self.send((message % self.flows.len() as u64) as usize))
    }

    fn mark_due(&mut self) {
        let connections = self.flows.len() as u64;
        self.flows[(self.next % connections) as usize].due += 1;
        self.next += 1;
    }

    /// Writes what is due on a connection, as far as its bound allows.
    fn send(&mut self, tag: usize) -> io::Result<()> {
        let in_flight_max = (MESSAGE_MAX_BYTES / self.schedule.size).max(1) as u64;
        let flow = &mut self.flows[tag];
        let to = flow.due.min(flow.answered + in_flight_max);
        if to > flow.sent {
            flow.peer.wanted += (to - flow.sent) * self.schedule.size as u64;
            flow.sent = to;
            flow.peer.flush_by(&self.poll, tag as u64, self.pattern)?;
        }
        Ok(())
    }

    fn receive(&mut self, at_most: Duration) -> io::Result<()> {
        let n = self.poll.wait_for(at_most)?;
        for index in 0..n {
            let (tag, writable) = self.poll.event(index);
            let flow = &mut self.flows[tag as usize];
            if writable {
                flow.peer.flush_by(&self.poll, tag, self.pattern)?;
            }
            let n = flow.peer.read(&mut self.input)?;
            let now = self.clock.now();
            flow.peer.verify(&self.input[..n], self.pattern)?;
            let before = flow.answered;
            flow.answered = (flow.peer.received - flow.base) / self.schedule.size as u64;
            let answered = before..flow.answered;
            self.answered += flow.answered - before;
            self.messages += flow.answered - before;
            self.record(tag, answered, now);
            self.send(tag as usize)?;
        }
        Ok(())
    }

    /// Messages of connection `tag` that were answered `now`, or not even then.
    fn record(&mut self, tag: u64, messages: std::ops::Range<u64>, now: u64) {
        for message in messages {
            let message = message * self.flows.len() as u64 + tag;
            if message >= self.first {
                self.latencies.record(self.due_at(message), now);
            }
        }
    }

    /// Everything is due now; what is not answered in time is recorded as it stands.
    fn wait_for_the_rest(&mut self, at_most: Duration) -> io::Result<()> {
        let until = self.clock.now() + at_most.as_nanos() as u64;
        while self.answered < self.total && self.clock.now() < until {
            self.send_due()?;
            self.receive(Duration::ZERO)?;
        }
        let unserved = |flow: &&Flow| flow.answered == flow.at_open && flow.due > flow.answered;
        if let Some(flow) = self.flows.iter().find(unserved) {
            let what = format!("{} connections are not served", self.flows.iter().filter(unserved).count());
            return Err(flow.peer.about(io::Error::other(what)));
        }
        let now = self.clock.now();
        while self.next < self.total {
            self.mark_due();
        }
        for tag in 0..self.flows.len() {
            let unanswered = self.flows[tag].answered..self.flows[tag].due;
            self.record(tag as u64, unanswered, now);
        }
        Ok(())
    }

    fn open(&mut self) {
        self.messages = 0;
        self.flows.iter_mut().for_each(|flow| flow.at_open = flow.answered);
    }

    fn starved(&self) -> usize {
        self.flows.iter().filter(|flow| flow.answered == flow.at_open && flow.due > flow.at_open).count()
    }

    fn due_at(&self, message: u64) -> u64 {
        self.begun + message * 1_000_000_000 / self.schedule.rate
    }

    /// How long the thread may sleep.
    fn nap(&self) -> Duration {
        if self.next == self.total {
            return Duration::ZERO;
        }
        let gap = Duration::from_nanos(self.due_at(self.next).saturating_sub(self.clock.now()));
        gap.saturating_sub(SPIN)
    }
}
