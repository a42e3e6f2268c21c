//! A kernel in this process, behind the same functions as the real one.
//!
//! While one is installed on a thread, whatever makes a descriptor on that thread makes a simulated one, and every
//! call on such a descriptor comes here instead of to the real kernel. The floors above cannot tell: they run
//! unchanged, and the whole run is a pure function of a seed.
//!
//! ```text
//!   reactor ──► socket::recv ──► seam! ──┬─ a fault was planned ─────────────────► reactor
//!                                        ├─ the descriptor is simulated ─► kernel ─► reactor
//!                                        └─ else ─► recv(2)
//!
//!   here        the functions of the ground floor, by the same names; errors become io::Error
//!   kernel      nodes, descriptors, the agenda, the clock             poll       epoll
//!   stream      what one does with a stream                           wire       between two of them
//!   datagram    messages                                              chance     the seed and the weather
//! ```
//!
//! Where this kernel differs from the real one, the real one is right: the file of the corpus has programs that run
//! on both and must see the same.
//!
//! Not simulated: signals (the real ones do come), multicast beyond the port, path permissions, TCP's timers but for
//! the SYN's and the last. Offloaded work runs on the loop's own thread, at a time that the seed chooses.

pub mod chance;
#[cfg(test)]
mod corpus;
mod datagram;
pub mod kernel;
mod poll;
pub mod stream;
mod wire;

use super::Fd;
use super::address::Address;
use super::clock::Moment;
use super::datagram::{Inbox, Interface, Outgoing};
use super::epoll::{Epoll, Event};
use super::options::TcpInfo;
use super::socket::Family;
use bytes::BytesMut;
use chance::Weather;
use kernel::{Errand, Errno, FIRST, Id, Kernel, Protocol, Waited, What};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};
use stream::{Fin, State, Stream};

struct Installed {
    kernel: Kernel,
    /// What the public clock says when the simulated one says zero.
    epoch: Instant,
}

thread_local! {
    static KERNEL: RefCell<Option<Installed>> = const { RefCell::new(None) };
}

/// Puts a simulated kernel behind this thread's system calls.
///
/// # Panics
/// If there is one already.
pub fn install(seed: u64, weather: Weather) {
    let kernel = Installed { kernel: Kernel::new(seed, weather), epoch: Instant::now() };
    let before = KERNEL.replace(Some(kernel));
    assert!(before.is_none(), "one thread has one kernel");
}

/// Takes it away. Descriptors that are left are of nobody: to close one does nothing.
pub fn remove() {
    // Dropped when it is out of its place: errands may hold descriptors.
    drop(KERNEL.take());
}

/// The kernel of this thread, if it is a simulated one.
pub fn with<T>(f: impl FnOnce(&mut Kernel) -> T) -> Option<T> {
    // A descriptor may be closed while the thread ends, when its kernel is gone already.
    KERNEL.try_with(|kernel| kernel.borrow_mut().as_mut().map(|installed| f(&mut installed.kernel))).ok().flatten()
}

/// A call that belongs to no descriptor.
fn call<T>(kind: u64, f: impl FnOnce(&mut Kernel) -> Result<T, Errno>) -> Option<io::Result<T>> {
    with(|kernel| {
        let answer = f(kernel);
        kernel.leave(kind, answer.as_ref().map_or_else(|errno| *errno as u64, |_| u64::MAX));
        answer.map_err(io::Error::from_raw_os_error)
    })
}

/// A call on a descriptor, if that is a simulated one. Of what it answers, `weigh` makes a number for the trace.
fn on<T>(
    kind: u64,
    fd: &Fd,
    weigh: impl FnOnce(&T) -> u64,
    f: impl FnOnce(&mut Kernel, Id) -> Result<T, Errno>,
) -> Option<io::Result<T>> {
    let fd = fd.raw();
    if fd < FIRST {
        return None;
    }
    with(|kernel| {
        kernel.enter();
        let answer = kernel.find(fd).and_then(|id| f(kernel, id));
        let number = answer.as_ref().map_or_else(|errno| u64::from(errno.unsigned_abs()) << 32, weigh);
        kernel.leave(kind << 32 | fd as u64, number);
        answer.map_err(io::Error::from_raw_os_error)
    })
}

fn unit(_: &()) -> u64 {
    1
}

fn size(n: &usize) -> u64 {
    *n as u64
}

fn own(number: RawFd) -> Fd {
    // SAFETY: a number from the simulated table, given to nobody else. No real descriptor has it.
    unsafe { Fd::from_new(number) }
}

// ── Sockets ──────────────────────────────────────────────────────────────────────────────────────────────────

