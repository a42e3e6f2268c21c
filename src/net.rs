//! The verbs: everything that a program can ask of the network.
//!
//! A verb changes sockets and writes down what follows; it never calls a handler. So any verb may be called from
//! any callback, on any connection, and on a token that is stale: then nothing happens, and what is returned
//! says so.
//!
//! What follows is delivered later in the same turn, or in the next one, without sleeping, if it was asked for
//! while the turn settles.

use crate::connect::Target;
use crate::connection::{Connection, Flags, Phase};
use crate::datagram::{Admission, Packet};
use crate::dial::Dialer;
use crate::filter::Filter;
use crate::handler::{CloseReason, Ctx, Flow, Handler, Loop, Payload};
use crate::listener::KernelOptions;
use crate::mailbox;
use crate::options::{ListenOptions, ReactorOptions, RelayOptions, StreamOptions, UdpOptions};
use crate::output::LINK_MIN_BYTES;
use crate::poller::Interest;
use crate::signal::Signals;
use crate::sockets::{Bell, Due, Sockets, Source};
use crate::stats::Stats;
use crate::sys::clock::Moment;
use crate::sys::datagram::{Interface, Received};
use crate::sys::{self, Address, Fd, TcpInfo, ToAddress};
use crate::timer::TimerId;
use crate::token::{Table, Token};
use crate::workers::{WorkPanicked, Workers, run_caught};
use bytes::{Bytes, BytesMut};
use slab::Slab;
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{error, fmt};

