//! The verbs: everything that a program can ask of the network.
//!
//! A verb changes sockets and writes down what follows; it never calls a handler. So any verb may be called from
//! any callback, on any connection, and on a token that is stale: then nothing happens, and what is returned
//! says so.
//!
//! What follows is delivered later in the same turn, or in the next one, without sleeping, if it was asked for
//! while the turn settles.

use crate::closures::{Alarm, Deferred, EachFn, JobDone, Mail};
use crate::connection::{Connection, Flags, Phase};
use crate::dial::Dialer;
use crate::filter::Filter;
use crate::handler::{Ctx, Flow, Handler, Payload};
use crate::handlers::{Newborn, boxed_acceptor};
use crate::listener::KernelOptions;
use crate::mailbox;
use crate::options::{ListenOptions, ReactorOptions, RelayOptions, StreamOptions};
use crate::output::LINK_MIN_BYTES;
use crate::poller::Interest;
use crate::signal::Signals;
use crate::sockets::{Bell, Sockets, Source};
use crate::stats::Stats;
use crate::sys::clock::Moment;
use crate::sys::{self, Address, Fd, TcpInfo, ToAddress};
use crate::token::{Table, Token};
use crate::workers::Workers;
use bytes::BytesMut;
use slab::Slab;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// Every socket of a reactor, and every verb.
///
/// It is a field of [`Reactor`](crate::Reactor), and callbacks have it as [`Ctx::net`] and [`Loop::net`](crate::Loop::net).
pub struct Net<A = ()> {
    pub(crate) sockets: Sockets,
    pub(crate) newborn: Vec<(Token, Newborn<A>)>,
    pub(crate) deferred: VecDeque<Deferred<A>>,
    pub(crate) alarms: Slab<Alarm<A>>,
    pub(crate) dialers: Table<Dialer<A>>,
    pub(crate) mail: mailbox::Inbox<Mail<A>>,
    pub(crate) jobs: Slab<JobDone<A>>,
    pub(crate) signals: Signals<EachFn<A>>,
    pub(crate) closure_budget: usize,
    /// One moment on both scales: the public one is the standard library's.
    pub(crate) anchor: (Instant, Moment),
    pub(crate) sender: mailbox::Sender<Mail<A>>,
    pub(crate) workers: Workers,
    pub(crate) work_limit: usize,
}

impl<A> fmt::Debug for Net<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("sockets", &self.sockets.table.len())
            .field("timers", &self.sockets.timers.len())
            .field("stats", &self.sockets.stats)
            .finish_non_exhaustive()
    }
}

