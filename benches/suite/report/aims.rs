//! Aims: what the design promises that things cost, held against a run.
//!
//! This table is the only place where the aims stand as numbers. Each is looked for in all cells that it speaks of, and
//! the *worst* of them counts: an aim that holds everywhere but at one size is missed, and the report says at which.
//! What the run did not measure is neither met nor missed.

use super::figure::Figure;
use super::view::{View, failed, ratio_of, spread_of};
use crate::result::Cell;
use crate::statistic::Spread;

/// One promise.
struct Aim {
    /// In words, with its conditions.
    what: &'static str,
    scenario: &'static str,
    /// Empty: any.
    variant: &'static str,
    /// A cell that has one of these parameters has it at this value.
    parameters: &'static [(&'static str, u64)],
    cells: Cells,
    side: &'static str,
    figure: &'static str,
    /// If it is a ratio: to whom.
    to: Option<&'static str>,
    bound: Bound,
}

/// Which of the cells that fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cells {
    All,
    /// Those with the most of a parameter: a promise for many is not judged by few.
    Most(&'static str),
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// How an aim came out.
pub struct Finding {
    pub what: &'static str,
    pub aim: String,
    pub measured: String,
    /// Nothing, if the run cannot tell.
    pub met: Option<bool>,
}

use Bound::{AtLeast, AtMost};
use Cells::{All, Most};

/// A relay holds what lies below its two high marks, `RelayOptions::high_water` of each side, and half a megabyte.
const RELAY_GROWTH_BYTES: f64 = 2.0 * 65_536.0 + 512_000.0;

const NONE: Aim = Aim {
    what: "",
    scenario: "counts",
    variant: "",
    parameters: &[],
    cells: All,
    side: "plimsoll",
    figure: "",
    to: None,
    bound: AtMost(0.0),
};

const AIMS: &[Aim] = &[
    Aim {
        what: "echo, messages a second against the floor, at every size and number of connections",
        scenario: "ping-pong",
        figure: "messages_per_second",
        to: Some("floor"),
        bound: AtLeast(0.95),
        ..NONE
    },
    Aim {
        what: "user instructions a 64 B message, 100 connections, echo that borrows",
        parameters: &[("size_bytes", 64), ("connections", 100)],
        figure: "instructions_per_message",
        bound: AtMost(150.0),
        ..NONE
    },
    Aim {
        what: "the same, echo that passes on `input.split()`",
        parameters: &[("size_bytes", 64), ("connections", 100)],
        side: "plimsoll-split",
        figure: "instructions_per_message",
        bound: AtMost(300.0),
        ..NONE
    },
    Aim {
        what: "user instructions a connection: accept, echo, close",
        figure: "instructions_per_connection",
        bound: AtMost(1500.0),
        ..NONE
    },
    Aim {
        what: "system calls beside epoll_wait a 64 B message",
        parameters: &[("size_bytes", 64), ("depth", 1)],
        figure: "system_calls_per_message",
        bound: AtMost(2.0),
        ..NONE
    },
    Aim {
        what: "system calls beside epoll_wait a 1 KiB message, 16 in flight",
        parameters: &[("size_bytes", 1024), ("depth", 16)],
        figure: "system_calls_per_message",
        bound: AtMost(0.13),
        ..NONE
    },
    Aim {
        what: "system calls beside epoll_wait a connection, the peer closes first",
        figure: "system_calls_per_connection",
        bound: AtMost(7.0),
        ..NONE
    },
    Aim {
        what: "naive handler, one `send` a 64 B frame, depth 16: messages a second against gathered writes by hand",
        scenario: "frames",
        parameters: &[("depth", 16)],
        figure: "messages_per_second",
        to: Some("floor-gathered"),
        bound: AtLeast(0.9),
        ..NONE
    },
    Aim {
        what: "user memory an idle connection",
        scenario: "memory",
        variant: "idle",
        cells: Most("connections"),
        figure: "bytes_per_connection",
        bound: AtMost(256.0),
        ..NONE
    },
    Aim {
        what: "what remains of it after they closed, a slot of the peak",
        scenario: "memory",
        variant: "idle",
        cells: Most("connections"),
        figure: "bytes_per_connection_after_close",
        bound: AtMost(32.0),
        ..NONE
    },
    Aim {
        what: "user memory an idle relayed pair",
        scenario: "memory",
        variant: "pairs",
        cells: Most("connections"),
        figure: "bytes_per_pair",
        bound: AtMost(640.0),
        ..NONE
    },
    Aim {
        what: "50 small flows beside 4 of bulk: median latency against the floor",
        scenario: "fairness",
        figure: "latency_p50_ns",
        to: Some("floor"),
        bound: AtMost(1.25),
        ..NONE
    },
    Aim {
        what: "the same, p99",
        scenario: "fairness",
        figure: "latency_p99_ns",
        to: Some("floor"),
        bound: AtMost(1.1),
        ..NONE
    },
    Aim {
        what: "the same, p99.9",
        scenario: "fairness",
        figure: "latency_p999_ns",
        to: Some("floor"),
        bound: AtMost(1.5),
        ..NONE
    },
    Aim {
        what: "the same, throughput of the bulk",
        scenario: "fairness",
        figure: "bytes_per_second",
        to: Some("floor"),
        bound: AtLeast(1.5),
        ..NONE
    },
    Aim {
        what: "relay, one bulk stream: processor time a GiB",
        scenario: "relay",
        variant: "bulk",
        figure: "server_cpu_seconds_per_gib",
        bound: AtMost(0.20),
        ..NONE
    },
    Aim {
        what: "relay, one bulk stream: system calls a MiB",
        figure: "system_calls_per_mib",
        bound: AtMost(40.0),
        ..NONE
    },
    Aim {
        what: "relay, user instructions a 64 B round trip, 20 connections",
        figure: "instructions_per_round_trip",
        bound: AtMost(500.0),
        ..NONE
    },
    Aim {
        what: "relay with a reader that stops: growth, to the marks and 512 kB",
        scenario: "relay",
        figure: "growth_bytes",
        bound: AtMost(RELAY_GROWTH_BYTES),
        ..NONE
    },
    Aim { what: "the same, bytes lost", scenario: "relay", figure: "bytes_lost", bound: AtMost(0.0), ..NONE },
    Aim {
        what: "timers, a million: insert",
        scenario: "timers",
        cells: Most("timers"),
        figure: "insert_ns",
        bound: AtMost(50.0),
        ..NONE
    },
    Aim {
        what: "timers, a million: reset",
        scenario: "timers",
        cells: Most("timers"),
        figure: "reset_ns",
        bound: AtMost(20.0),
        ..NONE
    },
    Aim {
        what: "timers, a million: cancel",
        scenario: "timers",
        cells: Most("timers"),
        figure: "cancel_ns",
        bound: AtMost(30.0),
        ..NONE
    },
    Aim {
        what: "timers of connections, a million: memory each",
        scenario: "timers",
        variant: "keyed",
        cells: Most("timers"),
        figure: "bytes_per_timer",
        bound: AtMost(64.0),
        ..NONE
    },
    Aim {
        what: "round trip of one connection, spinning",
        scenario: "round-trip",
        side: "plimsoll-spin",
        figure: "latency_p50_ns",
        bound: AtMost(22_000.0),
        ..NONE
    },
    Aim {
        what: "fan-out to 1,000 subscribers: processor time a delivery against the floor",
        scenario: "fan-out",
        parameters: &[("subscribers", 1000)],
        figure: "server_cpu_ns_per_delivery",
        to: Some("floor"),
        bound: AtMost(1.1),
        ..NONE
    },
];

/// All aims, in the order of the table.
pub fn findings(views: &[View<'_>]) -> Vec<Finding> {
    AIMS.iter().map(|aim| aim.finding(views)).collect()
}

impl Aim {
    fn finding(&self, views: &[View<'_>]) -> Finding {
        let fits: Vec<(&View<'_>, &Cell)> = self.cells(views);
        let values = fits.iter().filter_map(|(view, cell)| Some((self.value(cell)?, self.label(view, cell))));
        let worst = values.reduce(|a, b| if self.bound.is_worse(b.0.median, a.0.median) { b } else { a });
        let aim = self.bound.show(|value| match self.to {
            Some(_) => format!("{value}×"),
            None => Figure::named(self.figure).quantity.show_round(value),
        });
        let failed = fits.iter().filter(|(_, cell)| self.has_failed(cell)).count();
        let measured = worst.as_ref().map(|(spread, label)| self.measured(spread, label, fits.len() - failed));
        let (measured, met) = match (measured, worst) {
            // A promise of all cells is not kept by those that did not fail.
            (measured, _) if failed > 0 => (
                format!("failed in {failed} of {}; {}", fits.len(), measured.unwrap_or("no other".to_owned())),
                Some(false),
            ),
            (Some(measured), Some((spread, _))) => (measured, Some(self.bound.holds(spread.median))),
            _ => ("not in this run".to_owned(), None),
        };
        Finding { what: self.what, aim, measured, met }
    }

    fn cells<'v, 'r>(&self, views: &'v [View<'r>]) -> Vec<(&'v View<'r>, &'r Cell)> {
        let all = views.iter().flat_map(|view| view.cells.iter().map(move |cell| (view, *cell)));
        let mut fits: Vec<_> = all.filter(|(_, cell)| self.fits(cell)).collect();
        if let Most(parameter) = self.cells {
            let most = fits.iter().filter_map(|(_, cell)| cell.parameters.get(parameter)).max().copied();
            fits.retain(|(_, cell)| cell.parameters.get(parameter).copied() == most);
        }
        fits
    }

    fn fits(&self, cell: &Cell) -> bool {
        let matches = |(name, value): &(&str, u64)| cell.parameters.get(*name).is_none_or(|has| has == value);
        let right = cell.scenario == self.scenario && (self.variant.is_empty() || cell.variant == self.variant);
        right && self.parameters.iter().all(matches) && (self.value(cell).is_some() || self.has_failed(cell))
    }

    /// Which cell; and of which variant, where the aim speaks of all.
    fn label(&self, view: &View<'_>, cell: &Cell) -> String {
        let title = if self.variant.is_empty() { view.title().to_lowercase() } else { String::new() };
        let parts = [title, view.label(cell)];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    fn value(&self, cell: &Cell) -> Option<Spread> {
        match self.to {
            Some(reference) => ratio_of(cell, self.side, reference, self.figure),
            None => spread_of(cell, self.side, self.figure),
        }
    }

    /// Whether the cell would have had the figure, if nothing had failed: another side has it.
    fn has_failed(&self, cell: &Cell) -> bool {
        let broken = |side: &str| cell.sides.iter().any(|result| result.side == side && failed(result));
        let meant = cell.sides.iter().any(|result| result.rounds.iter().any(|s| s.figures.contains_key(self.figure)));
        meant && (broken(self.side) || self.to.is_some_and(broken))
    }

    fn measured(&self, spread: &Spread, label: &str, cells: usize) -> String {
        let (low, value, high) = (self.show(spread.low), self.show(spread.median), self.show(spread.high));
        let range = if low == high { String::new() } else { format!(" ({low}…{high})") };
        let at = match (cells, label) {
            (1, "") => String::new(),
            (1, label) => format!(", {label}"),
            (cells, label) => format!(", the worst of {cells}: {label}"),
        };
        format!("{value}{range}{at}")
    }

    fn show(&self, value: f64) -> String {
        match self.to {
            // Finer than elsewhere: 0.949 misses an aim of 0.95.
            Some(_) => format!("{value:.3}×"),
            None => Figure::named(self.figure).quantity.show(value),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(bound) => value >= bound,
            AtMost(bound) => value <= bound,
        }
    }

    fn is_worse(self, value: f64, than: f64) -> bool {
        match self {
            AtLeast(_) => value < than,
            AtMost(_) => value > than,
        }
    }

    fn show(self, show: impl Fn(f64) -> String) -> String {
        match self {
            AtLeast(bound) => format!("≥ {}", show(bound)),
            AtMost(0.0) => "0".to_owned(),
            AtMost(bound) => format!("≤ {}", show(bound)),
        }
    }
}
