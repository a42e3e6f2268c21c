//! Dialers: connections that are made again when they end.
//!
//! A dialer owns a target and a factory of handlers. Each attempt is a connection of its own, with a new token
//! and a new handler, so nothing of a connection that failed can leak into the next: output that was not sent
//! dies with its attempt, and what must be sent again the new handler sends.
//!
//! ```text
//!   attempt ──► open ──► ended ──┐         wait: first · 2ⁿ, at most `max_delay`, shortened by chance
//!      │ failed                  ▼
//!      └──────────────────────► wait ──► attempt ──► …
//! ```
//!
//! The wait grows with failures in a row and is shortened by a random part ("equal jitter"), so that the
//! clients of a server that restarts come back spread out. A connection that lasted resets it. See Brooker,
//! "Exponential backoff and jitter", AWS Architecture Blog, 2015.

use crate::connect::Target;
use crate::handler::{CloseReason, Ctx, Handler, Loop};
use crate::handlers::Newborn;
use crate::net::Net;
use crate::options::{DialOptions, StreamOptions};
use crate::sockets::Due;
use crate::sys;
use crate::timer::TimerId;
use crate::token::Token;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// The name of one dialer of one reactor; like a [`Token`], stale once the dialer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DialToken(pub(crate) Token);

type Factory<A> = Box<dyn FnMut(&mut Ctx<'_, A>) -> Box<dyn Handler<A>>>;

pub(crate) struct Dialer<A> {
    target: Target,
    options: DialOptions,
    stream: Rc<StreamOptions>,
    /// Out while it runs.
    factory: Option<Factory<A>>,
    /// In a row, without a stable connection between them.
    failures: u32,
    /// The present attempt or connection.
    current: Option<Token>,
    /// The next attempt.
    timer: Option<TimerId>,
    random: u64,
}

impl<A> fmt::Debug for Dialer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("target", &self.target).field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl<A: 'static> Net<A> {
    /// Keeps a connection to `target`: connects, and connects again whenever the connection ends for whatever
    /// reason, until [`cancel_dial`](Net::cancel_dial), `stop`, or [`DialOptions::max_failures`].
    ///
    /// `factory` makes the handler of each attempt. A failed attempt is its handler's
    /// `on_close` with [`CloseReason::Connect`]. A name is looked up anew for each attempt. The first attempt
    /// begins when the turn settles.
    pub fn dial<H: Handler<A>>(
        &mut self,
        target: impl Into<Target>,
        options: DialOptions,
        mut factory: impl FnMut(&mut Ctx<'_, A>) -> H + 'static,
    ) -> DialToken {
        let stream = Rc::new(options.stream.clone());
        let dialer = Dialer {
            target: target.into(),
            options,
            stream,
            factory: Some(Box::new(move |ctx| Box::new(factory(ctx)))),
            failures: 0,
            current: None,
            timer: None,
            random: sys::random::seed(),
        };
        let dial = DialToken(self.dialers.insert(dialer));
        self.defer(move |lp| lp.attempt(dial));
        dial
    }

    /// Stops dialing. The connection, if there is one, is closed; `false` if the token was stale.
    pub fn cancel_dial(&mut self, dial: DialToken) -> bool {
        let Some(dialer) = self.dialers.remove(dial.0) else { return false };
        if let Some(timer) = dialer.timer {
            self.sockets.timers.remove(timer);
        }
        if let Some(token) = dialer.current {
            self.close(token);
        }
        true
    }

    /// The dialer's present connection, or connection in the making.
    pub fn dialed(&self, dial: DialToken) -> Option<Token> {
        self.dialers.get(dial.0)?.current
    }

    /// Stopping: no further attempts.
    pub(crate) fn drop_dialers(&mut self) {
        let dials: Vec<Token> = self.dialers.iter().map(|(token, _)| token).collect();
        for dial in dials {
            if let Some(timer) = self.dialers.remove(dial).and_then(|dialer| dialer.timer) {
                self.sockets.timers.remove(timer);
            }
        }
    }

    /// An attempt or a connection of the dialer has ended.
    #[inline]
    pub(crate) fn dial_ended(&mut self, token: Token, why_connect: bool) {
        if self.dialers.len() == 0 {
            return;
        }
        let extras = self.sockets.connection(token).and_then(|conn| conn.extras.as_ref());
        let Some(dial) = extras.and_then(|extras| extras.dialer) else { return };
        let opened = extras.and_then(|extras| extras.opened).filter(|_| !why_connect);
        let now = self.sockets.now;
        let Some(dialer) = self.dialers.get_mut(dial.0).filter(|dialer| dialer.current == Some(token)) else { return };
        dialer.current = None;
        let stable = opened.is_some_and(|at| now.since(at) >= dialer.options.stable_after);
        dialer.failures = if stable { 0 } else { dialer.failures + 1 };
        let gives_up = dialer.options.max_failures.is_some_and(|most| dialer.failures >= most);
        if gives_up || self.sockets.is_stopping() {
            log::debug!("dialer of {:?}: gives up after {} failures", dialer.target, dialer.failures);
            self.dialers.remove(dial.0);
            return;
        }
        let delay = dialer.next_delay();
        dialer.timer = Some(self.sockets.timers.insert(now + delay, Due::Redial(dial)));
    }
}

impl<A: 'static> Loop<'_, A> {
    /// Begins an attempt.
    pub(crate) fn attempt(&mut self, dial: DialToken) {
        let Some(dialer) = self.net.dialers.get_mut(dial.0) else { return };
        if let Some(timer) = dialer.timer.take() {
            self.net.sockets.timers.remove(timer);
        }
        let (target, stream) = (dialer.target.clone(), dialer.stream.clone());
        let Some(mut factory) = dialer.factory.take() else {
            log::warn!("dialer of {target:?}: ends, since its factory panicked");
            self.net.dialers.remove(dial.0);
            return;
        };
        let token = self.net.sockets.begin_connecting(stream);
        dialer.current = Some(token);
        if let Some(conn) = self.net.sockets.connection_mut(token) {
            conn.extras().dialer = Some(dial);
        }
        let born_before = self.net.newborn.len();
        let handler = factory(&mut Ctx { app: self.app, net: self.net, token });
        // In front of the one that the factory may have swapped in, which is the later word.
        self.net.newborn.insert(born_before, (token, Newborn::Connection(handler)));
        match self.net.dialers.get_mut(dial.0) {
            Some(dialer) => {
                dialer.factory = Some(factory);
                self.net.seek(token, target);
            }
            // The factory itself has cancelled the dialer.
            None => self.net.sockets.end(token, CloseReason::Local),
        }
    }
}

impl<A> Dialer<A> {
    fn next_delay(&mut self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(31);
        let full = self.options.first_delay.saturating_mul(1 << doublings).min(self.options.max_delay);
        // xorshift64* (Marsaglia 2003, Vigna 2016): any spread will do.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let draw = (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32;
        let jitter = f64::from(self.options.jitter_percent.min(100)) / 100.0;
        let part = 1.0 - jitter * f64::from(draw) / f64::from(u32::MAX);
        // What is as good as never may be more than a float of it goes back into.
        Duration::try_from_secs_f64(full.as_secs_f64() * part).unwrap_or(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(options: DialOptions) -> Dialer<()> {
        Dialer {
            target: Target::from("127.0.0.1:1"),
            stream: Rc::default(),
            options,
            factory: None,
            failures: 0,
            current: None,
            timer: None,
            random: 1,
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_are_shortened_by_no_more_than_the_jitter() {
        let mut dialer = dialer(DialOptions::new());
        for (failures, full_ms) in
            [(1, 100), (2, 200), (3, 400), (8, 12_800), (9, 25_600), (10, 30_000), (1000, 30_000)]
        {
            dialer.failures = failures;
            for _ in 0..100 {
                let delay = dialer.next_delay();
                assert!(delay <= Duration::from_millis(full_ms), "{failures}: {delay:?}");
                assert!(delay >= Duration::from_millis(full_ms / 2), "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn without_jitter_waits_are_exact() {
        let mut dialer = dialer(DialOptions::new().with(|o| o.jitter_percent = 0));
        dialer.failures = 3;
        assert_eq!(dialer.next_delay(), Duration::from_millis(400));
    }

    #[test]
    fn a_wait_as_good_as_never_does_not_panic() {
        let mut dialer = dialer(DialOptions::new().with(|o| {
            o.first_delay = Duration::MAX;
            o.max_delay = Duration::MAX;
            o.jitter_percent = 0;
        }));
        dialer.failures = 1;
        assert_eq!(dialer.next_delay(), Duration::MAX);
    }
}
