//! Listeners: how peers come in, and how they are turned away when there is no room.
//!
//! A listener is registered level-triggered: the kernel reports it for as long as a peer waits, so one
//! accept4(2) a peer is enough, and no call is spent to be told EAGAIN. Only when peers are reported turn after
//! turn is the batch doubled, up to the accept budget.
//!
//! The special problem of EMFILE: without a free descriptor a peer can be neither accepted nor refused; it would
//! hang in the backlog, and the level-triggered listener would spin. So one descriptor is held in reserve:
//!
//! ```text
//!   accept4 ─► EMFILE ─► close the spare ─► accept4 ─► close the peer ─► open the spare again
//!                                              │                             │ fails: pause, try by timer
//!                                              ├─ EAGAIN: nobody was there (accept4 says EMFILE even then)
//!                                              └─ EMFILE: another thread was quicker; pause, try by timer
//! ```
//!
//! The peer sees at once that it is not served, the connections that are open go on, and the processor idles.

use crate::connection::{Connection, Phase};
use crate::options::{AtLimit, ListenOptions, StreamOptions};
use crate::poller::Interest;
use crate::sockets::{Due, Sockets, Source};
use crate::sys::{self, Address, Fd, KeepAlive};
use crate::timer::TimerId;
use crate::token::Token;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

/// A listener that ran into a shortage (memory, descriptors without a spare) tries again after this.
const RELISTEN_AFTER: Duration = Duration::from_millis(100);

/// So many errors in a row are not the peers' own any more: the listener pauses, since it would spin.
const SKIPPED_MAX: u32 = 256;

#[derive(Debug)]
pub(crate) struct Listener {
    fd: Fd,
    address: Address,
    options: ListenOptions,
    /// What accepted connections start from; one copy for all of them.
    stream: Rc<StreamOptions>,
    /// Connections accepted here that still have their descriptor.
    open: usize,
    /// Peers to accept before going back to the kernel.
    batch: u32,
    last_turn: u64,
    /// Errors in a row that were laid to peers. If they are not the peers', the queue never empties.
    skipped: u32,
    paused: bool,
    /// What epoll watches it for. Differs from what `paused` asks for after epoll_ctl(2) has failed.
    watched: Interest,
    /// When it tries again.
    retry: Option<TimerId>,
    closed: bool,
    /// The socket file is ours, so it goes when the listener does.
    owns_path: bool,
}

/// What an accept4(2) came to.
#[derive(Debug)]
pub(crate) enum Accepted {
    Peer(Token, Address),
    /// This one is not to be had; the next may be.
    Skipped,
    /// Nobody waits, or nobody can be taken now.
    Nobody,
}

impl Listener {
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn is_full(&self) -> bool {
        self.options.max_connections.is_some_and(|most| self.open >= most)
    }
}

/// Makes a listening socket.
fn listening_socket(address: &Address, options: &ListenOptions) -> io::Result<Fd> {
    let fd = sys::socket::stream(address.family())?;
    if address.ip().is_some() {
        sys::socket::set_reuse_address(&fd, options.reuse_address)?;
        if options.reuse_port {
            sys::socket::set_reuse_port(&fd, true)?;
        }
        if address.ip().is_some_and(|ip| ip.is_ipv6()) {
            sys::socket::set_only_v6(&fd, options.only_v6)?;
        }
    }
    match sys::socket::bind(&fd, address) {
        Err(e) if e.kind() == ErrorKind::AddrInUse && is_left_behind(address) => {
            if let Address::Path(path) = address {
                sys::socket::unlink(path)?;
            }
            sys::socket::bind(&fd, address)?;
        }
        bound => bound?,
    }
    if let Err(e) = sys::socket::listen(&fd, options.backlog) {
        remove_socket_file(address);
        return Err(e);
    }
    Ok(fd)
}

/// Removes the file that bind(2) has made. Best effort: somebody may have removed it before us.
fn remove_socket_file(address: &Address) {
    if let Address::Path(path) = address {
        let _ = sys::socket::unlink(path);
    }
}