/// A closure for the loop, from another thread.
pub type Letter<A> = Box<dyn FnOnce(&mut Loop<'_, A>) + Send>;

/// What comes through the mailbox.
pub(crate) enum Mail<A> {
    Letter(Letter<A>),
    /// A worker has finished a piece of work.
    Done {
        job: usize,
        result: Box<dyn Any + Send>,
    },
}

/// What is to find its place beside the network before its first callback.
pub(crate) enum Newborn<A> {
    Connection(Box<dyn Handler<A>>),
    Listener(Acceptor<A>),
    Datagram(Receiver<A>),
}

pub(crate) type Acceptor<A> = Box<dyn FnMut(&mut Ctx<'_, A>, &Address) -> Option<Box<dyn Handler<A>>>>;
pub(crate) type Receiver<A> = Box<dyn FnMut(&mut Ctx<'_, A>, Received<'_>)>;

/// What `defer` and `tell` have asked for.
pub(crate) enum Deferred<A> {
    Call(OnceFn<A>),
    Tell(Token, Telling<A>),
}

/// Answers whether the handler was of the type that it is for.
pub(crate) type Telling<A> = Box<dyn FnOnce(&mut dyn Any, &mut Ctx<'_, A>) -> bool>;

/// A timer's closure.
pub(crate) enum Alarm<A> {
    Once(OnceFn<A>),
    /// The closure is out while it runs.
    Every(Duration, Option<EachFn<A>>),
}

type JobDone<A> = Box<dyn FnOnce(&mut Loop<'_, A>, Box<dyn Any + Send>)>;
/// What the loop calls once, and what it calls each time.
type OnceFn<A> = Box<dyn FnOnce(&mut Loop<'_, A>)>;
type EachFn<A> = Box<dyn FnMut(&mut Loop<'_, A>)>;

/// Every socket of a reactor, and every verb.
///
/// It is a field of [`Reactor`](crate::Reactor), and callbacks have it as [`Ctx::net`] and [`Loop::net`].
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
    anchor: (Instant, Moment),
    sender: mailbox::Sender<Mail<A>>,
    workers: Workers,
    work_limit: usize,
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

    /// Connects to `target`, an address or a name, with the default options.
    ///
    /// The token is good at once: what is sent waits until the connection is made, and `on_open` says that it is.
    /// Failure of any kind, a malformed target included, is the handler's `on_close` with [`CloseReason::Connect`], in
    /// this turn at the earliest and never from within this call. Addresses are tried one after the other; the whole
    /// has [`StreamOptions::connect_timeout`], the look-up of a name included. To cancel, [`close`](Net::close).
    pub fn connect(&mut self, target: impl Into<Target>, handler: impl Handler<A>) -> Token {
        let options = self.sockets.default_stream.clone();
        self.connect_sharing(target.into(), options, Box::new(handler))
    }

    /// [`connect`](Net::connect) with options. Where many connections have the same, pass clones of one `Rc`: they
    /// share it.
    pub fn connect_with(
        &mut self,
        target: impl Into<Target>,
        options: impl Into<Rc<StreamOptions>>,
        handler: impl Handler<A>,
    ) -> Token {
        self.connect_sharing(target.into(), options.into(), Box::new(handler))
    }

    fn connect_sharing(&mut self, target: Target, options: Rc<StreamOptions>, handler: Box<dyn Handler<A>>) -> Token {
        let token = self.sockets.begin_connecting(options);
        self.newborn.push((token, Newborn::Connection(handler)));
        self.seek(token, target);
        token
    }

    /// Finds the addresses of a target, and has them tried.
    pub(crate) fn seek(&mut self, token: Token, target: Target) {
        match target {
            Target::Addresses(addresses) => self.sockets.connect_to(token, addresses),
            Target::Invalid(text) => {
                let e = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{text:?} is neither an address nor host:port"),
                );
                self.sockets.connect_failed(token, e);
            }
            Target::Name { host, port } => {
                let look_up = move || sys::address::resolve(&host, port);
                let submitted = self.offload(look_up, move |lp, found| match found {
                    Ok(Ok(addresses)) => {
                        lp.net.sockets.connect_to(token, addresses.into_iter().map(Address::from).collect());
                    }
                    Ok(Err(e)) => lp.net.sockets.connect_failed(token, e),
                    Err(panicked) => lp.net.sockets.connect_failed(token, io::Error::other(panicked)),
                });
                if let Err(e) = submitted {
                    self.sockets.connect_failed(token, io::Error::other(e));
                }
            }
        }
    }

    /// Takes over a connected stream socket, with what an earlier owner had read and not consumed, and taken
    /// and not sent.
    ///
    /// `on_open` is called first, then `on_data` with what had been left unconsumed, in this turn or the next. The
    /// connection has the default options; the socket is made non-blocking.
    ///
    /// # Errors
    /// The descriptor is no connected stream socket (InvalidInput, ENOTCONN), cannot be watched (ENOSPC, ENOMEM), or the
    /// loop is stopping. The socket is closed then, and what came with it is lost.
    pub fn adopt(&mut self, connection: impl Into<Detached>, handler: impl Handler<A>) -> io::Result<Token> {
        let Detached { fd, unread, unsent, ended, shutdown } = connection.into();
        if self.sockets.is_stopping() {
            return Err(io::Error::other("the loop is stopping"));
        }
        sys::socket::set_nonblocking(&fd)?;
        if !sys::socket::is_stream(&fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket"));
        }
        let peer = sys::socket::peer_address(&fd)?;
        let options = self.sockets.default_stream.clone();
        KernelOptions::of(&options).apply(KernelOptions::INITIAL, &fd, &peer)?;
        let mut conn = Connection::new(Some(fd), peer, Phase::Open, options, self.sockets.now);
        conn.flags.set(Flags::OPEN_DUE);
        if ended {
            conn.flags.set(Flags::EOF_READ);
        }
        if !unread.is_empty() {
            self.sockets.stats.held += unread.len() as u64;
            conn.unread = Some(Box::new(unread));
            conn.flags.set(Flags::OFFER);
        }
        let token = self.sockets.add_connection(conn)?;
        self.newborn.push((token, Newborn::Connection(Box::new(handler))));
        self.sockets.opened(token);
        self.sockets.mark_ready(token);
        for piece in unsent {
            self.sockets.send_shared(token, piece);
        }
        if shutdown {
            self.sockets.shutdown(token);
        }
        Ok(token)
    }

    /// Gives an open connection away, to another reactor (through its mailbox) or to code of your own. The
    /// handler gets `on_close` with [`CloseReason::Detached`]. What is still in the `input` of a running
    /// `on_data` is the caller's to take along. `None` if the connection is not open, or has a filter; then it is as it
    /// was. The socket is this loop's no more when this returns; the token does nothing from now on.
    pub fn detach(&mut self, token: Token) -> Option<Detached> {
        self.sockets.spill(token);
        let conn = self.sockets.connection_mut(token)?;
        if conn.phase != Phase::Open || conn.flags.has(Flags::FILTERED.or(Flags::BROKEN)) {
            return None;
        }
        let held = conn.held();
        let fd = conn.fd.take()?;
        let unread = conn.unread.take().map(|unread| *unread).unwrap_or_default();
        let ended = conn.flags.has(Flags::EOF_READ);
        let shutdown = conn.flags.has(Flags::SHUTDOWN);
        let unsent = conn.take_output();
        self.sockets.stats.held -= held as u64;
        // Without this the old loop would go on being told about a socket that is another's.
        let _ = self.sockets.poller.remove(&fd);
        self.sockets.end(token, CloseReason::Detached);
        Some(Detached { fd, unread, unsent, ended, shutdown })
    }

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
    /// [`CloseReason::is_orderly`] is false. That the *peer* has it is not promised: only the peer can say so.
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
    /// [`CloseReason::Done`]; there is no time limit on that but the idle time-out. Of a relayed connection, nothing.
    pub fn shutdown(&mut self, token: Token) {
        self.sockets.shutdown(token);
    }

    /// Ends a connection once everything queued is sent, or closes a listener or a datagram socket.
    ///
    /// The handler hears `on_close` and nothing else from now on, and input is discarded. `on_close` comes when the
    /// kernel has everything: this turn, if nothing has to wait. The reason is [`CloseReason::Local`], or
    /// [`CloseReason::Unsent`] if the queue is not taken in time. The descriptor is given up when the peer has ended too, after [`StreamOptions::close_timeout`], or past
    /// [`StreamOptions::discard_limit`]; only the last two may cost the peer an RST.
    pub fn close(&mut self, token: Token) {
        self.sockets.close(token);
    }

    /// Ends a connection now, with an RST: what is queued is dropped. `on_close` comes with
    /// [`CloseReason::Aborted`] when the turn settles, or in the next turn if it has settled. A listener or a datagram
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
    /// When one side ends abnormally the other is aborted with [`CloseReason::Relay`], so that a stream that was
    /// cut never looks whole.
    ///
    /// It cannot be undone. `send` and `shutdown` on either do nothing from now on (`send` answers
    /// [`Flow::Closed`]); `close` on one closes both. What was queued by `send` before goes out first.
    pub fn relay(&mut self, a: Token, b: Token, options: RelayOptions) -> bool {
        self.sockets.join(a, b, &options)
    }

    // ── Datagrams ────────────────────────────────────────────────────────────────────────────────────────────

    /// Binds a UDP socket (or a Unix datagram socket) with the default options; `receiver` is called for each
    /// datagram.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2), bind(2) and epoll_ctl(2).
    pub fn udp(
        &mut self,
        addr: impl ToAddress,
        receiver: impl FnMut(&mut Ctx<'_, A>, Received<'_>) + 'static,
    ) -> io::Result<Token> {
        self.udp_with(addr, UdpOptions::default(), receiver)
    }

    /// [`udp`](Net::udp) with options.
    ///
    /// # Errors
    /// Those of [`udp`](Net::udp).
    pub fn udp_with(
        &mut self,
        addr: impl ToAddress,
        options: UdpOptions,
        receiver: impl FnMut(&mut Ctx<'_, A>, Received<'_>) + 'static,
    ) -> io::Result<Token> {
        let token = self.sockets.bind_datagram(&addr.to_address()?, options)?;
        self.newborn.push((token, Newborn::Datagram(Box::new(receiver))));
        Ok(token)
    }

    /// Queues a datagram; it goes out when the turn settles. One that the kernel will not have (EMSGSIZE,
    /// EPERM, no route) is dropped and counted in [`Stats::datagrams_dropped`]. That it arrives, once and in order, is
    /// not promised by anybody.
    pub fn send_to(&mut self, udp: Token, to: impl Into<Address>, data: impl Payload) -> Admission {
        self.send_from(udp, to, data, 0, None)
    }

    /// [`send_to`](Net::send_to) through a chosen interface (its index; 0 as the routing table says), from a
    /// chosen address of ours. To answer a datagram the way it came, pass its
    /// [`interface`](crate::Datagram::interface) and [`local`](crate::Datagram::local).
    pub fn send_from(
        &mut self,
        udp: Token,
        to: impl Into<Address>,
        data: impl Payload,
        interface: u32,
        from: Option<IpAddr>,
    ) -> Admission {
        self.sockets.send_datagram(udp, Packet { to: to.into(), data: into_bytes(data), interface, from })
    }

    /// Queues a datagram to the broadcast address of every IPv4 interface that has one and is up, through that
    /// interface; how many were queued.
    ///
    /// # Errors
    /// Those of getifaddrs(3).
    pub fn broadcast(&mut self, udp: Token, port: u16, data: impl Payload) -> io::Result<usize> {
        let data = into_bytes(data);
        let mut queued = 0;
        for interface in sys::datagram::interfaces()? {
            let Some(to) = interface.broadcast.filter(|_| interface.up) else { continue };
            let packet = Packet {
                to: Address::from((IpAddr::V4(to), port)),
                data: data.clone(),
                interface: interface.index,
                from: None,
            };
            queued += usize::from(self.sockets.send_datagram(udp, packet) == Admission::Queued);
        }
        Ok(queued)
    }

    /// The machine's network interfaces, one entry for each address.
    ///
    /// # Errors
    /// Those of getifaddrs(3).
    pub fn interfaces(&self) -> io::Result<Vec<Interface>> {
        sys::datagram::interfaces()
    }

    /// Receives what is sent to a multicast group, on one interface (its index; 0: the routing table's choice).
    ///
    /// # Errors
    /// Those of setsockopt(2): EADDRINUSE when joined already, ENODEV; a stale token (NotFound).
    pub fn join_multicast(&mut self, udp: Token, group: IpAddr, interface: u32) -> io::Result<()> {
        sys::datagram::join_multicast(self.udp_fd(udp)?, &group, interface)
    }

    /// Takes back [`join_multicast`](Net::join_multicast).
    ///
    /// # Errors
    /// Those of setsockopt(2): EADDRNOTAVAIL when not joined; a stale token (NotFound).
    pub fn leave_multicast(&mut self, udp: Token, group: IpAddr, interface: u32) -> io::Result<()> {
        sys::datagram::leave_multicast(self.udp_fd(udp)?, &group, interface)
    }

    /// Whether members of a group on this machine hear what this socket sends to it. At first they do.
    ///
    /// This and the next two are about the IP version of the socket's own address, and hold from the next
    /// datagram that the kernel is offered: what is queued in this turn is among them.
    ///
    /// # Errors
    /// Those of setsockopt(2): EOPNOTSUPP on a Unix socket; a stale token (NotFound).
    pub fn set_multicast_loop(&mut self, udp: Token, on: bool) -> io::Result<()> {
        self.sockets.set_multicast(udp, sys::datagram::set_multicast_loop, on)
    }

    /// How many routers a multicast datagram of this socket may pass, plus one. At first it is 1, which keeps
    /// them on the local network; 0 keeps them on this machine.
    ///
    /// # Errors
    /// Those of [`set_multicast_loop`](Net::set_multicast_loop).
    pub fn set_multicast_ttl(&mut self, udp: Token, hops: u8) -> io::Result<()> {
        self.sockets.set_multicast(udp, sys::datagram::set_multicast_ttl, hops)
    }

    /// Through which interface (its index) this socket's multicast goes out, unless
    /// [`send_from`](Net::send_from) names one. At first it is 0: the routing table's choice.
    ///
    /// # Errors
    /// Those of [`set_multicast_loop`](Net::set_multicast_loop), and EADDRNOTAVAIL or ENODEV: no such interface.
    pub fn set_multicast_interface(&mut self, udp: Token, interface: u32) -> io::Result<()> {
        self.sockets.set_multicast(udp, sys::datagram::set_multicast_interface, interface)
    }

    fn udp_fd(&self, udp: Token) -> io::Result<&Fd> {
        self.sockets.datagram_fd(udp).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    // ── Time ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The time of this turn. The clock is read once a turn, and every deadline is reckoned from this.
    pub fn now(&self) -> Instant {
        let (instant, moment) = self.anchor;
        instant + self.sockets.now.since(moment)
    }

    /// Calls `call` once, `delay` after [`now`](Net::now), never earlier: in the first turn that begins then or later,
    /// before its events are served. How much later depends on how long callbacks take;
    /// [`Stats::worst_timer_lag_ns`] tells.
    pub fn after(&mut self, delay: Duration, call: impl FnOnce(&mut Loop<'_, A>) + 'static) -> TimerId {
        self.add_alarm(delay, Alarm::Once(Box::new(call)))
    }

    /// Calls `call` every `period`, the first time after one period. Calls keep to the grid of the first
    /// deadline: they do not drift, and after a stall those that were missed are left out. A panic in `call` ends the
    /// timer.
    ///
    /// # Panics
    /// When `period` is zero.
    pub fn every(&mut self, period: Duration, call: impl FnMut(&mut Loop<'_, A>) + 'static) -> TimerId {
        assert!(!period.is_zero(), "a period of nothing would never end");
        self.add_alarm(period, Alarm::Every(period, Some(Box::new(call))))
    }

    fn add_alarm(&mut self, delay: Duration, alarm: Alarm<A>) -> TimerId {
        let key = self.alarms.insert(alarm);
        let deadline = self.sockets.now + delay;
        self.sockets.timers.insert(deadline, Due::Closure(key))
    }

    /// Moves a timer to `delay` from [`now`](Net::now); a periodic one goes on from there. `false` if it has
    /// run, or was cancelled.
    pub fn reset(&mut self, id: TimerId, delay: Duration) -> bool {
        let deadline = self.sockets.now + delay;
        self.sockets.timers.reset(id, deadline)
    }

    /// Takes a timer back; `false` if it has run, or was cancelled.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        match self.sockets.timers.remove(id) {
            Some(Due::Closure(key)) => self.alarms.try_remove(key).is_some(),
            _ => false,
        }
    }

    pub(crate) fn arm(&mut self, token: Token, key: u32, after: Duration) {
        let deadline = self.sockets.now + after;
        if !self.is_open(token) {
            return;
        }
        let timers = &mut self.sockets.timers;
        let Some(Source::Connection(conn)) = self.sockets.table.get_mut(token).map(|source| &mut **source) else {
            return;
        };
        let keyed = &mut conn.extras().keyed;
        match keyed.iter().find(|(armed, _)| *armed == key) {
            Some((_, id)) => {
                timers.reset(*id, deadline);
            }
            None => keyed.push((key, timers.insert(deadline, Due::Keyed(token, key)))),
        }
    }

    pub(crate) fn disarm(&mut self, token: Token, key: u32) -> bool {
        let Some(conn) = self.sockets.connection_mut(token) else { return false };
        let Some(keyed) = conn.extras.as_mut().map(|extras| &mut extras.keyed) else { return false };
        let Some(index) = keyed.iter().position(|(armed, _)| *armed == key) else { return false };
        let (_, id) = keyed.swap_remove(index);
        self.sockets.timers.remove(id).is_some()
    }

    // ── Closures ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Calls `call` when the turn settles, or in the next turn if it settles already; in the order of asking. Deferred
    /// closures and [`tell`](Net::tell)s share [`ReactorOptions::closure_budget`] and an order.
    pub fn defer(&mut self, call: impl FnOnce(&mut Loop<'_, A>) + 'static) {
        self.deferred.push_back(Deferred::Call(Box::new(call)));
    }

    /// Calls `call` with the handler of another connection, when the turn settles. It is counted and dropped if
    /// the token is stale by then, or the handler is not an `H`. Handlers in a `Box<dyn Handler>` are found by
    /// their own type.
    pub fn tell<H: Handler<A>>(&mut self, token: Token, call: impl FnOnce(&mut H, &mut Ctx<'_, A>) + 'static) {
        let telling: Telling<A> = Box::new(move |mut handler, ctx| {
            loop {
                if handler.is::<H>() {
                    let Some(handler) = handler.downcast_mut::<H>() else { return false };
                    call(handler, ctx);
                    return true;
                }
                match handler.downcast_mut::<Box<dyn Handler<A>>>() {
                    Some(boxed) => handler = &mut **boxed,
                    None => return false,
                }
            }
        });
        self.deferred.push_back(Deferred::Tell(token, telling));
    }

    /// Does `work` on a worker thread, and calls `done` on the loop with what it returned, or with its panic.
    ///
    /// For what would block: look-ups, disks, long sums. [`ReactorOptions::workers`] threads do it, started when
    /// needed. `done` is mail, but never refused for want of room. Work cannot be taken back, and `stop` does not wait
    /// for it: a result that comes after `run` has returned is seen by the next `run`, or dropped with the reactor.
    ///
    /// # Errors
    /// As much work as the limit allows waits already; neither closure is called.
    pub fn offload<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(&mut Loop<'_, A>, Result<T, WorkPanicked>) + 'static,
    ) -> Result<(), WorkRefused> {
        // The pool bounds what is not finished; results that wait for their turn count too.
        if self.jobs.len() >= self.work_limit {
            return Err(WorkRefused);
        }
        let job = self.jobs.insert(Box::new(move |lp, result| {
            if let Ok(result) = result.downcast() {
                done(lp, *result);
            }
        }));
        let sender = self.sender.clone();
        let submitted = self.workers.submit(Box::new(move || {
            let result: Box<dyn Any + Send> = Box::new(run_caught(work));
            // Gone: the reactor was dropped meanwhile, and nobody waits for the result.
            let _ = sender.post_reserved(Mail::Done { job, result });
        }));
        submitted.map_err(|_| {
            drop(self.jobs.remove(job));
            WorkRefused
        })
    }

    /// Calls `call` on the loop whenever the signal has come; several that come at once count as one.
    ///
    /// A second closure for the same signal replaces the first. The signal is caught for the whole process, its mask
    /// is left alone, and what was in force before is again when the reactor is dropped. Numbers are in
    /// [`signum`](crate::signum).
    ///
    /// # Errors
    /// EINVAL for signals that cannot be caught, EBUSY when another reactor of the process has this one.
    pub fn on_signal(&mut self, signum: i32, call: impl FnMut(&mut Loop<'_, A>) + 'static) -> io::Result<()> {
        let had_bell = self.signals.bell().is_some();
        self.signals.add(signum, Box::new(call))?;
        if let Some(bell) = self.signals.bell().filter(|_| !had_bell) {
            let token = self.sockets.table.insert(Box::new(Source::Bell(Bell::Signal)));
            if let Err(e) = self.sockets.poller.add(bell, Interest::BELL, token) {
                self.sockets.table.remove(token);
                self.signals = Signals::new();
                return Err(e);
            }
        }
        Ok(())
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

    /// The door for other threads. It may outlive the reactor; a post is then refused.
    pub fn mailbox(&self) -> Mailbox<A> {
        Mailbox { sender: self.sender.clone() }
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
    /// [`CloseReason::Stopped`], dialers are gone. Reasons are [`CloseReason::Stopped`], or [`CloseReason::Unsent`]
    /// where output was left. Timers and mail go on until `run` returns.
    pub fn stop(&mut self) {
        self.sockets.stop();
    }

    /// Whether something waits that no event will announce.
    pub(crate) fn has_work(&self) -> bool {
        self.sockets.has_work() || !self.deferred.is_empty() || !self.newborn.is_empty() || self.signals.has_pending()
    }
}

fn into_bytes(data: impl Payload) -> Bytes {
    if data.is_owned() { data.into_shared() } else { Bytes::copy_from_slice(data.as_bytes()) }
}

fn boxed_acceptor<A: 'static, H: Handler<A>>(
    mut factory: impl FnMut(&mut Ctx<'_, A>, &Address) -> Option<H> + 'static,
) -> Acceptor<A> {
    Box::new(move |ctx, peer| factory(ctx, peer).map(|handler| Box::new(handler) as Box<dyn Handler<A>>))
}

/// A connection between two owners: see [`Net::detach`] and [`Net::adopt`]. It may go to another thread.
#[derive(Debug)]
pub struct Detached {
    /// The socket.
    pub fd: Fd,
    /// Read from it and not consumed.
    pub unread: BytesMut,
    /// Taken by `send` and not yet by the kernel, oldest first.
    pub unsent: Vec<Bytes>,
    /// Whether the peer's end was read.
    pub ended: bool,
    /// Whether our half has ended, or is to end behind `unsent`.
    pub shutdown: bool,
}

impl From<Fd> for Detached {
    fn from(fd: Fd) -> Detached {
        Detached { fd, unread: BytesMut::new(), unsent: Vec::new(), ended: false, shutdown: false }
    }
}

/// Brings closures from other threads to the loop. The only part of a reactor that may leave its thread.
pub struct Mailbox<A = ()> {
    sender: mailbox::Sender<Mail<A>>,
}

impl<A> Mailbox<A> {
    /// Has `letter` called on the loop, in its next turn; wakes the loop with one system call if it sleeps, and
    /// with none if it does not. Letters of one thread are called in the order in which they were posted.
    ///
    /// # Errors
    /// The box is full, or the reactor is gone; the closure comes back.
    pub fn post(&self, letter: impl FnOnce(&mut Loop<'_, A>) + Send + 'static) -> Result<(), PostError<A>> {
        let returned = |mail| match mail {
            Mail::Letter(letter) => letter,
            Mail::Done { .. } => unreachable!("a letter was posted, so a letter comes back"),
        };
        self.sender.post(Mail::Letter(Box::new(letter))).map_err(|refused| match refused {
            mailbox::Refused::Full(mail) => PostError::Full(returned(mail)),
            mailbox::Refused::Gone(mail) => PostError::Gone(returned(mail)),
        })
    }
}

impl<A> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Mailbox { sender: self.sender.clone() }
    }
}

impl<A> fmt::Debug for Mailbox<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

/// A letter that was not taken.
pub enum PostError<A = ()> {
    /// As many wait as the limit allows.
    Full(Letter<A>),
    /// The reactor is gone.
    Gone(Letter<A>),
}

impl<A> fmt::Debug for PostError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "Full(..)",
            PostError::Gone(_) => "Gone(..)",
        })
    }
}

impl<A> fmt::Display for PostError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "the mailbox is full",
            PostError::Gone(_) => "the reactor is gone",
        })
    }
}

impl<A> error::Error for PostError<A> {}

/// Work that was not taken, because too much waits already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkRefused;

impl fmt::Display for WorkRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much offloaded work waits already")
    }
}

impl error::Error for WorkRefused {}
