//! The poller: which sockets have become ready, by token.
//!
//! A connection is registered once, edge-triggered, for everything it may ever care about; from then on the
//! kernel tells changes and the library remembers them. Pausing, resuming and waiting for room to write are
//! flags in user space and cost no system call. The two exceptions are [`Interest::LISTEN`] and
//! [`Interest::QUIET_OUT`]; each says why.
//!
//! See epoll(7), "Level-triggered and edge-triggered".

use crate::sys::{self, Fd, epoll};
use crate::token::Token;
use std::io;
use std::time::Duration;

/// Events fetched by one wait. What does not fit is reported by the next one, and the kernel hands out events
/// in turn, so nobody starves. 1,024 events are 12 KiB.
const BATCH: usize = 1024;

/// What the kernel is asked to tell about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interest(u32);

impl Interest {
    /// A TCP connection: everything, once and for all.
    pub const STREAM: Interest = Interest(epoll::IN | epoll::OUT | epoll::PRI | epoll::RDHUP | epoll::EDGE);
    /// A Unix stream, which reports an edge for OUT after *every* send: ask for OUT only while output waits.
    pub const QUIET_OUT: Interest = Interest(epoll::IN | epoll::RDHUP | epoll::EDGE);
    /// The same while output waits.
    pub const QUIET_OUT_WAITING: Interest = Interest(epoll::IN | epoll::OUT | epoll::RDHUP | epoll::EDGE);
    /// A listener: level-triggered, so that one accept4(2) per peer is enough and no call is spent to see EAGAIN.
    pub const LISTEN: Interest = Interest(epoll::IN);
    /// A datagram socket: level-triggered, so that what a full batch left behind is reported again.
    pub const DATAGRAM: Interest = Interest(epoll::IN);
    /// The same while output waits: UDP reports room after every send, so it is not asked otherwise.
    pub const DATAGRAM_WAITING: Interest = Interest(epoll::IN | epoll::OUT);
    /// A listener that is paused; level-triggered interest must be withdrawn, or every wait would return. Edge-triggered,
    /// since HUP and ERR are reported unasked: of a listener that somebody else has shut down, for ever.
    pub const NOTHING: Interest = Interest(epoll::EDGE);
    /// An eventfd: each ring is a new edge, so it need never be read.
    pub const BELL: Interest = Interest(epoll::IN | epoll::EDGE);
}

/// What the kernel said about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness(u32);

impl Readiness {
    /// What nearly every event says.
    pub const INPUT_AND_ROOM: Readiness = Readiness(epoll::IN | epoll::OUT);

    #[inline]
    pub fn readable(self) -> bool {
        self.0 & (epoll::IN | epoll::PRI | epoll::RDHUP | epoll::HUP | epoll::ERR) != 0
    }

    /// There are bytes, or an end: an urgent mark alone is neither.
    #[inline]
    pub fn has_input(self) -> bool {
        self.0 & epoll::IN != 0
    }

    #[inline]
    pub fn writable(self) -> bool {
        self.0 & (epoll::OUT | epoll::HUP | epoll::ERR) != 0
    }

    /// More may stand behind a short read, without a new edge to tell: an urgent mark, an end, an error.
    #[inline]
    pub fn cuts_reads_short(self) -> bool {
        self.0 & (epoll::PRI | epoll::RDHUP | epoll::HUP | epoll::ERR) != 0
    }

    #[inline]
    pub fn failed(self) -> bool {
        self.0 & epoll::ERR != 0
    }
}

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: epoll::Epoll,
    events: Box<[epoll::Event; BATCH]>,
    fetched: usize,
    /// How many of the fetched were handed out; never more than `fetched`.
    seen: usize,
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::Epoll::create()?,
            events: Box::new([epoll::Event::EMPTY; BATCH]),
            fetched: 0,
            seen: 0,
        })
    }

    /// # Errors
    /// ENOSPC (the user's limit on watches) and ENOMEM; the socket is then not registered.
    pub fn add(&self, fd: &Fd, interest: Interest, token: Token) -> io::Result<()> {
        self.epoll.add(fd, interest.0, token.bits())
    }

    pub fn modify(&self, fd: &Fd, interest: Interest, token: Token) -> io::Result<()> {
        self.epoll.modify(fd, interest.0, token.bits())
    }

    pub fn remove(&self, fd: &Fd) -> io::Result<()> {
        self.epoll.remove(fd)
    }

    /// Waits until something is ready or `timeout` has passed, and keeps what it learnt for
    /// [`Poller::next_event`]. An interrupted wait is a wait that learnt nothing: the caller has a clock and comes
    /// back.
    ///
    /// It neither waits nor fetches while events are left over, because an edge is told only once.
    ///
    /// # Errors
    /// Only those of a broken epoll descriptor (EBADF, EINVAL).
    #[inline]
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        if self.has_events() {
            return Ok(self.fetched - self.seen);
        }
        self.seen = 0;
        self.fetched = match self.epoll.wait(&mut self.events[..], timeout) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        Ok(self.fetched)
    }

    /// The next event of the last wait, each once: were the batch walked by a local index, a callback's panic would
    /// lose the edges behind its own.
    #[inline]
    pub fn next_event(&mut self) -> Option<(Token, Readiness)> {
        if !self.has_events() {
            return None;
        }
        let event = self.events.get(self.seen)?;
        self.seen += 1;
        Some((Token::from_bits(event.data()), Readiness(event.flags())))
    }

    /// Whether events are left over: when a turn begins, from one that ended in a panic.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.seen < self.fetched
    }

    pub fn fd(&self) -> &sys::epoll::Epoll {
        &self.epoll
    }
}
