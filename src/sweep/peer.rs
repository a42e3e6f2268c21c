//! The other end: sockets of the standard library, moved step by step on the test's own thread.
//!
//! A peer has a script. Each step does as much of it as goes without waiting, so that the reactor and its peers can
//! take turns on one thread, and a play is over when nobody has anything left to do.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::OnceLock;

/// So many times in a row a deaf peer finds no room before it begins to read.
const DEAF_FOR: u32 = 4;

/// One line of a peer's script.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends so many bytes of its pattern.
    Send(usize),
    /// The same, and reads nothing until its own sending is blocked or done.
    SendDeaf(usize),
    /// Waits until so many bytes have come, in all.
    Expect(usize),
    /// Ends its half.
    Shutdown,
}

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

/// The first `len` bytes of what a peer with this pattern says: they differ from pattern to pattern, and from place to
/// place, so that a piece that is lost, doubled or out of order is seen.
pub fn speech(pattern: u8, len: usize) -> &'static [u8] {
    const LONGEST: usize = 1 << 20;
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..LONGEST).map(|_| next()).collect()
    });
    let start = usize::from(pattern) * 1_009;
    &bytes[start..start + len]
}

/// How a peer's stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Orderly,
    Cut,
}

pub struct Peer {
    stream: Stream,
    script: VecDeque<Act>,
    /// Which [`speech`] it sends.
    pattern: u8,
    pub sent: usize,
    pub received: Vec<u8>,
    pub end: Option<End>,
    /// Steps of a deaf peer that found no room.
    blocked: u32,
    hears: bool,
}

impl Peer {
    pub fn tcp(stream: TcpStream, pattern: u8, script: &[Act]) -> Peer {
        stream.set_nonblocking(true).expect("a socket of ours");
        Peer::new(Stream::Tcp(stream), pattern, script)
    }

    pub fn unix(stream: UnixStream, pattern: u8, script: &[Act]) -> Peer {
        stream.set_nonblocking(true).expect("a socket of ours");
        Peer::new(Stream::Unix(stream), pattern, script)
    }

    fn new(stream: Stream, pattern: u8, script: &[Act]) -> Peer {
        let script = script.iter().cloned().collect();
        Peer { stream, script, pattern, sent: 0, received: Vec::new(), end: None, blocked: 0, hears: true }
    }

    /// Whether what has come is the beginning of what a peer with `pattern` sends.
    pub fn has_prefix_of(&self, pattern: u8) -> bool {
        self.received == speech(pattern, self.received.len())
    }

    /// Has done its script, and got back all that it sent.
    pub fn heard_itself(&self) -> bool {
        self.is_through() && self.received.len() == self.sent
    }

    /// Has done all that it can; whether anything moved.
    pub fn step(&mut self) -> bool {
        let mut moved = false;
        while self.end.is_none() && self.act() {
            moved = true;
        }
        if self.hears && self.end.is_none() {
            moved |= self.read();
        }
        moved
    }

    /// Does a part of its script.
    fn act(&mut self) -> bool {
        match self.script.front_mut() {
            None => false,
            Some(Act::Send(0) | Act::SendDeaf(0)) => {
                self.hears = true;
                self.script.pop_front();
                true
            }
            Some(Act::Send(left)) => {
                let left = *left;
                self.send(left).is_some_and(|n| n > 0)
            }
            Some(Act::SendDeaf(left)) => {
                let left = *left;
                self.hears = self.blocked >= DEAF_FOR;
                match self.send(left) {
                    Some(0) if !self.hears => {
                        // Being blocked is a step as well, until it is long enough.
                        self.blocked += 1;
                        false
                    }
                    sent => sent.is_some_and(|n| n > 0),
                }
            }
            Some(Act::Expect(bytes)) => {
                let come = self.received.len() >= *bytes;
                if come {
                    self.script.pop_front();
                }
                come
            }
            Some(Act::Shutdown) => {
                // It may be cut already, which the next read tells.
                let _ = self.stream.shutdown();
                self.script.pop_front();
                true
            }
        }
    }

    fn send(&mut self, left: usize) -> Option<usize> {
        match self.stream.write(&speech(self.pattern, self.sent + left)[self.sent..]) {
            Ok(n) => {
                self.sent += n;
                if let Some(Act::Send(left) | Act::SendDeaf(left)) = self.script.front_mut() {
                    *left -= n;
                }
                Some(n)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Some(0),
            Err(_) => {
                // What came before is still to be read.
                self.script.clear();
                self.hears = true;
                None
            }
        }
    }

    fn read(&mut self) -> bool {
        let mut buffer = [0; 1 << 16];
        let mut moved = false;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.end = Some(End::Orderly),
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return moved,
                Err(_) => self.end = Some(End::Cut),
            }
            moved = true;
            if self.end.is_some() {
                return true;
            }
        }
    }

    /// Has more to do.
    pub fn go_on(&mut self, script: &[Act]) {
        self.script.extend(script.iter().cloned());
    }

    /// Has done its script to the end.
    pub fn is_through(&self) -> bool {
        self.script.is_empty()
    }
}

pub enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Takes the connections that the reactor makes, and gives each a script.
pub struct Host {
    pub door: Door,
    pub pattern: u8,
    pub script: Vec<Act>,
}

impl Host {
    pub fn accept(&self) -> Option<Peer> {
        match &self.door {
            Door::Tcp(listener) => listener.accept().ok().map(|(s, _)| Peer::tcp(s, self.pattern, &self.script)),
            Door::Unix(listener) => listener.accept().ok().map(|(s, _)| Peer::unix(s, self.pattern, &self.script)),
        }
    }
}
