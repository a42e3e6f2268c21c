//! View: the cells of one variant, asked for what tables and pictures need.
//!
//! A side that failed has no figures here at all: it cannot become a row, a bar or a point by accident. What it has is
//! its error, which the report shows by itself.

use super::figure::{Quantity, is_known, thousands};
use super::scenario::{Part, Scenario, UNKNOWN};
use super::side;
use crate::result::{Cell, SideResult};
use crate::statistic::{ROUNDS_FOR_VERDICT, Spread, paired};
use std::collections::BTreeMap;

/// The cells of a scenario's variant.
pub struct View<'a> {
    pub scenario: &'static Scenario,
    pub part: &'static Part,
    pub name: &'a str,
    pub variant: &'a str,
    pub cells: Vec<&'a Cell>,
    /// The parameter along the x axis, if one varies.
    pub sweep: Option<&'a str>,
    /// The other parameters that vary: they tell one panel from another.
    panels: Vec<&'a str>,
}

impl<'a> View<'a> {
    pub fn new(scenario: &'static Scenario, cells: Vec<&'a Cell>) -> View<'a> {
        let variant = &cells[0].variant;
        let known = scenario.parts.iter().find(|part| part.variant == variant);
        let part = known.or(scenario.parts.first()).unwrap_or(&UNKNOWN.parts[0]);
        let varying: Vec<&str> = names(&cells).into_iter().filter(|name| varies(&cells, name)).collect();
        let sweep = part.sweep.iter().find_map(|wanted| varying.iter().copied().find(|name| name == wanted));
        let panels = varying.into_iter().filter(|name| Some(*name) != sweep).collect();
        let name = &cells[0].scenario;
        let mut view = View { scenario, part, name, variant, cells, sweep, panels };
        view.cells.sort_by_key(|cell| {
            (view.panels.iter().map(|p| cell.parameters.get(*p)).collect::<Vec<_>>(), x(cell, sweep))
        });
        view
    }

    /// The variant in words; empty if the scenario has only this one.
    pub fn title(&self) -> String {
        match (self.part.variant == self.variant, self.part.title) {
            (true, title) => title.to_owned(),
            (false, _) => capital(&self.variant.replace('-', " ")),
        }
    }

    /// A name for files and anchors.
    pub fn slug(&self) -> String {
        match self.variant {
            "" => self.name.to_owned(),
            variant => format!("{}-{variant}", self.name),
        }
    }

    /// All sides that have a figure in any cell, in their order.
    pub fn sides(&self) -> Vec<&'a str> {
        let mut sides: Vec<&str> = Vec::new();
        for result in self.cells.iter().flat_map(|cell| &cell.sides).filter(|result| !failed(result)) {
            if !sides.contains(&result.side.as_str()) {
                sides.push(&result.side);
            }
        }
        sides.sort_by_key(|name| side::place(name));
        sides
    }

    /// The judged figures, the shown ones, then those that the report does not know; none that no round has. What it
    /// knows and does not show here is in raw.json.
    pub fn figures(&self) -> Vec<&'a str> {
        let wanted: Vec<&str> = self.part.judged.iter().chain(self.part.shown).copied().collect();
        let rounds = self.cells.iter().flat_map(|cell| &cell.sides).flat_map(|result| &result.rounds);
        let names = rounds.flat_map(|sample| sample.figures.keys()).map(String::as_str);
        let mut present: Vec<&str> = names.filter(|name| wanted.contains(name) || !is_known(name)).collect();
        present.sort_by_key(|name| (wanted.iter().position(|w| w == name).unwrap_or(wanted.len()), *name));
        present.dedup();
        present
    }

    /// What the thin line through a bar or a point is.
    pub fn note(&self) -> &'static str {
        let sides = self.cells.iter().flat_map(|cell| &cell.sides);
        match sides.map(|result| result.rounds.len()).max().unwrap_or(0) {
            0 | 1 => "Measured once.",
            few if few < ROUNDS_FOR_VERDICT => "Medians of the rounds; thin lines reach from the least to the most.",
            _ => "Medians of the rounds; thin lines are the doubt about them.",
        }
    }

    /// Cells that differ in the sweep only, with what they have in common.
    pub fn panels(&self) -> Vec<(String, Vec<&'a Cell>)> {
        let mut panels: Vec<(String, Vec<&'a Cell>)> = Vec::new();
        for cell in &self.cells {
            let label = words_of(cell, &self.panels);
            match panels.iter_mut().find(|(known, _)| *known == label) {
                Some((_, cells)) => cells.push(cell),
                None => panels.push((label, vec![cell])),
            }
        }
        panels
    }

    /// What tells a cell from the others of its variant; if there is only one, all its parameters.
    pub fn label(&self, cell: &Cell) -> String {
        let mut names = self.panels.clone();
        names.extend(self.sweep);
        match names.is_empty() {
            true => words_of(cell, &cell.parameters.keys().map(String::as_str).collect::<Vec<_>>()),
            false => words_of(cell, &names),
        }
    }

    /// What all cells have in common.
    pub fn common(&self) -> String {
        let common = names(&self.cells).into_iter().filter(|name| !varies(&self.cells, name)).collect::<Vec<_>>();
        words_of(self.cells[0], &common)
    }

    pub fn errors(&self) -> Vec<(String, &'a str, &'a str)> {
        let mut errors = Vec::new();
        for cell in &self.cells {
            for result in cell.sides.iter().filter(|result| failed(result)) {
                let why = result.error.as_deref().unwrap_or("no round was measured");
                errors.push((self.label(cell), result.side.as_str(), why));
            }
        }
        errors
    }
}

