//! Sockets: made, bound, connected, accepted, read and written.
//!
//! ```text
//!             stream(family)
//!            ┌──────┴──────┐
//!          bind         connect ── EINPROGRESS ──► OUT ──► take_error
//!            │                                                 │
//!         listen ── accept ──► (Fd, peer) ◄───────────────────┘
//!                                │
//!                         recv / send / send_vectored, shutdown_write, drop
//! ```
//!
//! A thin floor: a function is a system call with Rust's types. All sockets are non-blocking and closed on exec
//! from birth, and none ever raises SIGPIPE. Reading goes into memory that nobody has zeroed first, because the
//! kernel is about to write to it.
//!
//! Nothing is retried: `EINTR` and `EAGAIN` are the caller's to understand. What can be set on a socket is in
//! the file of options, and is found under this name as well.

pub use super::options::*;

use super::address::Address;
use super::sockaddr::{self, RawAddress};
use super::{Fd, check, count};
use bytes::BytesMut;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Slices in one [`send_vectored`]; further ones wait for the next call. The kernel would take 1024, but copies
/// the list first, and with 64 the cost of the call is already spread so thin that more gains nothing.
pub const IOV_LIMIT: usize = 64;

/// Which kind of addresses a socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, and IPv4 in mapped form unless `set_only_v6`.
    V6,
    /// Unix.
    Unix,
}

/// A stream socket: TCP, or a Unix stream.
///
/// # Errors
/// EMFILE, ENFILE, ENOBUFS or ENOMEM; EAFNOSUPPORT: a kernel without IPv6.
pub fn stream(family: Family) -> io::Result<Fd> {
    create(family, libc::SOCK_STREAM)
}

/// A datagram socket: UDP, or Unix datagrams.
///
/// # Errors
/// As [`stream`].
pub fn datagram(family: Family) -> io::Result<Fd> {
    create(family, libc::SOCK_DGRAM)
}

fn create(family: Family, kind: libc::c_int) -> io::Result<Fd> {
    seam!(create(family, kind));
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
        Family::Unix => libc::AF_UNIX,
    };
    // SAFETY: takes three numbers.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { Fd::from_new(fd) })
}

/// Gives the socket its own address.
///
/// # Errors
/// EADDRINUSE: taken; for a Unix path, there is such a file, perhaps left by a process that is gone (see
/// [`unlink`]). EADDRNOTAVAIL: not an address of this machine. EACCES: a port below 1024. `InvalidInput`: the
/// path is too long.
pub fn bind(fd: &Fd, address: &Address) -> io::Result<()> {
    seam!(bind(fd, address));
    let mut raw = RawAddress::uninit();
    let length = sockaddr::encode(address, &mut raw)?;
    // SAFETY: `encode` wrote `length` bytes to `raw`.
    check(unsafe { libc::bind(fd.raw(), raw.as_ptr().cast(), length) }).map(drop)
}

/// Lets connections come, of which at most `backlog` (and `net.core.somaxconn`) wait to be accepted.
///
/// # Errors
/// EADDRINUSE: another socket listens there. EOPNOTSUPP: not a stream.
pub fn listen(fd: &Fd, backlog: u32) -> io::Result<()> {
    seam!(listen(fd, backlog));
    let backlog = backlog.try_into().unwrap_or(libc::c_int::MAX);
    // SAFETY: takes two numbers.
    check(unsafe { libc::listen(fd.raw(), backlog) }).map(drop)
}

/// Begins a connection.
///
/// # Errors
/// EINPROGRESS, the usual answer for TCP: wait for OUT and ask [`take_error`]. EAGAIN: a Unix listener's
/// backlog is full, and nothing will tell when it is not, so try again later. EADDRNOTAVAIL: no local port is
/// free. ECONNREFUSED, ENETUNREACH, ENOENT and others: it has failed already. Never EINTR, since a non-blocking
/// connect does not sleep.
pub fn connect(fd: &Fd, address: &Address) -> io::Result<()> {
    seam!(connect(fd, address));
    let mut raw = RawAddress::uninit();
    let length = sockaddr::encode(address, &mut raw)?;
    // SAFETY: `encode` wrote `length` bytes to `raw`.
    check(unsafe { libc::connect(fd.raw(), raw.as_ptr().cast(), length) }).map(drop)
}

