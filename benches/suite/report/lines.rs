//! Lines: a figure along a sweep, its ratio to the reference, and latency against the quantile.
//!
//! All three are panels of the same kind. A line is the median of the rounds; the thin upright line through each of
//! its points is the doubt about it, so that two lines that cross within it are seen to be even.

use super::axis::{self, Axis};
use super::canvas::{Area, Drawn, GRID, INK, MUTED, Picture, stroke, text};
use super::figure::{Better, Figure};
use super::scenario::Scale;
use super::side::{self, Look};
use super::view::{View, axis_words, capital, percentiles_of, ratio_to, reference_of, spread_of, x};
use crate::result::Cell;
use crate::statistic::Spread;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// A picture of percentiles has so many panels at most; more would not be looked at.
const CURVES: usize = 4;

/// A curve of percentiles is drawn for this many connections, if it was measured there.
const TYPICAL: u64 = 100;

const HEIGHT: u32 = 290;

struct Panel<'a> {
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<Series<'a>>,
    /// A line across: what ratios are held against.
    level: Option<f64>,
}

struct Series<'a> {
    side: &'a str,
    points: Vec<Point>,
}

struct Point {
    x: f64,
    median: f64,
    /// The ends of the doubt, if it is drawn.
    doubt: Option<(f64, f64)>,
}

/// Figures along the sweep.
pub fn lines(view: &View<'_>, names: &[&str], scale: Scale, title: &str) -> Option<String> {
    let better = match Figure::named(names[0]).better {
        Better::More => "Higher is better. ",
        Better::Less => "Lower is better. ",
        Better::Unknown => "",
    };
    let note = format!("{better}{}", view.note());
    let mut panels = Vec::new();
    for name in names {
        for (title, series) in swept(view, &view.sides(), |cell, side| spread_of(cell, side, name)) {
            let (x, y) = (sweep_axis(view, &series), Axis::of_figure(&Figure::named(name), scale, &heights(&series)));
            panels.push(Panel { title, x, y, series, level: None });
        }
    }
    plot(title, &note, panels)
}

/// The paired ratios to the reference along the sweep.
pub fn ratios(view: &View<'_>, name: &str, title: &str) -> Option<String> {
    let mut sides = view.sides();
    let reference = reference_of(&sides)?;
    sides.retain(|side| *side != reference);
    let figure = Figure::named(name);
    let note = format!("Of {}, each round to the same round of {reference}. {}", figure.words, view.note());
    let panels = swept(view, &sides, |cell, side| ratio_to(cell, side, reference, name));
    let panels = panels.into_iter().map(|(title, series)| {
        let (x, y) = (sweep_axis(view, &series), Axis::of_ratios(&heights(&series), &format!("ratio to {reference}")));
        Panel { title, x, y, series, level: Some(1.0) }
    });
    plot(title, &note, panels.collect())
}

/// Latency against the quantile, for one cell of each panel.
pub fn percentiles(view: &View<'_>, title: &str) -> Option<String> {
    let sides = view.sides();
    let typical = |cells: &[&Cell]| -> usize {
        let at = cells.iter().position(|cell| x(cell, view.sweep) == TYPICAL);
        at.unwrap_or(cells.len() / 2)
    };
    let cells = view.panels().into_iter().map(|(_, cells)| cells[typical(&cells)]).take(CURVES);
    let panels = cells.filter_map(|cell| {
        let curves: Vec<_> = sides.iter().map(|side| (*side, upper_half(cell, side))).collect();
        let quantiles: Vec<f64> = curves.iter().flat_map(|(_, curve)| curve).map(|(quantile, _)| *quantile).collect();
        let x = axis::percentiles(&quantiles);
        let worst = x.range.end.floor();
        let series = curves.into_iter().filter(|(_, curve)| !curve.is_empty()).map(|(side, curve)| {
            let place = |quantile| if quantile < 1.0 { axis::rarity(quantile) } else { worst };
            let points = curve.into_iter().map(|(quantile, ns)| Point { x: place(quantile), median: ns, doubt: None });
            Series { side, points: points.collect() }
        });
        let series: Vec<Series<'_>> = series.collect();
        let y = Axis::of_figure(&Figure::named("latency_ns"), Scale::Log, &heights(&series));
        (!series.is_empty()).then(|| Panel { title: view.label(cell), x, y, series, level: None })
    });
    plot(title, "Lower and flatter is better. Each step to the right is ten times rarer.", panels.collect())
}

/// The percentiles from the median on: nobody waits for the fastest.
fn upper_half(cell: &Cell, side: &str) -> Vec<(f64, f64)> {
    percentiles_of(cell, side).into_iter().filter(|(quantile, _)| *quantile >= 0.5).collect()
}

/// Each panel's title and lines.
fn swept<'a>(
    view: &View<'a>,
    sides: &[&'a str],
    value: impl Fn(&Cell, &str) -> Option<Spread>,
) -> Vec<(String, Vec<Series<'a>>)> {
    let line = |cells: &[&Cell], side: &'a str| {
        let points = cells.iter().filter_map(|cell| {
            // A ratio to nothing has no height.
            let spread = value(cell, side).filter(|spread| spread.high.is_finite())?;
            let doubt = Some((spread.low, spread.high));
            Some(Point { x: x(cell, view.sweep) as f64, median: spread.median, doubt })
        });
        Series { side, points: points.collect() }
    };
    let panels = view.panels().into_iter().map(|(title, cells)| {
        let series = sides.iter().map(|side| line(&cells, side)).filter(|series| !series.points.is_empty());
        (title, series.collect::<Vec<_>>())
    });
    panels.filter(|(_, series)| !series.is_empty()).collect()
}

