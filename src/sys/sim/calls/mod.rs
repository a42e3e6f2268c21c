//! The functions of the ground floor once more, by the same names: what `seam!` asks when this thread has a simulated
//! kernel.
//!
//! Each looks whether the call is one for the simulated kernel at all: if it makes a descriptor, always; if it is on
//! one, when that is a simulated one. `None` sends the caller on to the real kernel. What the kernel answers becomes
//! an `io::Error`, and a number in the trace, by which two runs are compared.
//!
//! ```text
//!   socket     streams, and what they have in common with datagrams       options    what can be set and asked
//!   datagram   many messages in one call                                  readiness  epoll and the bell
//!   here       the rest: descriptors, threads, names, clock and chance
//! ```

mod datagram;
mod options;
mod readiness;
mod socket;

pub use datagram::*;
pub use options::*;
pub use readiness::*;
pub use socket::*;

use super::kernel::{Errno, FIRST, Id, Kernel, What};
use super::with;
use crate::sys::Fd;
use crate::sys::clock::Moment;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Instant;

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

/// A call on a descriptor may be interrupted, or find no memory.
fn risk(kernel: &mut Kernel, shortage: Errno) -> Result<(), Errno> {
    if kernel.chance.once_in(kernel.weather.interrupts) {
        return Err(libc::EINTR);
    }
    if kernel.chance.once_in(kernel.weather.shortages) { Err(shortage) } else { Ok(()) }
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

/// No thread is ever started for [`run_later`](super::run_later).
pub fn spawn() -> Option<io::Result<()>> {
    None
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
    Some((super::public_instant(moment)?, moment))
}

pub fn seed() -> Option<u64> {
    with(|kernel| kernel.chance.draw())
}
