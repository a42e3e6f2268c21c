//! Figures: what a name such as `latency_p99_ns` means, and how its values are written.
//!
//! The name of a figure ends in its unit. What the name does not say stands here once: the words for a reader,
//! whether more is better, and whether the figure is *exact*. Counts and memory are: they come out the same on a busy
//! machine, so one round of them is enough for a verdict; of what a clock measured it is not. A count that depends on
//! how bytes meet in time, as a relay's system calls do, is not exact.
//!
//! A figure that the table does not have is shown all the same, under its own name, but no verdict is made of it.

use std::borrow::Cow;

/// What a value is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    Nanoseconds,
    Seconds,
    Bytes,
    BytesPerSecond,
    PerSecond,
    Count,
    Share,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Figure {
    pub name: Cow<'static, str>,
    /// For a heading or an axis; the unit is added from the quantity.
    pub words: Cow<'static, str>,
    pub quantity: Quantity,
    pub better: Better,
    pub exact: bool,
}

/// A unit for values of one magnitude: what to divide by, the sign after a number, the words on an axis.
pub struct Unit {
    pub divisor: f64,
    pub sign: &'static str,
    pub words: &'static str,
}

use Better::{Less, More, Unknown};
use Quantity::{Bytes, BytesPerSecond, Count, Nanoseconds, PerSecond, Seconds, Share};

/// Name, words, quantity, which way is better, whether it is exact.
const FIGURES: &[(&str, &str, Quantity, Better, bool)] = &[
    ("messages_per_second", "messages a second", PerSecond, More, false),
    ("bytes_per_second", "throughput", BytesPerSecond, More, false),
    ("connections_per_second", "connections a second", PerSecond, More, false),
    ("deliveries_per_second", "deliveries a second", PerSecond, More, false),
    ("posts_per_second", "posts a second", PerSecond, More, false),
    ("latency_ns", "latency", Nanoseconds, Less, false),
    ("latency_p50_ns", "latency, median", Nanoseconds, Less, false),
    ("latency_p90_ns", "latency, p90", Nanoseconds, Less, false),
    ("latency_p99_ns", "latency, p99", Nanoseconds, Less, false),
    ("latency_p999_ns", "latency, p99.9", Nanoseconds, Less, false),
    ("latency_max_ns", "latency, maximum", Nanoseconds, Less, false),
    ("connect_p99_ns", "time to the first answer, p99", Nanoseconds, Less, false),
    ("round_trip_ns", "round trip", Nanoseconds, Less, false),
    ("server_cpu_ns_per_message", "server's processor time a message", Nanoseconds, Less, false),
    ("server_cpu_ns_per_delivery", "server's processor time a delivery", Nanoseconds, Less, false),
    ("server_cpu_ns_per_connection", "server's processor time a connection", Nanoseconds, Less, false),
    ("server_cpu_seconds_per_gib", "server's processor time a GiB", Seconds, Less, false),
    ("writes_per_delivery", "writes a delivery", Count, Less, true),
    ("system_calls_per_message", "system calls a message", Count, Less, true),
    ("system_calls_per_connection", "system calls a connection", Count, Less, true),
    ("system_calls_per_mib", "system calls a MiB", Count, Less, false),
    ("system_calls_per_delivery", "system calls a delivery", Count, Less, true),
    ("instructions_per_message", "instructions a message", Count, Less, true),
    ("instructions_per_connection", "instructions a connection", Count, Less, true),
    ("instructions_per_round_trip", "instructions a round trip", Count, Less, true),
    ("instructions_per_delivery", "instructions a delivery", Count, Less, true),
    ("bytes_per_connection", "memory a connection", Bytes, Less, true),
    ("bytes_per_connection_after_close", "memory a connection, after they closed", Bytes, Less, true),
    ("bytes_per_connection_after_one_more", "memory a connection, after one more came and went", Bytes, Less, true),
    ("bytes_per_pair", "memory a relayed pair", Bytes, Less, true),
    ("bytes_per_pair_after_close", "memory a relayed pair, after they closed", Bytes, Less, true),
    ("bytes_per_pair_after_one_more", "memory a relayed pair, after one more came and went", Bytes, Less, true),
    ("bytes_per_timer", "memory a timer", Bytes, Less, true),
    ("growth_bytes", "growth of the server", Bytes, Less, true),
    ("bytes_lost", "bytes lost (one is an error)", Bytes, Less, true),
    // What helps to understand the others, and is neither good nor bad.
    ("server_busy_share", "server busy", Share, Unknown, false),
    ("offered_per_second", "messages offered a second", PerSecond, Unknown, false),
    ("messages_behind", "messages due and unanswered at the close", Count, Unknown, false),
    ("messages", "messages", Count, Unknown, false),
    ("seconds", "duration", Seconds, Unknown, false),
    ("starved_connections", "connections that got nothing", Count, Unknown, false),
    ("accepted_while_stopped_bytes", "taken while the reader stood still", Bytes, Unknown, false),
    ("sleeper_bytes", "sent to the one that never reads", Bytes, Unknown, false),
    ("sleeper_missed_messages", "messages it missed", Count, Unknown, false),
    ("insert_ns", "insert", Nanoseconds, Less, false),
    ("reset_ns", "reset", Nanoseconds, Less, false),
    ("cancel_ns", "cancel", Nanoseconds, Less, false),
    ("expire_ns", "expire", Nanoseconds, Less, false),
];

