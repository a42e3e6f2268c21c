//! Closures that the loop keeps until their time comes: timers, deferred calls, mail, results and signals.
//!
//! ```text
//!   after, every ───► a deadline ─────────────────► phase 4
//!   post ───────────► the mailbox ────────────────► phase 3
//!   offload ────────► a worker, then the mailbox ─► phase 3
//!   on_signal ──────► a bell ─────────────────────► phase 5
//!   defer, tell ────► the turn settles ───────────► phase 6
//! ```
//!
//! None of them belongs to a connection, so each is called with [`Loop`]; only `tell` is for one handler and has its
//! [`Ctx`]. The rule that is kept: a closure that runs is out of the place where it was kept, so that it may change
//! that place, and a panic in it loses it alone.

use crate::handler::{Ctx, Handler, Loop};
use crate::mailbox;
use crate::net::Net;
use crate::poller::Interest;
use crate::reactor::Reactor;
use crate::signal::Signals;
use crate::sockets::{Bell, Due, Source};
use crate::sys::clock::Moment;
use crate::timer::TimerId;
use crate::token::Token;
use crate::workers::{WorkPanicked, run_caught};
use std::any::Any;
use std::io;
use std::time::Duration;
use std::{error, fmt};

/// A closure for the loop, from another thread.
pub type Letter<A> = Box<dyn FnOnce(&mut Loop<'_, A>) + Send>;

/// What comes through the mailbox.
pub(crate) enum Mail<A> {
    Letter(Letter<A>),
    /// A worker has finished a piece of work.
    Done {
        job: usize,
        result: Box<dyn Any + Send>,
    },
}

/// What `defer` and `tell` have asked for.
pub(crate) enum Deferred<A> {
    Call(OnceFn<A>),
    Tell(Token, Telling<A>),
}

/// Answers whether the handler was of the type that it is for.
pub(crate) type Telling<A> = Box<dyn FnOnce(&mut dyn Any, &mut Ctx<'_, A>) -> bool>;

/// A timer's closure.
pub(crate) enum Alarm<A> {
    Once(OnceFn<A>),
    /// The closure is out while it runs.
    Every(Duration, Option<EachFn<A>>),
}

pub(crate) type JobDone<A> = Box<dyn FnOnce(&mut Loop<'_, A>, Box<dyn Any + Send>)>;
/// What the loop calls once, and what it calls each time.
pub(crate) type OnceFn<A> = Box<dyn FnOnce(&mut Loop<'_, A>)>;
pub(crate) type EachFn<A> = Box<dyn FnMut(&mut Loop<'_, A>)>;

impl<A: 'static> Net<A> {
    /// Calls `call` once, `delay` after [`now`](Net::now), never earlier: in the first turn that begins then or later,
    /// before its events are served. How much later depends on how long callbacks take;
    /// [`Stats::worst_timer_lag_ns`](crate::Stats::worst_timer_lag_ns) tells.
    pub fn after(&mut self, delay: Duration, call: impl FnOnce(&mut Loop<'_, A>) + 'static) -> TimerId {
        self.add_alarm(delay, Alarm::Once(Box::new(call)))
    }

    /// Calls `call` every `period`, the first time after one period. Calls keep to the grid of the first
    /// deadline: they do not drift, and after a stall those that were missed are left out. A panic in `call` ends the
    /// timer.
    ///
    /// # Panics
    /// When `period` is zero.
    pub fn every(&mut self, period: Duration, call: impl FnMut(&mut Loop<'_, A>) + 'static) -> TimerId {
        assert!(!period.is_zero(), "a period of nothing would never end");
        self.add_alarm(period, Alarm::Every(period, Some(Box::new(call))))
    }

    fn add_alarm(&mut self, delay: Duration, alarm: Alarm<A>) -> TimerId {
        let key = self.alarms.insert(alarm);
        let deadline = self.sockets.now + delay;
        self.sockets.timers.insert(deadline, Due::Closure(key))
    }

    /// Moves a timer to `delay` from [`now`](Net::now); a periodic one goes on from there. `false` if it has
    /// run, or was cancelled.
    pub fn reset(&mut self, id: TimerId, delay: Duration) -> bool {
        let deadline = self.sockets.now + delay;
        self.sockets.timers.reset(id, deadline)
    }

    /// Takes a timer back; `false` if it has run, or was cancelled.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        match self.sockets.timers.remove(id) {
            Some(Due::Closure(key)) => self.alarms.try_remove(key).is_some(),
            _ => false,
        }
    }

    pub(crate) fn arm(&mut self, token: Token, key: u32, after: Duration) {
        let deadline = self.sockets.now + after;
        if !self.is_open(token) {
            return;
        }
        let timers = &mut self.sockets.timers;
        let Some(Source::Connection(conn)) = self.sockets.table.get_mut(token).map(|source| &mut **source) else {
            return;
        };
        let keyed = &mut conn.extras().keyed;
        match keyed.iter().find(|(armed, _)| *armed == key) {
            Some((_, id)) => {
                timers.reset(*id, deadline);
            }
            None => keyed.push((key, timers.insert(deadline, Due::Keyed(token, key)))),
        }
    }

    pub(crate) fn disarm(&mut self, token: Token, key: u32) -> bool {
        let Some(conn) = self.sockets.connection_mut(token) else { return false };
        let Some(keyed) = conn.extras.as_mut().map(|extras| &mut extras.keyed) else { return false };
        let Some(index) = keyed.iter().position(|(armed, _)| *armed == key) else { return false };
        let (_, id) = keyed.swap_remove(index);
        self.sockets.timers.remove(id).is_some()
    }

    // ── At the turn's end, on a worker, on a signal, from another thread ─────────────────────────────────────

    /// Calls `call` when the turn settles, or in the next turn if it settles already; in the order of asking. Deferred
    /// closures and [`tell`](Net::tell)s share [`ReactorOptions::closure_budget`](crate::ReactorOptions::closure_budget) and an order.
    pub fn defer(&mut self, call: impl FnOnce(&mut Loop<'_, A>) + 'static) {
        self.deferred.push_back(Deferred::Call(Box::new(call)));
    }

    /// Calls `call` with the handler of another connection, when the turn settles. It is counted and dropped if
    /// the token is stale by then, or the handler is not an `H`. Handlers in a `Box<dyn Handler>` are found by
    /// their own type.
    pub fn tell<H: Handler<A>>(&mut self, token: Token, call: impl FnOnce(&mut H, &mut Ctx<'_, A>) + 'static) {
        let telling: Telling<A> = Box::new(move |mut handler, ctx| {
            loop {
                if handler.is::<H>() {
                    let Some(handler) = handler.downcast_mut::<H>() else { return false };
                    call(handler, ctx);
                    return true;
                }
                match handler.downcast_mut::<Box<dyn Handler<A>>>() {
                    Some(boxed) => handler = &mut **boxed,
                    None => return false,
                }
            }
        });
        self.deferred.push_back(Deferred::Tell(token, telling));
    }

    /// Does `work` on a worker thread, and calls `done` on the loop with what it returned, or with its panic.
    ///
    /// For what would block: look-ups, disks, long sums. [`ReactorOptions::workers`](crate::ReactorOptions::workers) threads do it, started when
    /// needed. `done` is mail, but never refused for want of room. Work cannot be taken back, and `stop` does not wait
    /// for it: a result that comes after `run` has returned is seen by the next `run`, or dropped with the reactor.
    ///
    /// # Errors
    /// As much work as the limit allows waits already; neither closure is called.
    pub fn offload<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(&mut Loop<'_, A>, Result<T, WorkPanicked>) + 'static,
    ) -> Result<(), WorkRefused> {
        // The pool bounds what is not finished; results that wait for their turn count too.
        if self.jobs.len() >= self.work_limit {
            return Err(WorkRefused);
        }
        let job = self.jobs.insert(Box::new(move |lp, result| {
            if let Ok(result) = result.downcast() {
                done(lp, *result);
            }
        }));
        let sender = self.sender.clone();
        let submitted = self.workers.submit(Box::new(move || {
            let result: Box<dyn Any + Send> = Box::new(run_caught(work));
            // Gone: the reactor was dropped meanwhile, and nobody waits for the result.
            let _ = sender.post_reserved(Mail::Done { job, result });
        }));
        submitted.map_err(|_| {
            drop(self.jobs.remove(job));
            WorkRefused
        })
    }

    /// Calls `call` on the loop whenever the signal has come; several that come at once count as one.
    ///
    /// A second closure for the same signal replaces the first. The signal is caught for the whole process, its mask
    /// is left alone, and what was in force before is again when the reactor is dropped. Numbers are in
    /// [`signum`](crate::signum).
    ///
    /// # Errors
    /// EINVAL for signals that cannot be caught, EBUSY when another reactor of the process has this one.
    pub fn on_signal(&mut self, signum: i32, call: impl FnMut(&mut Loop<'_, A>) + 'static) -> io::Result<()> {
        let had_bell = self.signals.bell().is_some();
        self.signals.add(signum, Box::new(call))?;
        if let Some(bell) = self.signals.bell().filter(|_| !had_bell) {
            let token = self.sockets.table.insert(Box::new(Source::Bell(Bell::Signal)));
            if let Err(e) = self.sockets.poller.add(bell, Interest::BELL, token) {
                self.sockets.table.remove(token);
                self.signals = Signals::new();
                return Err(e);
            }
        }
        Ok(())
    }

    /// The door for other threads. It may outlive the reactor; a post is then refused.
    pub fn mailbox(&self) -> Mailbox<A> {
        Mailbox { sender: self.sender.clone() }
    }
}

/// Brings closures from other threads to the loop. The only part of a reactor that may leave its thread.
///
/// ```
/// use plimsoll::Reactor;
///
/// let mut reactor = Reactor::new(0_u64)?;
/// let mailbox = reactor.net.mailbox();
/// let worker = std::thread::spawn(move || {
///     for n in 1..=3 {
///         mailbox.post(move |lp| *lp.app += n).expect("there is room");
///     }
///     mailbox.post(|lp| lp.stop()).expect("there is room");
/// });
/// reactor.run()?;
/// worker.join().expect("it has not panicked");
/// assert_eq!(reactor.into_app(), 6);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Mailbox<A = ()> {
    sender: mailbox::Sender<Mail<A>>,
}

impl<A> Mailbox<A> {
    /// Has `letter` called on the loop, in its next turn; wakes the loop with one system call if it sleeps, and
    /// with none if it does not. Letters of one thread are called in the order in which they were posted.
    ///
    /// # Errors
    /// The box is full, or the reactor is gone; the closure comes back.
    pub fn post(&self, letter: impl FnOnce(&mut Loop<'_, A>) + Send + 'static) -> Result<(), PostError<A>> {
        let returned = |mail| match mail {
            Mail::Letter(letter) => letter,
            Mail::Done { .. } => unreachable!("a letter was posted, so a letter comes back"),
        };
        self.sender.post(Mail::Letter(Box::new(letter))).map_err(|refused| match refused {
            mailbox::Refused::Full(mail) => PostError::Full(returned(mail)),
            mailbox::Refused::Gone(mail) => PostError::Gone(returned(mail)),
        })
    }
}

impl<A> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Mailbox { sender: self.sender.clone() }
    }
}

impl<A> fmt::Debug for Mailbox<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

/// A letter that was not taken.
///
/// It is not `Sync`, so `?` into a `Box<dyn Error + Send + Sync>` needs `.map_err(io::Error::from)`; into an
/// [`io::Error`] it goes by itself, and the letter is dropped. The reason is that it owns what was refused, like the
/// errors of the standard library's channels, and a letter can be sent to another thread but not shared between two.
///
/// ```
/// use plimsoll::{Mailbox, Reactor};
/// use std::error::Error;
/// use std::io;
///
/// fn ask_to_stop(mailbox: &Mailbox) -> io::Result<()> {
///     mailbox.post(|lp| lp.stop())?;
///     Ok(())
/// }
///
/// fn ask_politely(mailbox: &Mailbox) -> Result<(), Box<dyn Error + Send + Sync>> {
///     mailbox.post(|lp| lp.stop()).map_err(io::Error::from)?;
///     Ok(())
/// }
///
/// let reactor = Reactor::new(())?;
/// let mailbox = reactor.net.mailbox();
/// ask_to_stop(&mailbox)?;
/// drop(reactor);
/// assert_eq!(ask_to_stop(&mailbox).map_err(|e| e.kind()), Err(io::ErrorKind::BrokenPipe));
/// assert_eq!(ask_politely(&mailbox).map_err(|e| e.to_string()), Err("the reactor is gone".to_owned()));
/// # Ok::<(), io::Error>(())
/// ```
pub enum PostError<A = ()> {
    /// As many wait as the limit allows.
    Full(Letter<A>),
    /// The reactor is gone.
    Gone(Letter<A>),
}

impl<A> PostError<A> {
    /// The closure, to be posted again or elsewhere.
    pub fn into_letter(self) -> Letter<A> {
        match self {
            PostError::Full(letter) | PostError::Gone(letter) => letter,
        }
    }
}

impl<A> fmt::Debug for PostError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "Full(..)",
            PostError::Gone(_) => "Gone(..)",
        })
    }
}

impl<A> fmt::Display for PostError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "the mailbox is full",
            PostError::Gone(_) => "the reactor is gone",
        })
    }
}

