//! Charts: which drawing answers which question, and what its file is called.

use super::bars::bars;
use super::lines::{lines, percentiles, ratios};
use super::scenario::Chart;
use super::view::View;

/// One picture of the report.
pub struct Drawing {
    pub file: String,
    pub title: &'static str,
    pub svg: String,
}

/// Nothing, if no round has what it would show.
pub fn draw(view: &View<'_>, chart: &Chart) -> Option<Drawing> {
    let (what, title, svg) = match *chart {
        Chart::Lines { figures, scale, title } if swept(view) => {
            (figures[0], title, lines(view, figures, scale, title))
        }
        Chart::Lines { figures, title, .. } => (figures[0], title, bars(view, figures, title)),
        Chart::Ratios { figure, title } => ("ratio", title, swept(view).then(|| ratios(view, figure, title)).flatten()),
        Chart::Bars { figures, title } => (figures[0], title, bars(view, figures, title)),
        Chart::Percentiles { title } => ("percentiles", title, percentiles(view, title)),
    };
    Some(Drawing { file: format!("{}-{}.svg", view.slug(), what.replace('_', "-")), title, svg: svg? })
}

/// Whether there is a line to draw: somewhere two places along the sweep.
fn swept(view: &View<'_>) -> bool {
    view.sweep.is_some() && view.panels().iter().any(|(_, cells)| cells.len() > 1)
}
