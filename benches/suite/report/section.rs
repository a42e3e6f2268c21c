//! Sections: a scenario's question, its tables and pictures, and how to read them. Markdown.

use super::chart::{self, Drawing};
use super::figure::{self, Figure, digits, thousands};
use super::markdown::{Table, folded, plain};
use super::side::{self, is_plimsoll};
use super::view::{View, axis_words, capital, ratio_of, ratio_to, reference_of, rounds_of, spread_of, x};
use crate::result::Cell;
use crate::statistic::Spread;

/// All views of one scenario. Their pictures are added to `drawings`.
pub fn section(views: &[&View<'_>], drawings: &mut Vec<Drawing>) -> String {
    let (scenario, name) = (views[0].scenario, views[0].name);
    let title = if scenario.title.is_empty() { capital(&plain(name)) } else { scenario.title.to_owned() };
    let mut text = format!("\n## {title}\n\n");
    if !scenario.question.is_empty() {
        text += &format!("*{}*\n\n", scenario.question);
    }
    for view in views {
        text += &part(view, drawings);
    }
    if !scenario.reading.is_empty() {
        text += &format!("**How to read it.** {}\n\n", scenario.reading);
    }
    text
}

fn part(view: &View<'_>, drawings: &mut Vec<Drawing>) -> String {
    let mut text = String::new();
    if !view.title().is_empty() {
        text += &format!("### {}\n\n", plain(&view.title()));
    }
    text += &errors(view);
    let common = if view.cells.len() > 1 { view.common() } else { view.label(view.cells[0]) };
    if !common.is_empty() {
        text += &format!("{}.\n\n", capital(&common));
    }
    for drawing in view.part.charts.iter().filter_map(|chart| chart::draw(view, chart)) {
        text += &format!("![{}]({})\n\n", drawing.title, drawing.file);
        drawings.push(drawing);
    }
    for (label, cells) in view.panels() {
        text += &ratios(view, &label, &cells);
        text += &figures(view, &label, &cells);
    }
    text
}

/// What failed, loudly, before anything that did not.
fn errors(view: &View<'_>) -> String {
    let line = |(cell, side, why): (String, &str, &str)| {
        format!("> **Failed:** {} at {}: {}\n>\n", plain(side), plain(&cell), plain(why))
    };
    let lines: String = view.errors().into_iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("{}\n", lines.trim_end_matches(">\n")) }
}

/// The ratios of the first judged figure: sides down, the sweep across.
fn ratios(view: &View<'_>, label: &str, cells: &[&Cell]) -> String {
    let sides = view.sides();
    let (Some(name), Some(reference), true) = (view.part.judged.first(), reference_of(&sides), cells.len() > 1) else {
        return String::new();
    };
    let sweep = axis_words(view.sweep.unwrap_or_default());
    let places = cells.iter().map(|cell| thousands(x(cell, view.sweep) as f64));
    let mut table = Table::new([sweep].into_iter().chain(places));
    for side in sides.iter().filter(|side| **side != reference) {
        let ratios =
            cells.iter().map(|cell| ratio_to(cell, side, reference, name).map_or("–".to_owned(), |r| ratio(&r)));
        table.row([side_name(side)].into_iter().chain(ratios));
    }
    let figure = Figure::named(name);
    format!("{}, ratio to {reference}:\n\n{table}\n", at(label, &figure.words))
}

/// Everything that was measured: a row for each side at each place of the sweep. Where some run under a condition, what
/// it costs them is the ratio to themselves without it.
fn figures(view: &View<'_>, label: &str, cells: &[&Cell]) -> String {
    let (sides, names) = (view.sides(), view.figures());
    let reference = reference_of(&sides);
    let judged = |name: &&str| view.part.judged.contains(name) && reference.is_some();
    let conditions = cells.iter().flat_map(|cell| &cell.sides).map(|result| side::parts(&result.side).1);
    let conditional = conditions.filter(|it| !it.is_empty()).max();
    let mut heads = vec![view.sweep.map_or("side".to_owned(), axis_words)];
    heads.extend(view.sweep.map(|_| "side".to_owned()));
    for name in &names {
        heads.push(Figure::named(name).words.to_string());
        heads.extend(reference.filter(|_| judged(name)).map(|reference| format!("÷ {}", plain(reference))));
        heads
            .extend(conditional.filter(|_| judged(name)).map(|it| format!("÷ without {}", it.trim_start_matches('+'))));
    }
    heads.push("rounds".to_owned());
    let mut table = Table::new(heads);
    for cell in cells {
        for side in &sides {
            let rounds = names.iter().map(|name| rounds_of(cell, side, name).len()).max().unwrap_or(0);
            if rounds == 0 {
                continue;
            }
            let mut row: Vec<String> = view.sweep.iter().map(|_| thousands(x(cell, view.sweep) as f64)).collect();
            row.push(side_name(side));
            for name in &names {
                row.push(spread_of(cell, side, name).map_or("–".to_owned(), |spread| value(name, &spread)));
                let shown = |spread: Option<Spread>| spread.map_or("–".to_owned(), |r| ratio(&r));
                let to_reference = |reference| shown(ratio_to(cell, side, reference, name));
                row.extend(reference.filter(|_| judged(name)).map(to_reference));
                let (plain, condition) = side::parts(side);
                let to_itself = || (!condition.is_empty()).then(|| ratio_of(cell, side, plain, name)).flatten();
                row.extend(conditional.filter(|_| judged(name)).map(|_| shown(to_itself())));
            }
            row.push(rounds.to_string());
            table.row(row);
        }
    }
    if table.is_empty() { String::new() } else { folded(&at(label, "all figures"), &table) }
}

/// Plimsoll is found at a glance.
fn side_name(side: &str) -> String {
    if is_plimsoll(side) { format!("**{side}**") } else { plain(side) }
}

fn at(label: &str, what: &str) -> String {
    capital(&if label.is_empty() { what.to_owned() } else { format!("{label}: {what}") })
}

/// `412 k/s (401…420)`
fn value(name: &str, spread: &Spread) -> String {
    let quantity = Figure::named(name).quantity;
    let unit = quantity.unit(spread.median);
    let median = quantity.show(spread.median);
    let (low, high) = (digits(spread.low / unit.divisor), digits(spread.high / unit.divisor));
    if low == high { median } else { format!("{median} ({low}…{high})") }
}

/// `0.97 (0.95…0.99)`
fn ratio(spread: &Spread) -> String {
    let (median, low, high) = (figure::ratio(spread.median), figure::ratio(spread.low), figure::ratio(spread.high));
    if low == high { median } else { format!("{median} ({low}…{high})") }
}
