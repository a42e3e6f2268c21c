//! What the benchmarks' report says of rounds follows from the rounds.
//!
//! The goal: medians, their doubt and paired ratios are right, and what lies within the doubt is called even. The
//! method: `benches/suite/statistic.rs` belongs to a program without a test runner, so it is included here.

#[path = "../benches/suite/statistic.rs"]
mod statistic;

use proptest::prelude::*;
use statistic::{Outcome, ROUNDS_FOR_VERDICT, Spread, paired};

fn spread(values: &[f64]) -> Spread {
    Spread::of(values).expect("values")
}

#[test]
fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
    assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]).median, 2.5);
    assert_eq!(spread(&[3.0, 1.0, 2.0]).median, 2.0);
}

#[test]
fn the_doubt_is_the_range_of_few_rounds_and_leaves_out_more_of_many() {
    let ends = |rounds: usize| {
        let spread = spread(&(1..=rounds).map(|round| round as f64).collect::<Vec<_>>());
        (spread.low, spread.high)
    };
    assert_eq!((ends(3), ends(6), ends(8)), ((1.0, 3.0), (1.0, 6.0), (1.0, 8.0)));
    assert_eq!((ends(9), ends(11)), ((2.0, 8.0), (2.0, 10.0)));
    assert_eq!((ends(12), ends(21)), ((3.0, 10.0), (6.0, 16.0)));
}

#[test]
fn equals_are_told_apart_in_at_most_one_cell_of_twenty() {
    // Rounds of equals lie above or below 1 as coins fall: here are all ways in which they can.
    for rounds in [ROUNDS_FOR_VERDICT, 8, 9, 11, 12, 15] {
        let ratios = |fall: u32| (0..rounds).map(|at| if fall >> at & 1 == 1 { 1.5 } else { 0.5 }).collect::<Vec<_>>();
        let decided = (0..1 << rounds).filter(|fall| spread(&ratios(*fall)).outcome(true) != Outcome::Even).count();
        assert!(decided as f64 <= 0.05 * f64::from(1 << rounds), "{decided} of {rounds} rounds");
    }
}

#[test]
fn one_round_is_its_own_spread() {
    let spread = spread(&[8.0]);
    assert_eq!((spread.low, spread.median, spread.high, spread.rounds), (8.0, 8.0, 8.0, 1));
}

#[test]
fn no_rounds_have_no_spread() {
    assert_eq!(Spread::of(&[]), None);
    assert_eq!(Spread::of(&[f64::NAN]), None);
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
fn nothing_against_nothing_is_alike_and_something_against_nothing_is_infinitely_more() {
    assert_eq!(
        paired(&[Some(0.0), Some(5.0), Some(0.0)], &[Some(0.0), Some(0.0), Some(5.0)]),
        [1.0, f64::INFINITY, 0.0]
    );
    assert_eq!(spread(&paired(&[Some(5.0)], &[Some(0.0)])).outcome(false), Outcome::Loses);
}

#[test]
fn less_than_nothing_counts_as_nothing() {
    assert_eq!(paired(&[Some(-3.0), Some(2.0)], &[Some(-5.0), Some(-5.0)]), [1.0, f64::INFINITY]);
}

#[test]
fn a_difference_inside_the_spread_is_even() {
    let ratios = [0.80, 0.93, 0.95, 0.99, 1.02, 1.04, 1.30];
    assert_eq!(spread(&ratios).outcome(true), Outcome::Even);
}

#[test]
fn one_outlier_does_not_undo_a_difference() {
    let ratios = [0.70, 1.10, 1.11, 1.12, 1.13, 1.12, 1.11, 1.14, 1.12];
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
    fn median_and_doubt_are_in_order(values in prop::collection::vec(-1e9..1e9f64, 1..50)) {
        let s = spread(&values);
        prop_assert!([s.low, s.median, s.high].is_sorted(), "{s:?}");
        prop_assert!(values.contains(&s.low) && values.contains(&s.high));
    }

    #[test]
    fn a_ratio_and_its_inverse_have_opposite_outcomes(ratios in prop::collection::vec(0.1..10f64, 1..20)) {
        let inverse: Vec<f64> = ratios.iter().map(|ratio| 1.0 / ratio).collect();
        let (ours, theirs) = (spread(&ratios).outcome(true), spread(&inverse).outcome(true));
        prop_assert!(!(ours == Outcome::Wins && theirs == Outcome::Wins));
        prop_assert!(!(ours == Outcome::Loses && theirs == Outcome::Loses));
    }
}