/// Whether nothing of this side may be shown as measured.
pub fn failed(result: &SideResult) -> bool {
    result.error.is_some() || result.rounds.is_empty()
}

/// The place of a cell on the x axis.
pub fn x(cell: &Cell, sweep: Option<&str>) -> u64 {
    sweep.and_then(|name| cell.parameters.get(name)).copied().unwrap_or(0)
}

/// A figure of a side, round by round; nothing if the side failed.
pub fn rounds_of(cell: &Cell, side: &str, figure: &str) -> Vec<Option<f64>> {
    let result = cell.sides.iter().find(|result| result.side == side && !failed(result));
    result.map_or(Vec::new(), |result| result.rounds.iter().map(|sample| sample.figures.get(figure).copied()).collect())
}

pub fn spread_of(cell: &Cell, side: &str, figure: &str) -> Option<Spread> {
    Spread::of(&rounds_of(cell, side, figure).into_iter().flatten().collect::<Vec<_>>())
}

/// One side to another, pair by pair.
pub fn ratio_of(cell: &Cell, ours: &str, theirs: &str, figure: &str) -> Option<Spread> {
    Spread::of(&paired(&rounds_of(cell, ours, figure), &rounds_of(cell, theirs, figure)))
}

/// What the other sides are held against: the bare loop; where there is none, tokio.
pub fn reference_of<'a>(sides: &[&'a str]) -> Option<&'a str> {
    let tokio = || sides.iter().find(|side| side.starts_with("tokio"));
    sides.iter().find(|side| **side == "floor").or_else(tokio).copied()
}

/// The ratio to the reference under the same condition; none of the reference to itself.
pub fn ratio_to(cell: &Cell, side: &str, reference: &str, figure: &str) -> Option<Spread> {
    let (name, condition) = side::parts(side);
    (name != reference).then(|| ratio_of(cell, side, &format!("{reference}{condition}"), figure)).flatten()
}

/// The median of the rounds at each quantile that all of them reach: those with few messages would bend the end.
pub fn percentiles_of(cell: &Cell, side: &str) -> Vec<(f64, f64)> {
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    let result = cell.sides.iter().find(|result| result.side == side && !failed(result));
    for (quantile, ns) in result.iter().flat_map(|result| &result.rounds).flat_map(|sample| &sample.percentiles) {
        // Quantiles are not negative, so their bits are in their order.
        at.entry(quantile.to_bits()).or_default().push(*ns as f64);
    }
    let rounds = result.map_or(0, |result| result.rounds.len());
    let whole = at.iter().filter(|(_, ns)| ns.len() == rounds);
    whole.filter_map(|(bits, ns)| Some((f64::from_bits(*bits), Spread::of(ns)?.median))).collect()
}

