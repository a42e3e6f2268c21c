//! Connecting: from a name or a list of addresses to an open connection, or to the reason why not.
//!
//! ```text
//!   Target ─┬─ addresses ───────────────────────┐
//!           └─ name ── look-up on a worker ─────┤        refused, unreachable
//!                                               ▼      ┌──────────┐
//!                                         next address ◄──────────┘
//!                                               │ connect(2) in progress
//!                                     OUT ──► SO_ERROR 0 ──► not ourselves? ──► on_open
//! ```
//!
//! Everything counts against one deadline, the connect time-out. A connection in the making has a token from
//! the start: what is sent to it waits in its queue, and it can be closed at any time.
//!
//! The special problem of connecting to ourselves: connecting to a port of this machine on which nobody listens
//! may, once in some ten thousand times, pick that very port as the source and succeed (TCP's simultaneous
//! open). A client that retries until its server is up then talks to itself, and keeps the server from starting.
//! It is treated as what it is: connection refused.

use crate::connection::{Attempt, Connection, Flags, Phase};
use crate::handler::{CloseReason, Handler};
use crate::handlers::Newborn;
use crate::listener::KernelOptions;
use crate::net::Net;
use crate::options::StreamOptions;
use crate::sockets::{Sockets, connection_in};
use crate::sys::{self, Address, Fd};
use crate::token::Token;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;

/// Where to connect to.
///
/// From text: `127.0.0.1:80`, `[::1]:80`, `unix:/path`, `unix:@name` are addresses; `host:80` is a name, looked
/// up on a worker thread. Text that is none of these is an error when the connection is attempted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// Tried in order until one answers.
    Addresses(Vec<Address>),
    /// Looked up, then tried in the resolver's order.
    Name {
        /// The host's name.
        host: String,
        /// The port.
        port: u16,
    },
    /// Text that names no target.
    Invalid(String),
}

impl From<&str> for Target {
    fn from(text: &str) -> Target {
        if let Ok(address) = text.parse::<Address>() {
            return Target::Addresses(vec![address]);
        }
        match text.rsplit_once(':') {
            Some((host, port)) if is_host_name(host) && !port.is_empty() => match port.parse() {
                Ok(port) => Target::Name { host: host.to_owned(), port },
                Err(_) => Target::Invalid(text.to_owned()),
            },
            _ => Target::Invalid(text.to_owned()),
        }
    }
}

/// Enough to tell a name from a mistyped address; the resolver has the last word.
fn is_host_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

impl From<String> for Target {
    fn from(text: String) -> Target {
        Target::from(text.as_str())
    }
}

impl From<&String> for Target {
    fn from(text: &String) -> Target {
        Target::from(text.as_str())
    }
}

impl From<Address> for Target {
    fn from(address: Address) -> Target {
        Target::Addresses(vec![address])
    }
}

impl From<&Address> for Target {
    fn from(address: &Address) -> Target {
        Target::Addresses(vec![address.clone()])
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::Addresses(vec![address.into()])
    }
}

impl From<Vec<SocketAddr>> for Target {
    fn from(addresses: Vec<SocketAddr>) -> Target {
        Target::Addresses(addresses.into_iter().map(Address::from).collect())
    }
}

impl From<Vec<Address>> for Target {
    fn from(addresses: Vec<Address>) -> Target {
        Target::Addresses(addresses)
    }
}

impl From<(&str, u16)> for Target {
    fn from((host, port): (&str, u16)) -> Target {
        match host.parse::<std::net::IpAddr>() {
            Ok(ip) => SocketAddr::from((ip, port)).into(),
            Err(_) => Target::Name { host: host.to_owned(), port },
        }
    }
}

impl<A: 'static> Net<A> {
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
}

impl Sockets {
    /// Makes a token for a connection that is to be made; its deadline runs from now.
    pub fn begin_connecting(&mut self, options: Rc<StreamOptions>) -> Token {
        let timeout = options.connect_timeout;
        let conn = Connection::new(None, Address::Unnamed, Phase::Connecting, options, self.now);
        let token = self.table.insert(Box::new(crate::sockets::Source::Connection(conn)));
        self.stats.connects += 1;
        self.deadline_by(token, timeout);
        if self.is_stopping() {
            self.end(token, CloseReason::Stopped);
        }
        token
    }

