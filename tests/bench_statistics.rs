//! What the benchmarks' report says of rounds follows from the rounds.
//!
//! The goal: medians, quartiles and paired ratios are right, and what lies within the spread is called even. The
//! method: `benches/suite/statistic.rs` belongs to a program without a test runner, so it is included here.

#[path = "../benches/suite/statistic.rs"]
mod statistic;

use proptest::prelude::*;
use statistic::{Outcome, Spread, paired};

fn spread(values: &[f64]) -> Spread {
    Spread::of(values).expect("values")
}

#[test]
fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
    assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]).median, 2.5);
    assert_eq!(spread(&[3.0, 1.0, 2.0]).median, 2.0);
}

#[test]
fn quartiles_and_ends_are_those_of_the_sorted_rounds() {
    let spread = spread(&[9.0, 1.0, 5.0, 3.0, 7.0]);
    assert_eq!((spread.least, spread.lower_quartile, spread.median), (1.0, 3.0, 5.0));
    assert_eq!((spread.upper_quartile, spread.most, spread.rounds), (7.0, 9.0, 5));
}

#[test]
fn one_round_is_its_own_spread() {
    let spread = spread(&[8.0]);
    assert_eq!((spread.least, spread.median, spread.most, spread.rounds), (8.0, 8.0, 8.0, 1));
}

#[test]
fn no_rounds_have_no_spread() {
    assert_eq!(Spread::of(&[]), None);
    assert_eq!(Spread::of(&[f64::NAN, f64::INFINITY]), None);
}

#[test]
fn ratios_are_made_of_the_same_round() {
    // Both slow down by half in the second round: the ratio does not see it.
    let ratios = paired(&[Some(90.0), Some(45.0)], &[Some(100.0), Some(50.0)]);
    assert_eq!(ratios, [0.9, 0.9]);
}

#[test]
fn a_round_without_its_pair_has_no_ratio() {
    let ratios = paired(&[Some(1.0), None, Some(3.0), Some(4.0)], &[Some(2.0), Some(2.0), None]);
    assert_eq!(ratios, [0.5]);
}

#[test]
fn nothing_against_nothing_is_alike_and_something_against_nothing_has_no_ratio() {
    assert_eq!(paired(&[Some(0.0), Some(5.0)], &[Some(0.0), Some(0.0)]), [1.0]);
}

#[test]
fn a_difference_inside_the_spread_is_even() {
    let ratios = [0.80, 0.93, 0.95, 0.99, 1.02, 1.04, 1.30];
    assert_eq!(spread(&ratios).outcome(true), Outcome::Even);
}

#[test]
fn one_outlier_does_not_undo_a_difference() {
    let ratios = [0.70, 1.10, 1.11, 1.12, 1.13, 1.12, 1.11];
    assert_eq!(spread(&ratios).outcome(true), Outcome::Wins);
    assert_eq!(spread(&ratios).outcome(false), Outcome::Loses, "where less is better");
}

#[test]
fn of_few_rounds_all_have_to_agree() {
    assert_eq!(spread(&[0.99, 1.20, 1.21]).outcome(true), Outcome::Even);
    assert_eq!(spread(&[1.10, 1.20, 1.21]).outcome(true), Outcome::Wins);
}

#[test]
fn a_hundredth_is_even_even_if_it_is_exact() {
    assert_eq!(spread(&[1.008]).outcome(false), Outcome::Even);
    assert_eq!(spread(&[0.5]).outcome(false), Outcome::Wins);
}

proptest! {
    #[test]
    fn the_five_numbers_are_in_order(values in prop::collection::vec(-1e9..1e9f64, 1..50)) {
        let s = spread(&values);
        let five = [s.least, s.lower_quartile, s.median, s.upper_quartile, s.most];
        prop_assert!(five.is_sorted(), "{five:?}");
        prop_assert!(values.contains(&s.least) && values.contains(&s.most));
    }

    #[test]
    fn a_ratio_and_its_inverse_have_opposite_outcomes(ratios in prop::collection::vec(0.1..10f64, 1..20)) {
        let inverse: Vec<f64> = ratios.iter().map(|ratio| 1.0 / ratio).collect();
        let (ours, theirs) = (spread(&ratios).outcome(true), spread(&inverse).outcome(true));
        prop_assert!(!(ours == Outcome::Wins && theirs == Outcome::Wins));
        prop_assert!(!(ours == Outcome::Loses && theirs == Outcome::Loses));
    }
}
