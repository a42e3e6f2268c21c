//! Which closure waits for which signal.
//!
//! A signal interrupts a thread anywhere, even inside malloc, so its handler may do next to nothing. Ours (it
//! lives in `sys`) raises a flag for the signal and rings a bell, an eventfd; everything else happens on the
//! loop, between two callbacks, as for any other event.
//!
//! ```text
//!   kernel ──► handler, on any thread              the loop
//!                1  flag[signum] := true             a  the bell has an edge
//!                2  ring the bell ──► epoll ───────► b  collect: flag[signum] := false, note signum as pending
//!                                                    c  take ──► callback ──► put_back, for each one noted
//! ```
//!
//! The rule that is kept: **after a signal came, a call begins for it.** The handler raises the flag before it
//! rings, and the loop lowers it after it heard: a signal that comes too late for b rings again. Those that come
//! before b melt into one call, as the kernel's own standard signals do. What is noted but not yet called, because
//! a callback before it panicked, stays noted.
//!
//! Why not signalfd: it wants the signal blocked in every thread, and a mask is inherited by each program that
//! the process starts, which then is deaf to SIGTERM and does not know why. A caught signal leaves nothing
//! behind: exec sets it back to its default. A child between fork and exec shares the bell, but not the flags;
//! a signal to it makes our loop look once for nothing.
//!
//! The bell is registered edge-triggered and is never read; the mailbox says why that is enough. A signal has one
//! disposition in a process, so of several reactors the first to ask has it, until it removes the signal or is
//! dropped: then what was in force before is in force again.

use crate::sys::{self, Fd, event};
use std::io;

/// The signals of one reactor, and what waits for each.
///
/// The payloads are lent, not called, from here: [`take`](Signals::take) gives one away for the length of its
/// call and [`put_back`](Signals::put_back) returns it, so that the call itself may add and remove signals.
pub(crate) struct Signals<T> {
    /// There from the first signal on, and then for good: it stays in epoll.
    bell: Option<Fd>,
    /// Searched from end to end: there are 64 signals, and the usual program waits for two.
    watched: Vec<Watched<T>>,
    /// Collected and not yet taken, signal n as bit n − 1. Only signals that are watched are in it.
    pending: u64,
}

struct Watched<T> {
    signum: i32,
    /// None while it is out for its call.
    payload: Option<T>,
}

impl<T> Signals<T> {
    /// Waits for nothing, and costs nothing.
    pub fn new() -> Signals<T> {
        Signals { bell: None, watched: Vec::new(), pending: 0 }
    }

    /// Waits for `signum` with `payload`, which replaces an earlier one of this reactor (also one that is out
    /// for its call).
    ///
    /// With the first signal the [`bell`](Signals::bell) comes into being, and is to be registered then. What
    /// arrives in between is not lost: a descriptor that is readable has its edge when it is registered.
    ///
    /// # Errors
    /// EBUSY when another reactor of this process has the signal. EINVAL when there is no such signal, when it
    /// cannot be caught (SIGKILL, SIGSTOP) or stands for a fault that cannot wait for the loop (SIGSEGV, SIGBUS,
    /// SIGFPE, SIGILL). EMFILE, ENFILE or ENOMEM when the bell cannot be made. All is then as it was before.
    pub fn add(&mut self, signum: i32, payload: T) -> io::Result<()> {
        if let Some(watched) = self.find(signum) {
            watched.payload = Some(payload);
            return Ok(());
        }
        match &self.bell {
            Some(bell) => sys::signal::catch(signum, bell)?,
            None => {
                let bell = event::create()?;
                sys::signal::catch(signum, &bell)?;
                self.bell = Some(bell);
            }
        }
        self.watched.push(Watched { signum, payload: Some(payload) });
        Ok(())
    }

    /// Waits for `signum` no longer; a call that was due for it is not made. False if nobody waited.
    pub fn remove(&mut self, signum: i32) -> bool {
        let Some(index) = self.watched.iter().position(|watched| watched.signum == signum) else { return false };
        sys::signal::release(signum);
        self.pending &= !bit(signum);
        // Last, since it drops the payload: what that runs finds this in order.
        self.watched.swap_remove(index);
        true
    }

