//! A descriptor with one owner.
//!
//! A descriptor is a number that the kernel hands out again the moment it is closed, so closing twice closes a
//! stranger. [`Fd`] has one owner and closes once, when it is dropped, through one private function. That is
//! all it adds to `OwnedFd`: a single place where the crate closes anything, for faults and a simulated kernel
//! to stand.
//!
//! It is four bytes, and so is `Option<Fd>`, because −1 is never a descriptor.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// An open descriptor; closed when dropped.
///
/// Its way in and out is `OwnedFd`, which every socket of the standard library converts to and from:
/// `Fd::from(OwnedFd::from(listener))`, `TcpStream::from(fd.into_owned())`.
pub struct Fd(ManuallyDrop<OwnedFd>);

impl Fd {
    /// Takes over a descriptor from the standard library.
    pub fn from_owned(fd: OwnedFd) -> Fd {
        Fd(ManuallyDrop::new(fd))
    }

    /// Takes over a number that a system call has just returned.
    ///
    /// # Safety
    /// `fd` is open and nothing else will close it.
    #[inline]
    pub(super) unsafe fn from_new(fd: RawFd) -> Fd {
        // SAFETY: open and unowned, as this function's caller guarantees.
        Fd(ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Hands the descriptor to the standard library, which closes it from now on.
    pub fn into_owned(self) -> OwnedFd {
        let raw = self.raw();
        // Not dropped here: the number changes hands while it stays open.
        let _ = ManuallyDrop::new(self);
        // SAFETY: open, because it was ours until now; ours no longer, because the line above forgot it.
        unsafe { OwnedFd::from_raw_fd(raw) }
    }

    /// The number, for a system call or for a log. It names this descriptor only while `self` lives.
    #[inline]
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd::from_owned(fd)
    }
}

impl AsFd for Fd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fd({})", self.raw())
    }
}

impl Drop for Fd {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own it, and `drop` runs once.
        unsafe { close_raw(self.raw()) }
    }
}

/// Closes `fd`. The error is ignored, and the call is never repeated.
///
/// Linux takes the number out of the table before it does anything that can fail or be interrupted. So after EINTR
/// or EIO the descriptor *is* closed, and by the time of a second try the number may already belong to a socket
/// that another thread has opened. Nor does an error tell us anything about a socket: bytes that the peer did not
/// get are reported by a later packet, not by close. POSIX leaves the state open; close(2), "Dealing with error
/// returns from close()", does not.
///
/// # Safety
/// The caller owns `fd` and does not use it afterwards.
unsafe fn close_raw(fd: RawFd) {
    seam!(close(fd));
    // SAFETY: any number may be passed to close; that this one is ours to close is the caller's guarantee.
    let answer = unsafe { libc::close(fd) };
    debug_assert!(
        answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EBADF),
        "a descriptor has one owner: {fd} was closed behind its back"
    );
}

/// A descriptor to keep in reserve. When the process has run out of them (EMFILE), closing this one makes room to
/// accept one waiting peer and turn it away, instead of leaving it and all behind it in the backlog.
///
/// It is `/dev/null`, which costs no memory worth naming and needs no permission.
///
/// # Errors
/// EMFILE or ENFILE: there was no descriptor left to keep. ENOENT: a root directory without `/dev`.
pub fn spare() -> io::Result<Fd> {
    seam!(spare());
    // The standard library opens with O_CLOEXEC.
    File::open("/dev/null").map(|file| Fd::from_owned(file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_absent_descriptor_costs_no_more_than_a_present_one() {
        assert_eq!(size_of::<Fd>(), 4);
        assert_eq!(size_of::<Option<Fd>>(), 4);
    }

    #[test]
    fn sockets_of_the_standard_library_come_and_go() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = UnixStream::from(Fd::from(OwnedFd::from(ours)).into_owned());
        std::io::Write::write_all(&mut ours, b"x").unwrap();
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 1);
    }

    #[test]
    fn dropping_closes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        drop(Fd::from_owned(ours.into()));
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn giving_the_descriptor_away_does_not_close_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let owned = Fd::from_owned(ours.into()).into_owned();
        theirs.set_nonblocking(true).unwrap();
        assert_eq!((&theirs).read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(owned);
        assert_eq!((&theirs).read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn the_spare_is_not_inherited_by_programs_we_start() {
        let fd = spare().unwrap();
        // SAFETY: F_GETFD takes no pointer.
        let flags = unsafe { libc::fcntl(fd.raw(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}
