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
//! ```
//!
//! Each socket stands in a list at most once (a flag says so), so every list is bounded by the number of
//! sockets. A token in a list may be stale by the time its turn comes; then nothing happens.
//!
//! The rule that is kept: descriptors and slots are released in [`Sockets::reap`] and nowhere else, so within a
//! turn neither a token nor a descriptor number can come to mean another socket.
//!
//! Sending is in `outflow.rs`, reading in `intake.rs`; here is the life of a connection.

use crate::connection::{Connection, Flags, Phase, Received};
use crate::datagram::DatagramSocket;
use crate::dial::DialToken;
use crate::handler::CloseReason;
use crate::intake::read_plain;
use crate::listener::Listener;
use crate::options::{ReactorOptions, StreamOptions};
use crate::output::OutputPool;
use crate::poller::{Poller, Readiness};
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

/// A transient error that brings no new edge (ENOBUFS, ENOMEM) is tried again after this. The kernel frees
/// memory in milliseconds or not at all.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Lists that a storm has made long are given back when it is over.
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
    Stop,
}

/// Who has to act upon an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Nobody,
    /// A connection's input lies in the read buffer.
    Data,
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
    /// something has been done to it since.
    pub scratch_room: usize,
    /// Addresses of the buffer lent to that callback: what is sent out of it must be gone, or copied, before
    /// the next read.
    pub lent: Range<usize>,
    /// Who was sent slices of that buffer.
    pub borrowers: Vec<Token>,
    /// Kept against EMFILE: see `listener.rs`.
    pub spare: Option<Fd>,
    pub stopping: Stopping,
    /// No limit is a limit that cannot be reached.
    memory_budget: u64,
    stop_timeout: Duration,
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
            ready: VecDeque::new(),
            dirty: VecDeque::new(),
            dirty_datagrams: Vec::new(),
            due: VecDeque::new(),
            ended: VecDeque::new(),
            reaped: Vec::new(),
            graveyard: Vec::new(),
            closed: Vec::new(),
            own: Token::NOBODY,
            scratch: Vec::new(),
            scratch_room: 0,
            lent: 0..0,
            borrowers: Vec::new(),
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
            if conn.is_plainly_relayed() {
                let mut budget = conn.options.read_budget.max(1);
                self.relay_step(token, buffer, &mut budget);
                return Served::Nobody;
            }
            return self.note_unusual(token, readiness);
        }
        let received = read_plain(conn, buffer, &mut self.stats, self.now);
        if matches!(received, Received::Bytes) {
            self.scratch_room = conn.quiet;
            return Served::Data;
        }
        self.read_ended_early(token, received)
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

    /// The callback that ran has panicked: what it sent is forgotten.
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
        let token = self.table.insert(Box::new(Source::Connection(conn)));
        let registered = match self.connection(token).and_then(|conn| conn.fd.as_ref()) {
            Some(fd) => self.poller.add(fd, interest, token),
            None => Ok(()),
        };
        if let Err(e) = registered {
            if let Some(Source::Connection(conn)) = self.table.remove(token).map(|source| *source) {
                self.graveyard.extend(conn.fd);
            }
            return Err(e);
        }
        if let Some(listener) = listener {
            self.count_connection(listener);
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

    // ── Ending ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Our half ends once everything queued is sent.
    pub fn shutdown(&mut self, token: Token) {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if !conn.takes_output() {
            return;
        }
        if conn.flags.has(Flags::FILTERED) {
            self.finish_filter(token);
        }
        self.end_output(token);
    }

    /// The same for a relayed connection, whose output the user cannot end.
    pub fn end_output(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        conn.flags.set(Flags::SHUTDOWN);
        if self.own != token {
            self.mark_dirty(token);
        }
    }

    /// Ends both halves once everything queued is sent; the handler hears `on_close` and nothing else.
    pub fn close(&mut self, token: Token) {
        self.spill(token);
        let Some(source) = self.table.get_mut(token) else { return };
        match &mut **source {
            Source::Connection(conn) => match conn.phase {
                Phase::Connecting => {
                    let reason = if conn.queued() > 0 { CloseReason::Unsent } else { CloseReason::Local };
                    self.end(token, reason);
                }
                Phase::Open => self.begin_close(token),
                Phase::Closing | Phase::Lingering | Phase::Ended => {}
            },
            Source::Listener(_) => self.close_listener(token),
            Source::Datagram(_) => self.close_datagram(token),
            Source::Bell(_) => {}
        }
    }

    /// Ends the connection now with an RST.
    pub fn abort(&mut self, token: Token) {
        self.spill(token);
        match self.connection(token).map(|conn| conn.phase) {
            Some(Phase::Lingering) => {
                if let Some(fd) = self.connection(token).and_then(|conn| conn.fd.as_ref()) {
                    // Best effort, as in `end`.
                    let _ = sys::socket::set_linger_zero(fd);
                }
                self.finish_lingering(token);
            }
            Some(_) => self.end(token, CloseReason::Aborted),
            None => self.close(token),
        }
    }

    fn begin_close(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.phase == Phase::Open && conn.flags.has(Flags::FILTERED) {
            self.finish_filter(token);
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.phase != Phase::Open {
            return;
        }
        conn.phase = Phase::Closing;
        self.drop_unread(token);
        self.cancel_keyed(token);
        // Input is discarded from now on, whatever the handler had asked: a peer that is blocked writing to us
        // would not read what we still have to send.
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.flags.clear(Flags::PAUSED.or(Flags::GATED));
            if conn.flags.has(Flags::READABLE) {
                self.mark_ready(token);
            }
        }
        if self.own != token {
            self.mark_dirty(token);
        }
    }

    /// What follows when nothing is queued any more: an ended half is told to the peer, a closed connection is
    /// over.
    pub fn drained(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        match conn.phase {
            Phase::Open if conn.flags.has(Flags::SHUTDOWN) => {
                // No shutdown(2) when close(2) follows at once.
                if conn.flags.has(Flags::EOF_DELIVERED) {
                    self.end(token, CloseReason::Done);
                } else if !conn.flags.has(Flags::FIN_SENT) {
                    conn.flags.set(Flags::FIN_SENT);
                    if let Some(Err(e)) = conn.fd.as_ref().map(sys::socket::shutdown_write) {
                        self.broken(token, e);
                    }
                }
            }
            Phase::Closing if conn.flags.has(Flags::STOPPED) => {
                self.read_away(token);
                self.end(token, CloseReason::Stopped);
            }
            Phase::Closing => self.begin_lingering(token),
            _ => {}
        }
    }

    /// The factory has refused the peer; what it may have sent still goes out.
    pub fn turn_away(&mut self, token: Token) {
        self.stats.refused += 1;
        match self.connection(token) {
            Some(conn) if conn.queued() > 0 => self.begin_close(token),
            _ => self.end(token, CloseReason::Local),
        }
    }

    /// Everything is with the kernel: the handler may go. The descriptor waits for the peer's end, because
    /// closing it with input unread, or still to come, would make the kernel send an RST, which may overtake
    /// what was just sent.
    fn begin_lingering(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.has(Flags::EOF_READ) {
            return self.end(token, CloseReason::Local);
        }
        let timeout = conn.options.close_timeout;
        if !conn.flags.has(Flags::FIN_SENT)
            && let Some(Err(_)) = conn.fd.as_ref().map(sys::socket::shutdown_write)
        {
            // ENOTCONN: the peer has cut the connection. Nothing is left to wait for.
            return self.end(token, CloseReason::Local);
        }
        conn.flags.set(Flags::FIN_SENT);
        conn.phase = Phase::Lingering;
        self.cancel_watch(token);
        self.deadline_by(token, timeout);
        self.mark_ready(token);
        self.end_relayed(token, &CloseReason::Local);
        self.push_ended(token, CloseReason::Local);
    }

    /// The peer has ended too, or has been given time enough.
    pub fn finish_lingering(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.phase != Phase::Lingering {
            return;
        }
        conn.phase = Phase::Ended;
        // While `on_close` is still due, its delivery reaps.
        let delivered = !conn.flags.has(Flags::CLOSE_DUE);
        self.cancel_timers(token);
        if delivered {
            self.reaped.push(token);
        }
    }

    /// The connection is over. `on_close` follows in this turn, or in the next one if the turn has settled.
    pub fn end(&mut self, token: Token, reason: CloseReason) {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if matches!(conn.phase, Phase::Lingering | Phase::Ended) {
            return;
        }
        if reason.cuts(conn.queued())
            && let Some(fd) = &conn.fd
        {
            // Best effort: without it the peer sees a FIN and may take a cut stream for a whole one.
            let _ = sys::socket::set_linger_zero(fd);
        }
        log::debug!("{token}: {reason}");
        let held = conn.held();
        conn.phase = Phase::Ended;
        conn.output = None;
        conn.unread = None;
        let plain = conn.extras.is_none() && conn.watch.is_none() && conn.relay.is_none();
        self.stats.held -= held as u64;
        if matches!(reason, CloseReason::Connect(_)) {
            self.stats.connect_failures += 1;
        }
        if !plain {
            self.cancel_timers(token);
            self.end_relayed(token, &reason);
        }
        self.push_ended(token, reason);
    }

    fn push_ended(&mut self, token: Token, reason: CloseReason) {
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.flags.set(Flags::CLOSE_DUE);
            self.stats.closes += 1;
            self.ended.push_back((token, reason));
        }
    }

    /// The next `on_close` to deliver; its connection may be released when it has been.
    pub fn take_ended(&mut self) -> Option<(Token, CloseReason)> {
        let (token, reason) = self.ended.pop_front()?;
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.flags.clear(Flags::CLOSE_DUE);
            if conn.phase == Phase::Ended {
                self.reaped.push(token);
            }
        }
        Some((token, reason))
    }

    /// Writing failed. What the peer sent before it failed can often still be read, so that comes first.
    pub fn broken(&mut self, token: Token, e: io::Error) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let queued = conn.queued();
        conn.output = None;
        self.stats.held -= queued as u64;
        let nothing_to_read = conn.flags.has(Flags::EOF_READ.or(Flags::RELAYED));
        if conn.phase != Phase::Open || nothing_to_read {
            self.end(token, CloseReason::Error(e));
        } else if conn.flags.has(Flags::PAUSED) {
            self.end(token, CloseReason::ErrorUnread(e));
        } else {
            conn.flags.set(Flags::BROKEN.or(Flags::READABLE).or(Flags::CUT_READS));
            conn.flags.clear(Flags::GATED);
            conn.extras().broken = Some(e);
            self.mark_ready(token);
        }
    }

    /// Releases what is over: the only place where descriptors are closed and slots become free.
    pub fn reap(&mut self) {
        while let Some(token) = self.reaped.pop() {
            let Some(source) = self.table.remove(token) else { continue };
            log::trace!("{token}: released");
            if let Source::Connection(conn) = *source {
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

    /// Ends the biggest holders until the loop's memory is within its budget.
    pub fn enforce_memory_budget(&mut self) {
        if !self.is_over_budget() {
            return;
        }
        let mut holders: Vec<(usize, Token)> = self
            .table
            .iter()
            .filter_map(|(token, source)| match &**source {
                Source::Connection(conn) => Some((conn.held(), token)),
                _ => None,
            })
            .collect();
        holders.sort_unstable();
        while self.is_over_budget()
            && let Some((_, token)) = holders.pop()
        {
            self.end(token, CloseReason::Memory);
        }
    }

    // ── Stopping ─────────────────────────────────────────────────────────────────────────────────────────────

    pub fn stop(&mut self) {
        self.stopping = match self.stopping {
            Stopping::No => Stopping::Asked,
            Stopping::Asked | Stopping::Draining(_) | Stopping::Cut => Stopping::Cut,
        };
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping != Stopping::No
    }

    /// Acts upon `stop`: listeners close, connections end as soon as they are flushed; at the second call, or at
    /// the deadline, at once.
    pub fn carry_out_stop(&mut self) {
        match self.stopping {
            Stopping::No | Stopping::Draining(_) => return,
            Stopping::Asked => {
                let deadline = self.timers.insert(self.now + self.stop_timeout, Due::Stop);
                self.stopping = Stopping::Draining(deadline);
            }
            Stopping::Cut => {}
        }
        let cut = self.stopping == Stopping::Cut;
        let tokens: Vec<Token> = self.table.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.stop_one(token, cut);
        }
    }

    fn stop_one(&mut self, token: Token, cut: bool) {
        let Some(conn) = connection_in(&mut self.table, token) else { return self.close(token) };
        let queued = conn.queued();
        // A filter has a farewell to say, without which the peer would take the stream for cut.
        let unfinished = conn.flags.has(Flags::FILTERED) && !conn.flags.has(Flags::SHUTDOWN);
        match conn.phase {
            Phase::Lingering => {
                self.read_away(token);
                self.finish_lingering(token);
            }
            Phase::Ended => {}
            _ if cut && queued > 0 => self.end(token, CloseReason::Unsent),
            Phase::Connecting if queued > 0 => self.end(token, CloseReason::Unsent),
            Phase::Open | Phase::Closing if queued > 0 || unfinished => {
                conn.flags.set(Flags::STOPPED);
                self.begin_close(token);
            }
            _ => {
                self.read_away(token);
                self.end(token, CloseReason::Stopped);
            }
        }
    }

    /// Whether nothing is left of what `stop` has to end.
    pub fn is_stopped(&self) -> bool {
        matches!(self.stopping, Stopping::Draining(_) | Stopping::Cut)
            && self.ended.is_empty()
            && self.table.iter().all(|(_, source)| matches!(**source, Source::Bell(_)))
    }

    /// Ready for another `run`.
    pub fn finish_stop(&mut self) {
        if let Stopping::Draining(deadline) = self.stopping {
            self.timers.remove(deadline);
        }
        self.stopping = Stopping::No;
    }

    // ── Time ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// A timer of the library's own is due.
    pub fn on_due(&mut self, id: TimerId, due: Due) {
        if matches!(due, Due::Relisten(_) | Due::Stop) {
            // The others are remembered by whom they belong to, who removes them or sets them anew.
            self.timers.remove(id);
        }
        match due {
            Due::Watch(token) => self.watch(token),
            Due::Deadline(token) => self.on_deadline(token),
            Due::Retry(token) => self.on_retry(token),
            Due::Relisten(token) => self.relisten(token),
            Due::Stop => self.stopping = Stopping::Cut,
            Due::Closure(_) | Due::Keyed(..) | Due::Redial(_) => unreachable!("due to the reactor and not to a socket"),
        }
    }

    /// Idle and stalled time-outs cost the busy path one store each: the timer is not moved when bytes move; it
    /// looks at the stores when it is due, and comes back later if they are young.
    ///
    /// Called when the timer is due, and when one of the two begins to run.
    pub fn watch(&mut self, token: Token) {
        let shared = self.connection(token).and_then(|conn| conn.relay.as_ref()).map(|relay| relay.other);
        let shared = shared.and_then(|other| self.connection(other)).map(|conn| conn.moved);
        let now = self.now;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let moved = shared.map_or(conn.moved, |shared| shared.max(conn.moved));
        let idle = conn.options.idle_timeout.map(|timeout| moved + timeout);
        let waits = conn.queued() > 0;
        let stalled = conn.options.stalled_timeout.filter(|_| waits).map(|timeout| conn.taken + timeout);
        if stalled.is_some_and(|at| at <= now) {
            return self.end(token, CloseReason::Stalled);
        }
        if idle.is_some_and(|at| at <= now) {
            return self.end(token, CloseReason::Idle);
        }
        let next = idle.into_iter().chain(stalled).min();
        match (conn.watch, next) {
            (Some(id), Some(next)) => {
                self.timers.reset(id, next);
            }
            (None, Some(next)) => conn.watch = Some(self.timers.insert(next, Due::Watch(token))),
            (Some(_), None) => self.cancel_watch(token),
            (None, None) => {}
        }
    }

    pub fn deadline_by(&mut self, token: Token, after: Duration) {
        let at = self.now + after;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let timers = &mut self.timers;
        match conn.extras().deadline {
            Some(id) => {
                timers.reset(id, at);
            }
            None => conn.extras().deadline = Some(timers.insert(at, Due::Deadline(token))),
        }
    }

    fn on_deadline(&mut self, token: Token) {
        self.cancel_deadline(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        match conn.phase {
            Phase::Connecting => self.end(token, CloseReason::Connect(io::ErrorKind::TimedOut.into())),
            Phase::Closing => self.end(token, CloseReason::Unsent),
            Phase::Lingering => self.finish_lingering(token),
            Phase::Open | Phase::Ended => {}
        }
    }

    /// The kernel lacked memory and will bring no edge when it has some again.
    pub fn retry_later(&mut self, token: Token) {
        let at = self.now + RETRY_AFTER;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let extras = conn.extras();
        if extras.retry.is_none() {
            extras.retry = Some(self.timers.insert(at, Due::Retry(token)));
        }
    }

    fn on_retry(&mut self, token: Token) {
        if let Some(Source::Datagram(_)) = self.table.get(token).map(|source| &**source) {
            return self.retry_datagrams(token);
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if let Some(id) = conn.extras().retry.take() {
            self.timers.remove(id);
        }
        if conn.phase == Phase::Connecting {
            return self.try_next_address(token);
        }
        conn.flags.set(Flags::READABLE.or(Flags::WRITABLE));
        self.mark_ready(token);
        self.mark_dirty(token);
    }

    pub fn cancel_watch(&mut self, token: Token) {
        if let Some(id) = connection_in(&mut self.table, token).and_then(|conn| conn.watch.take()) {
            self.timers.remove(id);
        }
    }

    pub fn cancel_deadline(&mut self, token: Token) {
        let extras = connection_in(&mut self.table, token).and_then(|conn| conn.extras.as_mut());
        if let Some(id) = extras.and_then(|extras| extras.deadline.take()) {
            self.timers.remove(id);
        }
    }

    fn cancel_keyed(&mut self, token: Token) {
        if let Some(extras) = connection_in(&mut self.table, token).and_then(|conn| conn.extras.as_mut()) {
            for (_, id) in extras.keyed.drain(..) {
                self.timers.remove(id);
            }
        }
    }

    fn cancel_timers(&mut self, token: Token) {
        self.cancel_watch(token);
        self.cancel_keyed(token);
        self.cancel_deadline(token);
        let extras = connection_in(&mut self.table, token).and_then(|conn| conn.extras.as_mut());
        if let Some(id) = extras.and_then(|extras| extras.retry.take()) {
            self.timers.remove(id);
        }
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

    /// Whether something waits that no event will announce.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.dirty.is_empty()
            || !self.dirty_datagrams.is_empty()
            || !self.due.is_empty()
            || !self.ended.is_empty()
            || !self.reaped.is_empty()
            || matches!(self.stopping, Stopping::Asked | Stopping::Cut)
            || self.poller.has_events()
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

impl CloseReason {
    /// Whether the peer must not take what it has for the whole.
    fn cuts(&self, queued: usize) -> bool {
        match self {
            CloseReason::Done | CloseReason::Local | CloseReason::Stopped | CloseReason::Detached => false,
            CloseReason::Idle => queued > 0,
            // The socket is dead already, or never was alive.
            CloseReason::Error(_) | CloseReason::ErrorUnread(_) | CloseReason::Connect(_) => false,
            CloseReason::Aborted
            | CloseReason::Stalled
            | CloseReason::Overflow
            | CloseReason::InputLimit
            | CloseReason::Memory
            | CloseReason::Unsent
            | CloseReason::Relay => true,
        }
    }
}
