//! Datagram sockets: UDP, in batches, with a bounded queue.
//!
//! Datagrams are received with recvmmsg(2), up to a budget a turn, and sent with sendmmsg(2) when the turn
//! settles, so that a broadcast on four interfaces is one call. A datagram that the kernel will not have (too
//! long, no route) is dropped and counted, and costs the others nothing: that is what UDP promises anyway.
//!
//! These sockets are registered level-triggered for input: a batch that came back full is reported again by the
//! next wait, so nothing need be remembered. They ask for output only while some waits, because UDP reports
//! room after every send. One that cannot be read though something waits is not watched for a while, or every wait would
//! return at once.

use crate::handler::{Ctx, Payload};
use crate::handlers::Newborn;
use crate::net::Net;
use crate::options::UdpOptions;
use crate::poller::{Interest, Readiness};
use crate::sockets::{Due, Sockets, Source};
use crate::sys::datagram::{self, BATCH_LIMIT, Inbox, Interface, Outgoing, Received as Datagram};
use crate::sys::errno::{DatagramError, classify_datagram};
use crate::sys::socket::Family;
use crate::sys::{self, Address, Fd, ToAddress};
use crate::timer::TimerId;
use crate::token::Token;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Longer than any datagram: UDP ends at 64 KiB, and what Unix sockets take is bounded by `net.core.wmem_max`. Room for
/// as many as one call brings is reserved, so a number without a bound could not be had.
const DATAGRAM_MAX_BYTES: usize = 1 << 20;

/// ENOBUFS and ENOMEM bring no event, nor does a full Unix receiver that has room again: try again after this.
const RETRY_AFTER: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct DatagramSocket {
    fd: Fd,
    family: Family,
    options: UdpOptions,
    queue: VecDeque<Packet>,
    /// The kernel was full when last asked.
    waits: bool,
    /// Sending failed, and no event will tell when it would not: the queue waits for the retry.
    starves: bool,
    /// Receiving failed, and would fail again: it rests until the retry.
    rests: bool,
    /// What epoll watches it for. Differs from what the two ask for after epoll_ctl(2) has failed.
    watched: Interest,
    retry: Option<TimerId>,
    closed: bool,
    in_dirty: bool,
}

/// One datagram that waits to be sent.
#[derive(Debug)]
pub(crate) struct Packet {
    pub to: Address,
    pub data: Bytes,
    /// 0: as the routing table says.
    pub interface: u32,
    pub from: Option<IpAddr>,
}

/// Whether a datagram was let into the queue: see [`Net::send_to`](crate::Net::send_to).
///
/// There is no mark to heed and no call to wait for, as there is with [`Flow`](crate::Flow): what is not admitted
/// is lost, as on the way any datagram may be, and
/// [`datagrams_dropped`](crate::Stats::datagrams_dropped) counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Queued: it is offered to the kernel when the turn settles, and dropped if the kernel will never have it.
    Queued,
    /// Not taken: as many as [`UdpOptions::queue_limit`](crate::UdpOptions::queue_limit) allows wait already.
    Full,
    /// Not taken: the socket is gone.
    Closed,
}

impl DatagramSocket {
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn note(&mut self, readiness: Readiness) {
        if readiness.writable() {
            self.waits = false;
        }
    }

    pub fn max_datagram(&self) -> usize {
        self.options.max_datagram.min(DATAGRAM_MAX_BYTES)
    }

    pub fn receive_budget(&self) -> usize {
        self.options.receive_budget.max(1) as usize
    }

    fn interest(&self) -> Interest {
        match (self.rests, self.waits) {
            (true, _) => Interest::NOTHING,
            (false, true) => Interest::DATAGRAM_WAITING,
            (false, false) => Interest::DATAGRAM,
        }
    }
}

impl Sockets {
    pub fn bind_datagram(&mut self, address: &Address, options: UdpOptions) -> io::Result<Token> {
        self.refuse_if_stopping()?;
        let family = address.family();
        let fd = sys::socket::datagram(family)?;
        if let Some(ip) = address.ip() {
            sys::socket::set_reuse_address(&fd, options.reuse_address)?;
            if options.reuse_port {
                sys::socket::set_reuse_port(&fd, true)?;
            }
            if ip.is_ipv6() {
                sys::socket::set_only_v6(&fd, options.only_v6)?;
            } else {
                datagram::set_broadcast(&fd, options.broadcast)?;
            }
            datagram::set_packet_info(&fd, family)?;
        }
        sys::socket::bind(&fd, address)?;
        let socket = DatagramSocket {
            fd,
            family,
            options,
            queue: VecDeque::new(),
            waits: false,
            starves: false,
            rests: false,
            watched: Interest::DATAGRAM,
            retry: None,
            closed: false,
            in_dirty: false,
        };
        self.add_source(Source::Datagram(Box::new(socket)), Interest::DATAGRAM)
    }