pub fn create(family: Family, kind: libc::c_int) -> Option<io::Result<Fd>> {
    call(1, |kernel| {
        kernel.enter();
        if kernel.chance.once_in(kernel.weather.shortages) {
            return Err(libc::ENOBUFS);
        }
        let unix = family == Family::Unix;
        let id = if kind == libc::SOCK_STREAM { kernel.make_stream(unix) } else { kernel.make_datagram(unix) };
        kernel.install(id).map(own)
    })
}

pub fn bind(fd: &Fd, address: &Address) -> Option<io::Result<()>> {
    on(2, fd, unit, |kernel, id| match kernel.node(id).map(|node| &node.what) {
        Some(What::Datagram(_)) => kernel.bind_datagram(id, address),
        _ => kernel.bind_stream(id, address),
    })
}

pub fn listen(fd: &Fd, backlog: u32) -> Option<io::Result<()>> {
    on(3, fd, unit, |kernel, id| kernel.listen(id, backlog as usize))
}

pub fn connect(fd: &Fd, address: &Address) -> Option<io::Result<()>> {
    on(4, fd, unit, |kernel, id| kernel.connect(id, address))
}

pub fn accept(fd: &Fd) -> Option<io::Result<(Fd, Address)>> {
    on(
        5,
        fd,
        |(fd, _): &(Fd, Address)| fd.raw() as u64,
        |kernel, id| {
            // Before anything else, and even if nobody waits.
            kernel.has_descriptor()?;
            if kernel.chance.once_in(kernel.weather.interrupts) {
                return Err(libc::EINTR);
            }
            if kernel.chance.once_in(kernel.weather.accept_failures) {
                return Err(fail_accept(kernel, id));
            }
            let (child, address) = kernel.accept(id)?;
            Ok((own(kernel.install(child)?), address))
        },
    )
}

/// One of the errors that accept(2) may answer by no fault of the program.
fn fail_accept(kernel: &mut Kernel, listener: Id) -> Errno {
    match kernel.chance.below(4) {
        0 => libc::EMFILE,
        1 => libc::ENOBUFS,
        2 => libc::ENFILE,
        _ => match kernel.accept(listener) {
            Ok((child, _)) => {
                kernel.abandon(child);
                libc::ECONNABORTED
            }
            Err(errno) => errno,
        },
    }
}

pub fn local_address(fd: &Fd) -> Option<io::Result<Address>> {
    on(
        6,
        fd,
        |_| 1,
        |kernel, id| match kernel.node(id).map(|node| &node.what) {
            Some(What::Stream(stream)) => Ok(stream.local.clone().unwrap_or(unbound(stream.unix))),
            Some(What::Datagram(datagram)) => Ok(datagram.local.clone().unwrap_or(unbound(datagram.unix))),
            _ => Err(libc::ENOTSOCK),
        },
    )
}

fn unbound(unix: bool) -> Address {
    if unix { Address::Unnamed } else { SocketAddr::from(([0, 0, 0, 0], 0)).into() }
}

pub fn peer_address(fd: &Fd) -> Option<io::Result<Address>> {
    on(
        7,
        fd,
        |_| 1,
        |kernel, id| {
            let stream = kernel.stream(id).ok_or(libc::ENOTCONN)?;
            let known = stream.state == State::Open || stream.unix && stream.state == State::Closed;
            if !known {
                return Err(libc::ENOTCONN);
            }
            Ok(stream.remote.clone().unwrap_or(Address::Unnamed))
        },
    )
}

pub fn recv(fd: &Fd, input: &mut BytesMut, limit: usize) -> Option<io::Result<usize>> {
    on(8, fd, size, |kernel, id| {
        risk(kernel, libc::ENOMEM)?;
        let room = (input.capacity() - input.len()).min(limit);
        kernel.recv(id, room, |bytes| input.extend_from_slice(bytes))
    })
}

pub fn send(fd: &Fd, bytes: &[u8]) -> Option<io::Result<usize>> {
    send_vectored(fd, &[IoSlice::new(bytes)])
}

pub fn send_vectored(fd: &Fd, slices: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
    on(9, fd, size, |kernel, id| {
        risk(kernel, libc::ENOBUFS)?;
        kernel.send(id, &slices[..slices.len().min(super::socket::IOV_LIMIT)], false)
    })
}

/// A call on a descriptor may be interrupted, or find no memory.
fn risk(kernel: &mut Kernel, shortage: Errno) -> Result<(), Errno> {
    if kernel.chance.once_in(kernel.weather.interrupts) {
        return Err(libc::EINTR);
    }
    if kernel.chance.once_in(kernel.weather.shortages) { Err(shortage) } else { Ok(()) }
}

