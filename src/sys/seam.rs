//! The seam: the place behind every system call where something else than the kernel may answer.
//!
//! Each function of the ground floor that makes a system call begins with `seam!(name(arguments))`, which asks the
//! function of that name here, with the same arguments. Its answer, if there is one, is the call's. In a normal
//! build neither the line nor this file exists.
//!
//! ```text
//!   reactor ──► socket::recv ──► seam::recv ──┬─ Some(answer) ──────────► reactor
//!                    │                        │   a fault was planned
//!                    └──► recv(2) ◄── None ───┘
//! ```
//!
//! Where nothing is planned and this thread has a simulated kernel, that answers next (`sim`, by the same names).
//!
//! A call that is cut short comes through here twice: the second time with less to move, and the plan looks aside.
//!
//! The special problem of the shortened read: TCP never returns less than it has unless a mark or an end stands
//! behind it, so the loop takes a short read for the last one until the next edge. A fault must not break that
//! promise of the kernel, or it would find bugs that are not there. So after a cut the descriptor is armed
//! again, and the kernel reports what is left as a new edge: it is as if the rest had come a moment later. So it is
//! with a shortened write, which the kernel makes only of a buffer that is full, and tells when there is room again.

use super::address::Address;
use super::clock::{self, Moment};
use super::datagram::{self, Inbox, Interface, Outgoing};
use super::epoll::{Epoll, Event};
use super::fault::{self, Call, Fault, Part};
use super::options::TcpInfo;
use super::socket::{self, Family};
use super::{Fd, random};
use bytes::BytesMut;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// What epoll was asked to watch on this thread, by descriptor: the epoll descriptor, flags and data.
type Interests = HashMap<RawFd, (RawFd, u32, u64)>;

thread_local! {
    static INTERESTS: RefCell<Interests> = RefCell::default();
}

/// The planned errno of a call that cannot be cut.
fn failure<T>(call: Call) -> Option<io::Result<T>> {
    match fault::ask(call) {
        Some(Fault::Fail(errno)) => Some(Err(io::Error::from_raw_os_error(errno))),
        _ => None,
    }
}

/// The same of a call that can: `cut` makes it with less.
fn failure_or_cut<T>(call: Call, cut: impl FnOnce(Part) -> io::Result<T>) -> Option<io::Result<T>> {
    match fault::ask(call) {
        Some(Fault::Fail(errno)) => Some(Err(io::Error::from_raw_os_error(errno))),
        Some(Fault::Cut(part)) => Some(fault::aside(|| cut(part))),
        _ => None,
    }
}

// ── Sockets ──────────────────────────────────────────────────────────────────────────────────────────────────

pub fn create(_family: Family, _kind: libc::c_int) -> Option<io::Result<Fd>> {
    failure(Call::Socket)
}

pub fn bind(_fd: &Fd, _address: &Address) -> Option<io::Result<()>> {
    failure(Call::Bind)
}

pub fn listen(_fd: &Fd, _backlog: u32) -> Option<io::Result<()>> {
    failure(Call::Listen)
}

pub fn connect(_fd: &Fd, _address: &Address) -> Option<io::Result<()>> {
    failure(Call::Connect)
}

pub fn accept(_fd: &Fd) -> Option<io::Result<(Fd, Address)>> {
    failure(Call::Accept)
}

pub fn local_address(_fd: &Fd) -> Option<io::Result<Address>> {
    failure(Call::LocalAddress)
}

pub fn peer_address(_fd: &Fd) -> Option<io::Result<Address>> {
    failure(Call::PeerAddress)
}

pub fn recv(fd: &Fd, input: &mut BytesMut, limit: usize) -> Option<io::Result<usize>> {
    failure_or_cut(Call::Recv, |part| {
        let waiting = waiting(fd);
        let answer = socket::recv(fd, input, part.of(waiting).max(1).min(limit));
        if answer.as_ref().is_ok_and(|n| *n < waiting) {
            arm_again(fd);
        }
        answer
    })
}

pub fn send(fd: &Fd, bytes: &[u8]) -> Option<io::Result<usize>> {
    failure_or_cut(Call::Send, |part| {
        let room = part.of(bytes.len());
        cut_send(fd, bytes.len(), socket::send(fd, &bytes[..room]))
    })
}

pub fn send_vectored(fd: &Fd, slices: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
    failure_or_cut(Call::SendVectored, |part| {
        let whole = slices.iter().map(|slice| slice.len()).sum();
        let mut left = part.of(whole);
        let cut: Vec<_> = slices
            .iter()
            .map(|slice| {
                let length = slice.len().min(left);
                left -= length;
                IoSlice::new(&slice[..length])
            })
            .collect();
        cut_send(fd, whole, socket::send_vectored(fd, &cut))
    })
}

/// What was cut off a send is owed the edge that follows a full buffer.
fn cut_send(fd: &Fd, whole: usize, answer: io::Result<usize>) -> io::Result<usize> {
    if answer.as_ref().is_ok_and(|n| *n < whole) {
        arm_again(fd);
    }
    answer
}

pub fn shutdown_write(_fd: &Fd) -> Option<io::Result<()>> {
    failure(Call::Shutdown)
}

pub fn unlink(_path: &Path) -> Option<io::Result<()>> {
    failure(Call::Unlink)
}

pub fn is_socket_file(_path: &Path) -> Option<bool> {
    failure::<()>(Call::Stat).map(|_| false)
}