    /// The addresses are known: tries them, the first one now.
    pub fn connect_to(&mut self, token: Token, addresses: Vec<Address>) {
        let since_turn = self.stats.turns;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.phase != Phase::Connecting {
            return;
        }
        let last_error = Some(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        conn.extras().attempt =
            Some(Box::new(Attempt { remaining: VecDeque::from(addresses), last_error, since_turn }));
        self.try_next_address(token);
    }

    pub fn connect_failed(&mut self, token: Token, e: io::Error) {
        if self.connection(token).is_some_and(|conn| conn.phase == Phase::Connecting) {
            self.end(token, CloseReason::Connect(e));
        }
    }

    /// Tries addresses until one is in progress or none is left.
    pub fn try_next_address(&mut self, token: Token) {
        loop {
            let turn = self.stats.turns;
            let Some(conn) = connection_in(&mut self.table, token) else { return };
            if let Some(abandoned) = conn.fd.take() {
                // Its events would come under the token of the next one until it is closed. Best effort: that it is
                // not there any more is as good.
                let _ = self.poller.remove(&abandoned);
                self.graveyard.push(abandoned);
            }
            let Some(attempt) = conn.extras().attempt.as_mut() else { return };
            attempt.since_turn = turn;
            let Some(address) = attempt.remaining.pop_front() else {
                let e = attempt.last_error.take().unwrap_or_else(|| ErrorKind::NotFound.into());
                return self.connect_failed(token, e);
            };
            match self.try_address(token, &address) {
                Ok(()) => return,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    // A Unix listener whose backlog is full says so at once and by no event: come back.
                    if let Some(attempt) =
                        connection_in(&mut self.table, token).and_then(|conn| conn.extras().attempt.as_mut())
                    {
                        attempt.remaining.push_front(address);
                    }
                    return self.retry_later(token);
                }
                Err(e) => self.note_failure(token, e),
            }
        }
    }

    fn try_address(&mut self, token: Token, address: &Address) -> io::Result<()> {
        let fd = sys::socket::stream(address.family())?;
        let Some(conn) = connection_in(&mut self.table, token) else { return Ok(()) };
        KernelOptions::of(&conn.options).apply(KernelOptions::INITIAL, &fd, address)?;
        loop {
            match sys::socket::connect(&fd, address) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if sys::errno::is_in_progress(&e) => break,
                other => break other?,
            }
        }
        conn.peer = address.clone();
        conn.flags.clear(Flags::TCP.or(Flags::READABLE).or(Flags::WRITABLE).or(Flags::CUT_READS).or(Flags::FAILED));
        // Registered after connect(2), so that an edge for OUT means its outcome, be it there already or later.
        conn.flags.set(if address.ip().is_some() { Flags::TCP } else { Flags::ASKS_OUT });
        self.poller.add(&fd, conn.interest(), token)?;
        conn.fd = Some(fd);
        Ok(())
    }

    fn note_failure(&mut self, token: Token, e: io::Error) {
        if let Some(attempt) = connection_in(&mut self.table, token).and_then(|conn| conn.extras().attempt.as_mut()) {
            log::debug!("{token}: connect: {e}");
            attempt.last_error = Some(e);
        }
    }

    /// An edge came for a connection in the making: asks for the outcome.
    pub fn check_connected(&mut self, token: Token) {
        let turn = self.stats.turns;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let Some(attempt) = conn.extras.as_ref().and_then(|extras| extras.attempt.as_ref()) else { return };
        let Some(fd) = &conn.fd else { return };
        if attempt.since_turn == turn {
            // The event was fetched before this socket was made: it speaks of the one before.
            conn.flags.clear(Flags::READABLE.or(Flags::WRITABLE).or(Flags::CUT_READS).or(Flags::FAILED));
            return;
        }
        if !conn.flags.has(Flags::WRITABLE) {
            return;
        }
        let outcome = match sys::socket::take_error(fd) {
            Ok(None) if is_to_itself(fd, &conn.peer) => Err(sys::errno::refused()),
            Ok(None) => Ok(()),
            Ok(Some(e)) | Err(e) => Err(e),
        };
        match outcome {
            Ok(()) => self.connected(token),
            Err(e) => {
                self.note_failure(token, e);
                self.try_next_address(token);
            }
        }
    }

    fn connected(&mut self, token: Token) {
        let now = self.now;
        self.cancel_deadline(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let extras = conn.extras();
        extras.attempt = None;
        // Only a dialer asks how long it lasted.
        extras.opened = extras.dialer.map(|_| now);
        conn.tidy();
        conn.flags.set(Flags::OPEN_DUE);
        self.opened(token);
        // What was sent meanwhile goes out, and what `shutdown` asked for is done, after `on_open`.
        self.mark_dirty(token);
    }
}

