//! Every socket of a reactor, and the lists of work that they cause.
//!
//! A verb must not call a handler (it may be called *from* one), so it changes a socket and writes the rest
//! down: in which list it stands says what is still to be done for it.
//!
//! ```text
//!   ready     input may wait          ─► read, accept       phase 5 of the turn
//!   dirty     output waits            ─► flush              phase 6
//!   due       a mark was crossed      ─► low water, …       phase 6
//!   ended     over                    ─► on_close           phase 6
//!   reaped    on_close has been       ─► close the fd       phase 7
//!   doubted   an edge may be lost     ─► ask epoll again    once a second
//! ```
//!
//! Each socket stands in a list at most once (a flag says so), so every list is bounded by the number of
//! sockets; the doubted, by those of the last second. A token in a list may be stale by the time its turn comes; then
//! nothing happens.
//!
//! The rule that is kept: descriptors and slots are released in [`Sockets::reap`] and nowhere else, so within a
//! turn neither a token nor a descriptor number can come to mean another socket.
//!
//! Reading is in `intake.rs`, sending in `outflow.rs`, ending in `ending.rs`, time in `deadlines.rs`; here are the
//! lists, and what an event does first.

use crate::connection::{Connection, Flags, Phase, Received};
use crate::datagram::DatagramSocket;
use crate::dial::DialToken;
use crate::handler::CloseReason;
use crate::intake::read_plain;
use crate::listener::Listener;
use crate::options::{ReactorOptions, StreamOptions};
use crate::output::OutputPool;
use crate::poller::{Interest, Poller, Readiness};
use crate::stats::Stats;
use crate::sys::clock::Moment;
use crate::sys::{self, Fd};
use crate::timer::{TimerId, Wheel};
use crate::token::{Table, Token};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Lists have room for so many from the start: one that grew while many connections are open would lie above their
/// memory, and keep the allocator from giving that back. What a storm adds is given back when it is over.
const LIST_KEPT: usize = 1024;

/// What stands behind a token.
#[derive(Debug)]
pub(crate) enum Source {
    Connection(Connection),
    Listener(Box<Listener>),
    Datagram(Box<DatagramSocket>),
    /// An eventfd that something outside the loop rings.
    Bell(Bell),
}

impl Source {
    /// Its descriptor, if it has one of its own.
    fn fd(&self) -> Option<&Fd> {
        match self {
            Source::Connection(conn) => conn.fd.as_ref(),
            Source::Listener(listener) => Some(listener.fd()),
            Source::Datagram(socket) => Some(socket.fd()),
            Source::Bell(_) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bell {
    Mail,
    Signal,
}

/// Whose turn it is when a timer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// A closure of the user's, by its key.
    Closure(usize),
    /// A handler's own timer.
    Keyed(Token, u32),
    /// Look after the idle and stalled time-outs.
    Watch(Token),
    /// A connection must be made, or gone, by now.
    Deadline(Token),
    /// Try again what failed for want of kernel memory.
    Retry(Token),
    /// Accept again.
    Relisten(Token),
    Redial(DialToken),
    /// Ask the kernel again about those of whom it may have told all it will.
    AskAgain,
    Stop,
}

/// Who has to act upon an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Nobody,
    /// A connection's input lies in the read buffer.
    Data,
    /// A connection's peer has ended, and nothing is left of what it sent.
    Eof,
    Connection,
    Listener,
    Datagram,
    Bell(Bell),
}

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopping {
    No,
    /// `stop` was called; the turn has not acted upon it.
    Asked,
    /// Listeners are closed, connections flush; the timer is the deadline.
    Draining(TimerId),
    /// `stop` was called again, or the deadline passed.
    Cut,
}

pub(crate) struct Sockets {
    pub table: Table<Box<Source>>,
    pub poller: Poller,
    pub timers: Wheel<Due>,
    /// The turn's one reading of the clock.
    pub now: Moment,
    pub stats: Stats,
    pub pool: OutputPool,
    pub ready: VecDeque<Token>,
    pub dirty: VecDeque<Token>,
    pub dirty_datagrams: Vec<Token>,
    pub due: VecDeque<Token>,
    pub ended: VecDeque<(Token, CloseReason)>,
    /// Whose slots and descriptors are released at the end of the turn.
    pub reaped: Vec<Token>,
    /// Descriptors without a slot of their own, likewise.
    pub graveyard: Vec<Fd>,
    /// Listeners and datagram sockets among the reaped: their closures go too.
    pub closed: Vec<Token>,
    /// Whose callback is running; it is flushed when that returns, so it need not stand in `dirty`.
    pub own: Token,
    /// What that connection has sent in this callback and nothing has come after: written straight from here when
    /// the callback returns, which is the life of nearly every message.
    pub scratch: Vec<u8>,
    /// How much more `scratch` takes without a mark to think of; 0 when the connection has a queue already, or
    /// something has been done to it since. Every verb that touches its output or its end sees to that.
    pub scratch_room: usize,
    /// Addresses of the buffer lent to that callback: what is sent out of it must be gone, or copied, before
    /// the next read.
    pub lent: Range<usize>,
    /// Who was sent slices of that buffer.
    pub borrowers: Vec<Token>,
    /// For whom the kernel is asked again, and the timer of that: see `deadlines.rs`.
    pub doubted: VecDeque<Token>,
    /// So many at its front are being asked about now.
    pub asking: usize,
    pub ask_again: Option<TimerId>,
    /// Kept against EMFILE: see `listener.rs`.
    pub spare: Option<Fd>,
    pub stopping: Stopping,
    /// No limit is a limit that cannot be reached.
    memory_budget: u64,
    pub stop_timeout: Duration,
    /// What `options` starts from; shared by all that set nothing.
    pub default_stream: Rc<StreamOptions>,
}

impl Sockets {
    pub fn new(options: &ReactorOptions, now: Moment) -> io::Result<Sockets> {
        Ok(Sockets {
            table: Table::default(),
            poller: Poller::new()?,
            timers: Wheel::new(now),
            now,
            stats: Stats::default(),
            pool: OutputPool::default(),
            ready: VecDeque::with_capacity(LIST_KEPT),
            dirty: VecDeque::with_capacity(LIST_KEPT),
            dirty_datagrams: Vec::new(),
            due: VecDeque::with_capacity(LIST_KEPT),
            ended: VecDeque::with_capacity(LIST_KEPT),
            reaped: Vec::with_capacity(LIST_KEPT),
            graveyard: Vec::new(),
            closed: Vec::new(),
            own: Token::NOBODY,
            scratch: Vec::new(),
            scratch_room: 0,
            lent: 0..0,
            borrowers: Vec::new(),
            doubted: VecDeque::new(),
            asking: 0,
            ask_again: None,
            spare: Some(sys::fd::spare()?),
            stopping: Stopping::No,
            memory_budget: options.memory_budget.map_or(u64::MAX, |bytes| bytes as u64),
            stop_timeout: options.stop_timeout,
            default_stream: Rc::new(StreamOptions::default()),
        })
    }

