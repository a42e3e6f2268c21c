//! The reactor: one thread, one epoll instance, one loop. This file is the turn.
//!
//! ```text
//!        ┌──────────────────────────────────────────────────────────────────────────────────────┐
//!        ▼                                                                                      │
//!  1 wait ──► 2 clock ──► 3 mail ──► 4 timers ──► 5 dispatch ready ──► 6 settle ──► 7 reap ─────┘
//!  epoll_wait   once a     closures    due           accept / read /      newborn handlers,
//!  until the    turn       from other  deadlines     datagrams, each      deferred closures,    close fds,
//!  next         (now)      threads                   under its budget     flush dirty queues,   free slots
//!  deadline                                                               low-water / complete / close callbacks
//! ```
//!
//! Each phase has a bound: mail, timers and deferred closures by a budget, the rest by the length of its list
//! when the phase begins. What a callback adds waits for the next turn, which then does not sleep. So no phase
//! can starve another, whatever the callbacks do.
//!
//! The rule that is kept: a callback is made only from here, with nothing half done. It may change any
//! socket, including its own; when it has returned, what it left behind is looked at afresh by token.
//!
//! The panic of a callback unwinds through here. All state lives in fields, never in locals that would be lost,
//! so the loop can go on; the connection whose callback it was is aborted when the next turn begins.

use crate::closures::{Deferred, Mail};
use crate::connection::{Connection, Flags};
use crate::handler::{CloseReason, Ctx, Handler, Loop};
use crate::handlers::{Handlers, Newborn};
use crate::intake::{READ_BYTES, Step, addresses};
use crate::listener::Accepted;
use crate::net::Net;
use crate::options::ReactorOptions;
use crate::outflow::After;
use crate::sockets::{Bell, Due, Served, Stopping};
use crate::sys::clock::Moment;
use crate::sys::datagram::Inbox;
use crate::sys::{self, Address};
use crate::token::Token;
use bytes::BytesMut;
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Datagrams received by one call, at most.
const INBOX_SLOTS: usize = 64;

/// An event loop, its sockets, their handlers, and the state that they share.
///
/// It belongs to one thread; other threads reach it through [`Net::mailbox`].
pub struct Reactor<A = ()> {
    /// The state that all connections share.
    pub app: A,
    /// Every socket, and every verb.
    pub net: Net<A>,
    handlers: Handlers<A>,
    /// The one buffer that all connections are read into.
    read_buffer: BytesMut,
    /// The same for datagrams; made when the first datagram socket has something.
    inbox: Option<Inbox>,
    /// Whose callback is running. Still set when a turn begins: that callback panicked.
    running: Token,
    /// How long to poll before blocking, if at all.
    spin: Option<Duration>,
    /// The time since the last wait is counted, or nobody has waited yet.
    counted: bool,
}

