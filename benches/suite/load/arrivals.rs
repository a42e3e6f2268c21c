//! Arrivals: connections that come, exchange one message, and stay (a storm) or go (churn).
//!
//! ```text
//!   storm   connect connect connect … all N before the first is looked at     message ▸ ◂ answer, and stay
//!   churn   connect ▸ message ▸ ◂ answer ▸ our end ▸ ◂ the server's end ▸ close, and the next one
//! ```
//!
//! On loopback a connection is made by the kernel within `connect`, long before the server accepts it; so what is
//! timed is from `connect` to the *answer*: connected is who is served. Where the accept queue overflows, the kernel
//! drops the attempt and the client repeats it after a second. That is what a storm is like, and it is in the figures.
//!
//! We close first, as most clients do, so it is our port that is kept busy for a minute (TIME_WAIT). Ports do not run
//! out: after some thousand connections the source is the next address of 127/8.

use super::pattern::{CHUNK_BYTES, Pattern};
use super::peer::{Peer, about, reset_on_close};
use super::poll::Poll;
use super::window::{Clock, Latencies, Phase, Window};
use std::io;

/// The connections that are on their way, and what has become of the others.
pub struct Arrivals<'a> {
    port: u16,
    size: usize,
    pattern: &'a Pattern,
    /// Whether a connection ends when it has been answered.
    leave: bool,
    slots: Vec<Slot>,
    poll: Poll,
    pub clock: Clock,
    input: Vec<u8>,
    /// Connections that were begun, were answered, have gone.
    begun: usize,
    pub answered: usize,
    gone: usize,
    pub latencies: Latencies,
}

struct Slot {
    peer: Peer,
    began: u64,
    step: Step,
}

/// What a connection waits for.
#[derive(PartialEq, Eq)]
enum Step {
    Answer,
    /// Nothing more.
    Rest,
    End,
}

impl<'a> Arrivals<'a> {
    pub fn new(port: u16, size: usize, leave: bool, pattern: &'a Pattern) -> io::Result<Arrivals<'a>> {
        Ok(Arrivals {
            port,
            size,
            pattern,
            leave,
            slots: Vec::new(),
            poll: Poll::new()?,
            clock: Clock::new(),
            input: vec![0; CHUNK_BYTES],
            begun: 0,
            answered: 0,
            gone: 0,
            latencies: Latencies::new(),
        })
    }

    /// All at once; until each has had its answer.
    pub fn storm(&mut self, connections: usize, window: &mut Window) -> io::Result<()> {
        window.open(self.clock.now())?;
        for _ in 0..connections {
            self.begin()?;
        }
        while self.answered < connections {
            self.turn(false)?;
        }
        window.close(self.clock.now())
    }

    /// `at_once` connections at a time, until the window closes; connections that went while it was open,
    /// and how long their answers took.
    pub fn churn(&mut self, at_once: usize, window: &mut Window) -> io::Result<(usize, Latencies)> {
        self.begin_some(at_once)?;
        let mut before = 0;
        loop {
            self.turn(true)?;
            match window.tick(self.clock.now())? {
                Phase::Opened => {
                    self.latencies.clear();
                    before = self.gone;
                }
                Phase::Closed => break,
                _ => {}
            }
        }
        let gone = self.gone - before;
        let latencies = std::mem::replace(&mut self.latencies, Latencies::new());
        while self.gone < self.begun {
            self.turn(false)?;
        }
        Ok((gone, latencies))
    }

    /// So many in all: the same work in every run.
    pub fn churn_counted(&mut self, at_once: usize, count: usize) -> io::Result<()> {
        self.begin_some(at_once.min(count))?;
        while self.gone < count {
            let more = self.begun < count;
            self.turn(more)?;
        }
        Ok(())
    }

    fn begin_some(&mut self, connections: usize) -> io::Result<()> {
        (0..connections).try_for_each(|_| self.begin())
    }

    fn begin(&mut self) -> io::Result<()> {
        let slot = self.dial()?;
        self.poll.add_edges(&slot.peer.stream, self.slots.len() as u64)?;
        self.slots.push(slot);
        Ok(())
    }

    fn dial(&mut self) -> io::Result<Slot> {
        let began = self.clock.now();
        let mut peer = Peer::begin(self.port, self.begun, self.pattern).map_err(|e| self.about(e))?;
        // Written when there is room, which is when it is connected.
        peer.wanted = self.size as u64;
        if !self.leave {
            reset_on_close(&peer.stream)?;
        }
        self.begun += 1;
        Ok(Slot { peer, began, step: Step::Answer })
    }

    /// Waits, and takes each connection on; with `more`, another one comes for one that goes.
    fn turn(&mut self, more: bool) -> io::Result<()> {
        let n = self.poll.wait(false).map_err(|e| self.about(e))?;
        for index in 0..n {
            let (tag, writable) = self.poll.event(index);
            let gone = self.step(tag as usize, writable).map_err(|e| self.about(e))?;
            if gone {
                self.gone += 1;
            }
            if gone && more {
                // Closes the one that has gone, by taking its place.
                self.slots[tag as usize] = self.dial()?;
                self.poll.add_edges(&self.slots[tag as usize].peer.stream, tag)?;
            }
        }
        Ok(())
    }

    /// Whether the connection is over now.
    fn step(&mut self, index: usize, writable: bool) -> io::Result<bool> {
        let Slot { peer, began, step } = &mut self.slots[index];
        if writable {
            peer.flush(self.pattern)?;
        }
        if *step == Step::Answer && peer.sent > 0 {
            let n = peer.read(&mut self.input)?;
            let now = self.clock.now();
            peer.verify(&self.input[..n], self.pattern)?;
            if peer.received < peer.wanted {
                return Ok(false);
            }
            self.latencies.record(*began, now);
            self.answered += 1;
            *step = if self.leave { Step::End } else { Step::Rest };
            if self.leave {
                peer.shut_down()?;
            }
        }
        // Asked at once: an end that came with the answer has no edge of its own.
        let gone = *step == Step::End && peer.has_ended()?;
        if gone {
            *step = Step::Rest;
        }
        Ok(gone)
    }

    fn about(&self, e: io::Error) -> io::Error {
        let Arrivals { begun, answered, .. } = self;
        about(&format!("{answered} of {begun} connections were served"), e)
    }
}
