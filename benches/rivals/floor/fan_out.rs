//! Fan-out of the floor: one write for each subscriber and read, and a queue for who does not take it.

use super::super::{SUBSCRIBER_MAX_BYTES, whole_frames};
use super::peer::Peer;
use super::sys::{Epoll, Event};
use super::{ByFd, Server, buffer};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

pub struct Room<'e> {
    epoll: &'e Epoll,
    guests: ByFd<Guest>,
    subscribers: Vec<RawFd>,
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

impl Room<'_> {
    pub fn new(epoll: &Epoll) -> Room<'_> {
        Room { epoll, guests: ByFd(Vec::new()), subscribers: Vec::new(), buffer: buffer() }
    }

    fn serve(&mut self, event: Event) -> io::Result<()> {
        let fd = event.fd();
        let Room { epoll, guests, subscribers, buffer } = self;
        let Some(Guest { peer, .. }) = guests.get(fd) else { return Ok(()) };
        peer.note(event);
        peer.flush()?;
        while let Some(Guest { peer, kind }) = guests.get(fd).filter(|guest| guest.peer.is_to_be_read()) {
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
                    subscribers.push(fd);
                }
            }
            if *kind == Kind::Publisher {
                let (burst, rest) = input.split_at(whole_frames(input)?);
                peer.keep(rest);
                publish(guests, subscribers, epoll, burst);
            }
        }
        Ok(())
    }
}

fn publish(guests: &mut ByFd<Guest>, subscribers: &[RawFd], epoll: &Epoll, burst: &[u8]) {
    if burst.is_empty() {
        return;
    }
    for subscriber in subscribers {
        let Some(Guest { peer, .. }) = guests.get(*subscriber) else { continue };
        if peer.owed() + burst.len() <= SUBSCRIBER_MAX_BYTES {
            // A failed connection has an event of its own, which removes it.
            let _ = peer.send(burst).and_then(|()| peer.ask_for_room(epoll));
        }
    }
}

impl Server for Room<'_> {
    fn on_accept(&mut self, fd: OwnedFd) -> io::Result<()> {
        self.epoll.add(fd.as_raw_fd(), Epoll::INPUT)?;
        self.guests.insert(fd.as_raw_fd(), Guest { peer: Peer::new(fd), kind: Kind::Unknown });
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        if self.serve(event).is_err() {
            self.guests.remove(event.fd());
            self.subscribers.retain(|subscriber| *subscriber != event.fd());
        }
    }
}
