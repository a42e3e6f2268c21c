//! The relay of the floor: sides that know each other's descriptor. Either is read only while the other is owed nothing.

use super::super::READ_BYTES;
use super::peer::Peer;
use super::sys::{self, Epoll, Event};
use super::{ByFd, Server};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

pub struct Sides<'e> {
    epoll: &'e Epoll,
    upstream: SocketAddr,
    sides: ByFd<Side>,
    buffer: Box<[u8]>,
}

struct Side {
    peer: Peer,
    other: RawFd,
    /// An upstream that is being connected to.
    connecting: bool,
    /// Its end has been read, and carried across.
    ended: bool,
}

impl Sides<'_> {
    pub fn new(epoll: &Epoll, upstream: SocketAddr) -> Sides<'_> {
        Sides { epoll, upstream, sides: ByFd(Vec::new()), buffer: vec![0; READ_BYTES].into() }
    }

    /// False when both sides have ended.
    fn serve(&mut self, fd: RawFd, other: RawFd, event: Event) -> io::Result<bool> {
        let Ok([Some(side), Some(other)]) = self.sides.0.get_disjoint_mut([fd as usize, other as usize]) else {
            return Ok(true);
        };
        side.peer.note(event);
        if side.connecting {
            sys::connected(&side.peer.fd)?;
            side.connecting = !event.is_writable();
        }
        // Before there is an upstream, what the client has sent waits in the kernel.
        if side.connecting || other.connecting {
            return Ok(true);
        }
        side.peer.flush()?;
        side.carry(other, self.epoll, &mut self.buffer)?;
        other.carry(side, self.epoll, &mut self.buffer)?;
        Ok(!(side.ended && other.ended))
    }
}

impl Server for Sides<'_> {
    fn on_accept(&mut self, client: OwnedFd) -> io::Result<()> {
        let upstream = sys::connect(self.upstream)?;
        let (inner, outer) = (client.as_raw_fd(), upstream.as_raw_fd());
        self.epoll.add(inner, Epoll::INPUT)?;
        self.epoll.add(outer, Epoll::BOTH)?;
        self.sides.insert(inner, Side { peer: Peer::new(client), other: outer, connecting: false, ended: false });
        let mut peer = Peer::new(upstream);
        peer.hears_of_room = true;
        self.sides.insert(outer, Side { peer, other: inner, connecting: true, ended: false });
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        let fd = event.fd();
        let Some(other) = self.sides.get(fd).map(|side| side.other) else { return };
        if !self.serve(fd, other, event).is_ok_and(|open| open) {
            self.sides.remove(fd);
            self.sides.remove(other);
        }
    }
}

impl Side {
    fn carry(&mut self, other: &mut Side, epoll: &Epoll, buffer: &mut [u8]) -> io::Result<()> {
        while self.peer.readable && !self.ended && other.peer.owed() == 0 {
            match self.peer.read(buffer)? {
                None => break,
                // Everything before it has gone out, or it would not have been read.
                Some(0) => {
                    self.ended = true;
                    if !other.ended {
                        sys::shutdown_write(&other.peer.fd)?;
                    }
                }
                Some(n) => other.peer.send(&buffer[..n])?,
            }
        }
        other.peer.ask_for_room(epoll)
    }
}
