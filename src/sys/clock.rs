//! The clock: one function, so that time has one source.
//!
//! `CLOCK_MONOTONIC` never jumps when somebody sets the date, which is what time-outs need. It stands still
//! while the machine is suspended, so a time-out of ten seconds is ten seconds of running. Reading it costs
//! about 20 ns and no system call (vDSO), yet the reactor reads it once per turn and passes the value down:
//! logic that is told the time can be tested without waiting for it.
//!
//! A [`Moment`] is the same reading as a [`std::time::Instant`], as one number of nanoseconds. It takes half
//! the room, its arithmetic is an addition where `Instant`'s is a carry over two fields, and a test can make
//! one up.

use std::ops::Add;
use std::time::{Duration, Instant};

/// A point on `CLOCK_MONOTONIC`, in nanoseconds: good until the year 584 of the machine's uptime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// The present; never earlier than an earlier answer.
#[inline]
pub fn now() -> Moment {
    seam!(now());
    read()
}

/// The clock itself.
#[inline(always)]
pub(super) fn read() -> Moment {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to be written to. The call cannot fail: the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// One moment on both scales. They are the same clock, so the pair converts any other.
pub fn anchor() -> (Instant, Moment) {
    seam!(anchor());
    let moment = now();
    (Instant::now(), moment)
}

impl Moment {
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Moment {
        Moment(nanos)
    }

    #[inline]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this; nothing if that is later.
    #[inline]
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// What the number cannot express is as good as never.
    #[inline]
    fn add(self, after: Duration) -> Moment {
        let nanos = after.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(after.subsec_nanos()));
        Moment(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards() {
        let mut last = now();
        for _ in 0..10_000 {
            let now = now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_moment_is_the_same_clock_as_an_instant() {
        let (before, moment, after) = (std::time::Instant::now(), now(), std::time::Instant::now());
        let (later, moment_later) = (std::time::Instant::now(), now());
        assert!(moment_later.since(moment) + (after - before) >= later - after);
    }

    #[test]
    fn sums_beyond_the_clock_are_never() {
        assert_eq!(Moment(1) + Duration::MAX, Moment(u64::MAX));
        assert_eq!(Moment(1).since(Moment(2)), Duration::ZERO);
        assert_eq!((Moment(5) + Duration::from_nanos(7)).since(Moment(5)), Duration::from_nanos(7));
    }
}