    #[inline]
    pub fn connection(&self, token: Token) -> Option<&Connection> {
        match self.table.get(token).map(|source| &**source) {
            Some(Source::Connection(conn)) => Some(conn),
            _ => None,
        }
    }

    #[inline]
    pub fn connection_mut(&mut self, token: Token) -> Option<&mut Connection> {
        connection_in(&mut self.table, token)
    }

    /// Takes in what the kernel said, and flushes what it has room for again.
    ///
    /// The commonest case is an open connection with nothing out of the ordinary: that is read at once, into
    /// `buffer`.
    #[inline(always)]
    pub fn note(&mut self, token: Token, readiness: Readiness, buffer: &mut BytesMut) -> Served {
        self.stats.events += 1;
        let Some(source) = self.table.get_mut(token) else {
            self.stats.stale_events += 1;
            return Served::Nobody;
        };
        let Source::Connection(conn) = &mut **source else { return self.note_other(token, readiness) };
        conn.note(readiness);
        if !conn.is_plain() {
            return match conn.plain_relay() {
                Some(other) => self.relay_plain(token, other, buffer),
                None => self.note_unusual(token, readiness),
            };
        }
        let received = read_plain(conn, buffer, &mut self.stats, self.now);
        match received {
            Received::Bytes => {
                self.scratch_room = conn.quiet;
                Served::Data
            }
            Received::End if !conn.flags.has(Flags::FAILED) => {
                conn.flags.set(Flags::EOF_DELIVERED);
                Served::Eof
            }
            other => self.read_ended_early(token, other),
        }
    }

    #[inline(never)]
    fn note_other(&mut self, token: Token, readiness: Readiness) -> Served {
        match self.table.get_mut(token).map(|source| &mut **source) {
            Some(Source::Listener(listener)) if !listener.is_closed() => Served::Listener,
            Some(Source::Datagram(socket)) if !socket.is_closed() => {
                socket.note(readiness);
                if readiness.writable() {
                    self.flush_datagrams(token);
                }
                Served::Datagram
            }
            Some(Source::Bell(bell)) => Served::Bell(*bell),
            _ => Served::Nobody,
        }
    }

    /// The callback has panicked, or there is none: what it sent is forgotten.
    pub fn forget_callback(&mut self) {
        self.own = Token::NOBODY;
        self.scratch.clear();
        self.scratch_room = 0;
    }

    #[inline(never)]
    fn note_unusual(&mut self, token: Token, readiness: Readiness) -> Served {
        let Some(conn) = connection_in(&mut self.table, token) else { return Served::Nobody };
        if conn.phase == Phase::Ended {
            self.stats.stale_events += 1;
            return Served::Nobody;
        }
        if conn.output.is_some() && readiness.writable() {
            self.flush_and_tell(token);
        }
        Served::Connection
    }

    /// Adds a connection, counted by its listener if it has one.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): ENOSPC, ENOMEM. The connection is dropped.
    pub fn add_connection(&mut self, conn: Connection) -> io::Result<Token> {
        let listener = conn.listener;
        let interest = conn.interest();
        let token = self.add_source(Source::Connection(conn), interest)?;
        if let Some(listener) = listener {
            self.count_connection(listener);
        }
        Ok(token)
    }

