//! What an error means to a loop.
//!
//! `io::ErrorKind` has names for what ends a connection and for "not now". For errors that ask for another
//! answer than these it has none, and the floors above do not speak errno: here are the questions that they ask
//! instead.
//!
//! The rule that is kept: an error that nobody has thought of gets the answer that cannot spin. For a listener that
//! is to try again later, for a datagram to give it up.

use std::io;

/// What a failed accept says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// A signal was handled: try again.
    Interrupted,
    /// Nobody waits.
    Empty,
    /// The connection that waited is gone, or the network reports an error about it; there may be others.
    Peer,
    /// No descriptor is left, in the process or in the machine. Told even if nobody waits.
    Descriptors,
    /// No memory now, and no event will tell when there is.
    Memory,
    /// It is the listener itself, or something unknown: the next call would say the same.
    Broken,
}

/// See accept(2), "Error handling".
///
/// EPERM is told of a peer that a firewall rule forbids, but also by a security module that has not taken the
/// connection from the queue, where it stays and is reported again: whoever skips it bounds how often.
pub fn classify_accept(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        Some(libc::EINTR) => AcceptError::Interrupted,
        Some(libc::EAGAIN) => AcceptError::Empty,
        Some(libc::EMFILE | libc::ENFILE) => AcceptError::Descriptors,
        Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
        Some(libc::ECONNABORTED | libc::ECONNRESET | libc::ETIMEDOUT) => AcceptError::Peer,
        Some(libc::EPERM | libc::EPROTO | libc::ENOPROTOOPT | libc::EOPNOTSUPP) => AcceptError::Peer,
        Some(libc::ENONET | libc::ENETDOWN) => AcceptError::Peer,
        Some(libc::EHOSTDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH) => AcceptError::Peer,
        _ => AcceptError::Broken,
    }
}

/// What a failed batch of datagrams says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramError {
    /// A signal was handled: try again.
    Interrupted,
    /// An earlier datagram did not arrive. The network told it to the socket, which tells it once, to whoever
    /// asks next; this datagram has not been looked at.
    Earlier,
    /// The send buffer is full; OUT will tell when it is not. For a receive: nothing waits.
    Full,
    /// No memory now, and no event will tell when there is.
    Memory,
    /// It is this datagram: too long, no route, no such receiver. The next call would say the same.
    This,
}

/// See udp(7), "Errors", and unix(7).
///
/// Only what a send can never say about its own datagram is `Earlier`. ECONNREFUSED is not: on UDP it is about
/// an earlier one, but on a Unix socket it means that *this* receiver is gone, for good. One datagram too many
/// is dropped rather than one offered for ever.
pub fn classify_datagram(error: &io::Error) -> DatagramError {
    match error.raw_os_error() {
        Some(libc::EINTR) => DatagramError::Interrupted,
        Some(libc::EAGAIN) => DatagramError::Full,
        Some(libc::ENOBUFS | libc::ENOMEM) => DatagramError::Memory,
        Some(libc::EPROTO | libc::ENOPROTOOPT | libc::ENONET | libc::EHOSTDOWN) => DatagramError::Earlier,
        _ => DatagramError::This,
    }
}

/// Whether the kernel was out of memory for this call (ENOBUFS, ENOMEM). The socket is as it was, and since
/// nothing about *it* will change no event will come: try again after a while.
#[inline]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

/// Whether a connection attempt has begun, and OUT will tell that it is over: EINPROGRESS; EALREADY and EISCONN
/// when a call that a signal had interrupted is made again.
#[inline]
pub fn is_in_progress(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EALREADY | libc::EISCONN))
}

/// What the kernel says of a connection that nobody took (ECONNREFUSED).
pub fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn every_meaning_has_its_errors() {
        assert_eq!(classify_accept(&error(libc::EINTR)), AcceptError::Interrupted);
        assert_eq!(classify_accept(&error(libc::EAGAIN)), AcceptError::Empty);
        assert_eq!(classify_accept(&error(libc::ECONNABORTED)), AcceptError::Peer);
        assert_eq!(classify_accept(&error(libc::EMFILE)), AcceptError::Descriptors);
        assert_eq!(classify_accept(&error(libc::ENFILE)), AcceptError::Descriptors);
        assert_eq!(classify_datagram(&error(libc::EINTR)), DatagramError::Interrupted);
        assert_eq!(classify_datagram(&error(libc::EAGAIN)), DatagramError::Full);
        assert_eq!(classify_datagram(&error(libc::EHOSTDOWN)), DatagramError::Earlier);
        for errno in [libc::EMSGSIZE, libc::ENETUNREACH, libc::ECONNREFUSED, libc::ENOENT, libc::EACCES] {
            assert_eq!(classify_datagram(&error(errno)), DatagramError::This);
        }
        assert!(is_in_progress(&error(libc::EINPROGRESS)) && !is_in_progress(&error(libc::EAGAIN)));
        assert_eq!(refused().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_shortage_is_one_whoever_asks() {
        for errno in 0..200 {
            let error = error(errno);
            assert_eq!(classify_accept(&error) == AcceptError::Memory, is_shortage(&error), "errno {errno}");
            assert_eq!(classify_datagram(&error) == DatagramError::Memory, is_shortage(&error), "errno {errno}");
        }
    }

    #[test]
    fn an_unknown_error_gets_the_answer_that_cannot_spin() {
        for error in [error(libc::EBADF), error(libc::EINVAL), error(4_000), io::ErrorKind::InvalidInput.into()] {
            assert_eq!(classify_accept(&error), AcceptError::Broken);
            assert_eq!(classify_datagram(&error), DatagramError::This);
        }
    }
}