    /// Notes what has arrived; to be called when the bell has rung, and not while a payload is out for its call.
    ///
    /// A payload that is still out now was lost to a panic in its call. Its signal is released, since caught by
    /// nobody it would be swallowed: SIGTERM ends the process again.
    pub fn collect(&mut self) {
        while let Some(lost) = self.watched.iter().find(|watched| watched.payload.is_none()) {
            let signum = lost.signum;
            log::debug!("signal {signum} is released: its closure was lost to a panic");
            self.remove(signum);
        }
        for watched in &self.watched {
            if sys::signal::take_pending(watched.signum) {
                self.pending |= bit(watched.signum);
            }
        }
    }

    /// The lowest signal that is noted, and its payload to call. Signals that arrive meanwhile wait for the next
    /// [`collect`](Signals::collect), so a turn makes at most one call for each.
    pub fn take(&mut self) -> Option<(i32, T)> {
        while self.pending != 0 {
            let signum = self.pending.trailing_zeros() as i32 + 1;
            self.pending &= !bit(signum);
            let payload = self.find(signum).and_then(|watched| watched.payload.take());
            debug_assert!(payload.is_some(), "what is noted is watched, and only one payload is out at a time");
            if let Some(payload) = payload {
                return Some((signum, payload));
            }
        }
        None
    }

    /// Returns a payload after its call. It is dropped instead if the call removed its signal or gave it another
    /// payload.
    pub fn put_back(&mut self, signum: i32, payload: T) {
        match self.find(signum) {
            Some(watched) if watched.payload.is_none() => watched.payload = Some(payload),
            _ => drop(payload),
        }
    }

    /// Whether calls are due. The loop must not sleep then: the bell has rung for them already.
    pub fn has_pending(&self) -> bool {
        self.pending != 0
    }

    /// What epoll watches, once there is a signal: for input, edge-triggered, registered once and never read.
    pub fn bell(&self) -> Option<&Fd> {
        self.bell.as_ref()
    }

    fn find(&mut self, signum: i32) -> Option<&mut Watched<T>> {
        self.watched.iter_mut().find(|watched| watched.signum == signum)
    }
}

impl<T> Drop for Signals<T> {
    /// Before the bell is closed, as it is with the fields: a handler must not write to a number that means
    /// nothing, or by then another descriptor.
    fn drop(&mut self) {
        self.watched.iter().for_each(|watched| sys::signal::release(watched.signum));
    }
}