pub fn shutdown_write(fd: &Fd) -> Option<io::Result<()>> {
    on(10, fd, unit, |kernel, id| kernel.shutdown(id))
}

pub fn unlink(path: &Path) -> Option<io::Result<()>> {
    call(11, |kernel| {
        kernel.enter();
        let address = Address::Path(path.into());
        let stream = kernel.names.remove(&(Protocol::Stream, address.clone())).is_some();
        let datagram = kernel.names.remove(&(Protocol::Datagram, address)).is_some();
        if stream || datagram { Ok(()) } else { Err(libc::ENOENT) }
    })
}

pub fn is_socket_file(path: &Path) -> Option<bool> {
    with(|kernel| {
        let address = Address::Path(path.into());
        kernel.names.contains_key(&(Protocol::Stream, address.clone()))
            || kernel.names.contains_key(&(Protocol::Datagram, address))
    })
}

/// Bytes that a read could take now, if the descriptor is a simulated one.
pub fn waiting(fd: &Fd) -> Option<usize> {
    if fd.raw() < FIRST {
        return None;
    }
    with(|kernel| kernel.find(fd.raw()).ok().and_then(|id| kernel.stream(id)).map_or(0, |stream| stream.rx.len()))
}

/// Has epoll report anew what is ready; whether the descriptor is a simulated one.
pub fn arm_again(fd: &Fd) -> bool {
    fd.raw() >= FIRST && with(|kernel| kernel.find(fd.raw()).map(|id| kernel.wake(id, 0))).is_some()
}

// ── Options ──────────────────────────────────────────────────────────────────────────────────────────────────

pub fn set<T: Copy>(fd: &Fd, level: libc::c_int, name: libc::c_int, value: &T) -> Option<io::Result<()>> {
    let int = if size_of::<T>() >= size_of::<libc::c_int>() {
        // SAFETY: at least an int's bytes are there; every option begins with an integer.
        unsafe { std::ptr::from_ref(value).cast::<libc::c_int>().read_unaligned() }
    } else {
        0
    };
    on(12, fd, unit, |kernel, id| match &mut kernel.node_mut(id).ok_or(libc::EBADF)?.what {
        What::Stream(stream) => set_on_stream(stream, level, name, int),
        What::Datagram(datagram) => {
            match (level, name) {
                (libc::SOL_SOCKET, libc::SO_REUSEADDR | libc::SO_REUSEPORT) => datagram.shared |= int != 0,
                (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) => {
                    datagram.packet_info = int != 0;
                }
                (libc::SOL_SOCKET, libc::SO_RCVBUF) => datagram.rx_limit = usize::try_from(int).unwrap_or(0),
                _ => {}
            }
            Ok(())
        }
        _ => Err(libc::ENOTSOCK),
    })
}

fn set_on_stream(stream: &mut Stream, level: libc::c_int, name: libc::c_int, int: libc::c_int) -> Result<(), Errno> {
    match (level, name) {
        (libc::IPPROTO_TCP, _) if stream.unix => return Err(libc::EOPNOTSUPP),
        (libc::SOL_SOCKET, libc::SO_LINGER) => stream.linger_zero = int != 0,
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => stream.reuse_port = int != 0,
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => stream.tx_limit = usize::try_from(int).unwrap_or(0).max(1),
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => stream.rx_limit = usize::try_from(int).unwrap_or(0).max(1),
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => stream.only_v6 = int != 0,
        _ => {}
    }
    Ok(())
}

pub fn get_int(fd: &Fd, name: libc::c_int) -> Option<io::Result<libc::c_int>> {
    on(
        13,
        fd,
        |int| *int as u64,
        |kernel, id| match (&mut kernel.node_mut(id).ok_or(libc::EBADF)?.what, name) {
            (What::Stream(stream), libc::SO_ERROR) => Ok(stream.take_error().unwrap_or(0)),
            (What::Stream(stream), libc::SO_ACCEPTCONN) => Ok(libc::c_int::from(stream.state == State::Listening)),
            (What::Stream(_), libc::SO_TYPE) => Ok(libc::SOCK_STREAM),
            (What::Datagram(_), libc::SO_TYPE) => Ok(libc::SOCK_DGRAM),
            (What::Stream(_) | What::Datagram(_), _) => Ok(0),
            _ => Err(libc::ENOTSOCK),
        },
    )
}