/// `64 B, 100 connections`.
fn words_of(cell: &Cell, names: &[&str]) -> String {
    // Sizes come first, since they are what one thinks in.
    let mut known: Vec<(&str, u64)> =
        names.iter().filter_map(|name| Some((*name, *cell.parameters.get(*name)?))).collect();
    known.sort_by_key(|(name, _)| *name != "size_bytes");
    known.into_iter().map(|(name, value)| parameter(name, value)).collect::<Vec<_>>().join(", ")
}

/// A parameter in words.
fn parameter(name: &str, value: u64) -> String {
    let number = thousands(value as f64);
    match name {
        "size_bytes" => Quantity::Bytes.show(value as f64),
        "depth" => format!("depth {number}"),
        "rate" => format!("{number} messages a second"),
        "burst" => format!("bursts of {number}"),
        "mib" => format!("{number} MiB"),
        "bulk" | "small" => format!("{number} {name} flows"),
        "stop_seconds" => format!("stopped for {number} s"),
        "connections" | "subscribers" | "pairs" | "timers" | "producers" if value == 1 => {
            format!("1 {}", name.trim_end_matches('s'))
        }
        _ => match name.rsplit_once('_') {
            Some((what, "bytes")) => format!("{what} {}", Quantity::Bytes.show(value as f64)),
            Some((what, unit)) => format!("{} {number} {unit}", what.replace('_', " ")),
            None => format!("{number} {name}"),
        },
    }
}

/// Cells that were measured at the same place are one: what took instructions and what took system calls.
pub fn merged(cells: &[Cell]) -> Vec<Cell> {
    let mut merged: Vec<Cell> = Vec::new();
    for cell in cells {
        let same = |m: &&mut Cell| {
            (&m.scenario, &m.variant, &m.parameters) == (&cell.scenario, &cell.variant, &cell.parameters)
        };
        match merged.iter_mut().find(same) {
            Some(known) => cell.sides.iter().for_each(|result| merge(known, result)),
            None => merged.push(cell.clone()),
        }
    }
    merged
}

/// How busy the server was, wherever messages and their processor time are known: who is not busy waits for its peers, and
/// then messages a second are theirs as well.
pub fn with_busy_share(mut cells: Vec<Cell>) -> Vec<Cell> {
    let results = cells.iter_mut().flat_map(|cell| &mut cell.sides);
    for figures in results.flat_map(|result| &mut result.rounds).map(|sample| &mut sample.figures) {
        let (rate, cost) = (figures.get("messages_per_second"), figures.get("server_cpu_ns_per_message"));
        if let (Some(rate), Some(cost)) = (rate, cost) {
            figures.insert("server_busy_share".to_owned(), rate * cost / 1e9);
        }
    }
    cells
}

/// Failures stay what they are, beside the figures of the same side that did not fail.
fn merge(cell: &mut Cell, result: &SideResult) {
    let known = cell.sides.iter_mut().find(|known| known.side == result.side && !failed(known));
    let Some(known) = known.filter(|_| !failed(result)) else { return cell.sides.push(result.clone()) };
    for (at, sample) in result.rounds.iter().enumerate() {
        match known.rounds.get_mut(at) {
            Some(round) => round.figures.extend(sample.figures.clone()),
            None => known.rounds.push(sample.clone()),
        }
    }
}

/// The words for a parameter on an axis.
pub fn axis_words(name: &str) -> String {
    match name {
        "depth" => "frames in one batch".to_owned(),
        "rate" => "messages a second, in all".to_owned(),
        _ => name.replace('_', " "),
    }
}

fn names<'a>(cells: &[&'a Cell]) -> Vec<&'a str> {
    let mut names: Vec<&str> = cells.iter().flat_map(|cell| cell.parameters.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn varies(cells: &[&Cell], name: &str) -> bool {
    cells.iter().any(|cell| cell.parameters.get(name) != cells[0].parameters.get(name))
}

pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
