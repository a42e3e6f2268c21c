//! Bars: one for each side, with its value written behind it; a panel for each cell and figure.
//!
//! If the largest is a hundred times the smallest the lengths are logarithmic, and the panel says so. The numbers are
//! there in any case: a bar is for the order, the number for the size.

use super::axis::Lengths;
use super::canvas::{Area, CHARACTER, Drawn, INK, MUTED, Picture, text};
use super::figure::{Better, Figure};
use super::side::{Look, is_plimsoll};
use super::view::{View, capital, spread_of};
use crate::statistic::Spread;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

const PITCH: i32 = 24;
const THICKNESS: i32 = 14;

/// Below the heading of a panel.
const FIRST: i32 = 36;

/// For the value behind a bar.
const VALUE: i32 = 76;

/// Behind the longest name: a descender more would touch the bar.
const NAME_GAP: i32 = 8;

struct Panel<'a> {
    title: String,
    figure: Figure,
    bars: Vec<(&'a str, Spread)>,
}

/// Nothing, if no side has any of the figures.
pub fn bars(view: &View<'_>, figures: &[&str], title: &str) -> Option<String> {
    let mut panels = Vec::new();
    for cell in &view.cells {
        for figure in figures.iter().map(|name| Figure::named(name)) {
            let sides = view.sides().into_iter();
            let bars: Vec<_> = sides.filter_map(|side| Some((side, spread_of(cell, side, &figure.name)?))).collect();
            let label = if view.cells.len() > 1 { view.label(cell) } else { String::new() };
            if !bars.is_empty() {
                panels.push(Panel { title: label, figure, bars });
            }
        }
    }
    let most = panels.iter().map(|panel| panel.bars.len()).max()? as i32;
    let height = (FIRST + most * PITCH) as u32;
    let picture = Picture { title, note: view.note(), legend: &[], panels: panels.len(), panel_height: height };
    Some(picture.draw(|at, area| draw(&panels[at], area)))
}

fn draw(panel: &Panel<'_>, area: &Area<'_>) -> Drawn {
    let lengths = Lengths::of(&panel.bars.iter().map(|(_, spread)| spread.high).collect::<Vec<_>>());
    text(area, &heading(panel, &lengths), (0, 8), 12, INK, HPos::Left, false)?;
    let longest = panel.bars.iter().map(|(side, _)| side.chars().count()).max().unwrap_or(0) as i32;
    let left = longest * CHARACTER + NAME_GAP;
    let room = area.dim_in_pixel().0 as i32 - left - VALUE;
    let place = |value: f64| left + (lengths.part(value) * f64::from(room)) as i32;
    for (row, (side, spread)) in panel.bars.iter().enumerate() {
        let middle = FIRST + row as i32 * PITCH;
        let (low, high) = (spread.low, spread.high);
        let end = place(spread.median).max(left + 1);
        let (top, bottom) = (middle - THICKNESS / 2, middle + THICKNESS / 2);
        text(area, side, (left - NAME_GAP, middle), 12, INK, HPos::Right, is_plimsoll(side))?;
        area.draw(&Rectangle::new([(left, top), (end, bottom)], Look::of(side).colour.filled()))?;
        if high > low {
            area.draw(&PathElement::new(vec![(place(low), middle), (place(high), middle)], INK))?;
        }
        let value = panel.figure.quantity.show(spread.median);
        text(area, &value, (end.max(place(high)) + 6, middle), 12, INK, HPos::Left, is_plimsoll(side))?;
    }
    area.draw(&PathElement::new(
        vec![(left, FIRST - PITCH / 2), (left, FIRST + (panel.bars.len() as i32) * PITCH - PITCH / 2)],
        MUTED,
    ))
}

fn heading(panel: &Panel<'_>, lengths: &Lengths) -> String {
    let better = match panel.figure.better {
        Better::More => ", more is better",
        Better::Less => ", less is better",
        Better::Unknown => "",
    };
    let scale = if lengths.log { " (log scale)" } else { "" };
    let what = match panel.title.as_str() {
        "" => capital(&panel.figure.words),
        title => format!("{}: {}", capital(title), panel.figure.words),
    };
    format!("{what}{better}{scale}")
}