/// Whether the socket file belongs to nobody: a server that was killed leaves its file, and then connecting to it
/// is refused. So it is for a file of any other kind, which is somebody's and must not be touched.
fn is_left_behind(address: &Address) -> bool {
    let Address::Path(path) = address else { return false };
    if !sys::socket::is_socket_file(path) {
        return false;
    }
    let refused = |e: io::Error| e.kind() == ErrorKind::ConnectionRefused;
    let Ok(probe) = sys::socket::stream(address.family()) else { return false };
    loop {
        match sys::socket::connect(&probe, address) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            connected => return connected.is_err_and(refused),
        }
    }
}

impl Sockets {
    pub fn listen(&mut self, address: &Address, options: ListenOptions) -> io::Result<Token> {
        // Asked before anything is made: bind(2) leaves a file.
        self.refuse_if_stopping()?;
        let fd = listening_socket(address, &options)?;
        let owns_path = matches!(address, Address::Path(_));
        let added = self.add_listener(fd, options, owns_path);
        if added.is_err() {
            remove_socket_file(address);
        }
        added
    }

    /// Takes over a socket that listens already.
    pub fn adopt_listener(&mut self, fd: Fd, options: ListenOptions) -> io::Result<Token> {
        self.refuse_if_stopping()?;
        sys::socket::set_nonblocking(&fd)?;
        if !sys::socket::is_listening(&fd)? {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the socket does not listen"));
        }
        self.add_listener(fd, options, false)
    }

    fn add_listener(&mut self, fd: Fd, options: ListenOptions, owns_path: bool) -> io::Result<Token> {
        let address = sys::socket::local_address(&fd)?;
        // Accepted sockets inherit these, which saves a call for each.
        KernelOptions::of(&options.stream).apply(KernelOptions::INITIAL, &fd, &address)?;
        let listener = Listener {
            fd,
            address,
            stream: Rc::new(options.stream.clone()),
            options,
            open: 0,
            batch: 1,
            last_turn: 0,
            skipped: 0,
            paused: false,
            watched: Interest::LISTEN,
            retry: None,
            closed: false,
            owns_path,
        };
        self.add_source(Source::Listener(Box::new(listener)), Interest::LISTEN)
    }

    pub fn listener(&self, token: Token) -> Option<&Listener> {
        match self.table.get(token).map(|source| &**source) {
            Some(Source::Listener(listener)) => Some(listener),
            _ => None,
        }
    }

    #[inline]
    fn listener_mut(&mut self, token: Token) -> Option<&mut Listener> {
        match self.table.get_mut(token).map(|source| &mut **source) {
            Some(Source::Listener(listener)) => Some(listener),
            _ => None,
        }
    }

    pub fn listener_address(&self, token: Token) -> Option<&Address> {
        self.listener(token).map(|listener| &listener.address)
    }

    /// How many peers to accept in this turn.
    #[inline]
    pub fn accept_batch(&mut self, token: Token) -> u32 {
        let turn = self.stats.turns;
        let Some(listener) = self.listener_mut(token) else { return 0 };
        let storm = listener.last_turn + 1 == turn;
        listener.last_turn = turn;
        listener.batch =
            if storm { listener.batch.saturating_mul(2).min(listener.options.accept_budget.max(1)) } else { 1 };
        listener.batch
    }

    /// Accepts one peer. Every errno of accept(2) has its answer here.
    pub fn accept(&mut self, token: Token) -> Accepted {
        let Some(listener) = self.listener_mut(token) else { return Accepted::Nobody };
        if listener.closed {
            return Accepted::Nobody;
        }
        if listener.paused {
            // Reported all the same, and for as long as somebody waits: unless epoll takes it now.
            self.watch_listener(token);
            return Accepted::Nobody;
        }
        if listener.is_full() && listener.options.at_limit == AtLimit::Pause {
            self.pause_listener(token);
            return Accepted::Nobody;
        }
        let (fd, peer) = match sys::socket::accept(&listener.fd) {
            Ok(accepted) => accepted,
            Err(e) => return self.accept_failed(token, &e),
        };
        listener.skipped = 0;
        if listener.is_full() {
            self.stats.refused += 1;
            self.graveyard.push(fd);
            return Accepted::Skipped;
        }
        let stream = listener.stream.clone();
        let mut conn = Connection::new(Some(fd), peer.clone(), Phase::Open, stream, self.now);
        conn.listener = Some(token);
        self.admit(token, conn, peer)
    }

