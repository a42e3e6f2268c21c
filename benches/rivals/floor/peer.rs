//! One connection of the floor: what it may do at once, and what it owes. It takes 24 bytes while it owes nothing.

use super::super::READ_BYTES;
use super::sys::{self, Epoll, Event};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

#[expect(clippy::box_collection, reason = "a connection that owes nothing is to be small")]
pub struct Peer {
    pub fd: OwnedFd,
    /// An edge has come, and no short read since.
    pub readable: bool,
    /// The peer's end has been announced: a short read no longer means that nothing is left.
    ends: bool,
    /// Registered for output too.
    pub hears_of_room: bool,
    /// What the kernel has not taken; never empty. While there is any the peer is not read.
    output: Option<Box<VecDeque<u8>>>,
    /// What of the last read was not used up; never empty.
    rest: Option<Box<Vec<u8>>>,
}

impl Peer {
    pub fn new(fd: OwnedFd) -> Peer {
        Peer { fd, readable: false, ends: false, hears_of_room: false, output: None, rest: None }
    }

    #[inline]
    pub fn note(&mut self, event: Event) {
        self.readable |= event.is_readable();
        self.ends |= event.ends();
    }

    /// Whether to read now: there may be something, and nothing is owed.
    #[inline]
    pub fn is_to_be_read(&self) -> bool {
        self.readable && self.output.is_none()
    }

    /// Reads behind what [`keep`](Peer::keep) was given, and says how many bytes of `buffer` are input now. `None` when
    /// nothing has come.
    ///
    /// # Errors
    /// UnexpectedEof at the peer's end, since what follows is the same as after any other.
    #[inline]
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut held = 0;
        if let Some(rest) = &self.rest {
            held = rest.len();
            buffer[..held].copy_from_slice(rest);
        }
        match self.read(&mut buffer[held..held + READ_BYTES])? {
            None => Ok(None),
            Some(0) => Err(ErrorKind::UnexpectedEof.into()),
            Some(n) => Ok(Some(held + n)),
        }
    }

    /// Input that is not used up yet: the beginning of a frame.
    #[inline]
    pub fn keep(&mut self, rest: &[u8]) {
        if self.rest.is_some() || !rest.is_empty() {
            self.rest = (!rest.is_empty()).then(|| Box::new(rest.to_vec()));
        }
    }

    /// `None` when nothing is there.
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let received = sys::recv(&self.fd, buffer)?;
        self.readable = received.is_some_and(|n| n == buffer.len() || self.ends);
        Ok(received)
    }

    /// Behind what is owed already, if there is any.
    #[inline]
    pub fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let taken = if self.output.is_none() { sys::send(&self.fd, data)? } else { 0 };
        if taken < data.len() {
            self.output.get_or_insert_default().extend(&data[taken..]);
        }
        Ok(())
    }

    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(output) = &mut self.output {
            let (front, _) = output.as_slices();
            let offered = front.len();
            let taken = sys::send(&self.fd, front)?;
            output.drain(..taken);
            if taken < offered {
                break;
            }
            if output.is_empty() {
                self.output = None;
            }
        }
        Ok(())
    }

    /// When output waits for the first time. If there is room again already, the kernel says so at once.
    #[inline]
    pub fn ask_for_room(&mut self, epoll: &Epoll) -> io::Result<()> {
        if self.output.is_some() && !self.hears_of_room {
            self.hears_of_room = true;
            epoll.modify(self.fd.as_raw_fd(), Epoll::BOTH)?;
        }
        Ok(())
    }

    pub fn owed(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.len())
    }
}
