//! Between two streams: how connections begin, what is under way, and how they end.
//!
//! ```text
//!   connect ── SYN ──► listener? ── no ──► RST: ECONNREFUSED
//!                          │ full: again after 1, 2, 4, … seconds, then ETIMEDOUT
//!                          ▼
//!                      backlog ──► accept          both ends are open from the moment of the SYN's arrival
//!
//!   shutdown ── FIN behind the data ──► the peer's reads end      both ends told: closed, HUP
//!   close ── nothing unread ──► as shutdown, and who sends to it now gets an RST
//!         ── something unread, or linger zero ──► RST: the peer's queue to us is lost, what it has not read is not
//! ```
//!
//! A Unix stream has no packets: everything happens within the call.

use super::kernel::{Errno, Event, Id, Kernel, Protocol};
use super::stream::{Fin, State, Stream};
use crate::sys::Address;
use crate::sys::epoll::{IN, OUT, PRI};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// SYNs of one attempt, `net.ipv4.tcp_syn_retries` and the first one.
const SYNS: u32 = 7;
/// After this an unanswered sender gives up: `net.ipv4.tcp_retries2` of 15 comes to 924.6 s.
const GIVE_UP_NS: u64 = 924_600_000_000;
const SECOND_NS: u64 = 1_000_000_000;