    fn admit(&mut self, token: Token, conn: Connection, peer: Address) -> Accepted {
        let is_watched = conn.options.idle_timeout.is_some();
        match self.add_connection(conn) {
            Ok(conn) => {
                self.stats.accepts += 1;
                if is_watched {
                    self.watch(conn);
                }
                Accepted::Peer(conn, peer)
            }
            Err(e) => {
                log::warn!("{token}: a peer is turned away, epoll cannot watch it: {e}");
                self.stats.refused += 1;
                Accepted::Skipped
            }
        }
    }

    fn accept_failed(&mut self, token: Token, e: &io::Error) -> Accepted {
        use sys::errno::AcceptError::*;
        match sys::errno::classify_accept(e) {
            Interrupted => Accepted::Skipped,
            Empty => {
                if let Some(listener) = self.listener_mut(token) {
                    listener.batch = 1;
                }
                Accepted::Nobody
            }
            // The peer, or the network to it, had gone before we came to it.
            Peer => {
                self.stats.accept_errors += 1;
                let Some(listener) = self.listener_mut(token) else { return Accepted::Nobody };
                listener.skipped += 1;
                if listener.skipped < SKIPPED_MAX {
                    return Accepted::Skipped;
                }
                listener.skipped = 0;
                self.relisten_later(token);
                Accepted::Nobody
            }
            Descriptors => self.refuse_with_spare(token),
            Memory => {
                self.relisten_later(token);
                Accepted::Nobody
            }
            Broken => {
                log::error!("{token}: accept4: {e}");
                self.relisten_later(token);
                Accepted::Nobody
            }
        }
    }

    /// No descriptor is free: see the head of this file.
    fn refuse_with_spare(&mut self, token: Token) -> Accepted {
        if !self.reaped.is_empty() || !self.graveyard.is_empty() || !self.ended.is_empty() {
            // Some are about to be released, and the listener is reported again.
            return Accepted::Nobody;
        }
        let Some(spare) = self.spare.take() else {
            self.regain_spare(token);
            return Accepted::Nobody;
        };
        drop(spare);
        self.stats.out_of_descriptors += 1;
        let Some(listener) = self.listener(token) else { return Accepted::Nobody };
        let answer = match sys::socket::accept(&listener.fd) {
            Ok(peer) => {
                // Closed at once, unlike all others: it never had a token, and its number is needed for the spare.
                drop(peer);
                self.stats.refused += 1;
                Accepted::Skipped
            }
            // Somebody else was quicker to take the descriptor: a peer waits still.
            Err(e) if sys::errno::classify_accept(&e) == sys::errno::AcceptError::Descriptors => {
                self.relisten_later(token);
                Accepted::Nobody
            }
            Err(e) => self.accept_failed(token, &e),
        };
        if self.regain_spare(token) { answer } else { Accepted::Nobody }
    }

    /// Opens the spare again, or pauses the listener until that can be done.
    fn regain_spare(&mut self, token: Token) -> bool {
        if self.spare.is_none() {
            self.spare = sys::fd::spare().ok();
        }
        if self.spare.is_none() {
            self.relisten_later(token);
        }
        self.spare.is_some()
    }

    fn pause_listener(&mut self, token: Token) {
        let Some(listener) = self.listener_mut(token) else { return };
        listener.paused = true;
        self.watch_listener(token);
    }