pub fn tcp_info(fd: &Fd) -> Option<io::Result<TcpInfo>> {
    on(
        14,
        fd,
        |_| 1,
        |kernel, id| {
            let rtt = kernel.weather.latency;
            let stream = kernel.stream(id).filter(|stream| !stream.unix).ok_or(libc::EOPNOTSUPP)?;
            Ok(TcpInfo {
                state: number_of_state(stream),
                rtt,
                rtt_variance: rtt / 2,
                retransmits: 0,
                send_mss: 1_448,
                congestion_window: 10,
                unacked: 0,
                unsent_bytes: stream.tx.len() as u64,
                delivery_rate: 0,
                bytes_acked: stream.sent - stream.tx.len() as u64,
                bytes_received: stream.arrived,
            })
        },
    )
}

/// Linux's numbers.
fn number_of_state(stream: &Stream) -> u8 {
    match (stream.state, stream.fin, stream.fin_received) {
        (State::Fresh | State::Closed, ..) => 7,
        (State::Listening, ..) => 10,
        (State::Connecting, ..) => 2,
        (State::Open, Fin::No, false) => 1,
        (State::Open, Fin::No, true) => 8,
        (State::Open, Fin::Queued, false) => 4,
        (State::Open, Fin::Queued, true) => 9,
        (State::Open, Fin::Delivered, _) => 5,
    }
}

pub fn fcntl(fd: &Fd, command: libc::c_int, _argument: libc::c_int) -> Option<io::Result<libc::c_int>> {
    let answer = if command == libc::F_GETFL { libc::O_RDWR | libc::O_NONBLOCK } else { 0 };
    on(15, fd, |_| 1, |_, _| Ok(answer))
}

// ── Datagrams ────────────────────────────────────────────────────────────────────────────────────────────────

pub fn receive(inbox: &mut Inbox, fd: &Fd, max: usize) -> Option<io::Result<usize>> {
    on(16, fd, size, |kernel, id| {
        risk(kernel, libc::ENOMEM)?;
        let told = kernel.datagram_mut(id).ok_or(libc::ENOTSOCK)?.packet_info;
        let mut failed = None;
        let filled = inbox.fill(max, || match kernel.take_datagram(id) {
            Ok(message) => {
                let to = message.to.ip().filter(|_| told).map(|to| to.ip());
                Some((message.data, message.from, to, LOOPBACK))
            }
            Err(errno) => {
                failed = Some(errno);
                None
            }
        });
        if filled == 0 { Err(failed.unwrap_or(libc::EAGAIN)) } else { Ok(filled) }
    })
}

