//! Chance, from a seed, and the weather that it makes.
//!
//! Everything that a real kernel and a real network leave open is decided here: how long a packet is under way, how
//! much of a stream arrives at once, in which order sockets are reported, which call is interrupted. The same seed
//! and the same calls give the same decisions, so a run that failed can be had again.
//!
//! What is *not* open is no matter of weather. A read of TCP is never short while more has arrived, a full buffer
//! is always followed by an edge, bytes never change their order: a simulator that broke such rules would find
//! faults that no kernel could cause.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Numbers that look random: SplitMix64, whose state is one number and whose every seed is a good one.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// From 0 up to, not including, `end`; 0 if that is nothing.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    #[inline]
    pub fn within(&mut self, range: &RangeInclusive<usize>) -> usize {
        let (first, last) = (*range.start(), *range.end());
        first + self.below((last.saturating_sub(first) as u64).saturating_add(1)) as usize
    }

    /// True once in `n` times on average; never if `n` is 0.
    #[inline]
    pub fn once_in(&mut self, n: u32) -> bool {
        n != 0 && self.below(u64::from(n)) == 0
    }
}

/// A number that differs in about half of its bits if `x` differs in one.
#[inline]
pub fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What the network and the machine are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weather {
    /// The longest time that a system call takes. Packets arrive meanwhile.
    pub call: Duration,
    /// The longest time that a packet is under way; zero: it has arrived when the call that sent it returns.
    pub latency: Duration,
    /// The most bytes of a stream that arrive at once.
    pub segment: usize,
    /// How many bytes a socket takes before its peer has them.
    pub send_buffer: RangeInclusive<usize>,
    /// How many bytes wait to be read before the peer must wait.
    pub receive_buffer: RangeInclusive<usize>,
    /// Sockets are reported in any order, and not all of them at once.
    pub unordered: bool,
    /// One in so many calls is interrupted (EINTR). For this and those below, 0 is never.
    pub interrupts: u32,
    /// One in so many writes takes a part, or nothing (EAGAIN), and room is reported later.
    pub short_writes: u32,
    /// One in so many calls finds no memory (ENOBUFS, ENOMEM).
    pub shortages: u32,
    /// One in so many accepts fails for its peer's sake (ECONNABORTED), or for want of descriptors (EMFILE).
    pub accept_failures: u32,
}

impl Weather {
    /// Nothing is left to chance: packets arrive at once, buffers are large, no call fails by itself.
    pub fn calm() -> Weather {
        Weather {
            call: Duration::ZERO,
            latency: Duration::ZERO,
            segment: usize::MAX,
            send_buffer: 128 * 1024..=128 * 1024,
            receive_buffer: 128 * 1024..=128 * 1024,
            unordered: false,
            interrupts: 0,
            short_writes: 0,
            shortages: 0,
            accept_failures: 0,
        }
    }

    /// A network with delays, small packets and small buffers. Writes are cut short, and no call fails for good that
    /// could have succeeded.
    pub fn windy() -> Weather {
        Weather {
            call: Duration::from_micros(5),
            latency: Duration::from_micros(200),
            segment: 3_000,
            send_buffer: 1..=20_000,
            receive_buffer: 1..=20_000,
            unordered: true,
            short_writes: 16,
            ..Weather::calm()
        }
    }

    /// The same, and calls are interrupted, find no memory and no descriptors: a verb may be refused and a polite peer
    /// cut.
    pub fn stormy() -> Weather {
        Weather { interrupts: 16, shortages: 64, accept_failures: 8, ..Weather::windy() }
    }

    /// # Panics
    /// If nothing could ever move, or a range ends before it begins.
    #[track_caller]
    pub(crate) fn check(&self) {
        for (name, range) in [("send_buffer", &self.send_buffer), ("receive_buffer", &self.receive_buffer)] {
            assert!(*range.start() > 0, "Weather: a {name} of no bytes takes none");
            assert!(!range.is_empty(), "Weather: {name} ends before it begins: {range:?}");
        }
        assert!(self.segment > 0, "Weather: a segment of no bytes carries none");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_numbers() {
        let draws = |seed| {
            let mut chance = Chance::new(seed);
            (0..32).map(|_| chance.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn draws_keep_to_their_range_and_reach_its_ends() {
        let mut chance = Chance::new(1);
        let seen: Vec<usize> = (0..200).map(|_| chance.within(&(3..=6))).collect();
        assert_eq!(seen.iter().min(), Some(&3));
        assert_eq!(seen.iter().max(), Some(&6));
        assert_eq!(chance.below(0), 0);
        assert!(!(0..1_000).any(|_| chance.once_in(0)));
        assert!((0..10).all(|_| chance.once_in(1)));
    }
}
