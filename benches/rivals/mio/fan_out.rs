//! Fan-out on mio: one write for each subscriber and read, and a queue for who does not take it.

use super::super::{SUBSCRIBER_MAX_BYTES, whole_frames};
use super::peer::Peer;
use super::{Server, buffer, register};
use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;
use slab::Slab;
use std::io::{self, ErrorKind};

pub struct Room {
    guests: Slab<Guest>,
    subscribers: Vec<usize>,
    buffer: Box<[u8]>,
}

struct Guest {
    peer: Peer,
    kind: Kind,
}

/// What the first byte has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Subscriber,
    Publisher,
}

impl Room {
    pub fn new() -> Room {
        Room { guests: Slab::new(), subscribers: Vec::new(), buffer: buffer() }
    }

    fn serve(&mut self, key: usize) -> io::Result<()> {
        let Room { guests, subscribers, buffer } = self;
        guests[key].peer.flush()?;
        while guests[key].peer.is_to_be_read() {
            let Guest { peer, kind } = &mut guests[key];
            let Some(n) = peer.fill(buffer)? else { break };
            let mut input = &buffer[..n];
            if *kind == Kind::Unknown {
                *kind = match input[0] {
                    b'S' => Kind::Subscriber,
                    b'P' => Kind::Publisher,
                    _ => return Err(ErrorKind::InvalidData.into()),
                };
                input = &input[1..];
                if *kind == Kind::Subscriber {
                    subscribers.push(key);
                }
            }
            if *kind == Kind::Publisher {
                let (burst, rest) = input.split_at(whole_frames(input)?);
                peer.keep(rest);
                publish(guests, subscribers, burst);
            }
        }
        Ok(())
    }
}

fn publish(guests: &mut Slab<Guest>, subscribers: &[usize], burst: &[u8]) {
    if burst.is_empty() {
        return;
    }
    for subscriber in subscribers {
        let peer = &mut guests[*subscriber].peer;
        if peer.owed() + burst.len() <= SUBSCRIBER_MAX_BYTES {
            // A failed connection has an event of its own, which removes it.
            let _ = peer.send(burst);
        }
    }
}

impl Server for Room {
    fn on_accept(&mut self, mut stream: TcpStream, registry: &Registry) -> io::Result<()> {
        let place = self.guests.vacant_entry();
        register(registry, &mut stream, place.key())?;
        place.insert(Guest { peer: Peer::new(stream), kind: Kind::Unknown });
        Ok(())
    }

    fn on_event(&mut self, event: &Event) {
        let key = event.token().0;
        let Some(guest) = self.guests.get_mut(key) else { return };
        guest.peer.note(event);
        if self.serve(key).is_err() {
            self.guests.remove(key);
            self.subscribers.retain(|subscriber| *subscriber != key);
        }
    }
}
