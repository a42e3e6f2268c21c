//! Threads beside the loop's own, for work that blocks.
//!
//! A thread inherits the signal mask of the one that starts it. Signals are the loop's affair: one that arrived on a
//! worker would interrupt the very call that was put there because it blocks. So a worker is born with all of them
//! blocked.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::io;
use std::thread;

/// Starts a thread that nobody waits for and that handles no signal.
///
/// # Errors
/// EAGAIN: a limit on threads or processes, or no memory for its stack.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    seam!(spawn());
    let thread = thread::Builder::new().name(name.into());
    with_signals_blocked(|| thread.spawn(work)).map(drop)
}

/// Calls `work` with this thread's signals blocked: a thread that `work` starts inherits that, and never
/// handles a signal.
///
/// Left open are those that speak of a mistake in the very next instruction and of abort: they reach the thread
/// that caused them, and blocked would end the process without a word.
pub(super) fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(SigSet);
    impl Drop for Restore {
        fn drop(&mut self) {
            // Cannot fail: "how" is right. A panic in `work` comes through here as well.
            let _ = self.0.thread_set_mask();
        }
    }
    let mut blocked = SigSet::all();
    let faults = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGSYS];
    faults.into_iter().chain([Signal::SIGABRT]).for_each(|signal| blocked.remove(signal));
    // The only error is a wrong "how". Were there another, the work would be done all the same.
    let _restore = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).map(Restore);
    work()
}