impl<A> error::Error for PostError<A> {}

/// Without the letter: `WouldBlock` if the box is full, `BrokenPipe` if nobody will ever empty it.
impl<A> From<PostError<A>> for io::Error {
    fn from(refused: PostError<A>) -> io::Error {
        let kind = match refused {
            PostError::Full(_) => io::ErrorKind::WouldBlock,
            PostError::Gone(_) => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, refused.to_string())
    }
}

/// Work that was not taken, because too much waits already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkRefused;

impl fmt::Display for WorkRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much offloaded work waits already")
    }
}

impl error::Error for WorkRefused {}

impl<A: 'static> Reactor<A> {
    /// A closure's deadline has passed.
    pub(crate) fn ring_alarm(&mut self, id: TimerId, deadline: Moment, key: usize) {
        let now = self.net.sockets.now;
        match self.net.alarms.get_mut(key) {
            Some(Alarm::Every(period, call)) => {
                let next = next_on_grid(deadline, *period, now);
                let Some(mut call) = call.take() else {
                    // It panicked the last time.
                    self.net.cancel(id);
                    return;
                };
                // Armed before the call, so that the call may cancel it or move it.
                self.net.sockets.timers.reset(id, next);
                call(&mut self.lp());
                if self.net.sockets.timers.get(id).is_some()
                    && let Some(Alarm::Every(_, slot)) = self.net.alarms.get_mut(key)
                {
                    *slot = Some(call);
                }
            }
            Some(Alarm::Once(_)) => {
                self.net.sockets.timers.remove(id);
                if let Alarm::Once(call) = self.net.alarms.remove(key) {
                    call(&mut self.lp());
                }
            }
            None => {
                self.net.sockets.timers.remove(id);
            }
        }
    }
}

/// The first point of the grid `deadline + n · period` after `now`.
fn next_on_grid(deadline: Moment, period: Duration, now: Moment) -> Moment {
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    let late = now.nanos().saturating_sub(deadline.nanos());
    Moment::from_nanos(deadline.nanos().saturating_add(late - late % period).saturating_add(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_periodic_timer_keeps_to_its_grid_after_a_stall() {
        let start = Moment::from_nanos(7);
        let ms = |n| start + Duration::from_millis(n);
        let period = Duration::from_millis(10);
        assert_eq!(next_on_grid(ms(10), period, ms(10)), ms(20));
        assert_eq!(next_on_grid(ms(10), period, ms(19)), ms(20));
        assert_eq!(next_on_grid(ms(10), period, ms(20)), ms(30));
        assert_eq!(next_on_grid(ms(10), period, ms(95)), ms(100));
    }
}
