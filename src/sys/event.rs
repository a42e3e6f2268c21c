//! The bell: an eventfd, which another thread or a signal handler rings to end the loop's sleep.
//!
//! A pipe would do, with two descriptors, a buffer of 64 KiB and the question what to do when it is full. An
//! eventfd is a 64-bit counter: ringing adds one, however often, and epoll reports that it is not zero.
//!
//! ```text
//!   mailbox.post ──┐                       ┌── edge-triggered: each ring is a new edge, nothing needs to be read
//!   signal handler ┴─► counter += 1 ─ IN ──┴── level-triggered: ready until somebody reads it
//! ```
//!
//! The bell carries no message. What is to be done lies elsewhere (a mailbox, a pending flag), and is put there
//! *before* the bell is rung.

use super::{Fd, check, count};
use std::io;

/// A bell that has not been rung: non-blocking, closed on exec.
///
/// # Errors
/// EMFILE, ENFILE or ENOMEM.
pub fn create() -> io::Result<Fd> {
    seam!(bell());
    // SAFETY: takes two numbers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { Fd::from_new(fd) })
}

/// Rings: whoever waits for `bell` wakes up. Any thread may call it.
///
/// A counter that is full (2⁶⁴ − 2, which ringing by ones does not reach) has been rung and not been read, and
/// whoever sleeps on it level-triggered is awake already: EAGAIN is success.
///
/// # Errors
/// Those of write(2), which on a living eventfd are none; EINTR as it is.
pub fn ring(bell: &Fd) -> io::Result<()> {
    seam!(ring(bell));
    match count(write_one(bell.raw())) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// The write itself, with nothing around it that a signal handler might not do.
#[inline]
pub(super) fn write_one(bell: std::os::fd::RawFd) -> libc::ssize_t {
    let one: u64 = 1;
    // SAFETY: the pointer and the length describe `one`, which outlives the call; a bad descriptor is an error,
    // not a fault.
    unsafe { libc::write(bell, (&raw const one).cast(), size_of::<u64>()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The number of rings since the last reading; none are an error (EAGAIN).
    pub fn rings(bell: &Fd) -> io::Result<u64> {
        let mut value = 0u64;
        // SAFETY: the pointer and the length describe `value`.
        let n = count(unsafe { libc::read(bell.raw(), (&raw mut value).cast(), 8) })?;
        assert_eq!(n, 8);
        Ok(value)
    }

    #[test]
    fn rings_add_up_until_they_are_read() {
        let bell = create().unwrap();
        assert_eq!(rings(&bell).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for _ in 0..3 {
            ring(&bell).unwrap();
        }
        assert_eq!(rings(&bell).unwrap(), 3);
        assert_eq!(rings(&bell).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn ringing_a_full_counter_is_no_error() {
        let bell = create().unwrap();
        let full = u64::MAX - 1;
        // SAFETY: the pointer and the length describe `full`.
        assert_eq!(unsafe { libc::write(bell.raw(), (&raw const full).cast(), 8) }, 8);
        ring(&bell).unwrap();
        assert_eq!(rings(&bell).unwrap(), full);
    }
}
