//! What a random program remembers: of its connections, its handlers, and of what it was promised.

use super::acts::{Act, Place};
use super::dials::Dial;
use super::hand::Hand;
use super::mask::Masked;
use super::messages::Messages;
use super::oracle::{Expected, Relayed};
use super::peers::Peers;
use super::post::Post;
use crate::net::Net;
use crate::options::{ListenOptions, ReactorOptions, StreamOptions};
use crate::sys::Address;
use crate::sys::sim::chance::Chance;
use crate::token::Token;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// One connection, through all its handlers. Times are the simulated clock's, in nanoseconds.
#[derive(Debug, Default)]
pub struct Stream {
    pub token: Option<Token>,
    /// The handler that it has, or is about to have.
    pub life: Option<usize>,
    pub options: StreamOptions,
    /// To whom it was to be connected.
    pub place: Option<Place>,
    pub begun_at: u64,
    pub opened_at: Option<u64>,
    /// When its options were last changed, or it was joined to another.
    pub changed_at: u64,
    /// When output began to wait, at the earliest.
    pub waits_since: u64,
    pub sent: u64,
    /// With what a `send` that answered `Closed` may have sent.
    pub at_most: u64,
    pub consumed: u64,
    /// The other side of a relay, and how much of its input had been consumed by then.
    pub relay: Option<(usize, u64)>,
    pub masked: Option<Masked>,
    /// A `High` was answered, and nothing has followed yet.
    pub high: bool,
    /// Something was sent since the last `on_write_complete`.
    pub owes_complete: bool,
    /// Its handler knows of the peer's end.
    pub eof: bool,
    /// The program has it not read for now.
    pub paused: bool,
    /// The program waits for more than a byte.
    pub wants: bool,
    /// The handler has left input that it was given.
    pub left: bool,
    /// Its half was ended by the program.
    pub shut: bool,
    /// When the program has closed it.
    pub closed_at: Option<u64>,
    /// Connected to the program's own listener, or accepted there from itself.
    pub own: bool,
    /// The other end, if that is the program's too.
    pub mirror: Option<usize>,
    pub aborted: bool,
    pub ended: Option<String>,
    /// When it ended, nothing was under way to it or unread: how often its peer had written by then.
    pub silent_after: Option<u32>,
    pub todo: Vec<Act>,
    /// Keyed timers, and when they are due.
    pub timers: HashMap<u32, Instant>,
}

/// One handler.
#[derive(Debug, Default, Clone)]
pub struct Life {
    pub opened: u32,
    pub eofs: u32,
    pub closed: u32,
    /// Another handler is in its place.
    pub replaced: bool,
    /// The listener counts its connection.
    pub accepted: bool,
    /// The dialer whose attempt it is of.
    pub dial: Option<usize>,
}

pub struct App {
    pub chance: Chance,
    pub streams: Vec<Stream>,
    pub lives: Vec<Life>,
    pub by_address: HashMap<Address, usize>,
    pub peers: Rc<RefCell<Peers>>,
    pub dials: Vec<Dial>,
    pub messages: Messages,
    pub post: Rc<RefCell<Post>>,
    /// Nothing new is begun, and everything is read.
    pub quiet: bool,
    pub stopped: u32,
    pub stopped_at: u64,
    /// When it was told so again, and in which turn.
    pub cut_at: Option<(u64, u64)>,
    /// Where it listens, and how.
    pub at: Address,
    pub listening: ListenOptions,
    pub options: ReactorOptions,
    /// Its listener is a Unix socket's.
    pub unix: bool,
    /// Calls fail for want of memory and the like.
    pub stormy: bool,
    /// Connections accepted, by handlers that have not heard `on_close`.
    pub inside: usize,
    /// Peers that it has itself refused.
    pub turned_away: u64,
    /// A slip on purpose, of the handler: see the tests of shrinking.
    pub careless: bool,
    pub wrong: Vec<String>,
}

impl App {
    pub fn hand(&mut self, stream: usize) -> Hand {
        self.born(stream, Life::default())
    }

    pub fn born(&mut self, stream: usize, life: Life) -> Hand {
        self.lives.push(life);
        Hand { stream, life: self.lives.len() - 1 }
    }

    pub fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// The connection that a number means.
    pub fn pick(&self, which: u8) -> Option<(usize, Token)> {
        let index = usize::from(which).checked_rem(self.streams.len())?;
        Some((index, self.streams[index].token?))
    }

    pub fn expected(&self, stream: usize) -> Expected {
        let own = &self.streams[stream];
        let relayed = own.relay.map(|(from, first)| {
            let sent = self.readable(from, self.peers.borrow().parties[from].sent);
            Relayed { from, first, sent, masked: self.streams[from].masked }
        });
        Expected { stream, sent: own.sent, at_most: own.at_most, relayed, masked: own.masked }
    }

    /// How much of what was sent in a stream its handler, or a relay, is to get.
    pub fn readable(&self, stream: usize, sent: u64) -> u64 {
        self.streams[stream].masked.map_or(sent, |masked| masked.whole_blocks(sent))
    }

    pub fn stream_at(&mut self, index: usize) -> &mut Stream {
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, Stream::default);
        }
        &mut self.streams[index]
    }

    pub fn stop(&mut self, net: &mut Net<App>) {
        if self.stopped == 0 {
            self.stopped_at = super::probe::now();
        }
        self.stopped += 1;
        if self.stopped == 2 {
            self.cut_at = Some((super::probe::now(), net.stats().turns));
        }
        net.stop();
    }
}

impl Stream {
    /// The program closes it, or has it closed, while so much is queued.
    pub fn close_asked(&mut self, queued: usize) {
        let now = super::probe::now();
        self.closed_at.get_or_insert(now);
        if queued == 0 {
            // A filter's farewell may have to wait.
            self.waits_since = now;
        }
    }
}

/// Lets marks, limits and times be small, and now and then as they are by themselves.
pub fn draw_options(chance: &mut Chance) -> StreamOptions {
    let small = |chance: &mut Chance| [1, 100, 5_000, 1 << 20][chance.below(4) as usize];
    StreamOptions::default().with(|o| {
        o.high_water = small(chance);
        o.low_water = small(chance);
        o.eager_flush = small(chance);
        o.read_budget = 1 + chance.below(4) as u32;
        o.read_while_high = chance.below(3) == 0;
        if chance.below(4) == 0 {
            // Small reads, which use up their budget.
            o.input_limit = 100 + chance.below(3_000) as usize;
        }
        if chance.below(6) == 0 {
            o.hard_limit = 10_000;
        }
        let span = [30, 30_000][chance.below(2) as usize];
        let time = |chance: &mut Chance| Duration::from_millis(1 + chance.below(span));
        o.idle_timeout = (chance.below(8) == 0).then(|| time(chance));
        o.stalled_timeout = (chance.below(8) == 0).then(|| time(chance));
        if chance.below(6) == 0 {
            o.close_timeout = time(chance).min(Duration::from_secs(5));
        }
    })
}

pub fn draw_reactor_options(chance: &mut Chance) -> ReactorOptions {
    ReactorOptions::default().with(|o| {
        o.closure_budget = 8;
        if chance.below(4) == 0 {
            o.stop_timeout = Duration::from_millis(1 + chance.below(50));
        }
        if chance.below(8) == 0 {
            o.memory_budget = Some(20_000);
        }
        if chance.below(4) == 0 {
            o.mail_limit = 1 + chance.below(3) as usize;
        }
        if chance.below(4) == 0 {
            (o.workers, o.work_limit) = (1, chance.below(2) as usize);
        }
    })
}