impl Figure {
    pub fn named(name: &str) -> Figure {
        match FIGURES.iter().find(|row| row.0 == name) {
            Some(&(name, words, quantity, better, exact)) => {
                Figure { name: name.into(), words: words.into(), quantity, better, exact }
            }
            None => Figure {
                name: name.to_owned().into(),
                words: name.replace('_', " ").into(),
                quantity: if name.ends_with("_ns") { Nanoseconds } else { Count },
                better: Better::Unknown,
                exact: false,
            },
        }
    }

    /// The words on an axis whose numbers are of this magnitude: `thousand messages a second`.
    pub fn axis(&self, unit: &Unit) -> String {
        match (self.quantity, unit.words) {
            (Count, "") | (PerSecond, "") => self.words.to_string(),
            (Count | PerSecond, words) => format!("{words} {}", self.words),
            (_, words) => format!("{}, {words}", self.words),
        }
    }
}

impl Quantity {
    /// The largest unit that leaves a number of 1 or more.
    pub fn unit(self, value: f64) -> Unit {
        let units = self.units();
        let (divisor, sign, words) = units.iter().rev().find(|unit| value.abs() >= unit.0).unwrap_or(&units[0]);
        Unit { divisor: *divisor, sign, words }
    }

    /// A value in its own unit, to three digits.
    pub fn show(self, value: f64) -> String {
        self.written(value, digits)
    }

    /// The same without needless zeros: for what is round, such as a tick or an aim.
    pub fn show_round(self, value: f64) -> String {
        self.written(value, short)
    }

    fn written(self, value: f64, number: impl Fn(f64) -> String) -> String {
        let unit = self.unit(value);
        let number = number(value / unit.divisor);
        if unit.sign.is_empty() { number } else { format!("{number} {}", unit.sign) }
    }

    /// Divisor, sign, words; from the smallest.
    fn units(self) -> &'static [(f64, &'static str, &'static str)] {
        match self {
            Nanoseconds => &[
                (1.0, "ns", "nanoseconds"),
                (1e3, "µs", "microseconds"),
                (1e6, "ms", "milliseconds"),
                (1e9, "s", "seconds"),
            ],
            Seconds => &[(1.0, "s", "seconds")],
            Bytes => &[(1.0, "B", "bytes"), (KIB, "KiB", "KiB"), (MIB, "MiB", "MiB"), (GIB, "GiB", "GiB")],
            BytesPerSecond => &[
                (1.0, "B/s", "bytes a second"),
                (KIB, "KiB/s", "KiB a second"),
                (MIB, "MiB/s", "MiB a second"),
                (GIB, "GiB/s", "GiB a second"),
            ],
            PerSecond => &[(1.0, "/s", ""), (1e3, "k/s", "thousand"), (1e6, "M/s", "million")],
            // Written out: 3,221 instructions are easier to compare than 3.22 k.
            Count => &[(1.0, "", "")],
            Share => &[(0.01, "%", "percent")],
        }
    }
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const GIB: f64 = 1024.0 * MIB;

/// Whether there is more to say of a figure than its name.
pub fn is_known(name: &str) -> bool {
    FIGURES.iter().any(|row| row.0 == name)
}

/// Three digits that mean something, or all those before the point; a whole number as it is.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value.is_infinite() => "∞".to_owned(),
        _ if value.fract() == 0.0 || size >= 99.95 => thousands(value),
        _ if size >= 9.995 => format!("{value:.1}"),
        _ if size >= 0.9995 => format!("{value:.2}"),
        _ if size >= 0.0005 => format!("{value:.3}"),
        _ => format!("{value:.0e}"),
    }
}

/// A round value without needless zeros.
pub fn short(value: f64) -> String {
    match digits(value) {
        whole if !whole.contains('.') => whole,
        part => part.trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

/// A ratio: two digits behind the point, so that 0.98 and 1.02 are equally far from 1.
pub fn ratio(value: f64) -> String {
    match value {
        _ if (0.1..9.995).contains(&value) => format!("{value:.2}"),
        _ => digits(value),
    }
}

/// `12,345`.
pub fn thousands(value: f64) -> String {
    let plain = format!("{:.0}", value.abs());
    let mut grouped = if value <= -0.5 { "-".to_owned() } else { String::new() };
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