    fn relisten_later(&mut self, token: Token) {
        self.pause_listener(token);
        let at = self.now + RELISTEN_AFTER;
        let Some(Source::Listener(listener)) = self.table.get_mut(token).map(|source| &mut **source) else { return };
        if listener.retry.is_none() {
            listener.retry = Some(self.timers.insert(at, Due::Relisten(token)));
        }
    }

    /// The shortage may be over.
    pub fn relisten(&mut self, token: Token) {
        self.cancel_relisten(token);
        if self.regain_spare(token) {
            self.resume_listener(token);
        }
    }

    fn cancel_relisten(&mut self, token: Token) {
        if let Some(id) = self.listener_mut(token).and_then(|listener| listener.retry.take()) {
            self.timers.remove(id);
        }
    }

    fn resume_listener(&mut self, token: Token) {
        let Some(listener) = self.listener_mut(token) else { return };
        if listener.paused && !listener.closed {
            listener.paused = false;
            if !self.watch_listener(token) {
                // Deaf, nobody would come to it any more.
                self.relisten_later(token);
            }
        }
    }

    /// Has epoll watch a listener as its state asks for; whether it does.
    fn watch_listener(&mut self, token: Token) -> bool {
        let Some(Source::Listener(listener)) = self.table.get_mut(token).map(|source| &mut **source) else {
            return false;
        };
        let interest = if listener.paused { Interest::NOTHING } else { Interest::LISTEN };
        if listener.watched != interest {
            match self.poller.modify(&listener.fd, interest, token) {
                Ok(()) => listener.watched = interest,
                Err(e) => log::error!("{token}: epoll_ctl: {e}"),
            }
        }
        listener.watched == interest
    }

    pub fn count_connection(&mut self, token: Token) {
        if let Some(listener) = self.listener_mut(token) {
            listener.open += 1;
        }
    }

    pub fn uncount_connection(&mut self, token: Token) {
        let Some(listener) = self.listener_mut(token) else { return };
        listener.open -= 1;
        if listener.paused && !listener.is_full() && listener.options.max_connections.is_some() {
            self.resume_listener(token);
        }
    }

    /// Peers that wait in its backlog are refused by the kernel when the descriptor goes.
    pub fn close_listener(&mut self, token: Token) {
        let Some(listener) = self.listener_mut(token) else { return };
        if listener.closed {
            return;
        }
        listener.closed = true;
        if listener.owns_path {
            remove_socket_file(&listener.address);
        }
        self.cancel_relisten(token);
        self.reaped.push(token);
        self.closed.push(token);
    }
}

/// The part of a connection's options that the kernel keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelOptions {
    nodelay: bool,
    keep_alive: Option<KeepAlive>,
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
}

impl KernelOptions {
    /// Of a socket that was just made.
    pub const INITIAL: KernelOptions =
        KernelOptions { nodelay: false, keep_alive: None, send_buffer: None, receive_buffer: None };

    pub fn of(options: &StreamOptions) -> KernelOptions {
        let StreamOptions { nodelay, keep_alive, send_buffer, receive_buffer, .. } = *options;
        KernelOptions { nodelay, keep_alive, send_buffer, receive_buffer }
    }

    /// Tells the kernel what differs from `before`. A buffer that was set cannot be given back to its tuning.
    pub fn apply(self, before: KernelOptions, fd: &Fd, address: &Address) -> io::Result<()> {
        if address.ip().is_some() {
            if self.nodelay != before.nodelay {
                sys::socket::set_nodelay(fd, self.nodelay)?;
            }
            if self.keep_alive != before.keep_alive {
                sys::socket::set_keep_alive(fd, self.keep_alive)?;
            }
        }
        if let Some(bytes) = self.send_buffer.filter(|_| self.send_buffer != before.send_buffer) {
            sys::socket::set_send_buffer(fd, bytes)?;
        }
        if let Some(bytes) = self.receive_buffer.filter(|_| self.receive_buffer != before.receive_buffer) {
            sys::socket::set_receive_buffer(fd, bytes)?;
        }
        Ok(())
    }
}
