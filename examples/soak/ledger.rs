//! What has happened so far, what it was held against, and how much may be sent.

use crate::peer::Manner;
use std::time::Instant;

/// How many errors are told one by one. When there are more, they are most likely the same one.
const COMPLAINTS_TOLD: u64 = 20;

/// The account of all peers.
#[derive(Default)]
pub struct Ledger {
    /// Connections now.
    pub open: usize,
    /// Connections that are over, by the manner of their peer.
    pub ended: [u64; Manner::ALL.len()],
    /// Bytes taken from all peers, and brought back to them.
    pub sent: u64,
    pub back: u64,
    /// The same of those whose streams ended whole: equal, or bytes were lost or made up.
    pub whole_sent: u64,
    pub whole_back: u64,
    pub errors: u64,
}

impl Ledger {
    pub fn complain(&mut self, what: String) {
        self.errors += 1;
        match self.errors {
            1..=COMPLAINTS_TOLD => println!("error: {what}"),
            n if n == COMPLAINTS_TOLD + 1 => println!("error: further ones are counted and not told"),
            _ => {}
        }
    }

    pub fn connections(&self) -> u64 {
        self.ended.iter().sum()
    }
}

/// The rate that all peers share, as a bucket that fills with time.
pub struct Rate {
    /// Bytes a second; 0 does not limit.
    limit: f64,
    available: f64,
    filled: Instant,
}

impl Rate {
    pub fn new(bytes_per_second: f64, now: Instant) -> Rate {
        Rate { limit: bytes_per_second, available: 0.0, filled: now }
    }

    /// Up to `wanted` bytes may be sent now: how many.
    pub fn take(&mut self, now: Instant, wanted: usize) -> usize {
        if self.limit == 0.0 {
            return wanted;
        }
        // What was not used for a quarter of a second is not used at all.
        let gained = self.limit * now.saturating_duration_since(self.filled).as_secs_f64();
        self.available = (self.available + gained).min(self.limit / 4.0);
        self.filled = now;
        let granted = wanted.min(self.available as usize);
        self.available -= granted as f64;
        granted
    }
}
