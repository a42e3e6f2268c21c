//! Verdict: where Plimsoll wins and where it loses, from the paired ratios and nothing else.
//!
//! Each judged figure of each cell is one comparison with each other side. Wins and losses are listed in the same form,
//! losses first. What a clock measured in too few rounds is not judged, and is named: silence is no verdict either.

use super::figure::{Better, Figure, ratio};
use super::markdown::{Table, plain};
use super::side;
use super::view::{View, capital, ratio_of};
use crate::result::Cell;
use crate::statistic::{Outcome, ROUNDS_FOR_VERDICT};

/// Who is judged.
const OURS: &str = "plimsoll";

/// A list of cells in a sentence names so many, and counts the others.
const NAMED: usize = 3;

/// One judged figure against one rival: the cells by their outcome.
struct Duel<'a> {
    /// By name, whatever the condition.
    rival: &'a str,
    /// Outcome, ratio, and which cell.
    bouts: Vec<(Outcome, f64, String)>,
    /// Comparisons that have too few rounds for one.
    unfought: usize,
}

/// One judged figure of one cell against one rival.
enum Bout {
    /// With the median of its ratios.
    Ended(Outcome, f64),
    TooFewRounds,
    /// One of the two was not measured.
    None,
}

/// One judged figure of one scenario.
struct Contest<'a> {
    what: String,
    duels: Vec<Duel<'a>>,
}

/// The section on what wins and what loses: Markdown.
pub fn section(views: &[View<'_>]) -> String {
    let (contests, unfought): (Vec<_>, Vec<_>) = views.iter().flat_map(contests).partition(Contest::is_fought);
    let unjudged = unjudged(&contests, &unfought);
    if contests.is_empty() {
        return format!("Nothing was measured often enough to say.\n\n{unjudged}");
    }
    let mut text = "A comparison is one figure at one size and number of connections, Plimsoll's to the other's in the \
                    same round. It is won or lost if the doubt about the median of these ratios lies on one side of 1 \
                    by more than a hundredth; else it is even. The doubt reaches from the second lowest of nine ratios to \
                    the second highest, and of six to eight from the lowest to the highest; two equals are told apart by \
                    chance in at most one comparison of twenty. Counts and memory are exact: there all rounds have to \
                    agree. Only the side *plimsoll* is judged here.\n\n"
        .to_owned();
    text += &unjudged;
    text += &overview(&contests).to_string();
    text += "\n### Where Plimsoll loses\n\n";
    text += &listed(&contests, Outcome::Loses, "Nowhere in this run.");
    text += "\n### Where Plimsoll wins\n\n";
    text += &listed(&contests, Outcome::Wins, "Nowhere in this run.");
    text
}

impl Contest<'_> {
    fn is_fought(&self) -> bool {
        self.duels.iter().any(|duel| !duel.bouts.is_empty())
    }
}

/// What no verdict is made of, though it was measured.
fn unjudged(contests: &[Contest<'_>], unfought: &[Contest<'_>]) -> String {
    let count = |contests: &[Contest<'_>]| contests.iter().flat_map(|it| &it.duels).map(|duel| duel.unfought).sum();
    let all: usize = [count(contests), count(unfought)].iter().sum();
    let mut text = match all {
        0 => return String::new(),
        all => format!("Comparisons not judged, with fewer than {ROUNDS_FOR_VERDICT} rounds of a clock: {all}"),
    };
    let names: Vec<String> = unfought.iter().map(|contest| plain(&contest.what)).collect();
    if !names.is_empty() {
        text += &format!("; all of {}", names.join("; "));
    }
    text + ".\n\n"
}

/// One for each judged figure and each condition, also if nobody fought often enough.
fn contests<'a>(view: &View<'a>) -> Vec<Contest<'a>> {
    let rivals: Vec<&str> = view.sides().into_iter().filter(|name| !side::is_plimsoll(name)).collect();
    let mut conditions: Vec<&str> = rivals.iter().map(|rival| side::parts(rival).1).collect();
    conditions.sort_unstable();
    conditions.dedup();
    let contest = |figure: &Figure, condition: &str| Contest {
        what: what(view, figure, condition),
        duels: rivals
            .iter()
            .filter(|rival| side::parts(rival).1 == condition)
            .map(|rival| duel(view, figure, rival))
            .filter(|duel| !duel.bouts.is_empty() || duel.unfought > 0)
            .collect(),
    };
    let judged: Vec<Figure> = view.part.judged.iter().map(|name| Figure::named(name)).collect();
    let contests = judged.iter().flat_map(|figure| conditions.iter().map(move |condition| (figure, *condition)));
    contests.map(|(figure, condition)| contest(figure, condition)).filter(|contest| !contest.duels.is_empty()).collect()
}

/// `Relay, one bulk stream: throughput`
fn what(view: &View<'_>, figure: &Figure, condition: &str) -> String {
    let mut what = capital(view.name);
    let words = if condition.is_empty() { String::new() } else { side::condition_words(condition) };
    for part in [view.title().to_lowercase(), words].iter().filter(|part| !part.is_empty()) {
        what += &format!(", {part}");
    }
    format!("{what}: {}", figure.words)
}

fn duel<'a>(view: &View<'a>, figure: &Figure, rival: &'a str) -> Duel<'a> {
    let (name, condition) = side::parts(rival);
    let ours = format!("{OURS}{condition}");
    let mut duel = Duel { rival: name, bouts: Vec::new(), unfought: 0 };
    for cell in &view.cells {
        match bout(cell, figure, &ours, rival) {
            Bout::Ended(outcome, ratio) => duel.bouts.push((outcome, ratio, view.label(cell))),
            Bout::TooFewRounds => duel.unfought += 1,
            Bout::None => {}
        }
    }
    duel
}

/// How one comparison ends.
fn bout(cell: &Cell, figure: &Figure, ours: &str, rival: &str) -> Bout {
    let more_is_better = match figure.better {
        Better::More => true,
        Better::Less => false,
        Better::Unknown => return Bout::None,
    };
    match ratio_of(cell, ours, rival, &figure.name) {
        None => Bout::None,
        Some(ratio) if !figure.exact && ratio.rounds < ROUNDS_FOR_VERDICT => Bout::TooFewRounds,
        Some(ratio) => Bout::Ended(ratio.outcome(more_is_better), ratio.median),
    }
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
        (0, 0, 0) => "–".to_owned(),
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