impl<A: 'static> Net<A> {
    pub(crate) fn new(options: &ReactorOptions) -> io::Result<Net<A>> {
        let anchor = sys::clock::anchor();
        let (sender, mail) = mailbox::mailbox(options.mail_limit)?;
        let mut sockets = Sockets::new(options, anchor.1)?;
        let bell = sockets.table.insert(Box::new(Source::Bell(Bell::Mail)));
        sockets.poller.add(mail.bell(), Interest::BELL, bell)?;
        Ok(Net {
            sockets,
            newborn: Vec::new(),
            deferred: VecDeque::new(),
            alarms: Slab::new(),
            dialers: Table::default(),
            mail,
            jobs: Slab::new(),
            signals: Signals::new(),
            closure_budget: options.closure_budget.max(1),
            anchor,
            sender,
            workers: Workers::new(options.workers.max(1), options.work_limit),
            work_limit: options.workers.max(1) + options.work_limit,
        })
    }

    // ── Servers ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The smallest server: listens on `addr` and gives each connection a clone of `handler`.
    ///
    /// The closure is its `on_data`; all else is as [`Handler`] has it by default. What the closure captures is cloned
    /// with it, so each connection has its own.
    ///
    /// # Errors
    /// Those of [`listen`](Net::listen).
    pub fn serve<F>(&mut self, addr: impl ToAddress, handler: F) -> io::Result<Token>
    where
        F: FnMut(&mut Ctx<'_, A>, &mut BytesMut) + Clone + 'static,
    {
        self.listen(addr, move |_, _| Some(handler.clone()))
    }

    /// [`serve`](Net::serve) with options.
    ///
    /// # Errors
    /// Those of [`listen`](Net::listen).
    pub fn serve_with<F>(&mut self, addr: impl ToAddress, options: ListenOptions, handler: F) -> io::Result<Token>
    where
        F: FnMut(&mut Ctx<'_, A>, &mut BytesMut) + Clone + 'static,
    {
        self.listen_with(addr, options, move |_, _| Some(handler.clone()))
    }

    /// Listens on `addr` with the default options; `factory` makes a handler for each peer, or refuses it with
    /// `None`.
    ///
    /// The socket listens when this returns; with port 0 [`local_address`](Net::local_address) has the real one. Peers
    /// are accepted from the next turn on. In `factory` the token of `ctx` is the new connection's: it can be sent to,
    /// joined by [`relay`](Net::relay), closed. A peer that is refused gets what was sent to it and then an end.
    ///
    /// # Errors
    /// Those of socket(2), bind(2), listen(2) and epoll_ctl(2), EADDRINUSE, EACCES and EMFILE above all; an
    /// address that is none; a loop that is stopping. Nothing is left behind then.
    pub fn listen<H: Handler<A>>(
        &mut self,
        addr: impl ToAddress,
        factory: impl FnMut(&mut Ctx<'_, A>, &Address) -> Option<H> + 'static,
    ) -> io::Result<Token> {
        self.listen_with(addr, ListenOptions::default(), factory)
    }

    /// [`listen`](Net::listen) with options.
    ///
    /// A Unix socket file that no process listens on any more is replaced; ours is removed when the listener
    /// closes.
    ///
    /// # Errors
    /// Those of [`listen`](Net::listen).
    pub fn listen_with<H: Handler<A>>(
        &mut self,
        addr: impl ToAddress,
        options: ListenOptions,
        factory: impl FnMut(&mut Ctx<'_, A>, &Address) -> Option<H> + 'static,
    ) -> io::Result<Token> {
        let token = self.sockets.listen(&addr.to_address()?, options)?;
        self.newborn.push((token, Newborn::Listener(boxed_acceptor(factory))));
        Ok(token)
    }

    /// Accepts on a socket that listens already: inherited from a service manager or from a former self.
    ///
    /// # Errors
    /// The descriptor is no listening socket, or cannot be watched.
    pub fn listen_fd<H: Handler<A>>(
        &mut self,
        fd: Fd,
        options: ListenOptions,
        factory: impl FnMut(&mut Ctx<'_, A>, &Address) -> Option<H> + 'static,
    ) -> io::Result<Token> {
        let token = self.sockets.adopt_listener(fd, options)?;
        self.newborn.push((token, Newborn::Listener(boxed_acceptor(factory))));
        Ok(token)
    }

    // ── Connections ──────────────────────────────────────────────────────────────────────────────────────────

    /// Queues `data` for a connection.
    ///
    /// Data under 1 KiB is copied, larger owned data is linked. The queue is offered to the kernel when the
    /// running callback of that connection has returned, or else when the turn settles; sooner past
    /// [`StreamOptions::eager_flush`]. One `send` that begins under the high mark is always taken whole.
    ///
    /// [`Flow::Closed`] means that nothing was taken: the token is stale, the connection is closed, its sending half
    /// has ended, or it is relayed. It is also the answer to the `send` that meets more than
    /// [`StreamOptions::hard_limit`] in the queue, which ends the connection.
    ///
    /// What was taken goes to the kernel once and in order, or else `on_close` comes with a reason for which
    /// [`CloseReason::is_orderly`](crate::CloseReason::is_orderly) is false. That the *peer* has it is not promised: only the peer can say so.
    #[inline]
    pub fn send(&mut self, token: Token, data: impl Payload) -> Flow {
        if data.as_bytes().len() < LINK_MIN_BYTES {
            return self.sockets.send_copy(token, data.as_bytes());
        }
        self.send_large(token, data)
    }

    #[inline(never)]
    fn send_large(&mut self, token: Token, data: impl Payload) -> Flow {
        if !data.is_owned() {
            return self.sockets.send_copy(token, data.as_bytes());
        }
        self.sockets.send_shared(token, data.into_shared())
    }

    /// Offers what a connection has queued to the kernel now, within this call. Rarely needed: see
    /// [`send`](Net::send). `on_write_complete`, if this empties the queue, comes when the turn settles.
    pub fn flush(&mut self, token: Token) {
        self.sockets.flush_and_tell(token);
    }

    /// Gives a connection's handler no more input until [`resume_reading`](Net::resume_reading). The kernel's
    /// buffer fills and the peer stops sending. An error still ends the connection; an end waits to be read.
    ///
    /// It holds from the end of the running callback on, costs no system call, and does not count: pausing twice is
    /// pausing once. Time-outs go on.
    pub fn pause_reading(&mut self, token: Token) {
        self.sockets.pause(token);
    }

    /// Gives input again, what was left unconsumed first: in this turn's dispatch or in the next one, without
    /// sleeping. Nothing if the connection was not paused.
    pub fn resume_reading(&mut self, token: Token) {
        self.sockets.resume(token);
    }

    /// Calls `on_data` only when at least `bytes` are unconsumed; 0 is the default. More than the input limit
    /// acts as the input limit. For a frame whose length is known: its bytes then gather without a callback for
    /// each arrival. It stays until it is set again. At the end of the stream `on_eof` gets the rest, however short.
    /// When it is lowered, what waits is offered again in this turn or the next.
    pub fn want(&mut self, token: Token, bytes: usize) {
        let Some(conn) = self.sockets.connection_mut(token) else { return };
        let bytes = u32::try_from(bytes.min(conn.input_limit())).unwrap_or(u32::MAX);
        let lowered = bytes < conn.want;
        conn.want = bytes;
        if lowered && conn.unread.is_some() {
            self.sockets.offer(token);
        }
    }

    /// Ends our half of the stream once everything queued is sent; input still comes. `send` answers
    /// [`Flow::Closed`] from now on. When the peer has ended its half too, `on_close` comes with
    /// [`CloseReason::Done`](crate::CloseReason::Done); there is no time limit on that but the idle time-out. Of a relayed connection, nothing.
    pub fn shutdown(&mut self, token: Token) {
        self.sockets.shutdown(token);
    }

    /// Ends a connection once everything queued is sent, or closes a listener or a datagram socket.
    ///
    /// The handler hears `on_close` and nothing else from now on, and input is discarded. `on_close` comes when the
    /// kernel has everything: this turn, if nothing has to wait. The reason is [`CloseReason::Local`](crate::CloseReason::Local), or
    /// [`CloseReason::Unsent`](crate::CloseReason::Unsent) if the queue is not taken in time. The descriptor is given up when the peer has ended too, after [`StreamOptions::close_timeout`], or past
    /// [`StreamOptions::discard_limit`]; only the last two may cost the peer an RST.
    pub fn close(&mut self, token: Token) {
        self.sockets.close(token);
    }

    /// Ends a connection now, with an RST: what is queued is dropped. `on_close` comes with
    /// [`CloseReason::Aborted`](crate::CloseReason::Aborted) when the turn settles, or in the next turn if it has settled. A listener or a datagram
    /// socket is closed.
    pub fn abort(&mut self, token: Token) {
        self.sockets.abort(token);
    }

    /// Output of a connection that waits for the kernel, in bytes; 0 for a stale token. What a running callback has
    /// sent counts already.
    pub fn queued(&self, token: Token) -> usize {
        self.sockets.queued(token)
    }

    /// Input of a connection that its handler has left unconsumed, in bytes; 0 for a stale token. What is in the
    /// `input` of a running callback does not count.
    pub fn unread(&self, token: Token) -> usize {
        self.sockets.connection(token).map_or(0, Connection::unread_len)
    }

    /// Whether a connection is open, or in the making, and not closed by us.
    pub fn is_open(&self, token: Token) -> bool {
        self.sockets.connection(token).is_some_and(|conn| matches!(conn.phase, Phase::Open | Phase::Connecting))
    }

    /// The peer of a connection. Good in `on_close` too.
    pub fn peer_address(&self, token: Token) -> Option<Address> {
        self.sockets.connection(token).map(|conn| conn.peer.clone())
    }

    /// Our address: of a connection, a listener or a datagram socket, with the real port where 0 was asked.
    pub fn local_address(&self, token: Token) -> Option<Address> {
        if let Some(address) = self.sockets.listener_address(token) {
            return Some(address.clone());
        }
        let fd = match self.sockets.connection(token) {
            Some(conn) => conn.fd.as_ref(),
            None => self.sockets.datagram_fd(token),
        };
        sys::socket::local_address(fd?).ok()
    }

    /// What the kernel knows of a TCP connection: round-trip time, retransmits, window. One system call. `None` for a
    /// stale token or a Unix socket.
    pub fn tcp_info(&self, token: Token) -> Option<TcpInfo> {
        let fd = self.sockets.connection(token)?.fd.as_ref()?;
        sys::socket::tcp_info(fd).ok()
    }

    /// Every connection that is open or in the making, in no particular order. It walks the whole table, so it is for
    /// broadcasts and reports, not for every message.
    pub fn tokens(&self) -> Vec<Token> {
        self.sockets.table.iter().map(|(token, _)| token).filter(|token| self.is_open(*token)).collect()
    }

    /// Changes the options of one connection: marks, limits and times hold from now on, `TCP_NODELAY` and keep-alive are
    /// set. `connect_timeout` and the sizes of the kernel's buffers matter only while a connection is made. `false` if
    /// the token was stale.
    ///
    /// A high mark that is now crossed, or a low mark that is now reached, is told as if the queue had moved. Options
    /// are shared until changed: the first change costs the connection a copy of its own.
    pub fn options(&mut self, token: Token, change: impl FnOnce(&mut StreamOptions)) -> bool {
        self.sockets.spill(token);
        let Some(conn) = self.sockets.connection_mut(token) else { return false };
        let before = KernelOptions::of(&conn.options);
        change(Rc::make_mut(&mut conn.options));
        if let Some(fd) = &conn.fd
            && let Err(e) = KernelOptions::of(&conn.options).apply(before, fd, &conn.peer)
        {
            log::debug!("{token}: setsockopt: {e}");
        }
        self.sockets.recheck_marks(token);
        true
    }

    /// Gives a connection another handler, from its next callback on. The old one is dropped without `on_close`, and
    /// the new one hears `on_open` only if that is still to come: for protocols that are negotiated on the connection.
    /// Nothing for a stale token.
    pub fn swap(&mut self, token: Token, handler: impl Handler<A>) {
        if self.is_open(token) {
            self.newborn.push((token, Newborn::Connection(Box::new(handler))));
        }
    }

    /// Puts a filter under a connection's handler: see [`Filter`]. Input that was read and not consumed counts
    /// as the wire's. `false` if the connection is not there, or has a filter.
    pub fn filter(&mut self, token: Token, filter: impl Filter + 'static) -> bool {
        match self.sockets.connection(token) {
            Some(conn) if self.is_open(token) && !conn.flags.has(Flags::FILTERED) => {
                self.sockets.set_filter(token, Box::new(filter));
                true
            }
            _ => false,
        }
    }

    /// Joins two connections: what comes on one goes out on the other, with bounded memory, ends carried across,
    /// until both are done. Either may still be in the making. Their handlers hear `on_open`, `on_timer` and
    /// `on_close`; what they had left unconsumed goes first. `false` if either is not there to be joined.
    ///
    /// When one side ends abnormally the other is aborted with [`CloseReason::Relay`](crate::CloseReason::Relay), so that a stream that was
    /// cut never looks whole; likewise after an idle time-out. Only [`stop`](Net::stop) ends a pair in order wherever it
    /// is, and a Unix socket has no way to tell.
    ///
    /// It cannot be undone. `send` and `shutdown` on either do nothing from now on (`send` answers
    /// [`Flow::Closed`]); `close` on one closes both. What was queued by `send` before goes out first.
    pub fn relay(&mut self, a: Token, b: Token, options: RelayOptions) -> bool {
        self.sockets.join(a, b, &options)
    }

    // ── The loop ─────────────────────────────────────────────────────────────────────────────────────────────

    /// The time of this turn. The clock is read once a turn, and every deadline is reckoned from this.
    pub fn now(&self) -> Instant {
        let (instant, moment) = self.anchor;
        instant + self.sockets.now.since(moment)
    }

    /// Stops the loop on SIGINT and SIGTERM; the second one cuts it short.
    ///
    /// # Errors
    /// Those of [`on_signal`](Net::on_signal).
    pub fn stop_on_signals(&mut self) -> io::Result<()> {
        for signum in [sys::signum::INT, sys::signum::TERM] {
            self.on_signal(signum, |lp| lp.stop())?;
        }
        Ok(())
    }

    /// The counters, as they are now.
    pub fn stats(&self) -> &Stats {
        &self.sockets.stats
    }

    /// Ends the loop: listeners close, a connection with nothing queued ends at once, others when flushed, all
    /// after [`ReactorOptions::stop_timeout`]; then `run` returns. A second call ends all at once. Called before
    /// `run`, it counts.
    ///
    /// It takes effect when the turn settles. From now on nothing new is begun: [`listen`](Net::listen),
    /// [`udp`](Net::udp) and [`adopt`](Net::adopt) are errors, [`connect`](Net::connect) ends with
    /// [`CloseReason::Stopped`](crate::CloseReason::Stopped), dialers are gone. Reasons are [`CloseReason::Stopped`](crate::CloseReason::Stopped), or [`CloseReason::Unsent`](crate::CloseReason::Unsent)
    /// where output was left; a connection's own time-outs go on, and may end it before that. Timers and mail go on
    /// until `run` returns.
    pub fn stop(&mut self) {
        self.sockets.stop();
    }

    /// Whether something waits that no event will announce.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        let listed = self.deferred.len() | self.newborn.len();
        self.sockets.has_work() || listed != 0 || self.signals.has_pending()
    }
}