/// Takes the connection that has waited longest: its socket and its peer. A Unix peer is usually `Unnamed`.
///
/// # Errors
/// EAGAIN: none waits. ECONNABORTED: this one gave up while it waited, there may be others. EMFILE, ENFILE: no
/// descriptor left; told even if none waits. ENOBUFS, ENOMEM: no memory. EPERM: a firewall rule. ENETDOWN,
/// EPROTO, EHOSTUNREACH and the like: the network's error about this one connection, which is gone; there may
/// be others (accept(2), "Error handling").
pub fn accept(fd: &Fd) -> io::Result<(Fd, Address)> {
    seam!(accept(fd));
    named(|raw, length| {
        // SAFETY: `raw` and `length` are what `named` says they are.
        let answer = unsafe { libc::accept4(fd.raw(), raw, length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
        // SAFETY: the kernel has just made it for us.
        check(answer).map(|fd| unsafe { Fd::from_new(fd) })
    })
}

/// The socket's own address. Port and host are known once it is bound or connected.
pub fn local_address(fd: &Fd) -> io::Result<Address> {
    seam!(local_address(fd));
    // SAFETY: `raw` and `length` are what `named` says they are.
    named(|raw, length| check(unsafe { libc::getsockname(fd.raw(), raw, length) })).map(|(_, address)| address)
}

/// The peer's address.
///
/// # Errors
/// ENOTCONN: not connected, or no longer.
pub fn peer_address(fd: &Fd) -> io::Result<Address> {
    seam!(peer_address(fd));
    // SAFETY: `raw` and `length` are what `named` says they are.
    named(|raw, length| check(unsafe { libc::getpeername(fd.raw(), raw, length) })).map(|(_, address)| address)
}

/// Makes a call that also answers with an address. `call` gets a pointer to room for any address, and one to
/// the size of that room, which the kernel replaces by the length of what it wrote.
#[inline]
fn named<T>(call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> io::Result<T>) -> io::Result<(T, Address)> {
    let mut raw = RawAddress::uninit();
    let mut length = size_of::<RawAddress>() as libc::socklen_t;
    let value = call(raw.as_mut_ptr().cast(), &raw mut length)?;
    // SAFETY: the call succeeded, so the kernel wrote `length` bytes, or filled `raw` if it had more.
    Ok((value, unsafe { sockaddr::decode(&raw, length) }))
}

/// Reads into the spare capacity of `input`, at most `limit` bytes of it, and lengthens `input` by what came.
/// Zero is the end of the stream. The bytes in `input` are not moved and nothing is allocated: the caller has
/// reserved.
///
/// # Errors
/// EAGAIN: nothing there. ECONNRESET, ETIMEDOUT and others: the connection is over. `input` is then unchanged.
///
/// # Panics
/// In debug builds, if there is no room: zero bytes would look like the end of the stream.
#[inline(always)]
pub fn recv(fd: &Fd, input: &mut BytesMut, limit: usize) -> io::Result<usize> {
    seam!(recv(fd, input, limit));
    let spare = input.spare_capacity_mut();
    let room = spare.len().min(limit);
    debug_assert!(room > 0, "a read has room, or its zero would be taken for the end of the stream");
    // SAFETY: the pointer and `room` lie within the spare capacity, which is ours to write to.
    let n = count(unsafe { libc::recv(fd.raw(), spare.as_mut_ptr().cast(), room, 0) })?;
    // SAFETY: the kernel wrote the first `n <= room` bytes of the spare capacity.
    unsafe { input.set_len(input.len() + n) };
    Ok(n)
}

/// Offers `bytes` to the kernel; the answer is how many it took, from the front.
///
/// # Errors
/// EAGAIN: the send buffer is full. EPIPE (without SIGPIPE), ECONNRESET and others: the connection is over.
/// ENOBUFS, ENOMEM: no memory now; no edge will tell when there is.
#[inline(always)]
pub fn send(fd: &Fd, bytes: &[u8]) -> io::Result<usize> {
    seam!(send(fd, bytes));
    // SAFETY: the pointer and the length describe `bytes`, which is borrowed.
    count(unsafe { libc::send(fd.raw(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// Offers the first [`IOV_LIMIT`] of `slices` to the kernel, as if they were one; the answer is how many bytes
/// it took, from the front.
///
/// # Errors
/// As [`send`].
#[inline]
pub fn send_vectored(fd: &Fd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    seam!(send_vectored(fd, slices));
    // SAFETY: integers and nullable pointers, for all of which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len().min(IOV_LIMIT) as _;
    // SAFETY: an `IoSlice` has the layout of an `iovec`, by its documentation, and the slices and what they
    // point to are borrowed. The kernel does not write to either.
    count(unsafe { libc::sendmsg(fd.raw(), &raw const message, libc::MSG_NOSIGNAL) })
}

/// Ends our half of the stream: the peer sees its end after what was sent before. Reading goes on.
///
/// # Errors
/// ENOTCONN: the connection is over already.
pub fn shutdown_write(fd: &Fd) -> io::Result<()> {
    seam!(shutdown_write(fd));
    // SAFETY: takes two numbers.
    check(unsafe { libc::shutdown(fd.raw(), libc::SHUT_WR) }).map(drop)
}

/// Removes the file of a Unix socket, which outlives the socket.
///
/// # Errors
/// ENOENT: there is none. EACCES, EPERM, EROFS and others.
pub fn unlink(path: &Path) -> io::Result<()> {
    seam!(unlink(path));
    std::fs::remove_file(path)
}

/// Whether there is a Unix socket's file at `path`, and not a file of another kind or a link to one.
pub fn is_socket_file(path: &Path) -> bool {
    seam!(is_socket_file(path));
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::super::epoll::{self, Epoll, Event};
    use super::super::{signal, thread};
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// Waits for `flags` of `fd`, long enough for any machine, and fails the test if they do not come.
    fn await_flags(fd: &Fd, flags: u32) -> u32 {
        let epoll = Epoll::create().unwrap();
        epoll.add(fd, flags, 0).unwrap();
        let mut events = [Event::EMPTY];
        assert_eq!(epoll.wait(&mut events, Some(Duration::from_secs(10))).unwrap(), 1, "not ready in time");
        events[0].flags()
    }

    fn unix_pair() -> (Fd, Fd) {
        let (a, b) = UnixStream::pair().unwrap();
        let pair = (Fd::from_owned(a.into()), Fd::from_owned(b.into()));
        set_nonblocking(&pair.0).unwrap();
        set_nonblocking(&pair.1).unwrap();
        pair
    }

    fn listener(address: &Address) -> Fd {
        let fd = stream(address.family()).unwrap();
        bind(&fd, address).unwrap();
        listen(&fd, 8).unwrap();
        fd
    }

    /// A connected pair through a listener: the connecting side, the accepted side and the peer that accept told.
    fn pair_through(address: &Address) -> (Fd, Fd, Address) {
        let listener = listener(address);
        let client = stream(address.family()).unwrap();
        if let Err(error) = connect(&client, &local_address(&listener).unwrap()) {
            assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        }
        await_flags(&listener, epoll::IN);
        let (server, peer) = accept(&listener).unwrap();
        await_flags(&client, epoll::OUT);
        assert!(take_error(&client).unwrap().is_none());
        assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        (client, server, peer)
    }

    fn recv_some(fd: &Fd, input: &mut BytesMut) -> usize {
        await_flags(fd, epoll::IN);
        recv(fd, input, usize::MAX).unwrap()
    }

    #[test]
    fn tcp_tells_the_same_addresses_on_both_sides() {
        for address in [Address::from((Ipv4Addr::LOCALHOST, 0)), Address::from((Ipv6Addr::LOCALHOST, 0))] {
            let (client, server, peer) = pair_through(&address);
            assert_eq!(local_address(&client).unwrap(), peer);
            assert_eq!(peer_address(&server).unwrap(), peer);
            assert_eq!(peer_address(&client).unwrap(), local_address(&server).unwrap());
        }
    }

    #[test]
    fn a_dual_stack_listener_tells_its_ipv4_peers_in_mapped_form() {
        let listener = stream(Family::V6).unwrap();
        set_only_v6(&listener, false).unwrap();
        bind(&listener, &Address::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        listen(&listener, 8).unwrap();
        let port = local_address(&listener).unwrap().port().unwrap();
        let client = stream(Family::V4).unwrap();
        let _ = connect(&client, &Address::from((Ipv4Addr::LOCALHOST, port)));
        await_flags(&listener, epoll::IN);
        let (_, peer) = accept(&listener).unwrap();
        assert_eq!(peer.ip().unwrap().ip(), Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        assert_eq!(peer.port(), local_address(&client).unwrap().port());
    }

    #[test]
    fn unix_peers_without_a_name_are_unnamed() {
        let name = Address::Abstract(format!("plimsoll\0{}", std::process::id()).into_bytes().into());
        let (client, server, peer) = pair_through(&name);
        assert_eq!(peer, Address::Unnamed);
        assert_eq!(local_address(&client).unwrap(), Address::Unnamed);
        assert_eq!(peer_address(&client).unwrap(), name);
        assert_eq!(local_address(&server).unwrap(), name);
    }

    #[test]
    fn binding_to_no_name_makes_the_kernel_choose_one() {
        let fd = stream(Family::Unix).unwrap();
        bind(&fd, &Address::Unnamed).unwrap();
        assert!(matches!(local_address(&fd).unwrap(), Address::Abstract(name) if name.len() == 5));
    }

    #[test]
    fn a_path_outlives_its_socket_until_it_is_unlinked() {
        let path = std::env::temp_dir().join(format!("plimsoll-{}.sock", std::process::id()));
        let address = Address::Path(path.clone().into());
        let (client, ..) = pair_through(&address);
        assert_eq!(peer_address(&client).unwrap(), address);
        let second = stream(Family::Unix).unwrap();
        assert_eq!(bind(&second, &address).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        unlink(&path).unwrap();
        assert_eq!(unlink(&path).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn the_longest_path_is_told_whole() {
        let mut path = std::env::temp_dir().into_os_string().into_string().unwrap();
        path.push_str(&format!("/plimsoll-{}-", std::process::id()));
        path.extend(std::iter::repeat_n('x', 107 - path.len()));
        let address = Address::Path(Path::new(&path).into());
        let fd = stream(Family::Unix).unwrap();
        bind(&fd, &address).unwrap();
        let told = local_address(&fd).unwrap();
        unlink(Path::new(&path)).unwrap();
        assert_eq!(told, address);
    }

    #[test]
    fn a_refused_connection_is_told_by_take_error() {
        let listener = listener(&Address::from((Ipv4Addr::LOCALHOST, 0)));
        let address = local_address(&listener).unwrap();
        drop(listener);
        let fd = stream(Family::V4).unwrap();
        match connect(&fd, &address).unwrap_err().raw_os_error() {
            Some(libc::EINPROGRESS) => {
                await_flags(&fd, epoll::OUT);
                assert_eq!(take_error(&fd).unwrap().unwrap().raw_os_error(), Some(libc::ECONNREFUSED));
                assert!(take_error(&fd).unwrap().is_none(), "taking it clears it");
            }
            errno => assert_eq!(errno, Some(libc::ECONNREFUSED)),
        }
    }

    #[test]
    fn a_read_appends_within_its_limit_and_leaves_the_rest() {
        let (ours, theirs) = unix_pair();
        let mut input = BytesMut::with_capacity(64);
        input.extend_from_slice(b"old ");
        assert_eq!(recv(&ours, &mut input, 64).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(&input[..], b"old ");
        assert_eq!(send(&theirs, b"new bytes").unwrap(), 9);
        assert_eq!(recv(&ours, &mut input, 3).unwrap(), 3);
        assert_eq!(&input[..], b"old new");
        assert_eq!(recv(&ours, &mut input, usize::MAX).unwrap(), 6);
        assert_eq!(&input[..], b"old new bytes");
        shutdown_write(&theirs).unwrap();
        assert_eq!(recv(&ours, &mut input, 64).unwrap(), 0);
        assert_eq!(send(&ours, b"still open").unwrap(), 10);
    }

    #[test]
    fn a_read_never_passes_the_capacity() {
        let (ours, theirs) = unix_pair();
        send(&theirs, &[7; 100]).unwrap();
        let mut input = BytesMut::with_capacity(40);
        let room = input.capacity();
        assert_eq!(recv(&ours, &mut input, usize::MAX).unwrap(), room);
        assert_eq!((input.len(), input.capacity()), (room, room));
        input.reserve(256);
        assert_eq!(recv(&ours, &mut input, usize::MAX).unwrap(), 100 - room);
    }

    #[test]
    fn slices_arrive_as_one_and_no_more_than_the_limit() {
        let (ours, theirs) = unix_pair();
        let mut input = BytesMut::with_capacity(1024);
        assert_eq!(
            send_vectored(&theirs, &[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"line")]).unwrap(),
            8
        );
        recv(&ours, &mut input, 1024).unwrap();
        assert_eq!(&input[..], b"one line");
        let many = [IoSlice::new(b"x"); IOV_LIMIT + 10];
        assert_eq!(send_vectored(&theirs, &many).unwrap(), IOV_LIMIT);
    }

    /// A signal that is blocked becomes pending even if it is ignored, as Rust ignores SIGPIPE.
    #[test]
    fn writing_to_a_closed_peer_is_an_error_and_no_signal() {
        let (ours, theirs) = unix_pair();
        drop(theirs);
        thread::with_signals_blocked(|| {
            assert_eq!(send(&ours, b"x").unwrap_err().raw_os_error(), Some(libc::EPIPE));
            assert_eq!(send_vectored(&ours, &[IoSlice::new(b"x")]).unwrap_err().raw_os_error(), Some(libc::EPIPE));
            assert!(!signal::tests::is_pending(libc::SIGPIPE));
        });
    }

    #[test]
    fn a_full_send_buffer_would_block() {
        let (ours, _theirs) = unix_pair();
        let chunk = vec![0; 1 << 20];
        for _ in 0..1_000 {
            match send(&ours, &chunk) {
                Ok(n) => assert!(n > 0),
                Err(error) => return assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        panic!("a gigabyte went into a socket that nobody reads");
    }

    #[test]
    fn zero_linger_turns_close_into_a_reset() {
        let (client, server, _) = pair_through(&Address::from((Ipv4Addr::LOCALHOST, 0)));
        set_linger_zero(&client).unwrap();
        drop(client);
        let flags = await_flags(&server, epoll::IN);
        assert_ne!(flags & epoll::ERR, 0);
        let mut input = BytesMut::with_capacity(64);
        assert_eq!(recv(&server, &mut input, 64).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
    }

    #[test]
    fn the_kernels_figures_count_our_bytes() {
        let (client, server, _) = pair_through(&Address::from((Ipv4Addr::LOCALHOST, 0)));
        send(&client, &[1; 1000]).unwrap();
        let mut input = BytesMut::with_capacity(4096);
        assert_eq!(recv_some(&server, &mut input), 1000);
        let info = tcp_info(&server).unwrap();
        assert_eq!((info.state, info.bytes_received), (1, 1000));
        assert!(info.send_mss > 0 && info.congestion_window > 0);
        assert!(tcp_info(&client).unwrap().rtt > Duration::ZERO);
        assert!(tcp_info(&unix_pair().0).is_err());
    }

    #[test]
    fn a_listener_knows_that_it_is_one() {
        let fd = stream(Family::V4).unwrap();
        assert!(!is_listening(&fd).unwrap());
        listen(&fd, u32::MAX).unwrap();
        assert!(is_listening(&fd).unwrap());
        assert_eq!(peer_address(&fd).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    }

    #[test]
    fn sockets_are_born_non_blocking_and_closed_on_exec() {
        let (client, server, _) = pair_through(&Address::from((Ipv4Addr::LOCALHOST, 0)));
        for fd in [&client, &server, &datagram(Family::V4).unwrap(), &unix_pair().0] {
            // SAFETY: neither command takes a pointer.
            let (status, flags) =
                unsafe { (libc::fcntl(fd.raw(), libc::F_GETFL), libc::fcntl(fd.raw(), libc::F_GETFD)) };
            assert_eq!((status & libc::O_NONBLOCK, flags), (libc::O_NONBLOCK, libc::FD_CLOEXEC));
        }
    }
}
