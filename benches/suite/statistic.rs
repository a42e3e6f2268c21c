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
//! The rule: a difference is one only if the middle half of the ratios lies on one side of 1; else it is called even.

/// Ratios this near to 1 are even, however alike the rounds were: nobody chooses a library for a hundredth.
const EVEN: f64 = 0.01;

/// With fewer rounds a quartile says nothing, and all of them have to agree.
pub const ROUNDS_FOR_QUARTILES: usize = 5;

/// Where the rounds lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub lower_quartile: f64,
    pub median: f64,
    pub upper_quartile: f64,
    pub most: f64,
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
    /// Nothing, if there is no value. Values that are no numbers are left out.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            least: *sorted.first()?,
            lower_quartile: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            upper_quartile: quantile(&sorted, 0.75),
            most: *sorted.last()?,
            rounds: sorted.len(),
        })
    }

    /// The part of the spread that a verdict rests on: the middle half, or everything if there are few rounds.
    pub fn middle(&self) -> (f64, f64) {
        match self.rounds < ROUNDS_FOR_QUARTILES {
            true => (self.least, self.most),
            false => (self.lower_quartile, self.upper_quartile),
        }
    }

    /// Of the spread of paired ratios, ours to theirs: who is better.
    pub fn outcome(&self, more_is_better: bool) -> Outcome {
        let (low, high) = self.middle();
        match (low > 1.0 + EVEN, high < 1.0 - EVEN) {
            (false, false) => Outcome::Even,
            (above, _) if above == more_is_better => Outcome::Wins,
            _ => Outcome::Loses,
        }
    }
}

/// Ours to theirs, round by round. A round that one of the two lacks has no ratio, nor has one that divides by zero,
/// unless both are zero: those are alike.
pub fn paired(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Vec<f64> {
    let pairs = ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some(((*ours)?, (*theirs)?)));
    pairs.map(|(ours, theirs)| if ours == theirs { 1.0 } else { ours / theirs }).filter(|r| r.is_finite()).collect()
}

/// Between the two values that stand nearest, in proportion.
fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let place = quantile * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}