/// Whether a socket is connected to itself: it then has the same address at both ends. The peer is asked of the
/// kernel, because what the program named may have been "any" address, which the kernel takes for the loopback.
fn is_to_itself(fd: &Fd, peer: &Address) -> bool {
    let Some(port) = peer.port() else { return false };
    let Ok(local) = sys::socket::local_address(fd) else { return false };
    // Nearly always the ports differ, and the second call is spared.
    local.port() == Some(port) && sys::socket::peer_address(fd).is_ok_and(|peer| peer == local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ReactorOptions;

    /// A socket that is connected to itself, made on purpose: bound first, then connected to where it is bound.
    /// `named` is what the program asked for.
    fn outcome_of_a_connection_to_itself(bound: &str, named: &str) -> Option<CloseReason> {
        let bound: Address = bound.parse().expect("an address");
        let mut sockets = Sockets::new(&ReactorOptions::default(), sys::clock::now()).expect("an epoll instance");
        let token = sockets.begin_connecting(Rc::default());
        let fd = sys::socket::stream(bound.family()).expect("a socket");
        sys::socket::bind(&fd, &bound).expect("a free port");
        let port = sys::socket::local_address(&fd).ok().and_then(|address| address.port()).expect("a port");
        let named = SocketAddr::new(named.parse().expect("an IP address"), port);
        match sys::socket::connect(&fd, &named.into()) {
            Err(e) if !sys::errno::is_in_progress(&e) => panic!("{e}"),
            _ => {}
        }
        let conn = sockets.connection_mut(token).expect("in the making");
        conn.peer = named.into();
        conn.fd = Some(fd);
        conn.extras().attempt = Some(Box::new(Attempt { remaining: VecDeque::new(), last_error: None, since_turn: 0 }));
        sockets.stats.turns = 1;
        sockets.check_connected(token);
        sockets.take_ended().map(|(_, why)| why)
    }

    #[test]
    fn a_connection_to_itself_is_refused() {
        for (bound, named) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            // The kernel takes "any" for the loopback, and puts that into the socket's own addresses.
            ("127.0.0.1:0", "0.0.0.0"),
            ("[::1]:0", "::"),
        ] {
            match outcome_of_a_connection_to_itself(bound, named) {
                Some(CloseReason::Connect(e)) => assert_eq!(e.kind(), ErrorKind::ConnectionRefused),
                other => panic!("{bound} to {named}: {other:?}"),
            }
        }
    }

    #[test]
    fn text_is_an_address_a_name_or_an_error() {
        assert_eq!(Target::from("127.0.0.1:80"), Target::Addresses(vec!["127.0.0.1:80".parse().expect("an address")]));
        assert!(matches!(Target::from("[::1]:80"), Target::Addresses(_)));
        assert!(matches!(Target::from("unix:@name"), Target::Addresses(_)));
        assert_eq!(Target::from("localhost:80"), Target::Name { host: "localhost".into(), port: 80 });
        for nonsense in ["", "localhost", ":80", "localhost:", "localhost:http", "localhost:65536", "a b:1", "::1:x"] {
            assert_eq!(Target::from(nonsense), Target::Invalid(nonsense.into()), "{nonsense}");
        }
        assert!(matches!(Target::from(("::1", 80)), Target::Addresses(_)));
    }
}
