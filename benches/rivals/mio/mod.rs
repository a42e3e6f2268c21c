//! mio: a loop by hand. Everybody is registered once, edge-triggered as mio has it, and read into one buffer.

mod fan_out;
mod peer;
mod relay;

use super::{EVENTS, FRAME_MAX_BYTES, Options, READ_BYTES, Role, first_frame, listener};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use peer::Peer;
use slab::Slab;
use std::io::{self, ErrorKind};

/// The listener's; those of connections are keys of a slab.
const LISTENER: Token = Token(usize::MAX);

pub fn serve(role: Role, options: &Options) -> io::Result<()> {
    match role {
        Role::Echo => run(Peers::new(echo)),
        Role::Frames => run(Peers::new(frames)),
        Role::Relay => run(relay::Pairs::new(options.upstream()?)),
        Role::FanOut => run(fan_out::Room::new()),
    }
}

/// What the loop does not know.
trait Server {
    fn on_accept(&mut self, stream: TcpStream, registry: &Registry) -> io::Result<()>;

    /// An event whose connection is gone must be expected.
    fn on_event(&mut self, event: &Event);
}

fn run(mut server: impl Server) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::from_std(listener()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        let mut accepts = false;
        for event in &events {
            match event.token() {
                LISTENER => accepts = true,
                _ => server.on_event(event),
            }
        }
        // Last, so that no later event of this round can be taken for one of a newcomer with the same key.
        while accepts {
            match listener.accept() {
                Ok((stream, _)) => server.on_accept(stream, poll.registry())?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => accepts = false,
                Err(e) => return Err(e),
            }
        }
    }
}

/// Registers for both directions once and for all: an edge that is not needed costs nothing, a change would be a call.
fn register(registry: &Registry, stream: &mut TcpStream, key: usize) -> io::Result<()> {
    registry.register(stream, Token(key), Interest::READABLE | Interest::WRITABLE)
}

/// For a read of full size behind what the last one has left, which is less than a frame.
fn buffer() -> Box<[u8]> {
    vec![0; FRAME_MAX_BYTES + READ_BYTES].into()
}

/// A server whose connections have nothing to do with each other.
struct Peers<F> {
    peers: Slab<Peer>,
    buffer: Box<[u8]>,
    answer: F,
}

impl<F: FnMut(&mut Peer, &[u8]) -> io::Result<usize>> Peers<F> {
    /// `answer` says how much of its input it has used up.
    fn new(answer: F) -> Peers<F> {
        Peers { peers: Slab::new(), buffer: buffer(), answer }
    }

    fn serve(peer: &mut Peer, buffer: &mut [u8], answer: &mut F) -> io::Result<()> {
        peer.flush()?;
        while peer.is_to_be_read() {
            let Some(n) = peer.fill(buffer)? else { break };
            let used = answer(peer, &buffer[..n])?;
            peer.keep(&buffer[used..n]);
        }
        Ok(())
    }
}

impl<F: FnMut(&mut Peer, &[u8]) -> io::Result<usize>> Server for Peers<F> {
    fn on_accept(&mut self, mut stream: TcpStream, registry: &Registry) -> io::Result<()> {
        let place = self.peers.vacant_entry();
        register(registry, &mut stream, place.key())?;
        place.insert(Peer::new(stream));
        Ok(())
    }

    fn on_event(&mut self, event: &Event) {
        let key = event.token().0;
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.note(event);
        if Self::serve(peer, &mut self.buffer, &mut self.answer).is_err() {
            self.peers.remove(key);
        }
    }
}

fn echo(peer: &mut Peer, input: &[u8]) -> io::Result<usize> {
    peer.send(input)?;
    Ok(input.len())
}

fn frames(peer: &mut Peer, input: &[u8]) -> io::Result<usize> {
    let mut used = 0;
    while let Some(frame) = first_frame(&input[used..])? {
        peer.send(frame)?;
        used += frame.len();
    }
    Ok(used)
}