fn bit(signum: i32) -> u64 {
    debug_assert!((1..=64).contains(&signum), "nothing else can be caught");
    1 << (signum - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc::{EBUSY, EINVAL, SIGILL, SIGKILL, SIGSEGV, SIGSTOP, SIGUSR1, SIGUSR2, SIGWINCH};
    use nix::sys::signal::{Signal, raise};
    use std::cell::Cell;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::rc::Rc;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread;

    /// Dispositions belong to the process, and so to one test at a time.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On this thread, and handled before it returns.
    fn send(signum: i32) {
        raise(Signal::try_from(signum).expect("a signal that has a name")).expect("it can be raised");
    }

    /// Whether the bell rang since the last call.
    fn rang<T>(signals: &Signals<T>) -> bool {
        let bell = signals.bell().expect("there is a bell");
        let mut bell = File::from(bell.as_fd().try_clone_to_owned().expect("a descriptor to spare"));
        bell.read(&mut [0; 8]).is_ok()
    }

    /// One turn: what is called is what is returned.
    fn turn<T: Clone>(signals: &mut Signals<T>) -> Vec<(i32, T)> {
        let mut called = Vec::new();
        signals.collect();
        while let Some((signum, payload)) = signals.take() {
            called.push((signum, payload.clone()));
            signals.put_back(signum, payload);
        }
        called
    }

    /// Whether /proc lists `signum` under `line` ("SigCgt", "SigIgn") of this process.
    fn listed(line: &str, signum: i32) -> bool {
        let status = fs::read_to_string("/proc/self/status").expect("a Linux with /proc");
        let mask = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(":")).expect("the line");
        u64::from_str_radix(mask.trim(), 16).expect("a mask in hexadecimal") & bit(signum) != 0
    }

    fn errno<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn a_signal_rings_the_bell_and_reaches_its_payload_each_time() {
        let _alone = alone();
        let mut signals = Signals::new();
        assert!(signals.bell().is_none(), "who waits for nothing has no descriptor");
        signals.add(SIGUSR1, "one").unwrap();
        signals.add(SIGUSR2, "two").unwrap();
        assert!(!rang(&signals));
        for _ in 0..3 {
            send(SIGUSR2);
            assert!(rang(&signals));
            assert_eq!(turn(&mut signals), [(SIGUSR2, "two")]);
            assert_eq!(turn(&mut signals), []);
        }
    }

    #[test]
    fn signals_that_arrive_together_are_called_once_each() {
        let _alone = alone();
        let mut signals = Signals::new();
        for signum in [SIGWINCH, SIGUSR2, SIGUSR1] {
            signals.add(signum, ()).unwrap();
        }
        for signum in [SIGUSR2, SIGWINCH, SIGUSR2, SIGUSR2] {
            send(signum);
        }
        assert_eq!(turn(&mut signals), [(SIGUSR2, ()), (SIGWINCH, ())]);
    }

    #[test]
    fn a_signal_sent_to_another_thread_reaches_the_loop() {
        let _alone = alone();
        let mut signals = Signals::new();
        signals.add(SIGUSR1, ()).unwrap();
        thread::spawn(|| send(SIGUSR1)).join().unwrap();
        assert!(rang(&signals));
        assert_eq!(turn(&mut signals).len(), 1);
    }

    #[test]
    fn a_signal_that_arrives_during_its_own_call_is_called_in_the_next_turn() {
        let _alone = alone();
        let mut signals = Signals::new();
        signals.add(SIGUSR1, ()).unwrap();
        send(SIGUSR1);
        signals.collect();
        let (signum, payload) = signals.take().unwrap();
        assert!(rang(&signals));
        send(SIGUSR1);
        signals.put_back(signum, payload);
        assert!(signals.take().is_none());
        assert!(rang(&signals), "it has an edge of its own");
        assert_eq!(turn(&mut signals).len(), 1);
    }

    #[test]
    fn a_second_payload_replaces_the_first_even_during_its_call() {
        let _alone = alone();
        let mut signals = Signals::new();
        signals.add(SIGUSR1, 1).unwrap();
        signals.add(SIGUSR1, 2).unwrap();
        send(SIGUSR1);
        signals.collect();
        assert_eq!(signals.take(), Some((SIGUSR1, 2)));
        signals.add(SIGUSR1, 3).unwrap();
        signals.put_back(SIGUSR1, 2);
        send(SIGUSR1);
        assert_eq!(turn(&mut signals), [(SIGUSR1, 3)]);
    }

    #[test]
    fn a_call_may_remove_its_own_signal_and_one_that_is_due() {
        let _alone = alone();
        let mut signals = Signals::new();
        signals.add(SIGUSR1, ()).unwrap();
        signals.add(SIGUSR2, ()).unwrap();
        send(SIGUSR1);
        send(SIGUSR2);
        signals.collect();
        let (signum, payload) = signals.take().unwrap();
        assert!(signals.has_pending());
        assert!(signals.remove(SIGUSR1) && signals.remove(SIGUSR2));
        signals.put_back(signum, payload);
        assert!(!signals.has_pending() && signals.take().is_none());
        assert!(!signals.remove(SIGUSR1), "it was removed, and not put back");
        assert!(!listed("SigCgt", SIGUSR1) && !listed("SigCgt", SIGUSR2));
    }

    #[test]
    fn a_payload_lost_to_a_panic_costs_nobody_else_and_frees_its_signal() {
        let _alone = alone();
        let mut signals = Signals::new();
        signals.add(SIGUSR1, ()).unwrap();
        signals.add(SIGUSR2, ()).unwrap();
        send(SIGUSR1);
        send(SIGUSR2);
        signals.collect();
        assert_eq!(signals.take(), Some((SIGUSR1, ()))); // and the call unwinds: no put_back
        assert!(signals.has_pending(), "the loop must not sleep on what is noted");
        assert_eq!(turn(&mut signals), [(SIGUSR2, ())]);
        assert!(!listed("SigCgt", SIGUSR1));
        signals.add(SIGUSR1, ()).unwrap();
        send(SIGUSR1);
        assert_eq!(turn(&mut signals), [(SIGUSR1, ())]);
    }

    #[test]
    fn a_signal_belongs_to_one_reactor_at_a_time() {
        let _alone = alone();
        let mut first = Signals::new();
        let mut second = Signals::new();
        first.add(SIGUSR1, ()).unwrap();
        assert_eq!(errno(second.add(SIGUSR1, ())), Some(EBUSY));
        assert!(second.bell().is_none(), "a refusal changes nothing");
        second.add(SIGUSR2, ()).unwrap();
        assert_eq!(errno(second.add(SIGUSR1, ())), Some(EBUSY));
        send(SIGUSR1);
        assert_eq!((turn(&mut first).len(), turn(&mut second).len()), (1, 0));
        drop(first);
        second.add(SIGUSR1, ()).unwrap();
        assert_eq!(turn(&mut second), [], "nothing is left of the first one's signal");
        send(SIGUSR1);
        assert_eq!(turn(&mut second), [(SIGUSR1, ())]);
    }

    #[test]
    fn what_cannot_be_caught_is_refused() {
        let _alone = alone();
        let mut signals = Signals::new();
        for signum in [SIGKILL, SIGSTOP, SIGSEGV, SIGILL, 0, -1, 65, i32::MAX, i32::MIN] {
            assert_eq!(errno(signals.add(signum, ())), Some(EINVAL), "signal {signum}");
        }
        assert!(signals.bell().is_none() && signals.take().is_none());
    }

    #[test]
    fn dropping_the_reactor_restores_what_was_in_force_before() {
        let _alone = alone();
        sys::signal::ignore(SIGWINCH).unwrap(); // which is also what SIGWINCH does by default
        let mut signals = Signals::new();
        signals.add(SIGWINCH, ()).unwrap();
        signals.add(SIGUSR1, ()).unwrap();
        assert!(listed("SigCgt", SIGWINCH) && listed("SigCgt", SIGUSR1));
        drop(signals);
        assert!(listed("SigIgn", SIGWINCH));
        assert!(!listed("SigCgt", SIGUSR1) && !listed("SigIgn", SIGUSR1));
        send(SIGWINCH); // reaches nobody, and above all no closed bell
    }

    #[test]
    fn a_payload_is_dropped_with_its_signal() {
        let _alone = alone();
        let payload = Rc::new(Cell::new(0));
        let mut signals = Signals::new();
        signals.add(SIGUSR1, Rc::clone(&payload)).unwrap();
        signals.add(SIGUSR2, Rc::clone(&payload)).unwrap();
        signals.remove(SIGUSR1);
        assert_eq!(Rc::strong_count(&payload), 2);
        drop(signals);
        assert_eq!(Rc::strong_count(&payload), 1);
    }

    #[test]
    fn a_signal_leaves_no_mask_behind_for_a_child() {
        let _alone = alone();
        let mut signals = Signals::new();
        signals.add(SIGUSR1, ()).unwrap();
        let child = std::process::Command::new("cat").arg("/proc/self/status").output().expect("cat runs");
        let status = String::from_utf8(child.stdout).expect("text");
        let mask = |line: &str| {
            let mask = status.lines().find_map(|l| l.strip_prefix(line)).expect("the line");
            u64::from_str_radix(mask.trim(), 16).expect("a mask in hexadecimal") & bit(SIGUSR1)
        };
        assert_eq!((mask("SigBlk:"), mask("SigIgn:"), mask("SigCgt:")), (0, 0, 0));
    }
}
