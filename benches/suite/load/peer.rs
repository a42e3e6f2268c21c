//! Peers: the near ends of the connections to the server that is measured.
//!
//! A peer writes a stream that is known in advance (`Pattern`) and reads it back. Three numbers say all about it; the
//! rule is that they keep their order, and what comes beyond `sent` is an error at once.
//!
//! ```text
//!   0 ──────────── received ──────────── sent ──────────── wanted
//!     came back, and     in the kernels and   should be out already;
//!     was compared       in the server        the kernel would not take it yet
//! ```

use super::pattern::{CHUNK_BYTES, Pattern};
use super::poll::Poll;
use nix::sys::socket::sockopt::{IpBindAddressNoPort, Linger, TcpNoDelay};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Whoever waits so long for a byte waits for ever: a server under valgrind answers within milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The longest message, and the most that is in flight on a connection before anything is read. The kernel's
/// buffers on the way hold as much even where nothing is tuned, so that no two sides wait for each other.
pub const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// Connections that are dialled before the first of them is read: enough that neither side waits for the other, and
/// less than a short accept queue (128) holds.
const WAVE: usize = 100;

/// Connections from one source address. It has 28,000 ports, and one that has closed first keeps its port for a
/// minute; the fewer are free, the longer the kernel looks for one.
const CONNECTIONS_PER_ADDRESS: usize = 10_000;

/// One connection and where it is in its stream.
pub struct Peer {
    pub stream: TcpStream,
    pub received: u64,
    pub sent: u64,
    pub wanted: u64,
    origin: u64,
    number: usize,
    /// Whether the socket is watched for room.
    blocked: bool,
}

impl Peer {
    /// A connection that blocks, at most for `PATIENCE`. Its number makes its stream one of its own.
    pub fn dial(port: u16, number: usize, pattern: &Pattern) -> io::Result<Peer> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .map_err(|e| about(&format!("connection {number} cannot be made"), e))?;
        stream.set_nodelay(true)?;
        reset_on_close(&stream)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Peer::new(stream, number, pattern))
    }

    /// A connection that is under way and does not block, from a source address that has ports to spare.
    pub fn begin(port: u16, number: usize, pattern: &Pattern) -> io::Result<Peer> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = TcpStream::from(socket(AddressFamily::Inet, SockType::Stream, flags, None)?);
        setsockopt(&stream, TcpNoDelay, &true)?;
        let address = number / CONNECTIONS_PER_ADDRESS;
        if address > 0 {
            // The whole of 127/8 is ours. The port is chosen when the other end is known.
            setsockopt(&stream, IpBindAddressNoPort, &true)?;
            let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + (address % 0xff_0000) as u32);
            bind(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        }
        let server = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        match connect(stream.as_raw_fd(), &server) {
            Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(Peer::new(stream, number, pattern)),
            Err(e) => Err(about(&format!("connection {number} cannot be made"), e.into())),
        }
    }

    fn new(stream: TcpStream, number: usize, pattern: &Pattern) -> Peer {
        let origin = pattern.origin(number);
        Peer { stream, received: 0, sent: 0, wanted: 0, origin, number, blocked: false }
    }

    /// Writes what is wanted, as far as the kernel takes it.
    pub fn flush(&mut self, pattern: &Pattern) -> io::Result<()> {
        while self.sent < self.wanted {
            let len = (self.wanted - self.sent).min(CHUNK_BYTES as u64) as usize;
            match self.stream.write(pattern.at(self.origin + self.sent, len)) {
                Ok(n) => self.sent += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.about(e)),
            }
        }
        Ok(())
    }

    /// As `flush`; what the kernel does not take is written when `poll` says that there is room.
    #[inline]
    pub fn flush_by(&mut self, poll: &Poll, tag: u64, pattern: &Pattern) -> io::Result<()> {
        self.flush(pattern)?;
        let blocked = self.sent < self.wanted;
        if blocked != self.blocked {
            poll.modify(&self.stream, tag, blocked)?;
            self.blocked = blocked;
        }
        Ok(())
    }

    /// Reads once. 0 where the socket would block.
    #[inline]
    pub fn read(&mut self, input: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(input) {
            Ok(0) => Err(self.ended()),
            Ok(n) => Ok(n),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            Err(e) => Err(self.about(e)),
        }
    }

    /// Compares what was read with what was sent. Apart from `read`, so that a clock can be read between the two.
    #[inline]
    pub fn verify(&mut self, input: &[u8], pattern: &Pattern) -> io::Result<()> {
        let received = self.received + input.len() as u64;
        if received > self.sent {
            return Err(self.about(io::Error::other(format!("{} bytes more than were sent", received - self.sent))));
        }
        pattern.compare(self.origin + self.received, input).map_err(|e| self.about(e))?;
        self.received = received;
        Ok(())
    }

    /// Writes `len` bytes, and blocks until they are out.
    pub fn write_all(&mut self, len: usize, pattern: &Pattern) -> io::Result<()> {
        self.wanted += len as u64;
        self.flush(pattern)?;
        if self.sent < self.wanted {
            return Err(self.about(io::Error::other("the server does not read")));
        }
        Ok(())
    }

    /// Reads until all that was sent is back.
    pub fn read_all(&mut self, input: &mut [u8], pattern: &Pattern) -> io::Result<()> {
        while self.received < self.sent {
            match self.read(input)? {
                0 => return Err(self.about(io::Error::other("no answer came in time"))),
                n => self.verify(&input[..n], pattern)?,
            }
        }
        Ok(())
    }

    /// Ends our half.
    pub fn shut_down(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write).map_err(|e| self.about(e))
    }

    /// Waits for the other's end.
    pub fn expect_end(mut self) -> io::Result<()> {
        if self.has_ended()? { Ok(()) } else { Err(self.about(io::Error::other("the server does not end it"))) }
    }

    /// Whether the other has ended it too; nothing may come before that.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => Ok(true),
            Ok(_) => Err(self.about(io::Error::other("more came back than was sent"))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(self.about(e)),
        }
    }

    #[cold]
    fn ended(&self) -> io::Error {
        self.about(io::Error::other("the server has ended it"))
    }

    /// Says which connection it was, and how far it had come.
    #[cold]
    pub fn about(&self, e: io::Error) -> io::Error {
        let Peer { number, received, wanted, .. } = self;
        about(&format!("connection {number}, after {received} of {wanted} bytes had come back"), e)
    }
}

/// What is closed without an end of ours is reset. When a measurement is over there are thousands of connections, and
/// the ends of all would keep their ports, and the kernel busy, for a minute of the next measurements.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    Ok(setsockopt(stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}

/// Connections that have each exchanged one message of `len` bytes and do not block any more: the server has accepted
/// them all before anything is measured.
pub fn dial_each(port: u16, numbers: std::ops::Range<usize>, len: usize, pattern: &Pattern) -> io::Result<Vec<Peer>> {
    let mut input = vec![0; CHUNK_BYTES];
    let mut peers = Vec::with_capacity(numbers.len());
    while peers.len() < numbers.len() {
        let first = peers.len();
        for number in numbers.clone().skip(first).take(WAVE) {
            let mut peer = Peer::dial(port, number, pattern)?;
            peer.write_all(len, pattern)?;
            peers.push(peer);
        }
        peers[first..].iter_mut().try_for_each(|peer| peer.read_all(&mut input, pattern))?;
    }
    Ok(peers)
}

pub fn about(what: &str, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}