    /// Adds a source that has a descriptor, and has epoll watch it.
    ///
    /// # Errors
    /// Those of epoll_ctl(2). Slot and descriptor are released at once: nobody can have seen either.
    pub fn add_source(&mut self, source: Source, interest: Interest) -> io::Result<Token> {
        let token = self.table.insert(Box::new(source));
        let registered = match self.table.get(token).and_then(|source| source.fd()) {
            Some(fd) => self.poller.add(fd, interest, token),
            None => Ok(()),
        };
        if let Err(e) = registered {
            self.table.remove(token);
            return Err(e);
        }
        Ok(token)
    }

    /// Begins the life of an open connection: its time-outs run from now.
    pub fn opened(&mut self, token: Token) {
        let now = self.now;
        let Some(conn) = self.connection_mut(token) else { return };
        conn.phase = Phase::Open;
        conn.moved = now;
        conn.taken = now;
        if conn.options.idle_timeout.is_some() {
            self.watch(token);
        }
    }

    // ── The three lists that a token enters by itself ────────────────────────────────────────────────────────

    pub fn mark_ready(&mut self, token: Token) {
        if let Some(conn) = connection_in(&mut self.table, token)
            && !conn.flags.has(Flags::IN_READY)
        {
            conn.flags.set(Flags::IN_READY);
            self.ready.push_back(token);
        }
    }

    /// Its turn in the ready list has come; whether it is still there.
    pub fn leave_ready(&mut self, token: Token) -> bool {
        connection_in(&mut self.table, token).is_some_and(|conn| conn.flags.take(Flags::IN_READY))
    }

    #[inline]
    pub fn mark_dirty(&mut self, token: Token) {
        if let Some(conn) = connection_in(&mut self.table, token)
            && !conn.flags.has(Flags::IN_DIRTY)
        {
            conn.flags.set(Flags::IN_DIRTY);
            self.dirty.push_back(token);
        }
    }

    pub fn mark_due(&mut self, token: Token, what: Flags) {
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.flags.set(what);
            if !conn.flags.has(Flags::IN_DUE) {
                conn.flags.set(Flags::IN_DUE);
                self.due.push_back(token);
            }
        }
    }

    /// Releases what is over: the only place where descriptors are closed and slots become free.
    pub fn reap(&mut self) {
        while let Some(token) = self.reaped.pop() {
            let Some(source) = self.table.remove(token) else { continue };
            log::trace!("{token}: released");
            if let Source::Connection(conn) = &*source {
                debug_assert_eq!(conn.phase, Phase::Ended, "only the ended are reaped");
                if let Some(listener) = conn.listener {
                    self.uncount_connection(listener);
                }
            }
        }
        self.graveyard.clear();
        if self.reaped.capacity() > LIST_KEPT {
            self.give_back_lists();
        }
    }

    /// After a storm of endings, which is what makes these lists long.
    #[cold]
    fn give_back_lists(&mut self) {
        self.reaped.shrink_to(LIST_KEPT);
        self.graveyard.shrink_to(LIST_KEPT);
        self.borrowers.shrink_to(LIST_KEPT);
        self.ready.shrink_to(LIST_KEPT);
        self.dirty.shrink_to(LIST_KEPT);
        self.due.shrink_to(LIST_KEPT);
        self.ended.shrink_to(LIST_KEPT);
    }

    /// A connection's callback begins: it will be flushed when that returns, and `lent` is its buffer.
    #[inline]
    pub fn lend(&mut self, token: Token, lent: Range<usize>) {
        debug_assert!(self.scratch.is_empty(), "the callback before this one was flushed");
        self.own = token;
        self.lent = lent;
    }

    /// Whether something is to be released.
    #[inline]
    pub fn has_bodies(&self) -> bool {
        !self.reaped.is_empty() || !self.graveyard.is_empty()
    }

    /// Whether the loop holds more than it may.
    #[inline]
    pub fn is_over_budget(&self) -> bool {
        self.stats.held > self.memory_budget
    }

    /// Whether something waits that no event will announce. Asked twice a turn, nearly always in vain: so all lists are
    /// looked at together.
    #[inline]
    pub fn has_work(&self) -> bool {
        let listed = self.ready.len()
            | self.dirty.len()
            | self.dirty_datagrams.len()
            | self.due.len()
            | self.ended.len()
            | self.reaped.len();
        listed != 0 || self.poller.has_events() || self.stopping != Stopping::No && self.has_stop_to_do()
    }

    #[cold]
    #[inline(never)]
    fn has_stop_to_do(&self) -> bool {
        // Who turns the loop by hand may go on turning when the stop is over.
        self.stopping == Stopping::Asked || self.stopping == Stopping::Cut && !self.is_stopped()
    }
}

/// [`Sockets::connection_mut`] for when other fields are borrowed too.
#[inline]
pub(crate) fn connection_in(table: &mut Table<Box<Source>>, token: Token) -> Option<&mut Connection> {
    match table.get_mut(token).map(|source| &mut **source) {
        Some(Source::Connection(conn)) => Some(conn),
        _ => None,
    }
}
