//! The relay on mio: pairs, of which either side is read only while the other is owed nothing.

use super::super::READ_BYTES;
use super::peer::Peer;
use super::{Server, register};
use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;
use slab::Slab;
use std::io;
use std::net::{Shutdown, SocketAddr};

pub struct Pairs {
    upstream: SocketAddr,
    /// The client of pair k is registered as 2k, the upstream as 2k + 1.
    pairs: Slab<Pair>,
    buffer: Box<[u8]>,
}

struct Pair {
    client: Side,
    upstream: Side,
    connected: bool,
}

struct Side {
    peer: Peer,
    /// Its end has been read, and carried across.
    ended: bool,
}

impl Pairs {
    pub fn new(upstream: SocketAddr) -> Pairs {
        Pairs { upstream, pairs: Slab::new(), buffer: vec![0; READ_BYTES].into() }
    }
}

impl Server for Pairs {
    fn on_accept(&mut self, mut client: TcpStream, registry: &Registry) -> io::Result<()> {
        let mut upstream = TcpStream::connect(self.upstream)?;
        upstream.set_nodelay(true)?;
        let place = self.pairs.vacant_entry();
        register(registry, &mut client, 2 * place.key())?;
        register(registry, &mut upstream, 2 * place.key() + 1)?;
        place.insert(Pair { client: Side::new(client), upstream: Side::new(upstream), connected: false });
        Ok(())
    }

    fn on_event(&mut self, event: &Event) {
        let key = event.token().0 / 2;
        let Some(pair) = self.pairs.get_mut(key) else { return };
        let is_upstream = event.token().0 % 2 == 1;
        if !pair.on_event(is_upstream, event, &mut self.buffer).is_ok_and(|open| open) {
            self.pairs.remove(key);
        }
    }
}

impl Pair {
    /// False when both sides have ended.
    fn on_event(&mut self, is_upstream: bool, event: &Event, buffer: &mut [u8]) -> io::Result<bool> {
        let side = if is_upstream { &mut self.upstream } else { &mut self.client };
        side.peer.note(event);
        if !self.connected {
            // What the client has sent meanwhile waits in the kernel.
            if !is_upstream {
                return Ok(true);
            }
            side.peer.stream.take_error()?.map_or(Ok(()), Err)?;
            self.connected = event.is_writable();
        }
        side.peer.flush()?;
        self.client.carry(&mut self.upstream, buffer)?;
        self.upstream.carry(&mut self.client, buffer)?;
        Ok(!(self.client.ended && self.upstream.ended))
    }
}

impl Side {
    fn new(stream: TcpStream) -> Side {
        Side { peer: Peer::new(stream), ended: false }
    }

    fn carry(&mut self, other: &mut Side, buffer: &mut [u8]) -> io::Result<()> {
        while !self.ended && self.peer.is_readable() && other.peer.owed() == 0 {
            match self.peer.read(buffer)? {
                None => return Ok(()),
                // Everything before it has gone out, or it would not have been read.
                Some(0) => {
                    self.ended = true;
                    if !other.ended {
                        other.peer.stream.shutdown(Shutdown::Write)?;
                    }
                }
                Some(n) => other.peer.send(&buffer[..n])?,
            }
        }
        Ok(())
    }
}
