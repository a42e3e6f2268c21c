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
//!   calls       the functions of the ground floor, by the same names; errors become io::Error
//!   kernel      nodes, descriptors, the agenda, the clock             poll       epoll
//!   stream      what one does with a stream                           wire       between two of them
//!   datagram    messages                                              chance     the seed and the weather
//! ```
//!
//! Where this kernel differs from the real one, the real one is right: the corpus has programs that run on both and
//! must see the same.
//!
//! Not simulated: signals (the real ones do come), multicast beyond the port, path permissions, TCP's timers but for
//! the SYN's and the last. Offloaded work runs on the loop's own thread, at a time that the seed chooses.

mod calls;
pub mod chance;
#[cfg(test)]
mod corpus;
mod datagram;
pub mod kernel;
mod poll;
pub mod stream;
mod wire;

pub use calls::*;

use super::clock::Moment;
use chance::Weather;
use kernel::{Errand, Kernel};
use std::cell::RefCell;
use std::time::{Duration, Instant};

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
/// If there is one already, which lives on.
#[track_caller]
pub fn install(seed: u64, weather: Weather) {
    assert!(KERNEL.with_borrow(Option::is_none), "this thread has a World already: drop it first");
    KERNEL.set(Some(Installed { kernel: Kernel::new(seed, weather), epoch: Instant::now() }));
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

/// Has something done when the simulated clock says so. Nothing comes of it if this thread's kernel is the real one.
pub fn errand(after: Duration, errand: Errand) {
    let mut errand = Some(errand);
    with(|kernel| {
        let at = (Moment::from_nanos(kernel.now) + after).nanos();
        if let Some(errand) = errand.take() {
            kernel.errand_at(at, errand);
        }
    });
}

/// Moves a simulated clock forward; whether this thread has one.
pub fn advance(time: Duration) -> bool {
    with(|kernel| kernel.now = (Moment::from_nanos(kernel.now) + time).nanos()).is_some()
}

/// What the public clock says at a simulated moment.
fn public_instant(moment: Moment) -> Option<Instant> {
    KERNEL.with_borrow(|installed| Some(installed.as_ref()?.epoch + Duration::from_nanos(moment.nanos())))
}
