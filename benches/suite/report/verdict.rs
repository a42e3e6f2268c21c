//! Verdict: where Plimsoll wins and where it loses, from the paired ratios and nothing else.
//!
//! Each judged figure of each cell is one comparison with each other side. Wins and losses are listed in the same form,
//! losses first. What a clock measured in too few rounds is not judged, and is named: silence is no verdict either.

use super::figure::{Better, Figure, ratio};
use super::markdown::{Table, plain};
use super::side;
use super::view::{View, capital, ratio_of, spread_of};
use crate::result::Cell;
use crate::statistic::{Outcome, ROUNDS_FOR_VERDICT};

/// Who is judged.
const OURS: &str = "plimsoll";

/// A list of cells in a sentence names so many, and counts the others.
const NAMED: usize = 3;

/// One judged figure against one rival: the cells by their outcome.
struct Duel<'a> {
    rival: &'a str,
    /// Outcome, ratio, and which cell.
    bouts: Vec<(Outcome, f64, String)>,
}

/// One judged figure of one scenario.
struct Contest<'a> {
    what: String,
    duels: Vec<Duel<'a>>,
}

/// The section on what wins and what loses: Markdown.
pub fn section(views: &[View<'_>]) -> String {
    let contests: Vec<Contest<'_>> = views.iter().flat_map(contests).collect();
    if contests.is_empty() {
        return "Nothing was measured often enough to say.\n\n".to_owned();
    }
    let mut text = "A comparison is one figure at one size and number of connections, Plimsoll's to the other's in the \
                    same round. It is won or lost if the doubt about the median of these ratios lies on one side of 1 \
                    by more than a hundredth; else it is even. The doubt reaches from the second lowest of nine ratios to \
                    the second highest, and of six to eight from the lowest to the highest; two equals are told apart by \
                    chance in at most one comparison of twenty. Counts and memory are exact: there all rounds have to \
                    agree. Only the side *plimsoll* is judged here.\n\n"
        .to_owned();
    text += &overview(&contests).to_string();
    text += "\n### Where Plimsoll loses\n\n";
    text += &listed(&contests, Outcome::Loses, "Nowhere in this run.");
    text += "\n### Where Plimsoll wins\n\n";
    text += &listed(&contests, Outcome::Wins, "Nowhere in this run.");
    text
}

fn contests<'a>(view: &View<'a>) -> Vec<Contest<'a>> {
    let rivals: Vec<&str> = view.sides().into_iter().filter(|name| !side::is_plimsoll(name)).collect();
    let judged = view.part.judged.iter().map(|name| Figure::named(name));
    let contests = judged.map(|figure| Contest {
        what: what(view, &figure),
        duels: rivals.iter().map(|rival| duel(view, &figure, rival)).filter(|duel| !duel.bouts.is_empty()).collect(),
    });
    contests.filter(|contest| !contest.duels.is_empty()).collect()
}

/// `Relay, one bulk stream: throughput`
fn what(view: &View<'_>, figure: &Figure) -> String {
    let name = capital(view.name);
    match view.title().as_str() {
        "" => format!("{name}: {}", figure.words),
        part => format!("{name}, {}: {}", part.to_lowercase(), figure.words),
    }
}

fn duel<'a>(view: &View<'a>, figure: &Figure, rival: &'a str) -> Duel<'a> {
    let bout = |cell: &&Cell| {
        let (outcome, ratio) = bout(cell, figure, rival)?;
        Some((outcome, ratio, view.label(cell)))
    };
    Duel { rival, bouts: view.cells.iter().filter_map(bout).collect() }
}

/// How one comparison ends, and the median of its ratios.
fn bout(cell: &Cell, figure: &Figure, rival: &str) -> Option<(Outcome, f64)> {
    let more_is_better = match figure.better {
        Better::More => true,
        Better::Less => false,
        Better::Unknown => return None,
    };
    let (ours, theirs) = (spread_of(cell, OURS, &figure.name)?, spread_of(cell, rival, &figure.name)?);
    if !figure.exact && ours.rounds.min(theirs.rounds) < ROUNDS_FOR_VERDICT {
        return None;
    }
    let ratio = ratio_of(cell, OURS, rival, &figure.name)?;
    Some((ratio.outcome(more_is_better), ratio.median))
}

/// A row for each contest, a column for each rival.
fn overview(contests: &[Contest<'_>]) -> Table {
    let mut rivals: Vec<&str> = contests.iter().flat_map(|contest| &contest.duels).map(|duel| duel.rival).collect();
    rivals.sort_by_key(|name| (side::place(name), *name));
    rivals.dedup();
    let mut table = Table::new(["won · even · lost, against"].into_iter().chain(rivals.iter().copied()));
    for contest in contests {
        let cells = rivals.iter().map(|rival| {
            let duel = contest.duels.iter().find(|duel| duel.rival == *rival);
            duel.map_or(String::new(), |duel| score(duel))
        });
        table.row([contest.what.clone()].into_iter().chain(cells));
    }
    table
}

/// `18 · 2 · 0`; losses in bold.
fn score(duel: &Duel<'_>) -> String {
    let count = |outcome| duel.bouts.iter().filter(|bout| bout.0 == outcome).count();
    match (count(Outcome::Wins), count(Outcome::Even), count(Outcome::Loses)) {
        (won, even, 0) => format!("{won} · {even} · 0"),
        (won, even, lost) => format!("{won} · {even} · **{lost}**"),
    }
}

/// All duels with this outcome, a row for each contest.
fn listed(contests: &[Contest<'_>], outcome: Outcome, otherwise: &str) -> String {
    let mut table =
        Table::new(["what", "against whom, in how many comparisons, and Plimsoll's figure divided by theirs"]);
    for contest in contests {
        let duels: Vec<String> = contest.duels.iter().filter_map(|duel| told(duel, outcome)).collect();
        if !duels.is_empty() {
            table.row([contest.what.clone(), duels.join("<br/>")]);
        }
    }
    if table.is_empty() { format!("{otherwise}\n") } else { table.to_string() }
}

/// `**mio** 3 of 20, 0.93…0.97: 64 KiB, 1 connection; …`
fn told(duel: &Duel<'_>, outcome: Outcome) -> Option<String> {
    let bouts: Vec<_> = duel.bouts.iter().filter(|bout| bout.0 == outcome).collect();
    let low = bouts.iter().map(|bout| bout.1).reduce(f64::min)?;
    let high = bouts.iter().map(|bout| bout.1).reduce(f64::max)?;
    let range = if ratio(low) == ratio(high) { ratio(low) } else { format!("{}…{}", ratio(low), ratio(high)) };
    let mut text = format!("**{}** {} of {}, {range}", plain(duel.rival), bouts.len(), duel.bouts.len());
    if bouts.len() < duel.bouts.len() {
        let names: Vec<&str> = bouts.iter().take(NAMED).map(|bout| bout.2.as_str()).collect();
        text += &format!(": {}", plain(&names.join("; ")));
        if bouts.len() > NAMED {
            text += &format!("; and {} more", bouts.len() - NAMED);
        }
    }
    Some(text)
}
