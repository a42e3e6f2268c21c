//! Floor: the system calls that the work needs, and as little as possible between them.
//!
//! Everybody is registered for input, edge-triggered, and read into one buffer until a read is short. Room for output
//! is asked for when the kernel has refused some for the first time, and from then on told for nothing. What is known
//! of a connection is found by its descriptor.

mod fan_out;
mod peer;
mod relay;
mod sys;

use super::{EVENTS, FRAME_MAX_BYTES, Options, READ_BYTES, Role, Side, first_frame, listener};
use peer::Peer;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use sys::{Epoll, Event};

pub fn serve(side: Side, role: Role, options: &Options) -> io::Result<()> {
    let epoll = Epoll::new(side == Side::FloorSpin)?;
    match role {
        Role::Echo => run(&epoll, Peers::new(&epoll, echo)),
        Role::Frames if side == Side::FloorGathered => {
            let mut answers = Vec::new();
            run(&epoll, Peers::new(&epoll, |peer, input| frames_gathered(peer, input, &mut answers)))
        }
        Role::Frames => run(&epoll, Peers::new(&epoll, frames)),
        Role::Relay => run(&epoll, relay::Sides::new(&epoll, options.upstream()?)),
        Role::FanOut => run(&epoll, fan_out::Room::new(&epoll)),
    }
}

/// What the loop does not know.
trait Server {
    fn on_accept(&mut self, fd: OwnedFd) -> io::Result<()>;

    /// An event whose connection is gone must be expected.
    fn on_event(&mut self, event: Event);
}

fn run(epoll: &Epoll, mut server: impl Server) -> io::Result<()> {
    let listener = listener()?;
    let listener = listener.as_raw_fd();
    epoll.add(listener, Epoll::PEERS)?;
    let mut crowd = false;
    let mut events = [Event::NONE; EVENTS];
    loop {
        let mut accepts = false;
        for event in epoll.wait(&mut events)? {
            if event.fd() == listener {
                accepts = true;
            } else {
                server.on_event(*event);
            }
        }
        // Last, so that no later event of this round can be taken for one of a newcomer with the same descriptor.
        // One peer a round, which spares the call that says that nobody is left; all of them when they come in a crowd.
        let came = accepts;
        while accepts {
            match sys::accept(listener)? {
                Some(fd) => server.on_accept(fd)?,
                None => break,
            }
            accepts = crowd;
        }
        crowd = came;
    }
}

/// What is known of each connection, by its descriptor.
struct ByFd<T>(Vec<Option<T>>);

impl<T> ByFd<T> {
    fn insert(&mut self, fd: RawFd, value: T) {
        let place = fd as usize;
        if place >= self.0.len() {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(value);
    }

    #[inline]
    fn get(&mut self, fd: RawFd) -> Option<&mut T> {
        self.0.get_mut(fd as usize)?.as_mut()
    }

    fn remove(&mut self, fd: RawFd) {
        self.0[fd as usize] = None;
    }
}

/// For a read of full size behind what the last one has left, which is less than a frame.
fn buffer() -> Box<[u8]> {
    vec![0; FRAME_MAX_BYTES + READ_BYTES].into()
}

/// A server whose connections have nothing to do with each other.
struct Peers<'e, F> {
    epoll: &'e Epoll,
    peers: ByFd<Peer>,
    buffer: Box<[u8]>,
    answer: F,
}

impl<'e, F: FnMut(&mut Peer, &[u8]) -> io::Result<usize>> Peers<'e, F> {
    /// `answer` says how much of its input it has used up.
    fn new(epoll: &'e Epoll, answer: F) -> Peers<'e, F> {
        Peers { epoll, peers: ByFd(Vec::new()), buffer: buffer(), answer }
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

impl<F: FnMut(&mut Peer, &[u8]) -> io::Result<usize>> Server for Peers<'_, F> {
    fn on_accept(&mut self, fd: OwnedFd) -> io::Result<()> {
        self.epoll.add(fd.as_raw_fd(), Epoll::INPUT)?;
        self.peers.insert(fd.as_raw_fd(), Peer::new(fd));
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        let Some(peer) = self.peers.get(event.fd()) else { return };
        peer.note(event);
        let served = Self::serve(peer, &mut self.buffer, &mut self.answer);
        if served.and_then(|()| peer.ask_for_room(self.epoll)).is_err() {
            self.peers.remove(event.fd());
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

/// The answers are put together one by one, as if they were not what has come.
fn frames_gathered(peer: &mut Peer, input: &[u8], answers: &mut Vec<u8>) -> io::Result<usize> {
    answers.clear();
    while let Some(frame) = first_frame(&input[answers.len()..])? {
        answers.extend_from_slice(frame);
    }
    if !answers.is_empty() {
        peer.send(answers)?;
    }
    Ok(answers.len())
}