    pub fn datagram(&self, token: Token) -> Option<&DatagramSocket> {
        match self.table.get(token).map(|source| &**source) {
            Some(Source::Datagram(socket)) => Some(socket),
            _ => None,
        }
    }

    fn datagram_mut(&mut self, token: Token) -> Option<&mut DatagramSocket> {
        match self.table.get_mut(token).map(|source| &mut **source) {
            Some(Source::Datagram(socket)) => Some(socket),
            _ => None,
        }
    }

    pub fn datagram_fd(&self, token: Token) -> Option<&Fd> {
        self.datagram(token).filter(|socket| !socket.closed).map(|socket| &socket.fd)
    }

    /// How multicast leaves through a socket, set by one of the functions of `sys` that do so.
    pub fn set_multicast<T>(
        &self,
        token: Token,
        set: impl FnOnce(&Fd, Family, T) -> io::Result<()>,
        value: T,
    ) -> io::Result<()> {
        match self.datagram(token).filter(|socket| !socket.closed) {
            Some(socket) => set(&socket.fd, socket.family, value),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Fills `inbox` with what waits, up to `max` datagrams; how many came.
    pub fn receive_datagrams(&mut self, token: Token, inbox: &mut Inbox, max: usize) -> usize {
        let Some(socket) = self.datagram(token).filter(|socket| !socket.closed) else { return 0 };
        // An error that an earlier datagram met is reported once here; behind it the queue is as before.
        for _ in 0..2 {
            match inbox.receive(&socket.fd, max) {
                Ok(n) => {
                    self.stats.datagrams_in += n as u64;
                    return n;
                }
                Err(e) if classify_datagram(&e) == DatagramError::Full => return 0,
                Err(e) => log::debug!("{token}: recvmmsg: {e}"),
            }
        }
        if let Some(socket) = self.datagram_mut(token) {
            socket.rests = true;
            self.retry_datagrams_later(token);
            self.watch_datagrams(token);
        }
        0
    }

    pub fn send_datagram(&mut self, token: Token, packet: Packet) -> Admission {
        let Some(socket) = self.datagram_mut(token).filter(|socket| !socket.closed) else { return Admission::Closed };
        if socket.queue.len() >= socket.options.queue_limit {
            self.stats.datagrams_dropped += 1;
            return Admission::Full;
        }
        socket.queue.push_back(packet);
        if !socket.in_dirty {
            socket.in_dirty = true;
            self.dirty_datagrams.push(token);
        }
        Admission::Queued
    }

    #[inline]
    pub fn flush_dirty_datagrams(&mut self) {
        if !self.dirty_datagrams.is_empty() {
            self.flush_all_dirty_datagrams();
        }
    }

    fn flush_all_dirty_datagrams(&mut self) {
        for token in std::mem::take(&mut self.dirty_datagrams) {
            if let Some(socket) = self.datagram_mut(token) {
                socket.in_dirty = false;
                self.flush_datagrams(token);
            }
        }
    }

    /// Offers the queue to the kernel. Each pass sends or drops at least one datagram, or ends the loop, so the
    /// queue's limit bounds it; errors of earlier datagrams may come once for each.
    pub fn flush_datagrams(&mut self, token: Token) {
        let Some(Source::Datagram(socket)) = self.table.get_mut(token).map(|source| &mut **source) else { return };
        if socket.closed {
            // It was queued before: a timer that began now would outlive it.
            return;
        }
        let mut passes = 2 * socket.queue.len();
        while !socket.queue.is_empty() && !socket.waits && !socket.starves && passes > 0 {
            passes -= 1;
            match send_batch(&socket.fd, &socket.queue) {
                Ok(sent) => {
                    socket.queue.drain(..sent.max(1).min(socket.queue.len()));
                    self.stats.datagrams_out += sent as u64;
                }
                Err(e) => match classify_datagram(&e) {
                    DatagramError::Interrupted | DatagramError::Earlier => {}
                    DatagramError::Full if socket.family != Family::Unix => socket.waits = true,
                    // On a Unix socket it is the receiver that is full, of which ours would not tell: it is always
                    // ready to write.
                    DatagramError::Full | DatagramError::Memory => socket.starves = true,
                    DatagramError::This => {
                        let dropped = socket.queue.pop_front();
                        self.stats.datagrams_dropped += 1;
                        log::debug!("{token}: datagram to {:?} dropped: {e}", dropped.map(|packet| packet.to));
                    }
                },
            }
        }
        self.watch_datagrams(token);
        let Some(socket) = self.datagram_mut(token) else { return };
        if socket.starves {
            return self.retry_datagrams_later(token);
        }
        if !socket.queue.is_empty() && !socket.waits && !socket.in_dirty {
            socket.in_dirty = true;
            self.dirty_datagrams.push(token);
        }
    }

    /// Has epoll watch a socket as its state asks for.
    fn watch_datagrams(&mut self, token: Token) {
        let Some(Source::Datagram(socket)) = self.table.get_mut(token).map(|source| &mut **source) else { return };
        let interest = socket.interest();
        if socket.watched == interest {
            return;
        }
        match self.poller.modify(&socket.fd, interest, token) {
            Ok(()) => socket.watched = interest,
            Err(e) => {
                log::error!("{token}: epoll_ctl: {e}");
                if socket.waits || socket.watched == Interest::NOTHING {
                    // Nothing will tell when there is room, or input.
                    socket.starves |= socket.waits;
                    socket.waits = false;
                    self.retry_datagrams_later(token);
                }
            }
        }
    }

    fn retry_datagrams_later(&mut self, token: Token) {
        let at = self.now + RETRY_AFTER;
        let Some(Source::Datagram(socket)) = self.table.get_mut(token).map(|source| &mut **source) else { return };
        if socket.retry.is_none() {
            socket.retry = Some(self.timers.insert(at, Due::Retry(token)));
        }
    }

    pub fn retry_datagrams(&mut self, token: Token) {
        let Some(socket) = self.datagram_mut(token) else { return };
        socket.rests = false;
        socket.starves = false;
        if let Some(id) = socket.retry.take() {
            self.timers.remove(id);
        }
        self.flush_datagrams(token);
    }

    /// What is queued gets one more chance; what the kernel does not take then is lost.
    pub fn close_datagram(&mut self, token: Token) {
        let Some(socket) = self.datagram_mut(token).filter(|socket| !socket.closed) else { return };
        socket.starves = false;
        socket.waits = false;
        self.flush_datagrams(token);
        let Some(socket) = self.datagram_mut(token) else { return };
        socket.closed = true;
        let dropped = socket.queue.len() as u64;
        let retry = socket.retry.take();
        socket.queue.clear();
        self.stats.datagrams_dropped += dropped;
        if let Some(id) = retry {
            self.timers.remove(id);
        }
        self.reaped.push(token);
        self.closed.push(token);
    }
}

impl<A: 'static> Net<A> {
    /// Binds a UDP socket (or a Unix datagram socket) with the default options; `receiver` is called for each
    /// datagram.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2), bind(2) and epoll_ctl(2).
    pub fn udp(
        &mut self,
        addr: impl ToAddress,
        receiver: impl FnMut(&mut Ctx<'_, A>, Datagram<'_>) + 'static,
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
        receiver: impl FnMut(&mut Ctx<'_, A>, Datagram<'_>) + 'static,
    ) -> io::Result<Token> {
        let token = self.sockets.bind_datagram(&addr.to_address()?, options)?;
        self.newborn.push((token, Newborn::Datagram(Box::new(receiver))));
        Ok(token)
    }

    /// Queues a datagram; it goes out when the turn settles. One that the kernel will not have (EMSGSIZE,
    /// EPERM, no route) is dropped and counted in [`Stats::datagrams_dropped`](crate::Stats::datagrams_dropped). That it arrives, once and in order, is
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
}

fn into_bytes(data: impl Payload) -> Bytes {
    if data.is_owned() { data.into_shared() } else { Bytes::copy_from_slice(data.as_bytes()) }
}

fn send_batch<'a>(fd: &Fd, queue: &'a VecDeque<Packet>) -> io::Result<usize> {
    let outgoing = |packet: &'a Packet| Outgoing {
        to: &packet.to,
        data: &packet.data,
        interface: packet.interface,
        from: packet.from,
    };
    let batch: Vec<Outgoing<'_>> = queue.iter().take(BATCH_LIMIT).map(outgoing).collect();
    datagram::send_batch(fd, &batch)
}
