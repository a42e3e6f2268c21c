//! Datagram sockets: a queue of whole messages, bounded in bytes; what does not fit is lost without a word.
//!
//! Sending to a receiver that is not there is no error for a UDP socket that is not connected; to a Unix one it
//! is. UDP reports room after every send, because the message has left the buffer by then; now and then the weather
//! finds the buffer full, and room is reported when the messages in it have left.

use super::kernel::{Errno, Event, Id, Kernel, Protocol, What};
use crate::sys::Address;
use crate::sys::epoll::{IN, OUT};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest UDP payload over IPv4.
const LONGEST: usize = 65_507;

/// One message that has arrived.
#[derive(Debug, Clone)]
pub struct Message {
    pub from: Address,
    pub to: Address,
    pub data: Vec<u8>,
}

#[derive(Debug)]
pub struct Datagram {
    pub unix: bool,
    pub local: Option<Address>,
    pub remote: Option<Address>,
    pub shared: bool,
    pub packet_info: bool,
    pub rx: VecDeque<Message>,
    pub rx_bytes: usize,
    pub rx_limit: usize,
    /// A sender has met a full buffer: room is told by an edge.
    pub no_space: bool,
}

impl Datagram {
    pub fn new(unix: bool, rx_limit: usize) -> Datagram {
        Datagram {
            unix,
            local: None,
            remote: None,
            shared: false,
            packet_info: false,
            rx: VecDeque::new(),
            rx_bytes: 0,
            rx_limit,
            no_space: false,
        }
    }

    pub fn poll(&self) -> u32 {
        let input = if self.rx.is_empty() { 0 } else { IN };
        let room = if self.no_space { 0 } else { OUT };
        input | room
    }
}

impl Kernel {
    pub fn datagram_mut(&mut self, id: Id) -> Option<&mut Datagram> {
        match &mut self.node_mut(id)?.what {
            What::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }

    pub fn make_datagram(&mut self, unix: bool) -> Id {
        self.make(What::Datagram(Box::new(Datagram::new(unix, 212_992))))
    }

    /// # Errors
    /// EINVAL: bound already. EADDRINUSE.
    pub fn bind_datagram(&mut self, id: Id, address: &Address) -> Result<(), Errno> {
        let datagram = self.datagram_mut(id).ok_or(libc::ENOTSOCK)?;
        if datagram.local.is_some() {
            return Err(libc::EINVAL);
        }
        let shared = datagram.shared;
        let bound = self.name(id, Protocol::Datagram, address, shared)?;
        if let Some(datagram) = self.datagram_mut(id) {
            datagram.local = Some(bound);
        }
        Ok(())
    }

    pub fn close_datagram(&mut self, id: Id) {
        if let Some(local) = self.datagram_mut(id).and_then(|datagram| datagram.local.clone()) {
            self.unname(Protocol::Datagram, &local, id);
        }
        self.free(id);
    }

    /// Sends one message of the program's, if the weather has room and memory for it.
    ///
    /// # Errors
    /// EAGAIN and ENOBUFS, and those of [`post_datagram`](Kernel::post_datagram).
    pub fn send_datagram(&mut self, id: Id, to: &Address, data: &[u8]) -> Result<(), Errno> {
        let datagram = self.datagram_mut(id).ok_or(libc::ENOTSOCK)?;
        // On a Unix socket only the receiver is ever full.
        let bounded = !datagram.unix;
        if datagram.no_space {
            return Err(libc::EAGAIN);
        }
        if bounded && self.chance.once_in(self.weather.short_writes) {
            if let Some(datagram) = self.datagram_mut(id) {
                datagram.no_space = true;
            }
            let later = self.now + self.latency().max(1);
            self.at(later, Event::Room(id));
            return Err(libc::EAGAIN);
        }
        if bounded && self.chance.once_in(self.weather.shortages) {
            return Err(libc::ENOBUFS);
        }
        self.post_datagram(id, to, data)
    }

    /// The messages that filled the buffer have left it.
    pub fn find_room_for_datagrams(&mut self, id: Id) {
        if let Some(datagram) = self.datagram_mut(id) {
            datagram.no_space = false;
            self.wake(id, OUT);
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// EMSGSIZE, EDESTADDRREQ, and for Unix ECONNREFUSED and EAGAIN.
    pub fn post_datagram(&mut self, id: Id, to: &Address, data: &[u8]) -> Result<(), Errno> {
        let datagram = self.datagram_mut(id).ok_or(libc::ENOTSOCK)?;
        let unix = datagram.unix;
        let to = match to {
            Address::Unnamed => {
                datagram.remote.clone().ok_or(if unix { libc::ENOTCONN } else { libc::EDESTADDRREQ })?
            }
            to => to.clone(),
        };
        if !unix && data.len() > LONGEST {
            return Err(libc::EMSGSIZE);
        }
        if !unix && datagram.local.is_none() {
            self.bind_datagram(id, &wildcard(&to))?;
        }
        let local = self.datagram_mut(id).and_then(|datagram| datagram.local.clone());
        let from = source(local.unwrap_or(Address::Unnamed), &to);
        let receivers = self.receivers(&to);
        if unix && receivers.is_empty() {
            return Err(libc::ECONNREFUSED);
        }
        for receiver in receivers {
            self.put_datagram(receiver, Message { from: from.clone(), to: to.clone(), data: data.to_vec() }, unix)?;
        }
        if !unix {
            self.wake(id, OUT);
        }
        Ok(())
    }

    fn put_datagram(&mut self, receiver: Id, message: Message, unix: bool) -> Result<(), Errno> {
        let Some(datagram) = self.datagram_mut(receiver) else { return Ok(()) };
        // What a message costs beside its bytes is some 768 bytes of the real kernel's.
        let cost = message.data.len() + 768;
        if datagram.rx_bytes + cost > datagram.rx_limit {
            return if unix { Err(libc::EAGAIN) } else { Ok(()) };
        }
        datagram.rx_bytes += cost;
        datagram.rx.push_back(message);
        self.wake(receiver, IN);
        Ok(())
    }

    fn receivers(&self, to: &Address) -> Vec<Id> {
        let mut names = vec![to.clone()];
        if let Address::Ip(ip) = to {
            let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            names.push(SocketAddr::new(any, ip.port()).into());
        }
        let many = to.ip().is_some_and(|ip| ip.ip().is_multicast() || ip.ip() == Ipv4Addr::BROADCAST);
        let found = names.into_iter().find_map(|name| self.names.get(&(Protocol::Datagram, name))).cloned();
        let mut found = found.unwrap_or_default();
        if !many {
            // Of several that share a port, one gets it.
            found.truncate(1);
        }
        found
    }

    /// The message that has waited longest.
    ///
    /// # Errors
    /// EAGAIN.
    pub fn take_datagram(&mut self, id: Id) -> Result<Message, Errno> {
        let datagram = self.datagram_mut(id).ok_or(libc::ENOTSOCK)?;
        let message = datagram.rx.pop_front().ok_or(libc::EAGAIN)?;
        datagram.rx_bytes -= message.data.len() + 768;
        Ok(message)
    }
}

fn wildcard(to: &Address) -> Address {
    match to.ip() {
        Some(ip) if ip.is_ipv6() => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into(),
        _ => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into(),
    }
}

/// What the receiver sees as the sender: of a socket bound to every address, the one that is on the way.
fn source(local: Address, to: &Address) -> Address {
    match (local.ip(), to.ip()) {
        (Some(local), Some(to)) if local.ip().is_unspecified() => {
            let ip: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            SocketAddr::new(ip, local.port()).into()
        }
        _ => local,
    }
}
