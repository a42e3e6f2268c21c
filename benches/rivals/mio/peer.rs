//! One connection on mio: what it may do at once, and what it owes.

use super::super::READ_BYTES;
use mio::event::Event;
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

pub struct Peer {
    pub stream: TcpStream,
    /// An edge has come, and no short read since.
    readable: bool,
    /// The peer's end has been announced: a short read no longer means that nothing is left.
    ends: bool,
    /// What the kernel has not taken. While there is any the peer is not read.
    output: VecDeque<u8>,
    /// What of the last read was not used up.
    rest: Vec<u8>,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Peer {
        Peer { stream, readable: false, ends: false, output: VecDeque::new(), rest: Vec::new() }
    }

    pub fn note(&mut self, event: &Event) {
        self.readable |= event.is_readable();
        self.ends |= event.is_read_closed() || event.is_error();
    }

    /// Whether to read now: there may be something, and nothing is owed.
    pub fn is_to_be_read(&self) -> bool {
        self.readable && self.output.is_empty()
    }

    /// Reads behind what [`keep`](Peer::keep) was given, and says how many bytes of `buffer` are input now. `None` when
    /// nothing has come.
    ///
    /// # Errors
    /// UnexpectedEof at the peer's end, since what follows is the same as after any other.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let held = self.rest.len();
        buffer[..held].copy_from_slice(&self.rest);
        match self.read(&mut buffer[held..held + READ_BYTES])? {
            None => Ok(None),
            Some(0) => Err(ErrorKind::UnexpectedEof.into()),
            Some(n) => Ok(Some(held + n)),
        }
    }

    /// Input that is not used up yet: the beginning of a frame.
    pub fn keep(&mut self, rest: &[u8]) {
        self.rest.clear();
        self.rest.extend_from_slice(rest);
    }

    /// `None` when nothing is there.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(n) => {
                    self.readable = n == buffer.len() || self.ends;
                    return Ok(Some(n));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(None);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Behind what is owed already, if there is any.
    pub fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let taken = if self.output.is_empty() { write(&mut self.stream, data)? } else { 0 };
        // An extension by nothing would be a call of a function all the same.
        if taken < data.len() {
            self.output.extend(&data[taken..]);
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            let offered = front.len();
            let taken = write(&mut self.stream, front)?;
            self.output.drain(..taken);
            if taken < offered {
                return Ok(());
            }
            if self.output.is_empty() {
                self.output = VecDeque::new();
            }
        }
        Ok(())
    }

    pub fn is_readable(&self) -> bool {
        self.readable
    }

    pub fn owed(&self) -> usize {
        self.output.len()
    }
}

/// What the kernel takes at once.
fn write(stream: &mut TcpStream, data: &[u8]) -> io::Result<usize> {
    loop {
        match stream.write(data) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
