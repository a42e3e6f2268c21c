//! Axes: where a value lies, and which values are written beside the line.
//!
//! A logarithmic axis is a linear one of logarithms, so that pictures need to know one kind of coordinates only.

use super::figure::{Figure, short, thousands};
use super::scenario::Scale;
use std::ops::Range;

pub struct Axis {
    /// In places, not in values.
    pub range: Range<f64>,
    /// Places, and what is written there.
    pub ticks: Vec<(f64, String)>,
    pub caption: String,
    log: bool,
}

/// Ticks on a linear axis, at most.
const TICKS: f64 = 6.0;

/// What a logarithmic axis leaves free at each end, in decades.
const ROOM: f64 = 0.08;

/// No logarithm is taken of less: zero connections, a cost of nothing.
const LEAST: f64 = 1e-6;

impl Axis {
    /// For the values of a figure.
    pub fn of_figure(figure: &Figure, scale: Scale, values: &[f64]) -> Axis {
        match scale {
            Scale::Linear => Axis::linear(figure, values),
            // Within a decade a logarithm shows nothing that a plain scale does not, and has hardly a tick.
            Scale::Log if narrow(values) => Axis::linear(figure, values),
            Scale::Log => Axis {
                caption: format!("{}, log scale", figure.words),
                ..Axis::log(values, |value| figure.quantity.show_round(value))
            },
        }
    }

    /// For ratios, around 1.
    pub fn of_ratios(values: &[f64], caption: &str) -> Axis {
        let (low, high) = ends(values.iter().copied().chain([0.95, 1.05]));
        let room = (high - low) * 0.05;
        let range = low - room..high + room;
        let ticks = nice(&range).into_iter().map(|value| (value, format!("{value:.2}"))).collect();
        Axis { range, ticks, caption: caption.to_owned(), log: false }
    }

    /// For what was measured at: every value is a tick, as long as there is room.
    pub fn of_sweep(values: &[f64], caption: &str) -> Axis {
        let mut axis = Axis::log(values, |_| String::new());
        let least_gap = (axis.range.end - axis.range.start) / 10.0;
        axis.ticks.clear();
        for value in values {
            let place = axis.place(*value);
            if axis.ticks.last().is_none_or(|(last, _)| place - last > least_gap) {
                axis.ticks.push((place, thousands(*value)));
            }
        }
        Axis { caption: caption.to_owned(), ..axis }
    }

    pub fn place(&self, value: f64) -> f64 {
        match self.log {
            // Nothing has no logarithm: it lies at the lower end.
            true => value.max(LEAST).log10().max(self.range.start),
            false => value,
        }
    }

    /// From zero, in the unit of the largest.
    fn linear(figure: &Figure, values: &[f64]) -> Axis {
        let (_, high) = ends(values.iter().copied().chain([0.0]));
        let range = 0.0..if high > 0.0 { high * 1.06 } else { 1.0 };
        let unit = figure.quantity.unit(high);
        let written = |value: f64| short(value / unit.divisor);
        let inside = nice(&(range.start / unit.divisor..range.end / unit.divisor));
        let ticks = inside.into_iter().map(|value| value * unit.divisor).map(|value| (value, written(value))).collect();
        Axis { range, ticks, caption: figure.axis(&unit), log: false }
    }

    /// Decades, and 2 and 5 between them if there are few.
    fn log(values: &[f64], written: impl Fn(f64) -> String) -> Axis {
        let (low, high) = ends(values.iter().copied().filter(|value| *value > 0.0));
        let (low, high) = (low.max(LEAST).log10(), high.max(LEAST).log10());
        let room = ROOM.max((high - low) * 0.04).max((0.3 - (high - low)) / 2.0);
        let range = low - room..high + room;
        let steps: &[f64] = if range.end - range.start < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let decades = range.start.floor() as i32..=range.end.ceil() as i32;
        let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let ticks =
            all.map(|value| (value.log10(), written(value))).filter(|(place, _)| range.contains(place)).collect();
        Axis { range, ticks, caption: String::new(), log: true }
    }
}

/// The axis of the percentiles: a decade for each further nine, and one more for the worst.
pub fn percentiles(quantiles: &[f64]) -> Axis {
    let deepest = quantiles.iter().filter(|q| **q < 1.0).map(|q| rarity(*q)).fold(1.0, f64::max);
    let worst = deepest.floor() + 1.0;
    let name = |nines: i32| match nines {
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more as usize - 2)),
    };
    let mut ticks: Vec<(f64, String)> = (1..worst as i32).map(|nines| (f64::from(nines), name(nines))).collect();
    ticks.push((rarity(0.5), "50 %".to_owned()));
    ticks.push((worst, "worst".to_owned()));
    let caption = "share of the messages that were faster".to_owned();
    Axis { range: 0.2..worst + 0.05, ticks, caption, log: false }
}

/// How many nines a quantile has.
pub fn rarity(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn narrow(values: &[f64]) -> bool {
    let (low, high) = ends(values.iter().copied());
    high < 10.0 * low
}

fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// Round values inside, at most `TICKS`.
fn nice(range: &Range<f64>) -> Vec<f64> {
    let rough = (range.end - range.start) / TICKS;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * decade).find(|s| *s >= rough).unwrap_or(10.0 * decade);
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    (first..=last).map(|n| n as f64 * step).collect()
}

/// Bars need a beginning; on a logarithmic scale it is a decade below the smallest.
pub struct Lengths {
    low: f64,
    high: f64,
    pub log: bool,
}

impl Lengths {
    /// Logarithmic if the largest is a hundred times the smallest.
    pub fn of(values: &[f64]) -> Lengths {
        let (_, high) = ends(values.iter().copied());
        let (low, _) = ends(values.iter().copied().filter(|value| *value > 0.0));
        let log = low > 0.0 && high / low > 100.0;
        Lengths { low: low.log10().ceil() - 1.0, high, log }
    }

    /// Between 0 and 1.
    pub fn part(&self, value: f64) -> f64 {
        let part = match self.log {
            true => (value.max(LEAST).log10() - self.low) / (self.high.log10() - self.low),
            false => value / self.high.max(LEAST),
        };
        part.clamp(0.0, 1.0)
    }
}
