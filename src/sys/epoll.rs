//! epoll(7): the kernel's list of what is ready.
//!
//! ```text
//!   add(fd, flags, data) ──► ┌ interest ───────────┐      ┌ ready ─────────┐
//!                            │ fd 5  IN OUT  3·0   │ ───► │ IN      3·0    │ ──► wait ──► [Event]
//!   remove(fd) ────────────► │ fd 9  IN      4·17  │      └────────────────┘
//!                            └─────────────────────┘
//! ```
//!
//! The 64 bits of `data` belong to the caller and come back with every event; they hold a token here, never a
//! descriptor, since a descriptor may have changed hands between the event and its delivery.
//!
//! Timeouts are exact to the nanosecond where the kernel can (epoll_pwait2, Linux 5.11) and otherwise rounded
//! **up** to milliseconds, for a wait that ends too early ends in a loop that spins until the deadline is
//! really there.

use super::{Fd, check};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes, a connection to accept, or an end of stream may be read.
pub const IN: u32 = libc::EPOLLIN as u32;
/// Bytes may be written, or a connection attempt is over.
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// TCP's urgent byte has come.
pub const PRI: u32 = libc::EPOLLPRI as u32;
/// The peer has ended its half of the stream.
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
/// An error is pending; reported without being asked for.
pub const ERR: u32 = libc::EPOLLERR as u32;
/// Both halves have ended; reported without being asked for. Unread bytes may be left.
pub const HUP: u32 = libc::EPOLLHUP as u32;
/// Report changes instead of states. What is ready at the time of [`Epoll::add`] or [`Epoll::modify`] counts as
/// a change.
pub const EDGE: u32 = libc::EPOLLET as u32;

/// One line of what [`Epoll::wait`] found.
///
/// The kernel's own layout, which on x86-64 is packed: fields are copied out and never borrowed.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Event(libc::epoll_event);

impl Event {
    /// To fill the array that [`Epoll::wait`] writes to.
    pub const EMPTY: Event = Event(libc::epoll_event { events: 0, u64: 0 });