/// Bytes that could be read now.
fn waiting(fd: &Fd) -> usize {
    #[cfg(any(test, feature = "sim"))]
    if let Some(waiting) = super::sim::waiting(fd) {
        return waiting;
    }
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes an int, and `bytes` is one.
    unsafe { libc::ioctl(fd.raw(), libc::FIONREAD, &raw mut bytes) };
    usize::try_from(bytes).unwrap_or(0)
}

/// Has epoll report anew what is ready on `fd`.
fn arm_again(fd: &Fd) {
    #[cfg(any(test, feature = "sim"))]
    if super::sim::arm_again(fd) {
        return;
    }
    let Some((epoll, events, data)) = INTERESTS.with_borrow(|interests| interests.get(&fd.raw()).copied()) else {
        return;
    };
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: the kernel copies `event` before it returns; a descriptor that is not registered is an error.
    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd.raw(), &raw mut event) };
}

// ── Options ──────────────────────────────────────────────────────────────────────────────────────────────────

pub fn set<T: Copy>(_fd: &Fd, _level: libc::c_int, _name: libc::c_int, _value: &T) -> Option<io::Result<()>> {
    failure(Call::SetOption)
}

pub fn get_int(_fd: &Fd, name: libc::c_int) -> Option<io::Result<libc::c_int>> {
    if name != libc::SO_ERROR {
        return failure(Call::GetOption);
    }
    match fault::ask(Call::PendingError) {
        Some(Fault::Fail(libc::EACCES)) => Some(Err(io::Error::from_raw_os_error(libc::EACCES))),
        Some(Fault::Fail(errno)) => Some(Ok(errno)),
        _ => None,
    }
}

pub fn tcp_info(_fd: &Fd) -> Option<io::Result<TcpInfo>> {
    failure(Call::GetOption)
}

pub fn fcntl(_fd: &Fd, _command: libc::c_int, _argument: libc::c_int) -> Option<io::Result<libc::c_int>> {
    failure(Call::Fcntl)
}

// ── Datagrams ────────────────────────────────────────────────────────────────────────────────────────────────

pub fn receive(inbox: &mut Inbox, fd: &Fd, max: usize) -> Option<io::Result<usize>> {
    failure_or_cut(Call::ReceiveBatch, |part| {
        let answer = inbox.receive(fd, part.of(max));
        arm_again(fd);
        answer
    })
}

pub fn send_batch(fd: &Fd, batch: &[Outgoing<'_>]) -> Option<io::Result<usize>> {
    failure_or_cut(Call::SendBatch, |part| {
        let room = part.of(batch.len());
        cut_send(fd, batch.len(), datagram::send_batch(fd, &batch[..room]))
    })
}

pub fn interfaces() -> Option<io::Result<Vec<Interface>>> {
    failure(Call::Interfaces)
}

// ── Readiness ────────────────────────────────────────────────────────────────────────────────────────────────

pub fn epoll_create() -> Option<io::Result<Epoll>> {
    failure(Call::EpollCreate)
}

pub fn epoll_control(epoll: &Fd, operation: libc::c_int, fd: &Fd, flags: u32, data: u64) -> Option<io::Result<()>> {
    let failure = failure(match operation {
        libc::EPOLL_CTL_ADD => Call::EpollAdd,
        libc::EPOLL_CTL_MOD => Call::EpollModify,
        _ => Call::EpollRemove,
    });
    if failure.is_none() {
        INTERESTS.with_borrow_mut(|interests| match operation {
            libc::EPOLL_CTL_DEL => interests.remove(&fd.raw()),
            _ => interests.insert(fd.raw(), (epoll.raw(), flags, data)),
        });
    }
    failure
}

/// A cut wait tells of fewer events than there are; the kernel keeps the others.
pub fn epoll_wait(epoll: &Epoll, events: &mut [Event], timeout: Option<Duration>) -> Option<io::Result<usize>> {
    failure_or_cut(Call::EpollWait, |part| {
        let room = part.of(events.len());
        epoll.wait(&mut events[..room], timeout)
    })
}

pub fn bell() -> Option<io::Result<Fd>> {
    failure(Call::Bell)
}

pub fn ring(_bell: &Fd) -> Option<io::Result<()>> {
    failure(Call::Ring)
}

// ── Descriptors, signals, threads, names ─────────────────────────────────────────────────────────────────────

pub fn spare() -> Option<io::Result<Fd>> {
    failure(Call::Spare)
}

/// Counted, and perhaps late, and never failed: Linux has closed the descriptor before it can fail.
pub fn close(fd: RawFd) -> Option<()> {
    // A descriptor may be closed while the thread ends.
    let _ = INTERESTS.try_with(|interests| interests.borrow_mut().remove(&fd));
    fault::ask(Call::Close);
    None
}

pub fn sigaction(_signum: libc::c_int) -> Option<io::Result<libc::sigaction>> {
    failure(Call::SetSignal)
}

pub fn spawn() -> Option<io::Result<()>> {
    failure(Call::Spawn)
}

pub fn look_up(_host: &str, _port: u16) -> Option<io::Result<Vec<SocketAddr>>> {
    failure(Call::Resolve)
}

// ── Clock and chance ─────────────────────────────────────────────────────────────────────────────────────────

pub fn now() -> Option<Moment> {
    let ahead = fault::ahead();
    if ahead.is_zero() { None } else { Some(clock::read() + ahead) }
}

pub fn anchor() -> Option<(Instant, Moment)> {
    let moment = now()?;
    Some((Instant::now() + fault::ahead(), moment))
}

pub fn seed() -> Option<u64> {
    failure::<()>(Call::Random).map(|_| random::second_best())
}
