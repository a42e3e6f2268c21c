//! Signals, turned into a flag and the ring of a bell.
//!
//! A signal handler runs between two instructions of whatever the process was doing, perhaps inside malloc with
//! its lock held. So ours does the three things that are always allowed: it sets an atomic flag, writes to an
//! eventfd and leaves errno as it was. The loop wakes up, takes the flag and runs the real handler at a time of
//! its own.
//!
//! ```text
//!   kernel ──SIGTERM──► on_signal ──► PENDING[15] = true          take_pending(15) ──► closures
//!                           └───────► write(BELL[15], 1) ── epoll ──┘
//! ```
//!
//! The rules: one signal has one bell; a signal that comes twice before the loop looks is reported once, as the
//! kernel itself would; the process's signal mask is never touched, so nothing that we start inherits one
//! (which is why this is not a signalfd). What was in force before [`catch`] is in force again after
//! [`release`].
//!
//! Dispositions belong to the process, not to a reactor: these functions may be called from any thread, and a
//! lock that the handler does not know of keeps two of them apart.

use super::{Fd, check, event};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One past the highest signal number, 64 on Linux.
const SIGNALS: usize = 65;

/// No bell: the signal is not caught.
const SILENT: i32 = -1;

/// Signals that came and have not been taken.
static PENDING: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];

/// The eventfd to ring for each signal. Written only under the lock of `PREVIOUS`.
static BELL: [AtomicI32; SIGNALS] = [const { AtomicI32::new(SILENT) }; SIGNALS];

/// How many handlers run at this moment: any of them may hold the number of a bell.
static RINGING: AtomicU32 = AtomicU32::new(0);

/// What to go back to, for each caught signal.
static PREVIOUS: Mutex<[Option<libc::sigaction>; SIGNALS]> = Mutex::new([None; SIGNALS]);

/// How often [`release`] yields to let handlers finish. They need two microseconds; one that has not finished
/// after so many turns is a copy that fork(2) left in our memory, and will never.
const YIELDS_LIMIT: u32 = 100_000;

/// Makes the process deaf to `signum`. If a bell holds the signal, it keeps it, and [`release`] goes back to
/// deafness.
///
/// The disposition survives exec(2): programs that we start are deaf to it as well, unless they are told otherwise.
///
/// # Errors
/// EINVAL: no such signal, or one that cannot be ignored (SIGKILL, SIGSTOP).
pub fn ignore(signum: i32) -> io::Result<()> {
    let index = index_of(signum)?;
    let mut previous = lock();
    let deaf = action(libc::SIG_IGN);
    if previous[index].is_some() {
        previous[index] = Some(deaf);
        return Ok(());
    }
    exchange(signum, Some(&deaf)).map(drop)
}