impl Kernel {
    // ── Beginning ────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives a socket a name among those of its protocol; answers what it became.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn name(&mut self, id: Id, protocol: Protocol, address: &Address, shared: bool) -> Result<Address, Errno> {
        let address = match address {
            Address::Ip(ip) if ip.port() == 0 => Address::Ip(SocketAddr::new(ip.ip(), self.free_port())),
            Address::Unnamed => Address::Abstract(format!("{:05x}", self.free_port()).into_bytes().into()),
            address => address.clone(),
        };
        let key = (protocol, address.clone());
        // The file of a Unix socket outlives it, and is in the way until it is unlinked.
        if self.names.contains_key(&key) && !shared {
            return Err(libc::EADDRINUSE);
        }
        self.names.entry(key).or_default().push(id);
        Ok(address)
    }

    fn free_port(&mut self) -> u16 {
        self.next_port = if self.next_port >= 60_999 { 32_768 } else { self.next_port + 1 };
        self.next_port
    }

    /// # Errors
    /// EINVAL: bound already. EADDRINUSE.
    pub fn bind_stream(&mut self, id: Id, address: &Address) -> Result<(), Errno> {
        let stream = self.stream(id).ok_or(libc::ENOTSOCK)?;
        if stream.local.is_some() {
            return Err(libc::EINVAL);
        }
        let shared = stream.reuse_port;
        let bound = self.name(id, Protocol::Stream, address, shared)?;
        if let Some(stream) = self.stream_mut(id) {
            (stream.local, stream.named) = (Some(bound), true);
        }
        Ok(())
    }

    /// # Errors
    /// EINVAL: connected, or a Unix socket without a name.
    pub fn listen(&mut self, id: Id, backlog: usize) -> Result<(), Errno> {
        let stream = self.stream(id).ok_or_else(|| self.why_no_stream(id))?;
        match stream.state {
            State::Fresh if stream.local.is_none() && stream.unix => return Err(libc::EINVAL),
            State::Fresh if stream.local.is_none() => {
                self.bind_stream(id, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
            }
            State::Fresh | State::Listening => {}
            _ => return Err(libc::EINVAL),
        }
        if let Some(stream) = self.stream_mut(id) {
            stream.state = State::Listening;
            stream.backlog_limit = backlog;
        }
        Ok(())
    }

    /// connect(2). A packet's way is not waited for: EINPROGRESS, even if all has happened by then.
    ///
    /// # Errors
    /// EINPROGRESS, EALREADY, EISCONN, or for Unix the failure itself.
    pub fn connect(&mut self, id: Id, address: &Address) -> Result<(), Errno> {
        let port = self.free_port();
        let stream = self.stream_mut(id).ok_or(libc::ENOTSOCK)?;
        match stream.state {
            State::Fresh => {}
            State::Connecting => return Err(libc::EALREADY),
            State::Open if !stream.unix && !std::mem::replace(&mut stream.connect_told, true) => return Ok(()),
            State::Listening | State::Open => return Err(libc::EISCONN),
            State::Closed => return Err(stream.take_error().unwrap_or(libc::ECONNABORTED)),
        }
        if address.is_unix() != stream.unix {
            return Err(libc::EAFNOSUPPORT);
        }
        if stream.unix {
            return self.connect_unix(id, address);
        }
        let target = reachable(address);
        if stream.local.is_none() {
            stream.local = target.ip().map(|target| SocketAddr::new(target.ip(), port).into());
        }
        stream.remote = Some(target);
        stream.state = State::Connecting;
        match self.latency() {
            0 => self.syn(id, 0),
            latency => self.at(self.now + latency, Event::Syn(id, 0)),
        }
        Err(libc::EINPROGRESS)
    }

    fn connect_unix(&mut self, id: Id, address: &Address) -> Result<(), Errno> {
        let Some(listener) = self.listener(address) else {
            let file = self.names.contains_key(&(Protocol::Stream, address.clone()));
            return Err(if file || matches!(address, Address::Abstract(_)) {
                libc::ECONNREFUSED
            } else {
                libc::ENOENT
            });
        };
        if self.is_full(listener) {
            return Err(libc::EAGAIN);
        }
        if let Some(stream) = self.stream_mut(id) {
            stream.remote = Some(address.clone());
        }
        self.join(id, listener);
        Ok(())
    }

    /// Who listens there.
    fn listener(&mut self, address: &Address) -> Option<Id> {
        let mut names = vec![address.clone()];
        if let Address::Ip(ip) = address {
            let any: [IpAddr; 2] = match ip.ip() {
                IpAddr::V4(_) => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
                IpAddr::V6(_) => [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            };
            names.extend(any.map(|any| SocketAddr::new(any, ip.port()).into()));
        }
        for name in names {
            let mapped = name.ip().is_some_and(|name| name.is_ipv6() && address.ip().is_some_and(|ip| ip.is_ipv4()));
            let holders = self.names.get(&(Protocol::Stream, name)).cloned().unwrap_or_default();
            let listens = |id: &Id| {
                self.stream(*id).is_some_and(|stream| stream.state == State::Listening && !(mapped && stream.only_v6))
            };
            let holders: Vec<Id> = holders.into_iter().filter(listens).collect();
            if !holders.is_empty() {
                let chosen = self.chance.below(holders.len() as u64) as usize;
                return Some(holders[chosen]);
            }
        }
        None
    }

    fn is_full(&self, listener: Id) -> bool {
        self.stream(listener).is_some_and(|stream| stream.backlog.len() > stream.backlog_limit)
    }

    /// A SYN reaches the machine that it was meant for.
    pub fn syn(&mut self, id: Id, attempt: u32) {
        let Some(stream) = self.stream(id).filter(|stream| stream.state == State::Connecting) else { return };
        let Some(address) = stream.remote.clone() else { return };
        let silent = self.silent.contains(&address);
        match self.listener(&address).filter(|_| !silent) {
            Some(listener) if !self.is_full(listener) => self.join(id, listener),
            None if !silent => self.cut(id, libc::ECONNREFUSED),
            // Nobody answers: the SYN is sent again, after 1, 2, 4, … seconds.
            _ if attempt < SYNS => self.at(self.now + (SECOND_NS << attempt), Event::Syn(id, attempt + 1)),
            _ => self.cut(id, libc::ETIMEDOUT),
        }
    }

    /// Makes the other end of a connection and puts it into the listener's backlog.
    fn join(&mut self, id: Id, listener: Id) {
        let child = self.make_stream(self.stream(id).is_some_and(|stream| stream.unix));
        let Some(stream) = self.stream_mut(id) else { return };
        stream.state = State::Open;
        stream.peer = Some(child);
        let (unix, local, remote) = (stream.unix, stream.remote.clone(), stream.local.clone());
        let v6 =
            self.stream(listener).and_then(|listener| listener.local.as_ref()?.ip()).is_some_and(|ip| ip.is_ipv6());
        let seen = |address: Option<Address>| if v6 { address.map(mapped) } else { address };
        if let Some(accepted) = self.stream_mut(child) {
            accepted.state = State::Open;
            (accepted.embryo, accepted.connect_told) = (true, true);
            accepted.peer = Some(id);
            accepted.local = seen(local);
            accepted.remote = seen(remote);
        }
        let family = self.node(listener).is_some_and(|node| node.v6);
        if let Some(node) = self.node_mut(child) {
            node.v6 = family;
        }
        let Some(host) = self.stream_mut(listener) else { return };
        host.backlog.push_back(child);
        let (outside, manner) = (host.outside, host.manner);
        if outside {
            self.become_outsider(child);
        }
        if let Some(accepted) = self.stream_mut(child) {
            accepted.manner = manner;
        }
        self.wake(listener, IN | PRI);
        if !unix {
            self.wake(id, 0);
            self.kick(id);
        }
    }

    /// Takes the connection that has waited longest, without a descriptor as yet.
    ///
    /// # Errors
    /// EAGAIN, EINVAL: it does not listen.
    pub fn accept(&mut self, listener: Id) -> Result<(Id, Address), Errno> {
        let no_stream = self.why_no_stream(listener);
        let stream = self.stream_mut(listener).ok_or(no_stream)?;
        if stream.state != State::Listening {
            return Err(libc::EINVAL);
        }
        let child = stream.backlog.pop_front().ok_or(libc::EAGAIN)?;
        let remote = self.stream_mut(child).and_then(|child| {
            child.embryo = false;
            child.remote.clone()
        });
        Ok((child, remote.unwrap_or(Address::Unnamed)))
    }

    // ── Under way ────────────────────────────────────────────────────────────────────────────────────────────

    /// There may be something to deliver: more was sent, or the peer has made room.
    pub fn kick(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else { return };
        if stream.delivering || stream.state != State::Open || stream.tx.is_empty() && stream.fin != Fin::Queued {
            return;
        }
        match self.latency() {
            0 => self.deliver(id),
            latency => {
                if let Some(stream) = self.stream_mut(id) {
                    stream.delivering = true;
                }
                self.at(self.now + latency, Event::Delivery(id));
            }
        }
    }

    /// Some of what a stream has sent arrives, and its end behind the last byte.
    pub fn deliver(&mut self, id: Id) {
        let Some(stream) = self.stream_mut(id) else { return };
        stream.delivering = false;
        if stream.state != State::Open || stream.vanished {
            return;
        }
        let peer = stream.peer;
        let Some((peer, other)) = peer.and_then(|peer| Some((peer, self.stream(peer)?))) else {
            // Nobody knows the connection any more.
            return self.hear_reset(id);
        };
        if other.vanished {
            return self.at(self.now + GIVE_UP_NS, Event::GiveUp(id));
        }
        let room = other.rx_limit.saturating_sub(other.rx.len());
        if self.stream(id).is_some_and(|stream| !stream.tx.is_empty()) {
            if self.stream(peer).is_some_and(|other| other.orphan) {
                self.free(peer);
                return self.hear_reset(id);
            }
            self.carry(id, peer, room);
        }
        let Some(stream) = self.stream(id) else { return };
        if stream.tx.is_empty() && stream.fin == Fin::Queued {
            self.hear_fin(id, peer);
        } else if !stream.tx.is_empty() && room > 0 {
            self.kick(id);
        }
    }

    fn carry(&mut self, id: Id, peer: Id, room: usize) {
        let segment = self.weather.segment;
        let segment = if segment == usize::MAX { segment } else { 1 + self.chance.below(segment as u64) as usize };
        let Some(stream) = self.stream_mut(id) else { return };
        let n = stream.tx.len().min(room).min(segment);
        if n == 0 {
            // The window is closed; the reader opens it.
            return;
        }
        let mut tx = std::mem::take(&mut stream.tx);
        let urgent = stream.sends_urgent;
        let Some(other) = self.stream_mut(peer) else { return };
        let new = other.arrived..other.arrived + n as u64;
        if let Some(mark) = urgent.filter(|mark| new.contains(mark)) {
            // Of the byte that was urgent until now, whose reader stands before it, nothing is left.
            other.pass_mark();
            other.urgent = Some(mark);
        }
        other.rx.extend(tx.drain(..n));
        other.arrived = new.end;
        self.arrived(peer);
        let Some(stream) = self.stream_mut(id) else { return };
        stream.tx = tx;
        if stream.no_space && stream.has_room() {
            stream.no_space = false;
            self.wake(id, OUT);
        }
    }

    /// The end of `from` reaches `to`.
    fn hear_fin(&mut self, from: Id, to: Id) {
        let Some(receiver) = self.stream_mut(to) else { return };
        (receiver.read_ended, receiver.fin_received) = (true, true);
        let both = receiver.fin == Fin::Delivered;
        if both {
            receiver.finish();
        }
        self.wake(to, 0);
        self.attend_soon(to);
        self.release(to);
        let Some(sender) = self.stream_mut(from) else { return };
        sender.fin = Fin::Delivered;
        if sender.fin_received {
            sender.finish();
        }
        // Who waits for its end to be confirmed (a lingering close) is woken, and so is everybody else.
        self.wake(from, 0);
        self.release(from);
    }

    /// Forgets a socket that nobody holds and nobody needs.
    fn release(&mut self, id: Id) {
        if self.stream(id).is_some_and(|stream| stream.orphan && stream.state == State::Closed) {
            self.free(id);
        }
    }

    // ── Ending ───────────────────────────────────────────────────────────────────────────────────────────────

    /// The peer's RST arrives.
    pub fn hear_reset(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else { return };
        let closed_by_peer = stream.fin_received && stream.fin == Fin::No;
        self.cut(id, if closed_by_peer { libc::EPIPE } else { libc::ECONNRESET });
    }

    /// A connection is over by an error. What has arrived can still be read.
    fn cut(&mut self, id: Id, errno: Errno) {
        let Some(stream) = self.stream_mut(id).filter(|stream| stream.state != State::Closed) else { return };
        (stream.error, stream.cut) = (errno, errno);
        stream.finish();
        self.wake(id, 0);
        self.attend_soon(id);
        self.release(id);
    }

    pub fn give_up(&mut self, id: Id) {
        let waits =
            |stream: &Stream| stream.state == State::Open && (!stream.tx.is_empty() || stream.fin == Fin::Queued);
        if self.stream(id).is_some_and(waits) {
            self.cut(id, libc::ETIMEDOUT);
        }
    }

    /// Sends the peer of a socket that is about to go an RST. Of what was sent before, some may have been under
    /// way already.
    fn send_reset(&mut self, id: Id) {
        let Some(stream) = self.stream(id).filter(|stream| !stream.vanished) else { return };
        let Some(peer) = stream.peer else { return };
        match self.latency() {
            0 => self.hear_reset(peer),
            latency => {
                if self.chance.once_in(2) {
                    self.deliver(id);
                }
                self.at(self.now + latency, Event::Reset(peer));
            }
        }
    }

    /// close(2) of the last descriptor.
    pub fn close_stream(&mut self, id: Id) {
        let Some(stream) = self.stream_mut(id) else { return };
        if stream.named
            && let Some(local) = stream.local.clone()
        {
            self.unname(Protocol::Stream, &local, id);
        }
        let Some(stream) = self.stream_mut(id) else { return };
        for waiting in std::mem::take(&mut stream.backlog) {
            self.abandon(waiting);
        }
        let Some(stream) = self.stream_mut(id) else { return };
        match stream.state {
            State::Open if stream.unix => self.close_unix(id),
            State::Open if stream.linger_zero || !stream.rx.is_empty() => {
                self.send_reset(id);
                self.free(id);
            }
            State::Open => {
                (stream.orphan, stream.write_ended) = (true, true);
                if stream.fin == Fin::No {
                    stream.fin = Fin::Queued;
                }
                self.kick(id);
            }
            _ => self.free(id),
        }
    }

    /// A connection that nobody has accepted, and nobody will.
    pub fn abandon(&mut self, id: Id) {
        if let Some(stream) = self.stream_mut(id) {
            stream.linger_zero = true;
        }
        self.close_stream(id);
    }

    fn close_unix(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else { return };
        let unread = !stream.rx.is_empty() || stream.embryo;
        if let Some(peer) = stream.peer
            && let Some(other) = self.stream_mut(peer)
        {
            (other.read_ended, other.write_ended, other.fin_received) = (true, true, true);
            if unread {
                (other.error, other.cut) = (libc::ECONNRESET, libc::ECONNRESET);
            }
            self.wake(peer, 0);
            self.attend_soon(peer);
        }
        self.free(id);
    }
}

/// "Any" address means this machine.
fn reachable(address: &Address) -> Address {
    match address {
        Address::Ip(SocketAddr::V4(v4)) if v4.ip().is_unspecified() => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, v4.port())).into()
        }
        Address::Ip(SocketAddr::V6(v6)) if v6.ip().is_unspecified() => {
            SocketAddr::from((Ipv6Addr::LOCALHOST, v6.port())).into()
        }
        address => address.clone(),
    }
}

/// As a dual-stack socket names its IPv4 peers.
fn mapped(address: Address) -> Address {
    match address {
        Address::Ip(SocketAddr::V4(v4)) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())).into(),
        address => address,
    }
}
