//! Statistics: what can be said of a few rounds on a machine that others use too.
//!
//! One round may be off by a third, so no single one is ever compared with another. Sides take turns, and a round of
//! one is held against the *same* round of the other, which ran seconds away and met the same mood of the machine:
//!
//! ```text
//!  round        1      2      3      4
//!  plimsoll   1.02   0.71   1.01   1.04      each alone varies by 30 %
//!  floor      1.05   0.74   1.03   1.06
//!             ────   ────   ────   ────
//!  ratio      0.97   0.96   0.98   0.98      the pairs by 2 %: the median of these is what counts
//! ```
//!
//! The rule: a difference is one only if the *doubt* about the median lies on one side of 1; else it is called even. The
//! doubt reaches from one order statistic to its mirror image, so chosen that it misses the true median in at most one of
//! twenty cells, whatever the distribution is (the sign test, turned round): rounds are few, and far from normal.
//!
//! ```text
//!  rounds      … 5          6 … 8       9 … 11                  12 …
//!  the doubt   no verdict   all         second to last but one  third to last but two …
//! ```
//!
//! The middle half would be a worse rule: of nine rounds of two equals, it lies on one side of 1 in one cell of six.

/// Ratios this near to 1 are even, however alike the rounds were: nobody chooses a library for a hundredth.
const EVEN: f64 = 0.01;

/// How often the doubt may miss the true median.
const MISSED: f64 = 0.05;

/// What a clock measured in fewer rounds is no verdict: even if all of them agree, equals do so in one cell of sixteen.
pub const ROUNDS_FOR_VERDICT: usize = 6;

/// Where the rounds lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    /// The ends of the doubt about the median; with few rounds, the least and the most of them.
    pub low: f64,
    pub high: f64,
    pub rounds: usize,
}

/// What the pairs of rounds say of us and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Wins,
    Even,
    Loses,
}

impl Spread {
    /// Nothing, if there is no value. What is no number is left out; the infinite is one, for a ratio to nothing.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (rounds, cut) = (sorted.len(), left_out(sorted.len()));
        let low = *sorted.get(cut)?;
        Some(Spread { median: median(&sorted), low, high: sorted[rounds - 1 - cut], rounds })
    }

    /// Of the spread of paired ratios, ours to theirs: who is better.
    pub fn outcome(&self, more_is_better: bool) -> Outcome {
        match (self.low > 1.0 + EVEN, self.high < 1.0 - EVEN) {
            (false, false) => Outcome::Even,
            (above, _) if above == more_is_better => Outcome::Wins,
            _ => Outcome::Loses,
        }
    }
}

/// Ours to theirs, round by round. A round that one of the two lacks has no ratio.
pub fn paired(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Vec<f64> {
    let pairs = ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some(((*ours)?, (*theirs)?)));
    pairs.map(|(ours, theirs)| ratio(ours, theirs)).collect()
}

/// Nothing is alike to nothing, and something is infinitely more. What is less than nothing (memory that an earlier
/// round of allocations gave back) counts as nothing: its sign would turn the ratio round.
fn ratio(ours: f64, theirs: f64) -> f64 {
    match (ours.max(0.0), theirs.max(0.0)) {
        (ours, theirs) if ours == theirs => 1.0,
        (ours, theirs) => ours / theirs,
    }
}

/// How many of the sorted rounds lie beyond each end of the doubt: the most with which a fair coin, tossed once for each
/// round, shows no more heads than this, or no more tails, in at most `MISSED` of all cases.
fn left_out(rounds: usize) -> usize {
    let mut share = 2.0 * 0.5f64.powi(rounds as i32);
    let (mut missed, mut cut) = (share, 0);
    loop {
        share *= (rounds - cut) as f64 / (cut + 1) as f64;
        missed += share;
        if missed > MISSED || cut == rounds {
            return cut;
        }
        cut += 1;
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