    /// As the kernel would write it.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn new(flags: u32, data: u64) -> Event {
        Event(libc::epoll_event { events: flags, u64: data })
    }

    /// What is ready: [`IN`], [`OUT`], [`PRI`], [`RDHUP`], [`ERR`], [`HUP`].
    #[inline]
    pub fn flags(&self) -> u32 {
        self.0.events
    }

    /// The number given to [`Epoll::add`] or [`Epoll::modify`].
    #[inline]
    pub fn data(&self) -> u64 {
        self.0.u64
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({:#x}, {})", self.flags(), self.data())
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll {
    fd: Fd,
}

/// Whether this kernel, or a sandbox around us, has once declined epoll_pwait2. True of the process, hence static.
/// A stale reading costs one more declined call, so no ordering is asked of it.
static COARSE: AtomicBool = AtomicBool::new(false);

impl Epoll {
    /// An instance without interests, closed on exec.
    ///
    /// # Errors
    /// EMFILE (also the limit `max_user_instances`), ENFILE or ENOMEM.
    pub fn create() -> io::Result<Epoll> {
        seam!(epoll_create());
        // SAFETY: takes a number.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made it for us.
        Ok(Epoll { fd: unsafe { Fd::from_new(fd) } })
    }

    /// An instance that is there already.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn from_fd(fd: Fd) -> Epoll {
        Epoll { fd }
    }

    /// Asks for `flags` of `fd`, to be reported with `data`.
    ///
    /// # Errors
    /// EEXIST: registered already. EPERM: a kind that cannot be waited for, such as a regular file. ENOMEM;
    /// ENOSPC: the limit `max_user_watches`.
    pub fn add(&self, fd: &Fd, flags: u32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, flags, data)
    }

    /// Replaces flags and data; for an edge-triggered descriptor also asks to hear again of what is ready now.
    ///
    /// # Errors
    /// ENOENT: not registered.
    pub fn modify(&self, fd: &Fd, flags: u32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, flags, data)
    }

    /// Forgets `fd`. Closing a descriptor does the same, but only once no duplicate of it is left in any process.
    ///
    /// # Errors
    /// ENOENT: not registered.
    pub fn remove(&self, fd: &Fd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: libc::c_int, fd: &Fd, flags: u32, data: u64) -> io::Result<()> {
        seam!(epoll_control(&self.fd, operation, fd, flags, data));
        let mut event = libc::epoll_event { events: flags, u64: data };
        // SAFETY: both descriptors are open, since they are borrowed, and the kernel copies `event` before it
        // returns.
        check(unsafe { libc::epoll_ctl(self.fd.raw(), operation, fd.raw(), &raw mut event) }).map(drop)
    }

    /// Waits until something is ready or `timeout` is over (`None`: for ever), and writes what is ready to the
    /// front of `events`. The answer is how many; zero means that the time is over, which is never told early.
    /// More than fit are told by the next call, in turn.
    ///
    /// # Errors
    /// EINTR: a signal was handled. EINVAL: `events` is empty.
    #[inline]
    pub fn wait(&self, events: &mut [Event], timeout: Option<Duration>) -> io::Result<usize> {
        seam!(epoll_wait(self, events, timeout));
        match timeout {
            None => self.wait_ms(events, -1),
            Some(Duration::ZERO) => self.wait_ms(events, 0),
            Some(timeout) => self.wait_precisely(events, timeout),
        }
    }

    #[inline]
    fn wait_ms(&self, events: &mut [Event], timeout_ms: libc::c_int) -> io::Result<usize> {
        // SAFETY: `Event` is transparent over `epoll_event`, and the kernel writes at most `capacity` of them to
        // the borrowed slice. Any bits are a valid event.
        let answer =
            unsafe { libc::epoll_wait(self.fd.raw(), events.as_mut_ptr().cast(), capacity(events), timeout_ms) };
        check(answer).map(|n| n as usize)
    }

    fn wait_precisely(&self, events: &mut [Event], timeout: Duration) -> io::Result<usize> {
        if COARSE.load(Ordering::Relaxed) {
            return self.wait_ms(events, milliseconds_rounded_up(timeout));
        }
        match self.wait_ns(events, timeout) {
            // ENOSYS is an old kernel. EPERM is not among the call's own errors: it is how some sandboxes answer to
            // calls that are newer than their list.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                COARSE.store(true, Ordering::Relaxed);
                self.wait_ms(events, milliseconds_rounded_up(timeout))
            }
            answer => answer,
        }
    }

    /// Called by number, since a C library older than glibc 2.35 has no name for it.
    fn wait_ns(&self, events: &mut [Event], timeout: Duration) -> io::Result<usize> {
        let timeout = KernelTimespec {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: timeout.subsec_nanos().into(),
        };
        // SAFETY: as for `wait_ms`; `timeout` has the layout of the kernel's 64-bit timespec on every
        // architecture and outlives the call; the null signal mask stands for "leave it", and its size is then
        // not looked at.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.raw(),
                events.as_mut_ptr(),
                capacity(events),
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        check(answer as libc::c_int).map(|n| n as usize)
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct __kernel_timespec`: 64 bits wide where libc's `timespec` may still be 32.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// A slice too long for the kernel's `int` would at worst be announced shorter than it is, never longer.
#[inline]
fn capacity(events: &[Event]) -> libc::c_int {
    debug_assert!(i32::try_from(events.len()).is_ok(), "two billion events are not asked for at once");
    (events.len() & i32::MAX as usize) as libc::c_int
}

/// Longer than 24 days is cut to that: the caller finds that its deadline is not there yet and waits again.
fn milliseconds_rounded_up(timeout: Duration) -> libc::c_int {
    timeout.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::event;
    use super::*;
    use std::time::Instant;

    /// Long enough for any machine, short enough to fail a test rather than hang it.
    const SOON: Option<Duration> = Some(Duration::from_secs(10));

    fn with_a_bell(flags: u32) -> (Epoll, Fd) {
        let epoll = Epoll::create().unwrap();
        let bell = event::create().unwrap();
        epoll.add(&bell, flags, 0xfeed_0000_0000_0007).unwrap();
        (epoll, bell)
    }

    #[test]
    fn a_wait_below_a_millisecond_is_not_early() {
        let epoll = Epoll::create().unwrap();
        let mut events = [Event::EMPTY; 4];
        for microseconds in [1, 50, 300, 999, 1_000, 1_001] {
            let timeout = Duration::from_micros(microseconds);
            for _ in 0..20 {
                let start = Instant::now();
                assert_eq!(epoll.wait(&mut events, Some(timeout)).unwrap(), 0);
                assert!(start.elapsed() >= timeout, "{timeout:?}");
            }
        }
    }

    #[test]
    fn without_nanoseconds_a_wait_is_rounded_up() {
        assert_eq!(milliseconds_rounded_up(Duration::from_nanos(1)), 1);
        assert_eq!(milliseconds_rounded_up(Duration::from_millis(1)), 1);
        assert_eq!(milliseconds_rounded_up(Duration::from_nanos(1_000_001)), 2);
        assert_eq!(milliseconds_rounded_up(Duration::MAX), i32::MAX);
    }

    #[test]
    fn the_longest_timeout_there_is_does_not_overflow() {
        let (epoll, bell) = with_a_bell(IN);
        event::ring(&bell).unwrap();
        let mut events = [Event::EMPTY; 4];
        assert_eq!(epoll.wait(&mut events, Some(Duration::MAX)).unwrap(), 1);
        assert_eq!(epoll.wait(&mut events, None).unwrap(), 1);
    }

    #[test]
    fn flags_and_data_come_back_whole() {
        let (epoll, bell) = with_a_bell(IN);
        let mut events = [Event::EMPTY; 4];
        assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        event::ring(&bell).unwrap();
        assert_eq!(epoll.wait(&mut events, SOON).unwrap(), 1);
        assert_eq!((events[0].flags(), events[0].data()), (IN, 0xfeed_0000_0000_0007));
        epoll.modify(&bell, IN | OUT, u64::MAX).unwrap();
        assert_eq!(epoll.wait(&mut events, SOON).unwrap(), 1);
        assert_eq!((events[0].flags(), events[0].data()), (IN | OUT, u64::MAX));
        epoll.remove(&bell).unwrap();
        assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn every_ring_is_an_edge_even_if_nobody_reads_the_counter() {
        let (epoll, bell) = with_a_bell(IN | EDGE);
        let mut events = [Event::EMPTY; 4];
        for _ in 0..3 {
            event::ring(&bell).unwrap();
            assert_eq!(epoll.wait(&mut events, SOON).unwrap(), 1);
            assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        }
    }

    #[test]
    fn errors_are_the_kernels_own() {
        let (epoll, bell) = with_a_bell(IN);
        assert_eq!(epoll.add(&bell, IN, 0).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        epoll.remove(&bell).unwrap();
        assert_eq!(epoll.remove(&bell).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(epoll.modify(&bell, IN, 0).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(epoll.wait(&mut [], None).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
