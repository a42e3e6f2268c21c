//! The system calls, each as bare as it can be.
#![allow(unsafe_code, reason = "the floor is what calls cost with nothing safe around them")]

use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};
use std::io::{self, ErrorKind};
use std::mem::{size_of, size_of_val};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

pub struct Epoll {
    fd: OwnedFd,
    timeout_ms: libc::c_int,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(libc::epoll_event);

impl Event {
    pub const NONE: Event = Event(libc::epoll_event { events: 0, u64: 0 });

    #[inline]
    pub fn fd(self) -> RawFd {
        self.0.u64 as RawFd
    }

    #[inline]
    pub fn is_readable(self) -> bool {
        self.has(EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)
    }

    #[inline]
    pub fn is_writable(self) -> bool {
        self.has(EPOLLOUT)
    }

    #[inline]
    pub fn ends(self) -> bool {
        self.has(EPOLLRDHUP | EPOLLHUP | EPOLLERR)
    }

    #[inline]
    fn has(self, bits: i32) -> bool {
        self.0.events & bits as u32 != 0
    }
}

impl Epoll {
    /// Level-triggered, for a listener.
    pub const PEERS: i32 = EPOLLIN;
    pub const INPUT: i32 = EPOLLIN | EPOLLRDHUP | EPOLLET;
    pub const BOTH: i32 = Epoll::INPUT | EPOLLOUT;

    /// One that spins never blocks.
    pub fn new(spins: bool) -> io::Result<Epoll> {
        let timeout_ms = if spins { 0 } else { -1 };
        // SAFETY: epoll_create1 touches no memory of ours, and the descriptor is new.
        let fd = unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Epoll { fd, timeout_ms })
    }

    pub fn add(&self, fd: RawFd, interest: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest)
    }

    pub fn modify(&self, fd: RawFd, interest: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest)
    }

    fn control(&self, what: i32, fd: RawFd, interest: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: fd as u64 };
        // SAFETY: `event` lives through the call, which only reads it.
        checked(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd, &mut event) })?;
        Ok(())
    }

    pub fn wait<'a>(&self, events: &'a mut [Event]) -> io::Result<&'a [Event]> {
        let room = events.len() as i32;
        // SAFETY: `Event` has the layout of `epoll_event`, and there are `room` of them.
        let n = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr().cast(), room, self.timeout_ms) };
        match checked(n) {
            Ok(n) => Ok(&events[..n as usize]),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(&[]),
            Err(e) => Err(e),
        }
    }
}

/// A connection that does not block, or `None` when nobody waits.
pub fn accept(listener: RawFd) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the address of the peer is not asked for.
    match checked(unsafe { libc::accept4(listener, ptr::null_mut(), ptr::null_mut(), flags) }) {
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

/// A connection that has been begun: there is room for output when it is made.
pub fn connect(to: SocketAddr) -> io::Result<OwnedFd> {
    let SocketAddr::V4(to) = to else { return Err(ErrorKind::Unsupported.into()) };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket touches no memory of ours, and the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(checked(libc::socket(libc::AF_INET, kind, 0))?) };
    set_nodelay(&fd)?;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` lives through the call, and `len` is its size.
    match checked(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) }) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(fd),
    }
}

fn set_nodelay(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `on` lives through the call, and `len` is its size.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const on).cast(), len) };
    checked(done)?;
    Ok(())
}

/// How many bytes have come, 0 at the end; `None` when nothing is there.
#[inline]
pub fn recv(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes, all of them into `buffer`.
    let n = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if n >= 0 { Ok(Some(n as usize)) } else { would_block().map(|()| None) }
}

/// How many bytes were taken.
#[inline]
pub fn send(fd: &OwnedFd, data: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `data.len()` bytes, all of them in `data`.
    let n = unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
    if n >= 0 { Ok(n as usize) } else { would_block().map(|()| 0) }
}

pub fn shutdown_write(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is touched.
    checked(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) })?;
    Ok(())
}

/// What became of a connection that was begun.
pub fn connected(fd: &OwnedFd) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `error`.
    checked(unsafe {
        let error = (&raw mut error).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, error, &mut len)
    })?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// The last error, unless it was EAGAIN. No handler is installed that could interrupt a call that does not block.
#[cold]
fn would_block() -> io::Result<()> {
    match io::Error::last_os_error() {
        e if e.kind() == ErrorKind::WouldBlock => Ok(()),
        e => Err(e),
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
