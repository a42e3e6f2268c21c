//! Waiting for many connections.
//!
//! Waiting is level-triggered: one read an event, into a buffer that is larger than what is in flight on nearly every
//! connection, and no read that only finds out that there is nothing. Interest in writing is switched on for a
//! socket that would not take everything, and off again: that is rare, since what is in flight is bounded. Where a
//! connection is watched only for one message (`arrivals`), edges save the switching.
//!
//! nix's wrapper is the bare call; nothing is gained by going below it.

use super::peer::PATIENCE;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The epoll instance, and what it said last.
pub struct Poll {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poll {
    /// Events that are taken at once. More would only make the first of them wait longer for their next message.
    const EVENTS: usize = 512;

    pub fn new() -> io::Result<Poll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Poll { epoll, events: vec![EpollEvent::empty(); Poll::EVENTS] })
    }

    /// Watches for input.
    pub fn add(&self, fd: impl AsFd, tag: u64) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, tag))?)
    }

    /// Watches for everything that changes, and says each change once.
    pub fn add_edges(&self, fd: impl AsFd, tag: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        Ok(self.epoll.add(fd, EpollEvent::new(flags, tag))?)
    }

    pub fn modify(&self, fd: impl AsFd, tag: u64, writable: bool) -> io::Result<()> {
        let writable = if writable { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(EpollFlags::EPOLLIN | writable, tag))?)
    }

    /// How many events there are; none, if none came in time.
    pub fn wait_for(&mut self, at_most: Duration) -> io::Result<usize> {
        let timeout = EpollTimeout::try_from(at_most).unwrap_or(EpollTimeout::MAX);
        match self.epoll.wait(&mut self.events, timeout) {
            Ok(n) => Ok(n),
            Err(nix::Error::EINTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// How many events there are, of which there is at least one. With `spin` the thread never sleeps: then it is
    /// not the cost of waking this program that is measured.
    ///
    /// # Errors
    /// `TimedOut` after `PATIENCE`.
    pub fn wait(&mut self, spin: bool) -> io::Result<usize> {
        let began = Instant::now();
        loop {
            let n = self.wait_for(if spin { Duration::ZERO } else { PATIENCE })?;
            if n > 0 {
                return Ok(n);
            }
            if began.elapsed() >= PATIENCE {
                let what = format!("nothing has come for {} seconds", PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
        }
    }

    /// Tag, and whether there is room to write.
    #[inline]
    pub fn event(&self, index: usize) -> (u64, bool) {
        let event = &self.events[index];
        (event.data(), event.events().contains(EpollFlags::EPOLLOUT))
    }
}
