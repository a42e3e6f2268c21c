//! The upstream of a relay that is measured: the far ends of its pairs, in this process as well.
//!
//! It sends back whatever comes. It need not look at it: what has gone through the relay twice is compared at the
//! near end, and bytes that a relay gives to the wrong pair are wrong there.

use super::pattern::{CHUNK_BYTES, Pattern};
use super::peer::{PATIENCE, Peer, about};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsFd;

/// The listener that a relay connects to, and what it has accepted.
pub struct Upstream {
    listener: TcpListener,
    pub streams: Vec<TcpStream>,
    input: Vec<u8>,
}

impl Upstream {
    pub fn new() -> io::Result<Upstream> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Upstream { listener, streams: Vec::new(), input: vec![0; CHUNK_BYTES] })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for the relay to connect; the stream blocks, at most for `PATIENCE`.
    pub fn accept(&self) -> io::Result<TcpStream> {
        let patience = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)], patience)? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the relay has not connected to its upstream"));
        }
        let (stream, _) = self.listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Pairs through the relay at `port`, each of which has carried a message of `len` bytes there and back. They still
    /// block, both ends.
    pub fn dial_pairs(
        &mut self,
        port: u16,
        numbers: Range<usize>,
        len: usize,
        pattern: &Pattern,
    ) -> io::Result<Vec<Peer>> {
        let mut input = vec![0; CHUNK_BYTES];
        let mut peers = Vec::with_capacity(numbers.len());
        for number in numbers {
            let mut peer = Peer::dial(port, number, pattern)?;
            peer.write_all(len, pattern)?;
            self.streams.push(self.accept()?);
            self.answer(self.streams.len() - 1, len)?;
            peer.read_all(&mut input, pattern)?;
            peers.push(peer);
        }
        Ok(peers)
    }

    /// Sends `len` bytes back, and waits for them.
    pub fn answer(&mut self, index: usize, len: usize) -> io::Result<()> {
        let mut rest = len;
        while rest > 0 {
            match self.answer_some(index)? {
                0 => return Err(stopped(index, "nothing came in time")),
                n => rest = rest.saturating_sub(n),
            }
        }
        Ok(())
    }

    /// Waits for `len` bytes on every stream before it sends any back: a burst each way, which a relay that is counted,
    /// and slow therefore, meets as a whole. How many messages share one of its turns is then no matter of timing.
    pub fn answer_all(&mut self, len: usize) -> io::Result<()> {
        let mut held = vec![0; len * self.streams.len()];
        let about_pair = |index: usize, e| about(&format!("the upstream side of pair {index}"), e);
        for (index, (stream, held)) in self.streams.iter_mut().zip(held.chunks_exact_mut(len)).enumerate() {
            stream.read_exact(held).map_err(|e| about_pair(index, e))?;
        }
        for (index, (stream, held)) in self.streams.iter_mut().zip(held.chunks_exact(len)).enumerate() {
            stream.write_all(held).map_err(|e| about_pair(index, e))?;
        }
        Ok(())
    }

    /// Sends back what one read brings, and says how much it was; 0 if there is nothing to read.
    #[inline]
    pub fn answer_some(&mut self, index: usize) -> io::Result<usize> {
        let stream = &mut self.streams[index];
        let n = match stream.read(&mut self.input) {
            Ok(0) => return Err(stopped(index, "the relay has ended it")),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(e) => return Err(about(&format!("the upstream side of pair {index}"), e)),
        };
        // What is in flight fits into the kernel's buffers; a relay that leaves no room does not read.
        match stream.write(&self.input[..n]) {
            Ok(written) if written == n => Ok(n),
            Ok(_) => Err(stopped(index, "the relay does not read it")),
            Err(e) => Err(about(&format!("the upstream side of pair {index}"), e)),
        }
    }
}

fn stopped(index: usize, how: &str) -> io::Error {
    io::Error::other(format!("the upstream side of pair {index}: {how}"))
}