/// From now on `signum` makes [`take_pending`] true and rings `bell`, on whatever thread it arrives. Catching
/// with the same bell again changes nothing.
///
/// `bell` stays open until [`release`]. System calls that a signal interrupts are restarted where the kernel can;
/// epoll_wait is not among them and returns EINTR.
///
/// # Errors
/// EBUSY: another bell holds the signal. EINVAL: no such signal; one that cannot be caught (SIGKILL, SIGSTOP)
/// or is kept by the C library; or one that tells of a fault in the very next instruction (SIGSEGV, SIGBUS,
/// SIGFPE, SIGILL): to return from its handler means to fault again, for ever.
pub fn catch(signum: i32, bell: &Fd) -> io::Result<()> {
    let index = index_of(signum)?;
    if matches!(signum, libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut previous = lock();
    match BELL[index].load(SeqCst) {
        SILENT => {}
        fd if fd == bell.raw() => return Ok(()),
        _ => return Err(io::Error::from_raw_os_error(libc::EBUSY)),
    }
    // Everything is in place before the first signal can come.
    PENDING[index].store(false, SeqCst);
    BELL[index].store(bell.raw(), SeqCst);
    match exchange(signum, Some(&action(handler_address()))) {
        Ok(before) => {
            previous[index] = Some(before);
            Ok(())
        }
        Err(error) => {
            BELL[index].store(SILENT, SeqCst);
            Err(error)
        }
    }
}

/// Ends what [`catch`] began: the earlier disposition is back, a pending signal is forgotten, and no handler
/// will touch the bell any more, so that it may be closed. Does nothing for a signal that is not caught.
///
/// A disposition that somebody else has set in the meantime is left alone.
pub fn release(signum: i32) {
    let Ok(index) = index_of(signum) else { return };
    let mut previous = lock();
    let Some(before) = previous[index].take() else { return };
    if exchange(signum, None).is_ok_and(|current| current.sa_sigaction == handler_address()) {
        // Cannot fail: the number was accepted by `catch`, and the action came from the kernel.
        let _ = exchange(signum, Some(&before));
    }
    BELL[index].store(SILENT, SeqCst);
    await_handlers();
    PENDING[index].store(false, SeqCst);
}

/// Whether `signum` has come since the last call. Take first and act afterwards: what comes during the action
/// counts anew.
pub fn take_pending(signum: i32) -> bool {
    // A look before the exchange, which would cost a locked instruction per signal and wake-up.
    index_of(signum).is_ok_and(|index| PENDING[index].load(SeqCst) && PENDING[index].swap(false, SeqCst))
}

/// A handler on another thread may have read the number of the bell and not yet written. It counted itself
/// before it read, and the bell was taken away before we look at the count: who still counts may write, who
/// comes later finds no bell.
fn await_handlers() {
    for _ in 0..YIELDS_LIMIT {
        if RINGING.load(SeqCst) == 0 {
            return;
        }
        std::thread::yield_now();
    }
}

/// Async-signal-safe: lock-free atomics, write(2), errno kept. No allocation, no lock, no panic.
extern "C" fn on_signal(signum: libc::c_int) {
    // SAFETY: the address of this thread's errno is valid as long as the thread runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { *errno };
    RINGING.fetch_add(1, SeqCst);
    // `get`, since an index that could panic has no place here. The kernel sends no number that we did not
    // register.
    let index = signum as usize;
    if let (Some(pending), Some(bell)) = (PENDING.get(index), BELL.get(index)) {
        pending.store(true, SeqCst);
        let bell = bell.load(SeqCst);
        if bell != SILENT {
            // A ring that was interrupted has not rung, and nobody would look at the flag before something else
            // happens. Other failures are ignored: the counter is full, thus rung, or there is nobody to tell.
            // SAFETY: as above.
            while event::write_one(bell) < 0 && unsafe { *errno } == libc::EINTR {}
        }
    }
    RINGING.fetch_sub(1, SeqCst);
    // SAFETY: as above.
    unsafe { *errno = kept };
}

/// A static, so that the address is one and the same wherever it is compared.
static HANDLER: extern "C" fn(libc::c_int) = on_signal;

fn handler_address() -> libc::sighandler_t {
    HANDLER as libc::sighandler_t
}

/// An action that blocks nothing else while it runs. SA_ONSTACK: a thread that has set a stack aside for signals
/// (a small one, of another language's runtime) does not overflow its own.
fn action(handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: a struct of numbers and a nullable function pointer, for all of which zero is a value; a zero
    // mask is empty.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    action
}

/// sigaction(2): sets `new`, if there is one, and answers what was in force before.
fn exchange(signum: i32, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    seam!(sigaction(signum));
    let mut old = MaybeUninit::uninit();
    // SAFETY: `new` is null or borrowed, `old` has room for the answer, and the only handlers ever set are the
    // kernel's own constants, what was in force before, and `on_signal`, which is async-signal-safe.
    check(unsafe { libc::sigaction(signum, new.map_or(ptr::null(), ptr::from_ref), old.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the old action has been written.
    Ok(unsafe { old.assume_init() })
}

fn index_of(signum: i32) -> io::Result<usize> {
    match usize::try_from(signum) {
        Ok(index) if (1..SIGNALS).contains(&index) => Ok(index),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// A panic under the lock leaves nothing half done: each entry is written in one assignment.
fn lock() -> MutexGuard<'static, [Option<libc::sigaction>; SIGNALS]> {
    PREVIOUS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::event::tests::rings;
    use super::super::thread::with_signals_blocked;
    use super::*;

    // The tests of a binary share one process: each has a signal of its own, and none that other files use.

    fn raise(signum: i32) {
        // SAFETY: takes a number; the signal is caught or ignored at this point.
        assert_eq!(unsafe { libc::raise(signum) }, 0);
    }

    fn disposition(signum: i32) -> libc::sighandler_t {
        exchange(signum, None).unwrap().sa_sigaction
    }

    /// Whether `signum` waits for this thread to unblock it.
    pub fn is_pending(signum: i32) -> bool {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is written by the first call and read by the second.
        unsafe { libc::sigpending(set.as_mut_ptr()) == 0 && libc::sigismember(set.as_ptr(), signum) == 1 }
    }

    #[test]
    fn a_caught_signal_sets_the_flag_and_rings_the_bell() {
        let bell = event::create().unwrap();
        let signum = libc::SIGRTMIN() + 1;
        catch(signum, &bell).unwrap();
        assert!(!take_pending(signum));
        raise(signum);
        raise(signum);
        assert_eq!(rings(&bell).unwrap(), 2);
        assert!(take_pending(signum));
        assert!(!take_pending(signum));
        release(signum);
    }

    #[test]
    fn release_goes_back_to_what_was_in_force() {
        let (first, second) = (event::create().unwrap(), event::create().unwrap());
        let signum = libc::SIGRTMIN() + 2;
        ignore(signum).unwrap();
        catch(signum, &first).unwrap();
        catch(signum, &first).unwrap();
        assert_eq!(catch(signum, &second).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        raise(signum);
        release(signum);
        assert!(!take_pending(signum), "a released signal is forgotten");
        assert_eq!(disposition(signum), libc::SIG_IGN);
        assert_eq!(rings(&first).unwrap(), 1);
        raise(signum);
        assert!(!take_pending(signum));
        assert_eq!(rings(&first).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        catch(signum, &second).unwrap();
        raise(signum);
        assert!(take_pending(signum));
        release(signum);
    }

    #[test]
    fn ignoring_a_caught_signal_waits_for_its_release() {
        let bell = event::create().unwrap();
        let signum = libc::SIGRTMIN() + 3;
        catch(signum, &bell).unwrap();
        ignore(signum).unwrap();
        raise(signum);
        assert!(take_pending(signum));
        release(signum);
        assert_eq!(disposition(signum), libc::SIG_IGN);
    }

    #[test]
    fn a_disposition_that_somebody_else_set_survives_the_release() {
        let bell = event::create().unwrap();
        let signum = libc::SIGRTMIN() + 4;
        catch(signum, &bell).unwrap();
        exchange(signum, Some(&action(libc::SIG_IGN))).unwrap();
        release(signum);
        assert_eq!(disposition(signum), libc::SIG_IGN);
    }

    #[test]
    fn the_handler_keeps_errno() {
        let bell = event::create().unwrap();
        let signum = libc::SIGRTMIN() + 5;
        // A full counter makes the handler's own write fail.
        let full = u64::MAX - 1;
        // SAFETY: the pointer and the length describe `full`.
        assert_eq!(unsafe { libc::write(bell.raw(), (&raw const full).cast(), 8) }, 8);
        catch(signum, &bell).unwrap();
        // SAFETY: the address of this thread's errno.
        unsafe { *libc::__errno_location() = libc::EXDEV };
        on_signal(signum);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EXDEV));
        assert!(take_pending(signum));
        release(signum);
    }

    #[test]
    fn signals_that_no_handler_could_survive_are_declined() {
        let bell = event::create().unwrap();
        let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
        for signum in faults.into_iter().chain([libc::SIGKILL, libc::SIGSTOP, 0, -1, 65, i32::MAX, i32::MIN]) {
            assert_eq!(catch(signum, &bell).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{signum}");
            release(signum);
            assert!(!take_pending(signum));
        }
        assert_eq!(ignore(libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_blocked_signal_waits_until_the_work_is_done() {
        let bell = event::create().unwrap();
        let signum = libc::SIGRTMIN() + 7;
        catch(signum, &bell).unwrap();
        with_signals_blocked(|| {
            raise(signum);
            assert!(!take_pending(signum) && is_pending(signum));
        });
        assert!(take_pending(signum));
        let panicked = std::panic::catch_unwind(|| with_signals_blocked(|| panic!("on purpose")));
        assert!(panicked.is_err());
        raise(signum);
        assert!(take_pending(signum), "the mask is back after a panic as well");
        release(signum);
    }

    /// Two threads raise the signal without a pause, while the bell is caught and released over and over. A handler
    /// that had read the bell before its release would ring it afterwards.
    #[test]
    fn a_released_bell_is_never_rung() {
        /// Ends the threads also when an assertion fails, or the scope would wait for them for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, SeqCst);
            }
        }
        let signum = libc::SIGRTMIN() + 8;
        ignore(signum).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Stop(&done);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        raise(signum);
                    }
                });
            }
            let bell = event::create().unwrap();
            for _ in 0..10_000 {
                catch(signum, &bell).unwrap();
                release(signum);
                let _ = rings(&bell);
                for _ in 0..20 {
                    assert_eq!(rings(&bell).unwrap_err().kind(), io::ErrorKind::WouldBlock);
                }
            }
        });
    }
}