fn sweep_axis(view: &View<'_>, series: &[Series<'_>]) -> Axis {
    let mut values: Vec<f64> = series.iter().flat_map(|series| &series.points).map(|point| point.x).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    Axis::of_sweep(&values, &format!("{}, log scale", axis_words(view.sweep.unwrap_or_default())))
}

/// All that has to find room on the y axis.
fn heights(series: &[Series<'_>]) -> Vec<f64> {
    let ends = |point: &Point| point.doubt.unwrap_or((point.median, point.median));
    let points = series.iter().flat_map(|series| &series.points);
    points.flat_map(|point| [point.median, ends(point).0, ends(point).1]).collect()
}

/// The picture of these panels; none without panels.
fn plot(title: &str, note: &str, panels: Vec<Panel<'_>>) -> Option<String> {
    let mut legend: Vec<&str> = panels.iter().flat_map(|panel| &panel.series).map(|series| series.side).collect();
    legend.sort_by_key(|name| (side::place(name), *name));
    legend.dedup();
    let picture = Picture { title, note, legend: &legend, panels: panels.len(), panel_height: HEIGHT };
    (!panels.is_empty()).then(|| picture.draw(|at, area| draw(&panels[at], area)))
}

type Plane = Cartesian2d<RangedCoordf64, RangedCoordf64>;

fn draw(panel: &Panel<'_>, area: &Area<'_>) -> Drawn {
    let heading = match panel.title.as_str() {
        "" => capital(&panel.y.caption),
        title => format!("{}: {}", capital(title), panel.y.caption),
    };
    text(area, &heading, (0, 8), 12, INK, HPos::Left, false)?;
    let chart = ChartBuilder::on(area)
        .margin_top(26)
        .margin_right(14)
        .set_label_area_size(LabelAreaPosition::Left, 66)
        .set_label_area_size(LabelAreaPosition::Bottom, 42)
        .build_cartesian_2d(panel.x.range.clone(), panel.y.range.clone())?;
    let inner = chart.plotting_area();
    grid(area, inner, panel)?;
    // What stands out is drawn last, above the others.
    for series in panel.series.iter().rev() {
        line(area, inner, panel, series)?;
    }
    Ok(())
}

/// Pixels within the area of the panel; plotters counts them from the corner of the picture.
fn pixel(area: &Area<'_>, inner: &DrawingArea<SVGBackend<'_>, Plane>, at: (f64, f64)) -> (i32, i32) {
    let ((x, y), (left, top)) = (inner.map_coordinate(&at), area.get_base_pixel());
    (x - left, y - top)
}

fn grid(area: &Area<'_>, inner: &DrawingArea<SVGBackend<'_>, Plane>, panel: &Panel<'_>) -> Drawn {
    let (x, y) = (&panel.x.range, &panel.y.range);
    let (left, bottom) = pixel(area, inner, (x.start, y.start));
    let (right, top) = pixel(area, inner, (x.end, y.end));
    for (place, label) in &panel.y.ticks {
        let (_, height) = pixel(area, inner, (x.start, *place));
        area.draw(&PathElement::new(vec![(left, height), (right, height)], GRID))?;
        text(area, label, (left - 8, height), 11, MUTED, HPos::Right, false)?;
    }
    for (place, label) in &panel.x.ticks {
        let (across, _) = pixel(area, inner, (*place, y.start));
        area.draw(&PathElement::new(vec![(across, top), (across, bottom + 4)], GRID))?;
        text(area, label, (across, bottom + 13), 11, MUTED, HPos::Center, false)?;
    }
    area.draw(&PathElement::new(vec![(left, bottom), (right, bottom)], MUTED))?;
    if let Some(level) = panel.level {
        let (_, height) = pixel(area, inner, (x.start, panel.y.place(level)));
        area.draw(&PathElement::new(vec![(left, height), (right, height)], INK.stroke_width(2)))?;
    }
    text(area, &panel.x.caption, ((left + right) / 2, bottom + 31), 11, MUTED, HPos::Center, false)
}

fn line(area: &Area<'_>, inner: &DrawingArea<SVGBackend<'_>, Plane>, panel: &Panel<'_>, series: &Series<'_>) -> Drawn {
    let look = Look::of(series.side);
    let place = |x: f64, y: f64| pixel(area, inner, (panel.x.place(x), panel.y.place(y)));
    let points: Vec<(i32, i32)> = series.points.iter().map(|point| place(point.x, point.median)).collect();
    for point in &series.points {
        if let Some((low, high)) = point.doubt {
            area.draw(&PathElement::new(vec![place(point.x, low), place(point.x, high)], look.colour.mix(0.6)))?;
        }
    }
    if points.len() > 1 {
        stroke(area, &points, look)?;
    }
    if look.dashes.is_none() || points.len() == 1 {
        for point in points {
            area.draw(&Circle::new(point, look.width as i32 + 1, look.colour.filled()))?;
        }
    }
    Ok(())
}