pub fn send_batch(fd: &Fd, batch: &[Outgoing<'_>]) -> Option<io::Result<usize>> {
    on(17, fd, size, |kernel, id| {
        risk(kernel, libc::ENOBUFS)?;
        for (sent, outgoing) in batch.iter().enumerate() {
            match kernel.send_datagram(id, outgoing.to, outgoing.data) {
                Err(errno) if sent == 0 => return Err(errno),
                Err(_) => return Ok(sent),
                Ok(()) => {}
            }
        }
        Ok(batch.len())
    })
}

/// The number of the only interface.
const LOOPBACK: u32 = 1;

pub fn interfaces() -> Option<io::Result<Vec<Interface>>> {
    call(18, |_| {
        Ok(vec![Interface {
            index: LOOPBACK,
            name: "lo".into(),
            address: IpAddr::from([127, 0, 0, 1]),
            broadcast: None,
            loopback: true,
            up: true,
        }])
    })
}

// ── Readiness ────────────────────────────────────────────────────────────────────────────────────────────────

pub fn epoll_create() -> Option<io::Result<Epoll>> {
    let made = call(19, |kernel| {
        kernel.enter();
        let id = kernel.make(What::Epoll(poll::Ready::default()));
        kernel.install(id).map(own)
    });
    made.map(|fd| fd.map(Epoll::from_fd))
}

pub fn epoll_control(epoll: &Fd, operation: libc::c_int, fd: &Fd, flags: u32, data: u64) -> Option<io::Result<()>> {
    on(20, epoll, unit, |kernel, id| {
        if operation == libc::EPOLL_CTL_ADD && kernel.chance.once_in(kernel.weather.shortages) {
            return Err(libc::ENOSPC);
        }
        kernel.control(id, operation, fd.raw(), flags, data)
    })
}

pub fn epoll_wait(epoll: &Epoll, events: &mut [Event], timeout: Option<Duration>) -> Option<io::Result<usize>> {
    let fd = epoll.as_fd().as_raw_fd();
    if fd < FIRST {
        return None;
    }
    let deadline = with(|kernel| {
        kernel.enter();
        kernel.count_wait();
        timeout.map(|timeout| (Moment::from_nanos(kernel.now) + timeout).nanos())
    })?;
    loop {
        let waited = with(|kernel| {
            let epoll = kernel.find(fd)?;
            let mut told = 0u64;
            let waited = kernel.wait(epoll, events.len(), deadline, |n, flags, data| {
                events[n] = Event::new(flags, data);
                told = chance::mixed(told ^ u64::from(flags) ^ data << 8);
            });
            if !matches!(waited, Ok(Waited::Errand(_))) {
                kernel.leave(21, told);
            }
            waited
        })?;
        match waited {
            Ok(Waited::Events(n)) => return Some(Ok(n)),
            Ok(Waited::Errand(errand)) => errand(),
            Err(errno) => return Some(Err(io::Error::from_raw_os_error(errno))),
        }
    }
}

pub fn bell() -> Option<io::Result<Fd>> {
    call(22, |kernel| {
        kernel.enter();
        let id = kernel.make(What::Bell(0));
        kernel.install(id).map(own)
    })
}

pub fn ring(bell: &Fd) -> Option<io::Result<()>> {
    on(23, bell, unit, |kernel, id| kernel.ring(id))
}

// ── Descriptors, threads, names ──────────────────────────────────────────────────────────────────────────────

pub fn spare() -> Option<io::Result<Fd>> {
    call(24, |kernel| {
        kernel.enter();
        let id = kernel.make(What::Spare);
        kernel.install(id).map(own)
    })
}

/// A number of a kernel that is gone is nobody's, and nothing is to be done.
pub fn close(fd: RawFd) -> Option<()> {
    if fd < FIRST {
        return None;
    }
    with(|kernel| {
        kernel.enter();
        let closed = kernel.close(fd);
        debug_assert!(closed.is_ok(), "a descriptor has one owner: {fd} was closed behind its back");
        kernel.leave(25, fd as u64);
    });
    Some(())
}

/// Signals are the process's: the real ones come.
pub fn sigaction(_signum: libc::c_int) -> Option<io::Result<libc::sigaction>> {
    None
}

/// No thread is ever started for [`run_later`].
pub fn spawn() -> Option<io::Result<()>> {
    None
}

/// Runs offloaded work on this thread, at a time that chance decides. Gives it back if this thread's kernel is the
/// real one.
pub fn run_later(work: Box<dyn FnOnce() + Send>) -> Option<Box<dyn FnOnce() + Send>> {
    let mut work = Some(work);
    with(|kernel| {
        let longest = kernel.weather.latency.as_nanos() as u64 * 4;
        let at = kernel.now + 1 + kernel.chance.below(longest);
        if let Some(work) = work.take() {
            kernel.errand_at(at, work);
        }
    });
    work
}

pub fn look_up(host: &str, port: u16) -> Option<io::Result<Vec<SocketAddr>>> {
    call(26, |kernel| {
        let known = kernel.hosts.get(host).cloned();
        let literal = || host.parse::<IpAddr>().ok().map(|ip| vec![ip]);
        let local = || (host == "localhost").then(|| vec![IpAddr::from([127, 0, 0, 1])]);
        let addresses = known.or_else(literal).or_else(local).ok_or(libc::ENOENT)?;
        Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    })
}

// ── Clock and chance ─────────────────────────────────────────────────────────────────────────────────────────

pub fn now() -> Option<Moment> {
    with(|kernel| {
        kernel.enter();
        Moment::from_nanos(kernel.now)
    })
}

pub fn anchor() -> Option<(Instant, Moment)> {
    let moment = now()?;
    let epoch = KERNEL.with_borrow(|installed| installed.as_ref().map(|installed| installed.epoch))?;
    Some((epoch + Duration::from_nanos(moment.nanos()), moment))
}

/// Moves a simulated clock forward; whether this thread has one.
pub fn advance(time: Duration) -> bool {
    with(|kernel| kernel.now = (Moment::from_nanos(kernel.now) + time).nanos()).is_some()
}

pub fn seed() -> Option<u64> {
    with(|kernel| kernel.chance.draw())
}

/// Has something done when the clock says so; at once, if this thread's kernel is the real one.
pub fn errand(after: Duration, errand: Errand) {
    let mut errand = Some(errand);
    with(|kernel| {
        let at = (Moment::from_nanos(kernel.now) + after).nanos();
        if let Some(errand) = errand.take() {
            kernel.errand_at(at, errand);
        }
    });
}

/// send(2) with MSG_OOB.
#[cfg(test)]
pub fn send_urgent(fd: &Fd, bytes: &[u8]) -> Option<io::Result<usize>> {
    on(9, fd, size, |kernel, id| kernel.send(id, &[IoSlice::new(bytes)], true))
}
