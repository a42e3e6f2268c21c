//! The ground floor: every system call, every descriptor and every clock reading of the crate.
//!
//! The problem solved here is *containment*. The kernel speaks in raw pointers, lengths, numbers that get
//! reused and a thread-local error code; the floors above speak in slices, [`Fd`]s, [`Address`]es and
//! `io::Result`. The border between the two runs through this directory and nowhere else, which is why the only
//! `unsafe` is here.
//!
//! ```text
//!   reactor, gates          Fd, Address, Event, io::Result            safe, no errno, no libc
//!  ───────────────────────────────┬─────────────────────────────────────────────────────────────
//!   sys       fd  epoll  event  signal            descriptors, readiness, bells
//!             socket  options  errno              streams
//!             datagram  control  multicast        datagrams
//!             address  sockaddr  interface        places
//!             clock  random  thread               what makes one run differ from the next
//!             fault  seam  sim                    who may answer in the kernel's place (tests only)
//!  ───────────────────────────────┬─────────────────────────────────────────────────────────────
//!   kernel                  int, void *, socklen_t, errno             any call may fail
//! ```
//!
//! The rules that are kept:
//!
//! - **One call, one function.** A system call is made in one place, so that a fault or a simulated kernel can be
//!   put behind that place and the floors above cannot tell.
//! - **Errno untouched.** A failure is `io::Error::last_os_error()`, taken at once. `EINTR` and `EAGAIN` come back as
//!   they are: whether to retry, to wait or to give up is the caller's knowledge. Three functions differ and say
//!   why: the close behind [`Fd`] is never retried, [`event::ring`] treats a full counter as rung, and
//!   [`address::resolve`] retries what a signal interrupted.
//! - **Every descriptor is born `CLOEXEC`**, and every socket non-blocking: there is no moment at which another
//!   thread's `exec` could inherit one.
//! - **No policy.** Nothing here logs, counts, keeps a queue or looks above this directory.
//!
//! What a mistaken length from the kernel could break is checked here as well; what a peer sends is not looked at.
#![allow(unsafe_code)]

/// The first line of a function that makes a system call: a fault plan, or a
/// simulated kernel, may answer in place of the real one.
#[cfg(any(test, feature = "fault"))]
macro_rules! seam {
    ($call:ident($($argument:expr),*)) => {
        if let Some(answer) = $crate::sys::seam::$call($($argument),*) {
            return answer;
        }
        #[cfg(any(test, feature = "sim"))]
        if let Some(answer) = $crate::sys::sim::$call($($argument),*) {
            return answer;
        }
    };
}

/// Nothing: a normal build has no such plan.
#[cfg(not(any(test, feature = "fault")))]
macro_rules! seam {
    ($call:ident($($argument:expr),*)) => {};
}

pub mod address;
pub mod clock;
mod control;
pub mod datagram;
pub mod epoll;
pub mod errno;
pub mod event;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
pub mod fd;
mod interface;
mod multicast;
mod options;
pub mod random;
#[cfg(any(test, feature = "fault"))]
mod seam;
pub mod signal;
pub mod signum;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sockaddr;
pub mod socket;
pub mod thread;

pub use address::{Address, ToAddress};
pub use fd::Fd;
pub use options::{KeepAlive, TcpInfo};

use std::io;

/// The result of a call that answers −1 on failure and otherwise something that is not negative.
#[inline]
fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The result of a call that answers −1 on failure and otherwise a number of bytes.
#[inline]
fn count(answer: libc::ssize_t) -> io::Result<usize> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as usize) }
}