impl<A: 'static> Reactor<A> {
    /// Makes a reactor with the default options. SIGPIPE and SIGHUP are ignored from now on, in the whole process:
    /// [`ReactorOptions`] can leave either alone.
    ///
    /// # Errors
    /// Those of epoll_create1(2), eventfd(2) and open(2): EMFILE, ENFILE, ENOMEM.
    pub fn new(app: A) -> io::Result<Reactor<A>> {
        Reactor::with_options(app, ReactorOptions::default())
    }

    /// Makes a reactor. SIGPIPE and SIGHUP are ignored from now on, unless the options say otherwise.
    ///
    /// # Errors
    /// Those of [`new`](Reactor::new).
    pub fn with_options(app: A, options: ReactorOptions) -> io::Result<Reactor<A>> {
        if options.ignore_sigpipe {
            sys::signal::ignore(sys::signum::PIPE)?;
        }
        if options.ignore_sighup {
            sys::signal::ignore(sys::signum::HUP)?;
        }
        Ok(Reactor {
            app,
            net: Net::new(&options)?,
            handlers: Handlers { connections: Vec::new(), listeners: BTreeMap::new(), datagrams: BTreeMap::new() },
            read_buffer: BytesMut::with_capacity(READ_BYTES),
            inbox: None,
            running: Token::NOBODY,
            spin: Some(options.spin).filter(|spin| !spin.is_zero()),
            counted: true,
        })
    }

    /// Turns until [`Net::stop`] has been called and carried out: every handler has had its `on_close` then. May
    /// be called again.
    ///
    /// # Errors
    /// Those of a broken epoll descriptor (EBADF, EINVAL); there is nothing to be done about them. Nothing that a peer
    /// or a shortage does is an error here.
    ///
    /// # Panics
    /// When a callback does. Everything else is consistent, and `run` may be called again: see [`Handler`].
    pub fn run(&mut self) -> io::Result<()> {
        let mut settled = false;
        while !self.net.sockets.is_stopped() {
            settled = self.pass(None, settled)?;
        }
        self.net.sockets.finish_stop();
        Ok(())
    }

    /// One pass: waits for events, or for `timeout` (`None`: as long as it takes), and does all that is due. For
    /// programs that have a loop of their own: watch the reactor's descriptor for input, and call this with zero
    /// when it is readable or [`next_turn_in`](Reactor::next_turn_in) has passed. After [`Net::stop`], turn until
    /// [`is_stopped`](Reactor::is_stopped).
    ///
    /// # Errors
    /// Those of [`run`](Reactor::run).
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let turned = self.pass(timeout, false).map(drop);
        // What passes until the next turn is not ours.
        self.count_busy(sys::clock::now());
        self.counted = true;
        // Until the next turn nobody looks into the mailbox, which is as good as sleep: a post must ring.
        self.net.mail.fall_asleep();
        turned
    }

    /// A turn as it is, for [`run`](Reactor::run) and [`turn`](Reactor::turn). Inlined by order, with all its phases but
    /// one: left to the compiler, whether they are depends on whether a program uses both, and on how many kinds of
    /// reactors it has; and the calls cost each turn some hundred instructions.
    #[inline(always)]
    fn pass(&mut self, timeout: Option<Duration>, settled: bool) -> io::Result<bool> {
        self.recover();
        self.wait(timeout, settled)?;
        self.read_mail();
        self.run_timers();
        self.dispatch();
        let settled = self.settle();
        self.reap();
        Ok(settled)
    }

    /// How long nothing is due, if no event comes: zero when work is left over (which does not make the
    /// descriptor readable), `None` when nothing but an event can bring work.
    pub fn next_turn_in(&self) -> Option<Duration> {
        // A turn that ended in a panic has not fallen asleep; whoever asks this is about to.
        if self.net.has_work() || self.running != Token::NOBODY || !self.net.mail.fall_asleep() {
            return Some(Duration::ZERO);
        }
        let deadline = self.net.sockets.timers.next_deadline()?;
        Some(deadline.since(sys::clock::now()))
    }

    /// Whether a stop has been carried out to the end: for programs that turn the loop by hand. [`run`](Reactor::run)
    /// returns at once then, and the reactor may be used anew.
    pub fn is_stopped(&self) -> bool {
        self.net.sockets.is_stopped()
    }

    /// Ends the reactor and gives the shared state back. Nothing is delivered: for `on_close` and flushed output,
    /// [`Net::stop`] and [`run`](Reactor::run) come first. Sockets are closed, queued output is lost.
    pub fn into_app(self) -> A {
        self.app
    }

    // ── 1 wait, 2 clock ──────────────────────────────────────────────────────────────────────────────────────

    #[inline(always)]
    fn wait(&mut self, timeout: Option<Duration>, settled: bool) -> io::Result<()> {
        let before = sys::clock::now();
        self.count_busy(before);
        self.counted = false;
        let idle = (settled || !self.net.has_work()) && self.net.mail.fall_asleep();
        let sockets = &mut self.net.sockets;
        let limit = if idle {
            let due = sockets.timers.next_deadline().map(|deadline| deadline.since(before));
            due.into_iter().chain(timeout).min()
        } else {
            Some(Duration::ZERO)
        };
        // With events left over, this is the rest of a turn that a panic has cut.
        sockets.stats.turns += u64::from(!sockets.poller.has_events());
        match self.spin {
            Some(spin) if limit != Some(Duration::ZERO) => self.poll_for(spin, before, limit)?,
            _ => sockets.poller.wait(limit).map(drop)?,
        }
        self.net.mail.wake();
        self.net.sockets.now = sys::clock::now();
        Ok(())
    }

    /// Polls for a while before it blocks: on a processor of its own this saves the sleep and the wake-up.
    #[inline(never)]
    fn poll_for(&mut self, spin: Duration, since: Moment, limit: Option<Duration>) -> io::Result<()> {
        let spin = limit.map_or(spin, |limit| limit.min(spin));
        loop {
            if self.net.sockets.poller.wait(Some(Duration::ZERO))? > 0 {
                return Ok(());
            }
            let spent = sys::clock::now().since(since);
            if spent >= spin {
                let left = limit.map(|limit| limit.saturating_sub(spent));
                return self.net.sockets.poller.wait(left).map(|_| ());
            }
            std::hint::spin_loop();
        }
    }

    fn count_busy(&mut self, before: Moment) {
        let stats = &mut self.net.sockets.stats;
        if !self.counted {
            let busy_ns = before.nanos() - self.net.sockets.now.nanos();
            stats.total_busy_ns += busy_ns;
            stats.worst_turn_ns = stats.worst_turn_ns.max(busy_ns);
        }
    }

    // ── 3 mail ───────────────────────────────────────────────────────────────────────────────────────────────

    #[inline(always)]
    fn read_mail(&mut self) {
        if self.net.mail.len() == 0 {
            return;
        }
        self.net.mail.take(self.net.closure_budget);
        self.net.sockets.stats.peak_mail = self.net.mail.peak_len() as u64;
        self.net.sockets.stats.mail_wakes = self.net.mail.rings();
        while let Some(mail) = self.net.mail.pop() {
            self.net.sockets.stats.mail += 1;
            match mail {
                Mail::Letter(letter) => letter(&mut self.lp()),
                Mail::Done { job, result } => {
                    let done = self.net.jobs.remove(job);
                    done(&mut self.lp(), result);
                }
            }
        }
    }

    // ── 4 timers ─────────────────────────────────────────────────────────────────────────────────────────────

    #[inline(always)]
    fn run_timers(&mut self) {
        if self.net.sockets.timers.len() == 0 {
            return;
        }
        let now = self.net.sockets.now;
        for _ in 0..self.net.closure_budget {
            let Some(expired) = self.net.sockets.timers.expire(now) else { return };
            self.count_lag(now.nanos() - expired.deadline.nanos());
            match self.net.sockets.timers.get(expired.id).copied() {
                Some(Due::Closure(key)) => self.ring_alarm(expired.id, expired.deadline, key),
                Some(Due::Keyed(token, key)) => {
                    self.net.disarm(token, key);
                    // Mail and the alarms before this one may have given it another handler.
                    self.adopt_newborn();
                    self.call(token, |handler, ctx| handler.on_timer(ctx, key));
                }
                Some(Due::Redial(dial)) => self.lp().attempt(dial),
                Some(due) => self.net.sockets.on_due(expired.id, due),
                None => {}
            }
        }
    }

    fn count_lag(&mut self, lag_ns: u64) {
        let stats = &mut self.net.sockets.stats;
        stats.timers += 1;
        stats.total_timer_lag_ns += lag_ns;
        stats.worst_timer_lag_ns = stats.worst_timer_lag_ns.max(lag_ns);
    }

    // ── 5 dispatch ───────────────────────────────────────────────────────────────────────────────────────────

    /// New events first, then those who had used up their budget in an earlier turn; each once. A function of its own, by
    /// order too: where its registers are shared with the other phases, a message costs a tenth more.
    #[inline(never)]
    fn dispatch(&mut self) {
        self.adopt_newborn();
        let left_over = self.net.sockets.ready.len();
        while let Some((token, readiness)) = self.net.sockets.poller.next_event() {
            match self.net.sockets.note(token, readiness, &mut self.read_buffer) {
                Served::Nobody => {}
                Served::Data => self.deliver_plain(token),
                Served::Eof => self.call(token, |handler, ctx| handler.on_eof(ctx, &mut BytesMut::new())),
                Served::Connection => self.serve(token),
                Served::Listener => self.accept(token),
                Served::Datagram => self.receive_datagrams(token),
                Served::Bell(Bell::Mail) => {}
                Served::Bell(Bell::Signal) => self.net.signals.collect(),
            }
        }
        if self.net.signals.has_pending() {
            self.answer_signals();
        }
        for _ in 0..left_over {
            let Some(token) = self.net.sockets.ready.pop_front() else { break };
            if self.net.sockets.leave_ready(token) {
                self.serve(token);
            }
        }
    }

    /// The commonest event: input that was read already; seldom is there more behind it.
    #[inline]
    fn deliver_plain(&mut self, token: Token) {
        let Some(Some(handler)) = self.handlers.connections.get_mut(token.slot()) else {
            return self.net.sockets.forget_callback();
        };
        self.running = token;
        self.net.sockets.lend(token, addresses(&self.read_buffer));
        let mut ctx = Ctx { app: &mut self.app, net: &mut self.net, token };
        handler.on_data(&mut ctx, &mut self.read_buffer);
        if !self.read_buffer.is_empty() || !ctx.net.newborn.is_empty() {
            return self.deliver_rest(token);
        }
        match ctx.net.sockets.flush_own(token) {
            After::Completed => {
                handler.on_write_complete(&mut ctx);
                self.running = Token::NOBODY;
                self.adopt_newborn();
            }
            After::Idle => self.running = Token::NOBODY,
            after => self.serve_on(token, after),
        }
    }

    /// The handler has left input, or another handler is to take its place.
    #[inline(never)]
    fn deliver_rest(&mut self, token: Token) {
        self.running = Token::NOBODY;
        self.net.sockets.put_back(token, &mut self.read_buffer, false, false);
        let after = self.after_callback(token);
        self.serve_on(token, after);
    }

    #[inline(never)]
    fn serve_on(&mut self, token: Token, after: After) {
        self.running = Token::NOBODY;
        if after == After::CompletedReadable {
            self.write_completed(token);
        }
        self.serve_within(token, 1);
    }

    /// Tells a connection's handler what is to be told, until nothing is or its budget is spent.
    fn serve(&mut self, token: Token) {
        self.serve_within(token, 0);
    }

    /// [`Reactor::serve`] when `spent` of the budget is used up.
    #[inline(never)]
    fn serve_within(&mut self, token: Token, spent: u32) {
        let mut budget = match self.net.sockets.connection(token) {
            // Its turn comes with the others that wait.
            Some(conn) if conn.flags.has(Flags::IN_READY) => return,
            Some(conn) => conn.options.read_budget.max(1).saturating_sub(spent),
            None => return,
        };
        loop {
            match self.net.sockets.next_step(token, &mut self.read_buffer, &mut budget) {
                Step::Idle => return,
                Step::Again => {}
                Step::Open => self.call(token, |handler, ctx| handler.on_open(ctx)),
                Step::Data => {
                    let filtered = self.net.sockets.is_filtered(token);
                    self.deliver(token, filtered);
                }
                Step::OwnData(input) => self.deliver_own(token, input),
                Step::Eof(mut rest) => self.call(token, |handler, ctx| handler.on_eof(ctx, &mut rest)),
            }
        }
    }

    /// `on_data` with the loop's read buffer.
    #[inline]
    fn deliver(&mut self, token: Token, filtered: bool) {
        let Some(Some(handler)) = self.handlers.connections.get_mut(token.slot()) else {
            return self.net.sockets.forget_callback();
        };
        self.running = token;
        self.net.sockets.lend(token, addresses(&self.read_buffer));
        handler.on_data(&mut Ctx { app: &mut self.app, net: &mut self.net, token }, &mut self.read_buffer);
        self.running = Token::NOBODY;
        self.net.sockets.put_back(token, &mut self.read_buffer, false, filtered);
        self.after_callback(token);
    }

    /// `on_data` with the connection's own buffer.
    fn deliver_own(&mut self, token: Token, mut input: BytesMut) {
        let filtered = self.net.sockets.is_filtered(token);
        let Some(Some(handler)) = self.handlers.connections.get_mut(token.slot()) else { return };
        self.running = token;
        self.net.sockets.lend(token, addresses(&input));
        handler.on_data(&mut Ctx { app: &mut self.app, net: &mut self.net, token }, &mut input);
        self.running = Token::NOBODY;
        self.net.sockets.put_back(token, &mut input, true, filtered);
        self.after_callback(token);
    }

    /// Any other callback of a connection.
    #[inline]
    fn call(&mut self, token: Token, callback: impl FnOnce(&mut dyn Handler<A>, &mut Ctx<'_, A>)) {
        let Some(scratch_room) = self.ready_to_hear(token) else { return };
        let Some(Some(handler)) = self.handlers.connections.get_mut(token.slot()) else { return };
        self.running = token;
        self.net.sockets.scratch_room = scratch_room;
        self.net.sockets.lend(token, 0..0);
        callback(&mut **handler, &mut Ctx { app: &mut self.app, net: &mut self.net, token });
        self.running = Token::NOBODY;
        self.after_callback(token);
    }

    /// How much a callback may send through the scratch, if the connection's handler may be called at all. Its `on_open`
    /// comes first, also when somebody has sent or told it something in the turn in which it was made.
    #[inline]
    fn ready_to_hear(&mut self, token: Token) -> Option<usize> {
        let conn = self.net.sockets.connection_mut(token).filter(|conn| conn.hears_callbacks())?;
        if !conn.flags.take(Flags::OPEN_DUE) {
            return Some(conn.scratch_room());
        }
        self.call(token, |handler, ctx| handler.on_open(ctx));
        self.net.sockets.connection(token).filter(|conn| conn.hears_callbacks()).map(Connection::scratch_room)
    }

    /// One write for all that the callback sent.
    #[inline]
    fn after_callback(&mut self, token: Token) -> After {
        self.adopt_newborn();
        match self.net.sockets.flush_own(token) {
            After::Completed | After::CompletedReadable => {
                self.write_completed(token);
                After::Readable
            }
            after => after,
        }
    }

    /// What `on_write_complete` sends is flushed when the turn settles, so that a handler that always sends more
    /// has its turn like the others.
    #[inline]
    fn write_completed(&mut self, token: Token) {
        let Some(Some(handler)) = self.handlers.connections.get_mut(token.slot()) else { return };
        self.running = token;
        handler.on_write_complete(&mut Ctx { app: &mut self.app, net: &mut self.net, token });
        self.running = Token::NOBODY;
        self.adopt_newborn();
    }

    fn accept(&mut self, listener: Token) {
        for _ in 0..self.net.sockets.accept_batch(listener) {
            match self.net.sockets.accept(listener) {
                Accepted::Peer(token, peer) => self.welcome(listener, token, &peer),
                Accepted::Skipped => {}
                Accepted::Nobody => return,
            }
        }
    }

    /// Gives an accepted connection its handler, or turns it away.
    fn welcome(&mut self, listener: Token, token: Token, peer: &Address) {
        let Some(factory) = self.handlers.listeners.get_mut(&listener) else { return };
        self.running = token;
        let handler = factory(&mut Ctx { app: &mut self.app, net: &mut self.net, token }, peer);
        self.running = Token::NOBODY;
        let Some(handler) = handler else {
            self.adopt_newborn();
            self.net.sockets.turn_away(token);
            return;
        };
        log::debug!("{token}: accepted from {peer}");
        self.handlers.insert(token, handler);
        self.adopt_newborn();
        self.call(token, |handler, ctx| handler.on_open(ctx));
    }

    fn receive_datagrams(&mut self, token: Token) {
        let Some(socket) = self.net.sockets.datagram(token) else { return };
        let (max_bytes, mut budget) = (socket.max_datagram(), socket.receive_budget());
        let mut inbox = match self.inbox.take() {
            Some(inbox) if inbox.slot_bytes() >= max_bytes => inbox,
            _ => Inbox::new(INBOX_SLOTS, max_bytes),
        };
        while budget > 0 {
            let asked = budget.min(INBOX_SLOTS);
            let received = self.net.sockets.receive_datagrams(token, &mut inbox, asked);
            for index in 0..received {
                let open = self.net.sockets.datagram_fd(token).is_some();
                let Some(receiver) = self.handlers.datagrams.get_mut(&token).filter(|_| open) else { break };
                // The slots may be another socket's, and larger.
                let datagram = inbox.get(index).cut_to(max_bytes);
                receiver(&mut Ctx { app: &mut self.app, net: &mut self.net, token }, datagram);
            }
            self.adopt_newborn();
            budget -= received;
            if received < asked {
                break;
            }
        }
        self.inbox = Some(inbox);
    }

    fn answer_signals(&mut self) {
        while let Some((signum, mut call)) = self.net.signals.take() {
            log::debug!("signal {signum}");
            call(&mut self.lp());
            self.net.signals.put_back(signum, call);
        }
        self.adopt_newborn();
    }

    // ── 6 settle ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Does what the callbacks have asked for; whether there was nothing.
    #[inline(always)]
    fn settle(&mut self) -> bool {
        if !self.net.has_work() && !self.net.sockets.is_over_budget() {
            return true;
        }
        self.adopt_newborn();
        self.run_deferred();
        if self.net.sockets.is_stopping() {
            self.carry_out_stop();
        }
        self.flush_dirty();
        self.net.sockets.flush_dirty_datagrams();
        self.net.sockets.enforce_memory_budget();
        self.deliver_due();
        self.deliver_ended();
        false
    }

    fn run_deferred(&mut self) {
        for _ in 0..self.net.deferred.len().min(self.net.closure_budget) {
            let Some(deferred) = self.net.deferred.pop_front() else { break };
            match deferred {
                Deferred::Call(call) => call(&mut self.lp()),
                Deferred::Tell(token, telling) => {
                    let mut told = false;
                    if self.net.sockets.connection_mut(token).is_some_and(|conn| conn.flags.take(Flags::OPEN_DUE)) {
                        self.call(token, |handler, ctx| handler.on_open(ctx));
                    }
                    self.call(token, |handler, ctx| told = telling(handler as &mut dyn Any, ctx));
                    self.net.sockets.stats.tells_dropped += u64::from(!told);
                }
            }
            self.adopt_newborn();
        }
    }

    fn carry_out_stop(&mut self) {
        // Not only at the first call: two in one turn make it a cut at once.
        if matches!(self.net.sockets.stopping, Stopping::Asked | Stopping::Cut) {
            self.net.drop_dialers();
        }
        self.net.sockets.carry_out_stop();
    }

    /// One write for all that was sent to each since its last.
    fn flush_dirty(&mut self) {
        for _ in 0..self.net.sockets.dirty.len() {
            let Some(token) = self.net.sockets.dirty.pop_front() else { return };
            if self.net.sockets.flush_dirty(token) {
                self.write_completed(token);
            }
        }
    }

    fn deliver_due(&mut self) {
        for _ in 0..self.net.sockets.due.len() {
            let Some((token, what, queued)) = self.net.sockets.take_due() else { return };
            if what.has(Flags::HIGH_DUE) {
                self.call(token, |handler, ctx| handler.on_high_water(ctx, queued));
            }
            if what.has(Flags::LOW_DUE) {
                self.call(token, |handler, ctx| handler.on_low_water(ctx));
            }
            if self.net.sockets.take_complete(token) && self.ready_to_hear(token).is_some() {
                self.write_completed(token);
            }
        }
    }

    fn deliver_ended(&mut self) {
        self.adopt_newborn();
        for _ in 0..self.net.sockets.ended.len() {
            let Some((token, why)) = self.net.sockets.take_ended() else { return };
            // Before the callback: a panic there must not end the dialer.
            self.net.dial_ended(token, matches!(why, CloseReason::Connect(_)));
            if let Some(mut handler) = self.handlers.take(token) {
                handler.on_close(&mut Ctx { app: &mut self.app, net: &mut self.net, token }, why);
            }
        }
    }

    // ── 7 reap ───────────────────────────────────────────────────────────────────────────────────────────────

    #[inline(always)]
    fn reap(&mut self) {
        if !self.net.sockets.has_bodies() {
            return;
        }
        for token in self.net.sockets.closed.drain(..) {
            self.handlers.listeners.remove(&token);
            self.handlers.datagrams.remove(&token);
        }
        self.net.sockets.reap();
    }

    // ── Helpers of more than one phase ───────────────────────────────────────────────────────────────────────

    /// Puts handlers in their places that were made inside callbacks, when the place may have been borrowed.
    #[inline]
    fn adopt_newborn(&mut self) {
        if !self.net.newborn.is_empty() {
            self.adopt_all_newborn();
        }
    }

    #[inline(never)]
    fn adopt_all_newborn(&mut self) {
        for (token, newborn) in self.net.newborn.drain(..) {
            if self.net.sockets.table.get(token).is_none() {
                // Its socket came and went within one callback.
                continue;
            }
            match newborn {
                Newborn::Connection(handler) => self.handlers.insert(token, handler),
                Newborn::Listener(factory) => {
                    self.handlers.listeners.insert(token, factory);
                }
                Newborn::Datagram(receiver) => {
                    self.handlers.datagrams.insert(token, receiver);
                }
            }
        }
    }

    /// The last turn ended in a panic: the connection whose callback it was cannot be trusted any more.
    #[inline(always)]
    fn recover(&mut self) {
        if self.running == Token::NOBODY {
            return;
        }
        let token = std::mem::replace(&mut self.running, Token::NOBODY);
        log::warn!("{token}: aborted, since its callback panicked");
        self.adopt_newborn();
        drop(self.handlers.take(token));
        self.net.sockets.forget_callback();
        self.net.sockets.abort(token);
        // What the callback would have been followed by: others may have been sent slices of its input.
        self.net.sockets.flush_own(token);
    }

    pub(crate) fn lp(&mut self) -> Loop<'_, A> {
        Loop { app: &mut self.app, net: &mut self.net }
    }
}

impl<A> AsFd for Reactor<A> {
    /// The epoll descriptor: readable when a turn would find events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.net.sockets.poller.fd().as_fd()
    }
}

impl<A: std::fmt::Debug> std::fmt::Debug for Reactor<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("app", &self.app).field("net", &self.net).finish_non_exhaustive()
    }
}
