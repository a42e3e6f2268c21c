//! A seed: the one place where chance enters.
//!
//! Jitter for reconnects and the choice between equals need numbers that differ between two processes, not
//! numbers that an enemy cannot guess. One seed is drawn from the kernel and a small generator above goes on
//! from it; when a test gives the seed, the run repeats. Keys and identifiers that must be secret do not come
//! from here.

use super::{clock, count};
use std::hash::{BuildHasher, RandomState};

/// Sixty-four random bits from getrandom(2). Never blocks and never fails.
///
/// Early in the boot of a machine, or in a sandbox that forbids the call, the kernel declines. The answer is
/// then mixed from the clock, the process id and the standard library's hash keys: still different from one
/// process to the next.
pub fn seed() -> u64 {
    seam!(seed());
    let mut bytes = [0; 8];
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
    let answer = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    match count(answer) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => second_best(),
    }
}

pub(super) fn second_best() -> u64 {
    RandomState::new().hash_one((clock::now().nanos(), std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Two of 64 seeds collide by chance once in 10¹⁶ runs.
    #[test]
    fn seeds_differ_from_one_draw_to_the_next() {
        assert_eq!((0..64).map(|_| seed()).collect::<HashSet<_>>().len(), 64);
        assert_eq!((0..64).map(|_| second_best()).collect::<HashSet<_>>().len(), 64);
    }
}
